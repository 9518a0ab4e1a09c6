"""Denoising diffusion implicit models for images and 3D shapes, from one command line."""

__version__ = "0.1.0"
