"""Every figure of a set of shapes, from octrees in memory: no files, nothing printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ...errors import UsageError
from ...octree.geometry import largest_share
from ...octree.tree import Octree
from ...progress import Progress
from .compare import compare, itself
from .intervals import bootstrap, share_of
from .metrics import perfect_one_nna
from .novelty import novelty
from .points import Side, subset
from .protocol import Protocol
from .report import protocol_in_words, remarks

__all__ = ["Protocol", "connectivity", "quality"]


def quality(
    samples: Sequence[Octree],
    reference: Sequence[Octree],
    train: Sequence[Octree] | None = None,
    protocol: Protocol | None = None,
    *,
    invalid: int = 0,
    categories: tuple[Sequence[str], Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a set of generated shapes against a reference set.

    Args:
        samples, reference: at least two shapes each, where distances are computed.
        train: what the generator learned from: gives novelty, and a generator to compare with.
        invalid: how many further samples were not octrees, for the validity rate.
        categories: of the samples and of the reference, for what 1-NNA a perfect generator has.

    Returns:
        Values that JSON knows: "validity", "connectivity", "novelty" (with ``train``),
        "chamfer" and "emd" (1-NNA, COV, MMD), "perfect_1-NNA", "floor", "compared" (shapes a
        side), "counts", "depth", "protocol", "notes". A figure is {"value", "low", "high"} with
        its 95% interval; shares lie in [0, 1].

    Raises:
        UsageError: too few shapes.
    """
    settings = protocol or Protocol()
    needed = 2 if settings.distances else 1
    for name, side in (("samples", samples), ("reference", reference)):
        if len(side) < needed:
            raise UsageError(f"{name}: {len(side)} shapes, at least {needed} are needed")
    sides, depth, notes = _one_depth({"samples": samples, "reference": reference, "train": train})
    sample_trees, reference_trees, train_trees = (
        sides["samples"],
        sides["reference"],
        sides["train"],
    )
    record: dict[str, Any] = {
        "counts": {name: len(side) for name, side in sides.items()} | {"invalid": invalid},
        "depth": depth,
        "validity": share_of([True] * len(sample_trees) + [False] * invalid).to_json(),
        "connectivity": {
            "samples": connectivity(sample_trees, settings.seed),
            "reference": connectivity(reference_trees, settings.seed),
        },
    }
    if train_trees:
        record["novelty"] = novelty(
            sample_trees, reference_trees, train_trees, settings.seed, progress
        )
    if settings.distances:
        record |= _distances(
            sample_trees, reference_trees, train_trees, settings, categories, progress
        )
    record["protocol"] = {**settings.to_json(), "in_words": protocol_in_words(asdict(settings))}
    return {**record, "notes": [*notes, *remarks(record)]}


def connectivity(trees: Sequence[Octree], seed: int = 0) -> dict[str, Any]:
    """Return the mean share of cells in the largest part, and the share of one-part shapes."""
    shares = np.array([largest_share(tree) for tree in trees])
    return {
        "largest_share": bootstrap(shares, seed).to_json(),
        "one_component": share_of(shares == 1.0).to_json(),
    }


def _distances(
    samples: Sequence[Octree],
    reference: Sequence[Octree],
    train: Sequence[Octree],
    protocol: Protocol,
    categories: tuple[Sequence[str], Sequence[str]] | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Compare sets of equal size, and the reference with itself and with training shapes."""
    n = min(len(samples), len(reference))
    sides = {Side.SAMPLES: samples, Side.REFERENCE: reference}
    if protocol.floors and len(train) >= n:
        sides[Side.TRAIN] = train
    indices_by_side = {side: subset(trees, n, protocol.seed, side) for side, trees in sides.items()}
    trees_by_side = {
        side: [trees[i] for i in indices_by_side[side]] for side, trees in sides.items()
    }
    reference_trees = trees_by_side.pop(Side.REFERENCE)
    results = compare(trees_by_side, reference_trees, protocol, progress)
    record: dict[str, Any] = {"compared": n, **results[Side.SAMPLES]}
    record["perfect_1-NNA"] = {"all": (n - 1) / (2 * n - 1)}
    if categories is not None:
        pairs = zip(
            categories,
            (indices_by_side[Side.SAMPLES], indices_by_side[Side.REFERENCE]),
            strict=True,
        )
        ours, theirs = ([names[i] for i in indices] for names, indices in pairs)
        record["perfect_1-NNA"]["by_category"] = perfect_one_nna(ours, theirs)
    if protocol.floors:
        record["floor"] = {"same_shapes": itself(reference_trees, protocol)}
    if Side.TRAIN in results:
        record["floor"]["train_as_generator"] = results[Side.TRAIN]
    return record


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
