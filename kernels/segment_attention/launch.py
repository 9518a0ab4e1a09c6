"""What is launched for given tensors: kernel, programs, arguments and tile.

The same description is run on a device and compiled ahead of time by the tests, so that what they
count is what runs. Nothing here imports Triton until a launch is run.
"""

from __future__ import annotations

from torch import Tensor

from .._launch import StagedLaunch, architecture
from .blocks import BLOCK, Tables
from .tiles import Kernel, SegmentTile, tile

Arguments = dict[str, Tensor | float | int]

MOST_PROGRAMS = 2**31 - 1


class SegmentLaunch(StagedLaunch):
    """One launch of a kernel of this operation."""

    module = "ddimx.kernels.segment_attention.kernel"


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    out: Tensor,
    lse: Tensor,
    tables: Tables,
    scale: float,
    tiling: SegmentTile | None = None,
) -> SegmentLaunch:
    """Return the forward launch: writes out [Nq, H, D] and lse, contiguous float32 [H, Nq].

    Args:
        tiling: another tile than the table's.
    """
    tensors = {"q": q, "k": k, "v": v, "context_k": context_k, "context_v": context_v, "out": out}
    plain: Arguments = {"lse": lse, "blocks": tables.queries, "scale": scale}
    return _launch("forward", tensors, plain, tiling)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    lse: Tensor,
    delta: Tensor,
    results: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    tables: Tables,
    scale: float,
) -> tuple[SegmentLaunch, SegmentLaunch, SegmentLaunch]:
    """Return the launches for dQ, for the own keys and for the context keys.

    They fill the rows of ``results`` that the tables name: all queries, the keys that are read.

    Args:
        delta: contiguous float32 [H, Nq], the row sums of grad * out.
    """
    d_q, d_k, d_v, d_ck, d_cv = results
    plain: Arguments = {"lse": lse, "delta": delta, "scale": scale}
    inputs = {"q": q, "k": k, "v": v, "context_k": context_k, "context_v": context_v}
    own = {"q": q, "k": k, "v": v, "grad": grad, "d_k": d_k, "d_v": d_v}
    context = {"q": q, "k": context_k, "v": context_v, "grad": grad, "d_k": d_ck, "d_v": d_cv}
    return (
        _launch(
            "gradient_of_queries",
            {**inputs, "grad": grad, "d_q": d_q},
            plain | {"blocks": tables.queries},
        ),
        _launch(
            "gradient_of_keys", own, plain | {"blocks": tables.own, "readers": tables.own_readers}
        ),
        _launch(
            "gradient_of_keys",
            context,
            plain | {"blocks": tables.context, "readers": tables.context_readers},
        ),
    )


def _launch(
    kernel: Kernel,
    tensors: dict[str, Tensor],
    plain: Arguments,
    tiling: SegmentTile | None = None,
) -> SegmentLaunch:
    """Return a launch of one program per head and block, or refuse one that has too many."""
    q, blocks = tensors["q"], plain["blocks"]
    assert isinstance(blocks, Tensor)
    n_queries, heads, d = q.shape
    arguments: Arguments = {**tensors, **plain, "n_blocks": blocks.shape[0], "n_queries": n_queries}
    for name, tensor in tensors.items():
        row, head, column = tensor.stride()
        if column != 1:
            raise ValueError(f"{name}'s last dimension has stride {column}, the kernels need 1")
        arguments |= {f"{name}_row": row, f"{name}_head": head}
    tiling = tiling or tile(kernel, q.dtype, d, architecture(q.device))
    by_keys = kernel == "gradient_of_keys"
    constants = {
        "D": d,
        "BLOCK_Q": tiling.other if by_keys else tiling.own,
        "BLOCK_K": tiling.own if by_keys else tiling.other,
        "PARTS": BLOCK // tiling.own,
    }
    programs = heads * blocks.shape[0] * (BLOCK // tiling.own)
    if programs > MOST_PROGRAMS:
        raise ValueError(f"segment attention of {programs} programs, at most {MOST_PROGRAMS}")
    return SegmentLaunch(kernel, programs, arguments, constants, tiling.warps, tiling.stages)
