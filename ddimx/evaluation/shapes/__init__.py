"""Sets of shapes compared: 1-NNA, COV and MMD, validity, connectivity and novelty.

``quality`` is the way in from Python, ``ddimx evaluate shapes`` from the command line.
"""
