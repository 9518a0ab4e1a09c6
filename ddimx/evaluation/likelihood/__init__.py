"""Likelihoods: the variational bound and the probability flow's."""
