"""The host's side of the decoding: what is allocated, and the four launches in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._launch import run
from . import kernel
from .types import Decoded

TILE = 1024  # tokens of a program; its tree's beginning is summed up again from at most as many
LEAVES = 256  # leaves of a program: eight dependent loads and more, so many programs are wanted
CHUNK = 4096  # tiles that the scan takes at once


@dataclass(frozen=True)
class DecodeLaunch:
    """One launch in full: what runs is what the compile-only tests compile.

    Attributes:
        name: the kernel, a function of :mod:`ddimx.kernels.octree_decode.kernel`.
        arguments: its run-time arguments by name.
        constants: its compile-time arguments by name.
        grid: number of programs.
        warps: warps per program.
    """

    name: str
    arguments: dict[str, Any]
    constants: dict[str, Any]
    grid: int
    warps: int


def decode(
    tokens: Tensor,
    offsets: Tensor,
    depth: int,
    leaves: int,
    lower: Tensor | None,
    edge: Tensor | None,
) -> Decoded:
    """Launch the kernels; arguments and results, of M leaves of B trees, as of the reference."""
    results = empty(tokens, len(offsets) - 1, leaves)
    for launch in prepare(tokens, offsets, depth, results, lower, edge):
        start(launch)
    return results


def start(launch: DecodeLaunch) -> None:
    """Run a launch on the device of its tensors."""
    function = getattr(kernel, launch.name)
    run(function, launch.grid, launch.arguments, launch.constants, num_warps=launch.warps)


def empty(tokens: Tensor, trees: int, leaves: int) -> Decoded:
    """Return the results, not filled, for M leaves of B trees; see :class:`.types.Decoded`."""

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=tokens.device)

    keys, tree = new(leaves, dtype=torch.int64), new(leaves, dtype=torch.int32)
    return Decoded(keys, tree, new(leaves, 3), new(trees), new(trees, dtype=torch.bool))


def prepare(
    tokens: Tensor,
    offsets: Tensor,
    depth: int,
    results: Decoded,
    lower: Tensor | None,
    edge: Tensor | None,
) -> list[DecodeLaunch]:
    """Return the launches for checked arguments (also on meta tensors: nothing is read)."""
    tokens, offsets = tokens.contiguous(), offsets.contiguous()
    length, trees, leaves = len(tokens), len(offsets) - 1, len(results.keys)
    tiles = -(-max(length, trees) // TILE)

    def room(size: int) -> Tensor:
        return torch.empty(size, dtype=torch.int32, device=tokens.device)

    sums, up, tile_sums = room(trees + 1), room(length), room(tiles)
    common = {"valid": results.valid, "tokens": tokens, "length": length, "trees": trees}
    search = {"offsets": offsets, "sums": sums, "up": up, "steps": (trees - 1).bit_length()}
    cube = {
        "lower": results.centers if lower is None else lower.contiguous(),
        "edge": results.half if edge is None else edge.contiguous(),
    }
    decoded = {
        "keys": results.keys,
        "tree_to": results.tree,
        "centers": results.centers,
        "half": results.half,
        "leaves": leaves,
        "depth": depth,
        "size": 0.5**depth,
    }
    tile, constants = {"TILE": TILE}, {"HAS_CUBE": edge is not None, "TILE": LEAVES}
    launches = [
        DecodeLaunch("sum_tiles", common | {"tiles": tile_sums}, tile, tiles, 4),
        DecodeLaunch("scan_tiles", {"tiles": tile_sums, "count": tiles}, {"CHUNK": CHUNK}, 1, 8),
        DecodeLaunch("place_children", common | search | {"tiles": tile_sums}, tile, tiles, 8),
        DecodeLaunch(
            "decode_leaves",
            common | search | cube | decoded,
            constants,
            -(-max(leaves, trees) // LEAVES),
            4,
        ),
    ]
    return launches if trees and length else []
