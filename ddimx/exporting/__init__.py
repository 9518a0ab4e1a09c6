"""The export run: token files to splats and pictures. (``ddimx.export`` is the function.)"""
