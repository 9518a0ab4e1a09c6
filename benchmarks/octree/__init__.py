"""Octrees: decoding and encoding, the update of tokens, sampling a level, writing splats.

Every table says in its title what was computed, and its peers were seen to compute the same (or,
where they draw random numbers, to draw from the same distribution) before they were timed.
"""

from __future__ import annotations

import torch

from ..runner import Budget, Job
from . import codec, export, levels, tokens

ROUNDS = 10


def jobs(
    device: torch.device, rounds: int | None = None, *, budget: Budget | None = None
) -> list[Job]:
    """Return what measures each table of the suite."""
    rounds, budget = rounds or ROUNDS, budget or Budget()
    return [
        *levels.jobs(device, rounds, budget),
        *tokens.jobs(device, rounds, budget),
        *codec.jobs(device, rounds, budget),
        *export.jobs(rounds, budget),
    ]
