"""Every figure of a set of shapes, from octrees in memory: no files, nothing printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...errors import UsageError
from ...octree.geometry import largest_share
from ...octree.tree import Octree
from ...progress import Progress
from .compare import Comparison, compare, itself
from .intervals import bootstrap, share_of
from .novelty import Training
from .points import REPEATS, Side, subset
from .report import protocol_in_words, remarks

COPY = 1.0  # the IoU of a shape that is a training shape, cell by cell


@dataclass(frozen=True)
class Protocol:
    """How the figures are computed; two results compare only under the same protocol.

    Attributes:
        points: drawn uniformly inside each shape's cells.
        seed: of points, subsets and bootstrap.
        repeats: point seeds over which figures are averaged, 1..1024.
        emd_points: for the earth mover's distance; 0 leaves it out.
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


def quality(
    samples: Sequence[Octree],
    reference: Sequence[Octree],
    train: Sequence[Octree] | None = None,
    protocol: Protocol | None = None,
    *,
    invalid: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a set of generated shapes against a reference set.

    Args:
        samples, reference: at least two shapes each, where distances are computed.
        train: what the generator learned from: gives novelty, and a generator to compare with.
        invalid: how many further samples were no octrees, for the validity rate.

    Returns:
        Values that JSON knows: "validity", "connectivity", "novelty" (with ``train``),
        "chamfer" and "emd" (1-NNA, COV, MMD), "floor", "counts", "depth", "protocol", "notes". A
        figure is {"value", "low", "high"} with its 95% interval; shares lie in [0, 1].

    Raises:
        UsageError: too few shapes.
    """
    chosen = protocol or Protocol()
    needed = 2 if chosen.distances else 1
    for name, side in (("samples", samples), ("reference", reference)):
        if len(side) < needed:
            raise UsageError(f"{name}: {len(side)} shapes, at least {needed} are needed")
    sides, depth, notes = _one_depth({"samples": samples, "reference": reference, "train": train})
    drawn, known, seen = sides["samples"], sides["reference"], sides["train"]
    found: dict[str, Any] = {
        "counts": {name: len(side) for name, side in sides.items()} | {"invalid": invalid},
        "depth": depth,
        "validity": share_of([True] * len(drawn) + [False] * invalid).to_json(),
        "connectivity": {
            "samples": connectivity(drawn, chosen.seed),
            "reference": connectivity(known, chosen.seed),
        },
    }
    if seen:
        found["novelty"] = novelty(drawn, known, seen, chosen.seed, progress)
    if chosen.distances:
        found |= _distances(drawn, known, seen, chosen, progress)
    found["protocol"] = {**asdict(chosen), "in_words": protocol_in_words(asdict(chosen))}
    found["protocol"].pop("workers")
    return {**found, "notes": [*notes, *remarks(found)]}


def connectivity(trees: Sequence[Octree], seed: int = 0) -> dict[str, Any]:
    """Return the mean share of cells in the largest part, and the share of one-part shapes."""
    shares = np.array([largest_share(tree) for tree in trees])
    return {
        "largest_share": bootstrap(shares, seed).to_json(),
        "one_component": share_of(shares == 1.0).to_json(),
    }


def novelty(
    samples: Sequence[Octree],
    reference: Sequence[Octree],
    train: Sequence[Octree],
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return how near samples are to their nearest training shapes, beside unseen shapes.

    The IoU of the reference with training shapes is that of shapes which are certainly no copies.
    "moved" is the nearest IoU over mirror images and quarter turns too, as training may use them.
    """
    training = Training(train)
    shown = progress or Progress(quiet=True)
    shown.start("nearest training shapes", len(samples) + len(reference))
    found: dict[str, list[float]] = {"samples": [], "reference": [], "moved": []}
    for tree in samples:
        found["samples"].append(training.nearest(tree)[0])
        found["moved"].append(training.nearest_moved(tree))
        shown.advance()
    for tree in reference:
        found["reference"].append(training.nearest(tree)[0])
        shown.advance()
    shown.stop()
    values = {name: np.array(ious) for name, ious in found.items()}
    unseen = float(np.median(values["reference"]))
    return {
        **{name: _spread(ious, seed) for name, ious in values.items()},
        "share_below_reference_median": share_of(values["samples"] < unseen).to_json(),
        "copies": int((values["samples"] >= COPY).sum()),
        "copies_moved": int((values["moved"] >= COPY).sum()),
    }


def _spread(ious: Any, seed: int) -> dict[str, Any]:
    return {
        "mean": bootstrap(ious, seed).to_json(),
        "median": float(np.median(ious)),
        "max": float(ious.max()),
    }


def _distances(
    samples: Sequence[Octree],
    reference: Sequence[Octree],
    train: Sequence[Octree],
    protocol: Protocol,
    progress: Progress | None,
) -> dict[str, Any]:
    """Compare sets of equal size, and the reference with itself and with training shapes."""
    n = min(len(samples), len(reference))
    known = _drawn(reference, n, protocol.seed, Side.REFERENCE)
    task = Comparison(
        points=protocol.points,
        seed=protocol.seed,
        repeats=protocol.repeats,
        emd_points=protocol.emd_points,
        workers=protocol.workers,
    )
    candidates = {Side.SAMPLES: samples}
    if protocol.floors and len(train) >= n:
        candidates[Side.TRAIN] = train
    chosen = {side: _drawn(of, n, protocol.seed, side) for side, of in candidates.items()}
    results = compare(chosen, known, task, progress)
    found: dict[str, Any] = {"compared": n, **results[Side.SAMPLES]}
    if protocol.floors:
        found["floor"] = {"same_shapes": itself(known, task)}
    if Side.TRAIN in results:
        found["floor"]["train_as_generator"] = results[Side.TRAIN]
    return found


def _drawn(trees: Sequence[Octree], count: int, seed: int, side: Side) -> list[Octree]:
    return [trees[i] for i in subset(trees, count, seed, side)]


def _one_depth(
    sides: dict[str, Sequence[Octree] | None],
) -> tuple[dict[str, list[Octree]], int, list[str]]:
    """Cut every shape at the least depth of all, and say which sides were cut."""
    present = {name: list(side or ()) for name, side in sides.items()}
    depth = min(tree.depth for side in present.values() for tree in side)
    notes = []
    for name, side in present.items():
        finer = sorted({tree.depth for tree in side} - {depth})
        if finer:
            depths = ", ".join(str(d) for d in finer)
            notes.append(f"{name}: shapes of depth {depths} were cut at depth {depth}")
    cut = {
        name: [tree if tree.depth == depth else tree.coarser(depth) for tree in side]
        for name, side in present.items()
    }
    return cut, depth, notes
