"""What is launched for given tensors: kernel, programs, arguments and tile.

The same description is run on a device and compiled ahead of time by the tests, so that what they
count is what runs. Nothing here imports Triton until a launch is run.
"""

from __future__ import annotations

from torch import Tensor

from .._launch import StagedLaunch, architecture
from .tiles import STRIP, AttentionTile, Kernel, tile

__all__ = ["AttentionLaunch", "architecture", "backward", "forward", "launch", "strides"]

MOST_PROGRAMS = 2**31 - 1
MOST_ROWS = 2**31 - 2**12  # of one sample: they are counted in 32 bits, offsets in 64

Arguments = dict[str, Tensor | float | int]


class AttentionLaunch(StagedLaunch):
    """One launch of a kernel of this operation."""

    module = "ddimx.kernels.attention.kernel"


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    arch: str,
    tiling: AttentionTile | None = None,
) -> AttentionLaunch:
    """Return the forward launch: writes out [B, N, D] and lse float32 [B, N], both contiguous.

    Args:
        tiling: another tile than the table's.

    Raises:
        ValueError: more programs than one launch can hold, or rows than 32 bits can count.
    """
    (batch, n, d), m = q.shape, k.shape[1]
    name: Kernel = "strip" if m <= STRIP else "online"
    tiling = tiling or tile(arch, name, q.dtype, n, m, d)
    splits = -(-d // tiling.columns) if name == "online" else 1
    arguments: Arguments = {"q": q, "k": k, "v": v, "out": out, "lse": lse, "scale": scale}
    arguments |= {"n_queries": n, "n_keys": m, **strides(q=q, k=k, v=v)}
    constants = {
        "D": d,
        "BLOCK_Q": tiling.own,
        "BLOCK_K": tiling.other,
        "BLOCK_D": tiling.dims,
        "BLOCK_O": tiling.columns,
    }
    programs = batch * splits * -(-n // tiling.own)
    return launch(name, programs, arguments, constants, tiling)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    delta: Tensor,
    results: tuple[Tensor, Tensor, Tensor],
    scale: float,
    arch: str,
) -> tuple[AttentionLaunch, AttentionLaunch]:
    """Return the launches for dQ and for dK with dV, which fill the contiguous ``results``.

    Args:
        delta: float32 [B, N], the row sums of grad * out.
    """
    d_q, d_k, d_v = results
    others: Arguments = {"lse": lse, "delta": delta, "scale": scale, "n_queries": q.shape[1]}
    for_queries = {"a": q, "oa": k, "b": grad, "ob": v}
    for_keys = {"a": k, "oa": q, "b": v, "ob": grad}
    return (
        _gradient(for_queries, others | {"d_a": d_q, "d_b": d_q}, arch, for_keys=False),
        _gradient(for_keys, others | {"d_a": d_k, "d_b": d_v}, arch, for_keys=True),
    )


def _gradient(
    inputs: dict[str, Tensor], others: Arguments, arch: str, for_keys: bool
) -> AttentionLaunch:
    (batch, own, d), other = inputs["a"].shape, inputs["oa"].shape[1]
    name: Kernel = "gradient_strip" if other <= STRIP else "gradient_online"
    tiling = tile(arch, name, inputs["a"].dtype, own, other, d)
    splits = -(-d // tiling.columns) if name == "gradient_online" else 1
    sizes = {"n_own": own, "n_other": other, **strides(**inputs)}
    constants = {
        "D": d,
        "FOR_KEYS": int(for_keys),
        "BLOCK_OWN": tiling.own,
        "BLOCK_OTHER": tiling.other,
        "BLOCK_D": tiling.dims,
        "BLOCK_O": tiling.columns,
    }
    programs = batch * splits * -(-own // tiling.own)
    return launch(name, programs, {**inputs, **others, **sizes}, constants, tiling)


def launch(
    kernel: Kernel,
    programs: int,
    arguments: Arguments,
    constants: dict[str, int],
    tiling: AttentionTile,
) -> AttentionLaunch:
    """Return a launch, or refuse one that has too many programs or rows."""
    rows = max(t.shape[1] for t in arguments.values() if isinstance(t, Tensor))
    if rows > MOST_ROWS:
        raise ValueError(f"attention of {rows} rows, the kernels count at most {MOST_ROWS}")
    if programs > MOST_PROGRAMS:
        raise ValueError(f"attention would need {programs} programs, more than {MOST_PROGRAMS}")
    return AttentionLaunch(kernel, programs, arguments, constants, tiling.warps, tiling.stages)


def strides(**tensors: Tensor) -> dict[str, int]:
    """Return the strides of [B, rows, D] tensors as name_batch, name_row and name_dim."""
    return {
        f"{name}_{part}": stride
        for name, tensor in tensors.items()
        for part, stride in zip(("batch", "row", "dim"), tensor.stride(), strict=True)
    }
