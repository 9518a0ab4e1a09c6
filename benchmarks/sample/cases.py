"""The tables of the suite: which networks draw how many samples in how many steps."""

from __future__ import annotations

from dataclasses import dataclass

BATCHES = {"cpu": (1, 16), "cuda": (1, 16, 512)}

# Configurations of ermongroup/ddim, of which no weights are shipped.
RANDOM = ("cifar10", "celeba", "church", "bedroom")


@dataclass(frozen=True)
class Case:
    """One table: a configuration or a shipped model, how many samples, in how many steps.

    Attributes:
        quick_steps: steps under ``--quick``.
        weight: its part of the suite's time, for the peers that are ready at once.
    """

    model: str
    batch: int
    steps: int
    quick_steps: int
    weight: float = 1.0


CASES = {
    "cpu": (
        Case("cifar10", 1, 50, 4, 3.0),
        Case("cifar10", 8, 10, 2, 4.0),
        Case("emoji", 1, 50, 10),
        Case("emoji", 16, 20, 3, 1.5),
        Case("furniture", 4, 4, 1, 1.5),
    ),
    "cuda": (
        Case("cifar10", 1, 50, 50, 6.0),
        Case("cifar10", 512, 20, 5, 4.0),
        Case("cifar10", 64, 50, 20, 3.0),
        Case("church", 16, 10, 3, 3.0),
        Case("furniture", 4, 8, 4, 1.5),
        Case("emoji", 1, 50, 50, 2.0),
        Case("furniture", 64, 8, 4, 1.5),
    ),
}
