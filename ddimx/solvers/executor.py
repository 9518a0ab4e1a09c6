"""The one loop that runs every plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..kernels.update import Extras, update
from ..kernels.update.columns import TABLE
from ..noise import Noise, Stream
from ..timing import timed
from .graphs import Evaluator, Kind, RowGraphs, RowState
from .plan import Plan


class Raw(NamedTuple):
    """A network's raw output [B, ...] in any floating dtype; under guidance also without class."""

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
        x: the state, [B, ...] in the dtype of the run's start, as ``y`` and ``x0`` are.
        y: where the network is evaluated next, after the last row the result.
        x0: the row's prediction of clean data, None if the network was not called.
    """

    row: int
    t: float
    t_to: float
    x: Tensor
    y: Tensor
    x0: Tensor | None

    def at(self, places: Sequence[int]) -> Step:
        """Return what the step says of the samples at these places of the batch."""
        x0 = None if self.x0 is None else self.x0[places]
        return replace(self, x=self.x[places], y=self.y[places], x0=x0)


@dataclass(frozen=True)
class Draw:
    """Where a run's noise comes from: the keyed streams, or a function of the row's ordinal.

    Attributes:
        noise: the keyed streams.
        samples: int64 [B], the samples' indices.
        z: returns unit noise of the state's shape; it exists to share noise with other programs.
    """

    noise: Noise
    samples: Tensor
    z: Callable[[int], Tensor] | None = None


@dataclass(frozen=True)
class Known:
    """Pixels that are known, for inpainting.

    Attributes:
        pixels: float32 [B, ...] in the network's range.
        mask: float32, broadcastable to the pixels; 1 keeps, 0 paints.
    """

    pixels: Tensor
    mask: Tensor


def thresholded(x0: Tensor, share: float, most: float) -> Tensor:
    """Return x0 [B, ...] under dynamic thresholding (arXiv 2205.11487, section 2.3).

    Each sample is clipped to the bound below which a ``share`` of its absolute values lie, at least
    1 and at most ``most``, and divided by it. Float32 or float64, and so is the result.
    """
    flat = x0.flatten(1)
    # One by one: torch.quantile refuses more than 2^24 numbers.
    bounds = [torch.quantile(sample.abs(), share) for sample in flat]
    bound = torch.stack(bounds).clamp(1.0, most)[:, None]
    return (flat.clamp(-bound, bound) / bound).view(x0.shape)


@torch.no_grad()
def execute(
    plan: Plan,
    evaluate: Evaluate,
    x: Tensor,
    draw: Draw,
    *,
    guidance: float = 1.0,
    unguided: Evaluate | None = None,
    known: Known | None = None,
    graphs: RowGraphs | None = None,
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
        guidance: the weight G, used where ``evaluate`` returns an unconditional output.
        unguided: the network where the plan's g is 0: with its class, in one pass. None takes
            ``evaluate`` there too.
        known: pixels to keep, for inpainting.
        graphs: where rows are captured once and replayed; ``evaluate`` is then an
            :class:`ddimx.solvers.graphs.Evaluator`. A plan with a threshold and rows with noise
            from elsewhere run without.
    """
    table = torch.from_numpy(plan.table()).to(x.device, x.dtype)
    if plan.threshold is not None:
        # A quantile needs the whole sample, so that x0's share is added after the row. To subtract
        # it there would cost its digits: x0 before thresholding is up to 1 / sqrt(alpha_bar).
        table[:, TABLE.index("w")] = 0
    history = x.new_zeros(plan.depth - 1, *x.shape) if plan.depth > 1 else None
    constant = Extras(
        history_is_x0=plan.history == "x0",
        clip=plan.clip,
        seed=draw.noise.key_bits(x.device),
        samples=draw.samples.to(x.device),
        step_stream=int(Stream.STEP) if plan.noisy and draw.z is None else None,
        known=None if known is None else known.pixels,
        mask=None if known is None else known.mask,
        known_stream=None if known is None else int(Stream.KNOWN),
    )
    weight = torch.tensor(guidance, dtype=x.dtype, device=x.device)
    ordinal = torch.tensor(0, device=x.device)
    kinds = _kinds(plan)
    y = x
    if graphs is not None and draw.z is None and plan.threshold is None:
        # One copy from the host, before the first row: from then on the device needs none.
        times = torch.from_numpy(plan.t).to(x.device, torch.float32)
        state = RowState(table, times, ordinal, x, y, history, constant, weight)
        with graphs.rows(state, cast(Evaluator, evaluate)) as replayed:
            if replayed is not None:
                for row, kind in enumerate(kinds):
                    x, y, x0 = replayed(kind)
                    yield Step(row, float(plan.t[row]), float(plan.t_to[row]), x, y, x0)
                return
    for row, kind in enumerate(kinds):
        t = float(plan.t[row])
        out, uncond = None, None
        if kind.calls:
            times = torch.full((len(x),), t, dtype=torch.float32, device=x.device)
            ask = evaluate if unguided is None or kind.guided else unguided
            with timed("network"):
                out, uncond = ask(y, times)
        extras = replace(
            constant,
            same_point=kind.same_point,
            uncond=uncond,
            guidance=None if uncond is None else weight,
            z=None if draw.z is None else draw.z(row),
        )
        with timed("update"):
            x, y, x0 = update(table, ordinal, x, y, out, history, extras)
        if plan.threshold is not None and x0 is not None:
            x0 = thresholded(x0, *plan.threshold)
            share = float(plan.w[row]) * x0
            y = x = x + (share if known is None else share * (1 - known.mask.to(x.dtype)))
        ordinal.add_(1)
        yield Step(row, t, float(plan.t_to[row]), x, y, x0)


def _kinds(plan: Plan) -> list[Kind]:
    """Return what each row's operations depend on."""
    keeps = [bool(same) for same in plan.keeps_point()]
    return [
        Kind(
            calls=not math.isnan(plan.t[row]),
            guided=bool(plan.g[row] != 0),
            same_input=row == 0 or keeps[row - 1],
            same_point=keeps[row],
        )
        for row in range(len(plan))
    ]
