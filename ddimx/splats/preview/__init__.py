"""A renderer of splats for the CPU, for previews and contact sheets."""
