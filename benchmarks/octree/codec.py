"""Decoding token streams to centers, and encoding cells to streams, of one shape and of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ddimx.kernels.octree_decode import octree_decode, preference
from ddimx.octree import reference
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.tree import Octree, from_leaves, from_tokens

from .. import seed
from ..device import graphed, launches, waiter
from ..runner import Absent, Budget, Call, Contender, Job, compare
from . import peers, shapes

TOLERANCE = 1e-6
DEPTH = 8  # of the one sphere
Peers = list[Contender | Absent]


def jobs(device: torch.device, rounds: int, budget: Budget) -> list[Job]:
    """Return what measures decoding and encoding of one deep sphere and of many small ones."""
    several = f"{shapes.MANY:,} spheres of depth {shapes.MANY_DEPTH}"
    return [
        Job(f"{what}, {name}", partial(_table, what, trees, device, rounds, budget))
        for name, trees in (
            (f"one sphere of depth {DEPTH}", lambda: [shapes.sphere(DEPTH)]),
            (several, shapes.spheres),
        )
        for what in ("decode", "encode")
    ]


def decoders(trees: Sequence[Octree], device: torch.device) -> Peers:
    """Return everything that decodes these trees, after seeing that all give the same centers."""
    depth = trees[0].depth
    streams = [tree.tokens() for tree in trees]
    lists = [stream.tolist() for stream in streams]
    on_device = [torch.from_numpy(stream).to(device) for stream in streams]
    tokens = torch.cat(on_device)
    offsets = torch.tensor([0, *np.cumsum([len(s) for s in streams])], device=device)
    leaves = sum(len(tree.leaves) for tree in trees)

    def kernel() -> torch.Tensor:
        return octree_decode(tokens, offsets, depth, leaves=leaves).centers

    calls: dict[str, Call] = {
        "Python list as queue": lambda: [seed.list_decode(s, depth) for s in lists],
        "Python deque": lambda: [seed.deque_decode(s, depth) for s in lists],
        "eager PyTorch by level": lambda: [peers.torch_decode(s, depth) for s in on_device],
        "ddimx.octree (NumPy)": lambda: [from_tokens(s, depth).centers() for s in streams],
        "ddimx octree_decode": kernel,
    }
    expected = np.concatenate([tree.centers() for tree in trees])
    for name, call in calls.items():
        _close(name, _centers(call()), expected)
    contenders: Peers = [
        Contender(n, c, facts=_launched(n, c, device), warm=True) for n, c in calls.items()
    ]
    if device.type == "cuda":
        contenders.append(Contender("ddimx octree_decode, graph", graphed(kernel, device)))
    ocnn = _ocnn(device)
    if isinstance(ocnn, Absent):
        return [*contenders, ocnn]
    masks = [peers.masks_of(tree, device) for tree in trees]

    def by_ocnn() -> list[torch.Tensor]:
        return [ocnn.decode(levels) for levels in masks]

    _close("ocnn", _centers(by_ocnn()), expected)
    return [*contenders, Contender("ocnn", by_ocnn)]


def encoders(trees: Sequence[Octree], device: torch.device) -> Peers:
    """Return everything that encodes these trees' cells, after seeing that all agree."""
    depth = trees[0].depth
    cells = [cells_of(tree.leaves) for tree in trees]
    tuples = [[(x, y, z) for x, y, z in each.tolist()] for each in cells]
    on_device = [torch.from_numpy(each).to(device) for each in cells]
    calls: dict[str, Call] = {
        "Python deque": lambda: [reference.encode(each, depth) for each in tuples],
        "eager PyTorch by level": lambda: [peers.torch_encode(c, depth) for c in on_device],
        "ddimx.octree (NumPy)": lambda: [
            from_leaves(keys_of(each), depth).tokens() for each in cells
        ],
    }
    ocnn = _ocnn(device)
    if not isinstance(ocnn, Absent):
        calls["ocnn"] = lambda: [ocnn.encode(each, depth) for each in on_device]
    expected = np.concatenate([tree.tokens() for tree in trees])
    for name, call in calls.items():
        _same(name, _tokens(call()), expected)
    contenders: Peers = [Contender(name, call, warm=True) for name, call in calls.items()]
    return [*contenders, ocnn] if isinstance(ocnn, Absent) else contenders


def _table(
    what: str,
    make: Callable[[], list[Octree]],
    device: torch.device,
    rounds: int,
    budget: Budget,
) -> dict[str, Any]:
    trees = make()
    contenders = decoders(trees, device) if what == "decode" else encoders(trees, device)
    length = sum(sum(tree.counts) for tree in trees)
    shape = "one sphere" if len(trees) == 1 else f"{len(trees):,} spheres"
    title = f"{what}, {shape} of depth {trees[0].depth}, {length:,} tokens"
    notes = {
        "decode": [
            "streams to the leaves' centers; queues and NumPy work on the host, in float64",
            f"ddimx octree_decode runs as: {': '.join(preference(device))}",
        ],
        "encode": ["cells in the order of their keys to token streams"],
    }
    table = compare(
        title, contenders, rounds, wait=waiter(device), notes=notes[what], budget=budget
    )
    for row in table["rows"]:
        if "median_ms" in row:
            row["mtokens_per_s"] = length / row["median_ms"] / 1e3
    return table


def _ocnn(device: torch.device) -> peers.Ocnn | Absent:
    try:
        return peers.Ocnn(device)
    except ImportError as error:
        return Absent("ocnn", str(error))


def _launched(name: str, call: Call, device: torch.device) -> dict[str, float]:
    return launches(call, device) if "Python" not in name and "NumPy" not in name else {}


def _centers(result: Any) -> npt.NDArray[np.float64]:
    parts = result if isinstance(result, list) else [result]
    arrays = [p.cpu().numpy() if isinstance(p, torch.Tensor) else np.asarray(p) for p in parts]
    return np.concatenate(arrays)[:, :3].astype(np.float64)


def _tokens(result: Any) -> npt.NDArray[np.int64]:
    arrays = [p.cpu().numpy() if isinstance(p, torch.Tensor) else np.asarray(p) for p in result]
    return np.concatenate(arrays).astype(np.int64)


def _close(name: str, got: Any, expected: Any) -> None:
    if got.shape != expected.shape or not np.abs(got - expected).max() <= TOLERANCE:
        raise RuntimeError(f"{name} decodes to other leaves")


def _same(name: str, got: Any, expected: Any) -> None:
    if not np.array_equal(got, expected):
        raise RuntimeError(f"{name} encodes to other tokens")
