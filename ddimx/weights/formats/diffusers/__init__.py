"""diffusers' model folders, read and written without diffusers."""
