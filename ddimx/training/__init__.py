"""Training: one loop for every process, checkpoints that are whole or absent."""
