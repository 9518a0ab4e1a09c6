"""One row of a plan: ``ddimx.kernels.update`` against a DDIM step as one would write it.

Bytes model, for GB/s: a DDIM row has to read the state and the network's output and to write the
next state, three float32 tensors; noise drawn inside the update moves nothing. Every peer is held
to these bytes, whatever it moves itself, and stands beside the rate of a plain copy (one tensor
read, one written) measured in the same rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddimx.kernels.update import Extras, preference, update
from ddimx.kernels.update.columns import NEUTRAL, TABLE

from .device import compile_seconds, graphed, launches, waiter
from .runner import Absent, Budget, Contender, Job, compare

ROUNDS = 30
FLOATS_MOVED = 3
STEP_STREAM = 1
TOLERANCE = 1e-5
# A batch of the shipped model, where overhead decides, and one where memory does.
SHAPES = {
    "cpu": ((16, 3, 32, 32), (16, 3, 256, 256)),
    "cuda": ((16, 3, 32, 32), (352, 3, 256, 256)),
}

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Levels:
    """The noise levels of one DDIM row, from ``ab`` to ``ab_to``."""

    eta: float
    ab: float = 0.3
    ab_to: float = 0.4

    @property
    def sigma(self) -> float:
        """The scale of the noise that the row adds."""
        return self.eta * math.sqrt((1 - self.ab_to) / (1 - self.ab) * (1 - self.ab / self.ab_to))

    @property
    def direction(self) -> float:
        """The weight of the predicted epsilon."""
        return math.sqrt(1 - self.ab_to - self.sigma**2)


def jobs(
    device: torch.device,
    rounds: int | None = None,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    compiled: bool = True,
    budget: Budget | None = None,
) -> list[Job]:
    """Return what measures a table for every shape, without and with noise."""
    chosen = shapes or SHAPES.get(device.type, SHAPES["cpu"])
    time_left = budget or Budget()

    def job(shape: tuple[int, ...], levels: Levels) -> Job:
        noise = "with noise" if levels.sigma else "without noise"
        title = f"update, {'x'.join(str(n) for n in shape)} float32, {noise}"
        arguments = (title, device, rounds or ROUNDS, shape, levels, compiled, time_left)
        return Job(title, partial(_table, *arguments))

    return [job(shape, Levels(eta)) for shape in chosen for eta in (0.0, 1.0)]


def _table(
    title: str,
    device: torch.device,
    rounds: int,
    shape: tuple[int, ...],
    levels: Levels,
    compiled: bool,
    budget: Budget,
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device)
    out = torch.randn(shape, generator=generator).to(device)
    step = eager_step(levels)
    ours = our_step(levels, x)
    check(levels, x, out)
    target = torch.empty_like(x)
    moved = FLOATS_MOVED * x.nbytes
    calls = {"eager": lambda: step(x, out), "ddimx update": lambda: ours(x, out)}
    peers: list[Contender | Absent] = [
        Contender(name, call, moved, launches(call, device)) for name, call in calls.items()
    ]
    refusal = budget.refusal(compile_seconds(device)) if compiled else "--no-compile"
    peers.insert(1, Absent("torch.compile", refusal) if refusal else _compiled(step, x, out, moved))
    if device.type == "cuda":
        peers += [Contender(f"{n}, graph", graphed(c, device), moved) for n, c in calls.items()]
    copy = Contender("copy", lambda: target.copy_(x), 2 * x.nbytes, yardstick=True)
    peers.append(copy)
    notes = [
        f"GB/s: {FLOATS_MOVED} float32 tensors per row (read x, read out, write x'); copy: 2",
        "eager and torch.compile draw randn_like, ddimx noise that is keyed to the sample",
    ]
    notes = notes if levels.sigma else notes[:1]
    notes.append(f"ddimx update runs as: {': '.join(preference(device))}")
    return _with_shares(
        compare(title, peers, rounds, wait=waiter(device), notes=notes, budget=budget)
    )


def _with_shares(table: dict[str, Any]) -> dict[str, Any]:
    """Add each row's GB/s as a share of the copy's."""
    copy = next(row["gb_per_s"] for row in table["rows"] if row["name"] == "copy")
    for row in table["rows"]:
        if "gb_per_s" in row:
            row["share_of_copy"] = row["gb_per_s"] / copy
    return table


def eager_step(levels: Levels) -> Step:
    """Return the DDIM step of the paper in PyTorch's own operations (epsilon prediction)."""
    ab, ab_to, sigma, direction = levels.ab, levels.ab_to, levels.sigma, levels.direction

    def step(x: Tensor, out: Tensor) -> Tensor:
        x0 = (x - math.sqrt(1 - ab) * out) / math.sqrt(ab)
        moved = math.sqrt(ab_to) * x0 + direction * out
        return moved + sigma * torch.randn_like(x) if sigma else moved

    return step


