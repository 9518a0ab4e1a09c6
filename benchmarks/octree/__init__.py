"""Octrees: decoding and encoding, the update of tokens, sampling a level, writing splats.

Every table says in its title what was computed, and its peers were seen to compute the same (or,
where they draw random numbers, to draw from the same distribution) before they were timed.
"""

from __future__ import annotations

from typing import Any

import torch

from . import codec, export, levels, tokens

ROUNDS = 10


def run(device: torch.device, rounds: int | None = None) -> list[dict[str, Any]]:
    """Return all tables of the suite."""
    rounds = rounds or ROUNDS
    return [
        *codec.tables(device, rounds),
        *tokens.tables(device, rounds),
        *levels.tables(device, rounds),
        *export.tables(rounds),
    ]
