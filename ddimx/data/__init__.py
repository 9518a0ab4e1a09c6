"""Data sets of images and of octrees, their order in training, and their batches."""
