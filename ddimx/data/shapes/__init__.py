"""Meshes and point clouds, the sets of octrees made from them, and batches of octrees."""
