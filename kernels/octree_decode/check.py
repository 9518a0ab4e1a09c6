"""What a decoding refuses, before anything is launched."""

from __future__ import annotations

import torch
from torch import Tensor

DEEPEST = 20  # three bits a level in an int64
MOST_TOKENS = 2**28 - 1  # a cell's parent and octant share an int32


def check(
    tokens: Tensor,
    offsets: Tensor,
    depth: int,
    leaves: int,
    lower: Tensor | None,
    edge: Tensor | None,
) -> None:
    """Raise ValueError unless the arguments fit: L tokens of B trees. The streams are not read."""
    if tokens.dtype != torch.uint8 or tokens.dim() != 1:
        raise ValueError(f"tokens are {tokens.dtype} {tuple(tokens.shape)}, expected uint8 [L]")
    if len(tokens) > MOST_TOKENS:
        raise ValueError(f"{len(tokens)} tokens in one call, more than {MOST_TOKENS}: split them")
    if offsets.dtype != torch.int64 or offsets.dim() != 1 or not len(offsets):
        shape_text = f"{offsets.dtype} {tuple(offsets.shape)}"
        raise ValueError(f"offsets are {shape_text}, expected int64 [B + 1]")
    if not 1 <= depth <= DEEPEST:
        raise ValueError(f"depth {depth} is not within 1..{DEEPEST}")
    if not 0 <= leaves <= len(tokens):
        raise ValueError(f"{leaves} leaves cannot be those of {len(tokens)} tokens")
    if (lower is None) != (edge is None):
        raise ValueError("a cube is a lower corner and an edge: give both or none")
    trees = len(offsets) - 1
    for name, value, shape in (("lower", lower, (trees, 3)), ("edge", edge, (trees,))):
        if value is not None and (value.shape != shape or value.dtype != torch.float32):
            shape_text = f"{value.dtype} {tuple(value.shape)}"
            raise ValueError(f"{name} is {shape_text}, expected float32 {list(shape)}")
    for name, value in (("offsets", offsets), ("lower", lower), ("edge", edge)):
        if value is not None and value.device != tokens.device:
            raise ValueError(f"{name} is on {value.device}, the tokens on {tokens.device}")


def check_offsets(offsets: Tensor, length: int) -> None:
    """Raise ValueError unless offsets, int64 [B + 1] on the CPU, ascend from 0 to ``length``."""
    if int(offsets[0]) or int(offsets[-1]) != length or (offsets.diff() < 0).any():
        raise ValueError(f"offsets do not ascend from 0 to the {length} tokens")


def check_valid(valid: Tensor, depth: int) -> None:
    """Raise ValueError if a tree's stream is broken; ``valid``: bool [B] on the CPU."""
    broken = (~valid).nonzero().flatten()
    if len(broken):
        raise ValueError(
            f"stream {int(broken[0])} is not an octree of depth {depth} ({len(broken)} of "
            f"{len(valid)} are not), or the number of leaves is not theirs"
        )
