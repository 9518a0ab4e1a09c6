"""The one loop that runs every plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.update import Extras, update
from ..noise import Noise, Stream
from .plan import Plan


class Raw(NamedTuple):
    """A network's raw output and, under guidance, the one without the class."""

    out: Tensor
    uncond: Tensor | None


Evaluate = Callable[[Tensor, Tensor], Raw]


@dataclass(frozen=True)
class Step:
    """What an observer sees after one row.

    Attributes:
        row: the row's ordinal in the plan.
        t: the network's time, NaN if it was not called.
        t_to: the time of the state ``x``.
        x: the state; ``y``: where the network is evaluated next, after the last row the result.
        x0: the row's prediction of clean data, None if the network was not called.
    """

    row: int
    t: float
    t_to: float
    x: Tensor
    y: Tensor
    x0: Tensor | None


@dataclass(frozen=True)
class Draw:
    """Where a run's noise comes from: the keyed streams, or a function of the row's ordinal.

    ``z`` returns unit noise of the state's shape; it exists to share noise with other programs.
    """

    noise: Noise
    samples: Tensor
    z: Callable[[int], Tensor] | None = None


@dataclass(frozen=True)
class Known:
    """Pixels that are known: ``pixels`` [B, ...] in the network's range, ``mask`` 1 to keep."""

    pixels: Tensor
    mask: Tensor


@torch.no_grad()
def execute(
    plan: Plan,
    evaluate: Evaluate,
    x: Tensor,
    draw: Draw,
    *,
    guidance: float = 1.0,
    known: Known | None = None,
) -> Iterator[Step]:
    """Run a plan from the state ``x`` and yield after every row; the last ``y`` is the result.

    Nothing is kept but the state and as many predictions as the plan's depth needs, so that
    memory does not grow with the number of rows. Each row is one fused launch where there is a
    kernel (:mod:`ddimx.kernels.update`).

    Args:
        plan: the table to run.
        evaluate: the network's raw output at (y [B, ...], t float32 [B]).
        x: [B, ...], float32, or float64 for tests; all arithmetic of the rows is in its dtype.
        draw: the noise.
        guidance: the weight g, used where ``evaluate`` returns an unconditional output.
        known: pixels to keep, for inpainting.
    """
    table = torch.from_numpy(plan.table()).to(x.device, x.dtype)
    history = x.new_zeros(plan.depth - 1, *x.shape) if plan.depth > 1 else None
    extras = _constant_extras(plan, draw, known, x.device)
    weight = torch.tensor(guidance, dtype=x.dtype, device=x.device)
    ordinal = torch.tensor(0, device=x.device)
    keeps = plan.keeps_point()
    y = x
    for row in range(len(plan)):
        t = float(plan.t[row])
        raw = None if math.isnan(t) else evaluate(y, _times(t, x))
        out = None if raw is None else raw.out
        row_extras = _row_extras(extras, raw, weight, draw, row, bool(keeps[row]))
        x, y, x0 = update(table, ordinal, x, y, out, history, row_extras)
        ordinal.add_(1)
        yield Step(row, t, float(plan.t_to[row]), x, y, x0)


def _times(t: float, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.float32, device=x.device)


def _constant_extras(
    plan: Plan, draw: Draw, known: Known | None, device: torch.device
) -> dict[str, object]:
    values: dict[str, object] = {
        "history_is_x0": plan.history == "x0",
        "clip": plan.clip,
        "seed": draw.noise.key_bits(device),
        "samples": draw.samples.to(device),
        "step_stream": int(Stream.STEP) if plan.noisy and draw.z is None else None,
    }
    if known is not None:
        values |= {"known": known.pixels, "mask": known.mask, "known_stream": int(Stream.KNOWN)}
    return values


def _row_extras(
    constant: dict[str, object],
    raw: Raw | None,
    weight: Tensor,
    draw: Draw,
    row: int,
    same_point: bool,
) -> Extras:
    values = {**constant, "same_point": same_point}
    if raw is not None and raw.uncond is not None:
        values |= {"uncond": raw.uncond, "guidance": weight}
    if draw.z is not None:
        values["z"] = draw.z(row)
    return Extras(**values)  # type: ignore[arg-type]
