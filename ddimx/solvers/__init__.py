"""Solvers: pure functions from a schedule and times to a plan."""
