"""``--solver auto``: the solver and spacing that erred least at a number of evaluations.

Measured by ``ddimx evaluate solvers`` on the shipped emoji model (cosine schedule, v-prediction):
another model may have another order, which the same command shows.
"""

from __future__ import annotations

# (up to that many evaluations, solver, spacing): without guidance least at 5, 10, 20 and 50.
MEASURED: tuple[tuple[int, str, str], ...] = (
    (7, "pfdiff:3,1", "trailing"),
    (14, "pfdiff:2,1", "trailing"),
    (30, "pfdiff:2,1", "linspace"),
    (10_000, "ipndm:3", "linspace"),
)


def choose(nfe: int) -> tuple[str, str]:
    """Return the solver's name and the spacing for a number of evaluations."""
    return next((name, spacing) for most, name, spacing in MEASURED if nfe <= most)
