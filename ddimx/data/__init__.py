"""Data sets, their order in training, and the way from bytes to the network's range."""
