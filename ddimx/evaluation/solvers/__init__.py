"""The errors of solvers against a reference, and plans searched for one model."""
