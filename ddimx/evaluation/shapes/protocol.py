"""How a comparison of shapes is made; its fields stand in every record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import UsageError
from ...octree.tree import Octree
from .distances import Measure, chamfer, emd
from .points import REPEATS, Cloud, Side, clouds


@dataclass(frozen=True)
class Protocol:
    """How the figures are computed; two results compare only under the same protocol.

    Attributes:
        points: drawn uniformly inside each shape's cells.
        seed: of points, subsets and bootstrap.
        repeats: point seeds over which figures are averaged, 1..1024.
        emd_points: for the earth mover's distance; 0 omits it.
        distances: whether 1-NNA, COV and MMD are computed at all.
        floors: whether the reference is compared with itself and with training shapes.
        workers: threads, which change nothing; None takes one a core.

    Raises:
        UsageError: numbers that make no protocol.
    """

    points: int = 2048
    seed: int = 0
    repeats: int = 1
    emd_points: int = 0
    distances: bool = True
    floors: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.points < 1 or not 1 <= self.repeats <= REPEATS:
            raise UsageError(f"at least 1 point and 1..{REPEATS} point seeds are needed")
        if not 0 <= self.emd_points <= self.points:
            raise UsageError(
                f"EMD takes {self.emd_points} of the {self.points} points; lower its number"
            )

    def measures(self) -> dict[str, Measure]:
        """Return the distances by name."""
        measures_by_name = {"chamfer": chamfer()}
        if self.emd_points:
            measures_by_name["emd"] = emd(self.emd_points)
        return measures_by_name

    def clouds(self, trees: Sequence[Octree], side: Side, repeat: int) -> list[Cloud]:
        """Draw the points of one side for one point seed."""
        return clouds(trees, self.points, self.seed, side, repeat)

    def to_json(self) -> dict[str, Any]:
        """Return what determines the figures: everything but the number of threads."""
        return {name: value for name, value in asdict(self).items() if name != "workers"}
