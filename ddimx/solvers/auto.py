"""``--solver auto``: the solver and spacing that erred least at a number of evaluations."""

from __future__ import annotations

# TABLE
MEASURED: tuple[tuple[int, str, str], ...] = (
    (7, "ipndm:4", "trailing"),
    (10_000, "unipc:2", "trailing"),
)


def choose(nfe: int) -> tuple[str, str]:
    """Return the solver's name and the spacing for a number of evaluations."""
    return next((name, spacing) for most, name, spacing in MEASURED if nfe <= most)
