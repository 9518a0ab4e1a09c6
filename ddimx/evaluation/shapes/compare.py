"""1-NNA, COV and MMD of two sets of octrees, over one or several point seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...octree.tree import Octree
from ...progress import Progress
from . import distances
from .intervals import Figure, mean_of
from .metrics import Matrices, coverage, minimum_matching, one_nna
from .points import Side
from .protocol import Protocol

METRICS: dict[str, Callable[[Matrices], Figure]] = {
    "1-NNA": one_nna,
    "COV": coverage,
    "MMD": minimum_matching,
}


def compare(
    candidates: Mapping[Side, Sequence[Octree]],
    reference: Sequence[Octree],
    task: Protocol,
    progress: Progress | None = None,
) -> dict[Side, dict[str, Any]]:
    """Compare sets with a reference; all have the same number of shapes.

    Returns:
        For each candidate and distance, "chamfer" and perhaps "emd", the figures of 1-NNA, COV and
        MMD. With several point seeds these are means over them, and "seeds" has each one's values.
    """
    figures_by_name: dict[tuple[Side, str, str], list[Figure]] = {}
    for repeat in range(task.repeats):
        reference_clouds = task.clouds(reference, Side.REFERENCE, repeat)
        candidate_clouds = {
            side: task.clouds(trees, side, repeat) for side, trees in candidates.items()
        }
        for kind, measure in task.measures().items():
            between = distances.matrices(
                candidate_clouds,
                reference_clouds,
                measure,
                workers=task.workers,
                progress=progress,
                what=kind,
            )
            for side, matrices in between.items():
                for name, metric in METRICS.items():
                    figures_by_name.setdefault((side, kind, name), []).append(metric(matrices))
    results: dict[Side, dict[str, Any]] = {side: {} for side in candidates}
    for (side, kind, name), figures in figures_by_name.items():
        results[side].setdefault(kind, {})[name] = _over_seeds(figures)
    return results


def itself(reference: Sequence[Octree], task: Protocol) -> dict[str, float]:
    """Return, by distance, the mean distance of a shape to itself at other points.

    That is what MMD would be for a generator that repeats the reference: clouds of so many points
    come no nearer. (Its 1-NNA would be 0 and its COV 1.)
    """
    values_by_kind: dict[str, list[float]] = {}
    for repeat in range(task.repeats):
        a = task.clouds(reference, Side.REFERENCE, repeat)
        b = task.clouds(reference, Side.AGAIN, repeat)
        for kind, measure in task.measures().items():
            values_by_kind.setdefault(kind, []).append(
                float(np.mean(distances.paired(a, b, measure)))
            )
    return {kind: float(np.mean(values)) for kind, values in values_by_kind.items()}


def _over_seeds(figures: list[Figure]) -> dict[str, Any]:
    if len(figures) == 1:
        return figures[0].to_json()
    return {**mean_of(figures).to_json(), "seeds": [figure.value for figure in figures]}
