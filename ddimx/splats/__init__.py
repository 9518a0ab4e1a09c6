"""Gaussian splats: clouds of them, from octrees, to files and to pictures; NumPy alone."""
