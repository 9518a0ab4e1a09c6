"""Figures of papers, to stand beside ours. Nothing here was measured by this project."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Bits per dimension of CIFAR-10's test images. ``bound``: an upper bound, not a likelihood."""

    what: str
    bits: float
    bound: bool
    source: str


_HO = "Ho et al. 2020, arXiv 2006.11239, table 1"
_SONG = "Song et al. 2021, arXiv 2011.13456, table 2"
_NICHOL = "Nichol and Dhariwal 2021, arXiv 2102.09672"

# The published "cifar10" weights are those of the first two rows.
CIFAR10_BITS = (
    Published("DDPM, L_simple: variational bound", 3.75, True, _HO),
    Published("the same weights: probability flow", 3.28, False, _SONG),
    Published("DDPM trained on L, fixed variance: variational bound", 3.70, True, _HO),
    Published("Improved DDPM: variational bound", 2.94, True, _NICHOL),
    Published("DDPM++ cont. (deep, sub-VP): probability flow", 2.99, False, _SONG),
)
