"""``ddimx prepare``: one module for each kind of training set."""
