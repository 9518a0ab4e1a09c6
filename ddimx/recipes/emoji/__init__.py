"""The training set of the shipped emoji model: ``ddimx prepare emoji``."""
