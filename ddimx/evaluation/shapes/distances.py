"""Distances between point clouds, and matrices of them computed by threads.

Chamfer: the mean squared distance of a's points to their nearest in b, plus that of b's to a.
EMD: the mean distance, not squared, under the best one-to-one matching; exact. SciPy's searches
release the interpreter's lock, so threads use all cores. On one core of a small server a pair of
2,048 points takes 1.7 ms, an EMD of 256 points 5 ms, of 512 points 36 ms.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np

from ...errors import optional_module
from ...progress import Progress
from .metrics import Distances, Matrices
from .points import Cloud

Prepared: TypeAlias = Any  # a cKDTree or a cloud: what the distance takes
Name = TypeVar("Name")
Distance = Callable[[Prepared, Prepared], float]


class Measure:
    """One kind of distance: what is made of a cloud once, and the distance of two such."""

    def __init__(self, prepare: Callable[[Cloud], Prepared], distance: Distance) -> None:
        self.prepare, self.distance = prepare, distance


def chamfer() -> Measure:
    """Return the symmetric squared Chamfer distance, on k-d trees built once a cloud."""
    search = _scipy("spatial").cKDTree

    def distance(a: Prepared, b: Prepared) -> float:
        forward, backward = a.query(b.data)[0], b.query(a.data)[0]
        return float(np.square(forward).mean() + np.square(backward).mean())

    return Measure(search, distance)


def emd(points: int) -> Measure:
    """Return the exact earth mover's distance of the first ``points`` of each cloud."""
    cdist = _scipy("spatial.distance").cdist
    linear_sum_assignment = _scipy("optimize").linear_sum_assignment

    def distance(a: Prepared, b: Prepared) -> float:
        costs = cdist(a, b)
        return float(costs[linear_sum_assignment(costs)].mean())

    return Measure(lambda cloud: cloud[:points], distance)


def matrices(
    candidates: Mapping[Name, Sequence[Cloud]],
    reference: Sequence[Cloud],
    measure: Measure,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    what: str = "distances",
) -> dict[Name, Matrices]:
    """Compute all distances within and between each candidate set and the reference.

    Args:
        workers: threads; None takes one a core. The result does not depend on them.
        what: what the progress bar calls them.
    """
    references = [measure.prepare(cloud) for cloud in reference]
    bar = progress or Progress(quiet=True)
    bar.start(what, _pairs([len(clouds) for clouds in candidates.values()], len(references)))
    results = {}
    with _pool(workers) as pool:
        within = _within(references, measure, pool, bar)
        for name, clouds in candidates.items():
            samples = [measure.prepare(cloud) for cloud in clouds]
            results[name] = Matrices(
                samples=_within(samples, measure, pool, bar),
                reference=within,
                across=_across(samples, references, measure, pool, bar),
            )
    bar.stop()
    return results


def paired(a: Sequence[Cloud], b: Sequence[Cloud], measure: Measure) -> list[float]:
    """Return the distance of each cloud to the one in the same place."""
    return [
        measure.distance(measure.prepare(x), measure.prepare(y)) for x, y in zip(a, b, strict=True)
    ]


def _pairs(candidates: Sequence[int], reference: int) -> int:
    within = sum(n * (n - 1) // 2 for n in [*candidates, reference])
    return within + sum(n * reference for n in candidates)


def _across(
    a: Sequence[Prepared],
    b: Sequence[Prepared],
    measure: Measure,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> Distances:
    def row(i: int) -> list[float]:
        return [measure.distance(a[i], other) for other in b]

    rows = _in_order(pool, row, len(a), lambda i: len(b), progress)
    return np.array(list(rows), dtype=np.float64).reshape(len(a), len(b))


def _within(
    shapes: Sequence[Prepared], measure: Measure, pool: ThreadPoolExecutor, progress: Progress
) -> Distances:
    def row(i: int) -> list[float]:
        return [measure.distance(shapes[i], shapes[j]) for j in range(i)]

    matrix = np.zeros((len(shapes), len(shapes)), dtype=np.float64)
    for i, values in enumerate(_in_order(pool, row, len(shapes), lambda i: i, progress)):
        matrix[i, :i] = matrix[:i, i] = values
    return matrix


def _in_order(
    pool: ThreadPoolExecutor,
    row: Callable[[int], list[float]],
    count: int,
    size: Callable[[int], int],
    progress: Progress,
) -> Iterator[list[float]]:
    futures: list[Future[list[float]]] = [pool.submit(row, i) for i in range(count)]
    for i, future in enumerate(futures):
        yield future.result()
        progress.advance(size(i))


@contextmanager
def _pool(workers: int | None) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool that forgets what waits when something goes wrong, as on Ctrl-C."""
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1, thread_name_prefix="distances")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _scipy(module: str) -> Any:
    return optional_module(f"scipy.{module}", "distances between shapes", "3d")
