"""Formats of weights: our own, PyTorch's, ermongroup/ddim's and diffusers'."""