def our_step(levels: Levels, like: Tensor, z: Tensor | None = None) -> Step:
    """Return the same step as a row of a plan; ``z`` replaces the noise drawn from the seed."""
    table = _row(levels).to(like.device, like.dtype)
    row = torch.tensor(0, device=like.device)
    extras = Extras(
        seed=torch.tensor(0, device=like.device),
        samples=torch.arange(len(like), device=like.device),
        step_stream=STEP_STREAM if levels.sigma and z is None else None,
        z=z,
        same_point=True,
        want_x0=False,
    )
    return lambda x, out: update(table, row, x, x, out, None, extras).y


def check(levels: Levels, x: Tensor, out: Tensor) -> None:
    """Raise unless both steps agree; a wrong step may be fast.

    With noise, what remains after the deterministic part must be standard normal: its mean and
    variance lie within six standard errors.
    """
    quiet = Levels(0.0, levels.ab, levels.ab_to)
    zeros = torch.zeros_like(x)
    expected = eager_step(quiet)(x.cpu().double(), out.cpu().double())
    _close("without noise", our_step(quiet, x)(x, out), expected)
    if not levels.sigma:
        return
    mean = our_step(levels, x, zeros)(x, out)
    z = (our_step(levels, x)(x, out) - mean).double() / levels.sigma
    error = 6 / math.sqrt(z.numel())
    if abs(z.mean()) > error or abs(z.var() - 1) > error * math.sqrt(2):
        raise RuntimeError(f"the noise has mean {z.mean():.3g} and variance {z.var():.3g}")


def _row(levels: Levels) -> Tensor:
    signal, spread = math.sqrt(levels.ab), math.sqrt(1 - levels.ab)
    values = {name: NEUTRAL.get(name, 0.0) for name in TABLE}
    values |= {"r": 1 / signal, "s": -spread / signal, "v": 1.0}
    values |= {"w": math.sqrt(levels.ab_to), "c": levels.sigma}
    b, q = levels.direction, 0.0
    return torch.tensor([[*values.values(), b, q]], dtype=torch.float64)


def _close(what: str, got: Tensor, expected: Tensor) -> None:
    error = ((got.cpu().double() - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE:
        raise RuntimeError(f"update and the eager step differ {what}: {error:.3g} relative")


def _compiled(step: Step, x: Tensor, out: Tensor, moved: int) -> Contender | Absent:
    """Compile the eager step, or say why that is not possible here."""
    fast = torch.compile(step, fullgraph=True, dynamic=False)
    begun = time.perf_counter()
    try:
        fast(x, out)
    except (RuntimeError, OSError) as error:  # no C++ compiler, no Triton, an unknown device
        return Absent("torch.compile", f"does not compile here: {str(error).splitlines()[0]}")
    seconds = time.perf_counter() - begun
    return Contender("torch.compile", lambda: fast(x, out), moved, {"compile_s": seconds})
