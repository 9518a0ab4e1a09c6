"""The decoding as an operator of PyTorch: opaque to tracing, with a shape rule of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from .._dispatch import Candidate, Impl, choose, triton_option
from . import host, reference
from .check import check_offsets, check_valid


def options(device: torch.device) -> list[Candidate]:
    """Return the implementations for tokens on a device, in the order of preference."""
    refusal = None if device.type == "cpu" else f"NumPy has no tensors on {device.type}"
    return [
        triton_option(device),
        Candidate("numpy", "level by level in NumPy", refusal),
        Candidate("reference", "plain PyTorch"),
    ]


def run(
    tokens: Tensor,
    offsets: Tensor,
    lower: Tensor | None,
    edge: Tensor | None,
    depth: int,
    leaves: int,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return keys, tree, centers, half and valid as :class:`.types.Decoded` describes, [M] or [B].

    The arguments have been checked by :func:`ddimx.kernels.octree_decode.octree_decode`.
    """
    on_host = tokens.device.type == "cpu"
    if on_host:
        check_offsets(offsets, len(tokens))
    wish: Impl = impl  # type: ignore[assignment]
    choice = choose("octree_decode", wish, options(tokens.device))
    result = None
    if choice == "triton" and len(tokens):
        from . import launch

        result = launch.decode(tokens, offsets, depth, leaves, lower, edge)
    elif choice == "numpy" and len(tokens):
        result = host.decode(tokens, offsets, depth, leaves, lower, edge)
    if result is None:
        result = reference.decode(tokens, offsets, depth, leaves, lower, edge)
    if on_host:
        # Asking an accelerator would wait for it; there the caller has the flags.
        check_valid(result.valid, depth)
    keys, tree, centers, half, valid = result
    return keys, tree, centers, half, valid


# The same as run, for tracing, which records it as one operation.
octree_decode_op = torch.library.custom_op("ddimx::octree_decode", mutates_args=())(run)


@octree_decode_op.register_fake
def _(
    tokens: Tensor,
    offsets: Tensor,
    lower: Tensor | None,
    edge: Tensor | None,
    depth: int,
    leaves: int,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    trees = len(offsets) - 1
    return (
        tokens.new_empty(leaves, dtype=torch.int64),
        tokens.new_empty(leaves, dtype=torch.int32),
        tokens.new_empty((leaves, 3), dtype=torch.float32),
        tokens.new_empty(trees, dtype=torch.float32),
        tokens.new_empty(trees, dtype=torch.bool),
    )
