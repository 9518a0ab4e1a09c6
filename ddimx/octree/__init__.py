"""Octrees of occupied cells: keys, levels, files; nothing here imports torch."""
