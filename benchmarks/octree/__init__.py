"""Octrees: decoding and encoding, the update of tokens, sampling a level, writing splats.

Every table says in its title what was computed, and its peers were seen to compute the same (or,
where they draw random numbers, to draw from the same distribution) before they were timed.
"""

from __future__ import annotations

import torch

from ..runner import Job
from . import codec, export, levels, tokens

ROUNDS = 10


def jobs(device: torch.device, rounds: int | None = None) -> list[Job]:
    """Return what measures each table of the suite."""
    rounds = rounds or ROUNDS
    return [
        *levels.jobs(device, rounds),
        *tokens.jobs(device, rounds),
        *codec.jobs(device, rounds),
        *export.jobs(rounds),
    ]
