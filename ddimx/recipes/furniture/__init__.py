"""The training set of the shipped furniture model: ``ddimx prepare furniture``."""
