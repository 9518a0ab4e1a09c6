"""Discrete diffusion on octree tokens: the process, its plans, and the loop that runs them.

A token is a child mask 1..255; id 0 is [MASK]. With ``a`` the share of clean tokens (the schedule's
alpha_bar, used as it is), DDIM's appendix A (arXiv 2010.02502) says

    q(x_t | x_0)      = a_t x_0 + (1 - a_t) noise
    q(x_s | x_t, x_0) = sigma x_t + (a_s - sigma a_t) x_0 + ((1 - a_s) - (1 - a_t) sigma) noise

with noise uniform over 1..255, or [MASK] in the absorbing process. A row of a plan draws x_0 from
the network and then takes one of the three by one uniform. Levels are generated from the root down:
a level's cells are the children that the level above has drawn.
"""
