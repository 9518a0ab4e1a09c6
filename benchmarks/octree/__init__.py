"""Octrees: decoding and encoding, the update of tokens, sampling a level, writing splats.

Every table says in its title what was computed, and all peers of a table were seen to compute the
same before they were timed.
"""

from __future__ import annotations

from typing import Any

import torch

from . import codec

ROUNDS = 10


def run(device: torch.device, rounds: int | None = None) -> list[dict[str, Any]]:
    """Return all tables of the suite."""
    return codec.tables(device, rounds or ROUNDS)
