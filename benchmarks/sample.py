"""Sampling end to end: starting noise, all steps, clamping to bytes, back in main memory.

The baseline is the loop that one would write after reading the paper, around the same network.
Every row runs DDIM with eta 0 and no guidance from the same starting noise, so that the column of
differences tells whether it computed the same images. Loading the model and encoding PNGs are not
part of it. Milliseconds per network call are the whole time divided by the calls that were
counted, so the sampler's own work is in them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ddimx
from ddimx.device import choose_precision
from ddimx.models.gaussian import GaussianProcess
from ddimx.noise import Noise

from .device import waiter
from .runner import Absent, Contender, Job, compare

ROUNDS = 10
STEPS = 50
BATCHES = {"cpu": (1, 16), "cuda": (1, 16, 512)}
Draw = Callable[[], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to run the same network."""

    dtype: str
    layout: str
    compiled: bool = False

    @property
    def name(self) -> str:
        """Precision and memory layout, as the tables show them."""
        return f"ddimx {self.dtype} {self.layout}" + (", compiled" if self.compiled else "")


VARIANTS = (
    Variant("fp32", "NCHW"),
    Variant("fp32", "NHWC"),
    Variant("fp32", "NHWC", compiled=True),
    Variant("bf16", "NCHW"),
    Variant("bf16", "NHWC"),
    Variant("bf16", "NHWC", compiled=True),
)


def jobs(
    device: torch.device,
    rounds: int | None = None,
    *,
    model: str = "emoji",
    steps: int = STEPS,
    batches: Sequence[int] = (),
    compiled: bool = True,
) -> list[Job]:
    """Return what measures a table for every batch size: the eager loop, then each variant."""

    @cache  # the models of all tables, loaded when the first is measured
    def models() -> dict[Variant, ddimx.Model | str]:
        refusals = {variant: _refusal(variant, device, compiled) for variant in VARIANTS}
        return {v: why or load_variant(v, model, device) for v, why in refusals.items()}

    chosen = batches or BATCHES.get(device.type, BATCHES["cpu"])
    return [partial(_table, models, device, rounds or ROUNDS, steps, batch) for batch in chosen]


def _table(
    models: Callable[[], dict[Variant, ddimx.Model | str]],
    device: torch.device,
    rounds: int,
    steps: int,
    batch: int,
) -> dict[str, Any]:
    plain = models()[VARIANTS[0]]
    assert isinstance(plain, ddimx.Model)
    loop = eager_loop(plain, batch, steps)
    first = loop()
    peers = [
        _contender("eager loop fp32 NCHW", plain, loop, first),
        *(
            Absent(variant.name, model)
            if isinstance(model, str)
            else _contender(variant.name, model, _ours(model, batch, steps), first)
            for variant, model in models().items()
        ),
    ]
    title = f"sample, {plain.name}, batch {batch}, {steps} steps of DDIM"
    notes = [
        "rms diff.: to the eager loop's samples from the same starting noise, in [-1, 1]",
        f"model sha256 {plain.sha256}",
    ]
    table = compare(title, peers, rounds, wait=waiter(device), notes=notes)
    for row in table["rows"]:
        _add_rates(row, batch)
    return table


def eager_loop(model: ddimx.Model, batch: int, steps: int) -> Draw:
    """Return DDIM of the paper (eta 0, trailing times) in PyTorch's own operations.

    The network is the model's, called directly; nothing of ddimx's sampler takes part, but for
    the times, the noise levels and the starting noise, so that both can be compared.
    """
    process = model.process
    assert isinstance(process, GaussianProcess)
    total = process.schedule.num_timesteps
    times = np.round(np.arange(total, 0, -total / steps)).astype(int) - 1
    alpha_bars = process.schedule.alpha_bars  # alpha_bar[0] = 1 comes before time 0
    levels = alpha_bars[times + 1], np.append(alpha_bars[times[1:] + 1], 1.0)
    predictions = {"epsilon": _from_epsilon, "v": _from_v, "x0": _from_x0}
    predict = predictions[process.prediction]
    labels = torch.zeros(batch, dtype=torch.int64, device=model.device)

    @torch.no_grad()
    def draw() -> Tensor:
        x = Noise(0).normal(range(batch), process.shape, device=model.device)
        for t, ab, ab_to in zip(times.tolist(), *levels, strict=True):
            at = torch.full((batch,), float(t), device=x.device)
            out = model.network(x, at, labels) if process.num_classes else model.network(x, at)
            x0, epsilon = predict(x, out, ab**0.5, (1 - ab) ** 0.5)
            x = ab_to**0.5 * x0 + (1 - ab_to) ** 0.5 * epsilon
        return x

    return draw


def _from_epsilon(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return (x - sigma * out) / signal, out


def _from_v(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return signal * x - sigma * out, sigma * x + signal * out


def _from_x0(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return out, (x - signal * out) / sigma


class Counted(nn.Module):
    """A network that counts its calls; a hook would make torch.compile start over."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0

    def forward(self, *inputs: Tensor) -> Tensor:
        """Count and call."""
        self.calls += 1
        out: Tensor = self.network(*inputs)
        return out


def load_variant(variant: Variant, name: str, device: torch.device) -> ddimx.Model:
    """Return the model in a variant's precision and memory layout, its network counted."""
    model = ddimx.load_model(name, device=str(device), dtype=variant.dtype)
    if variant.layout == "NCHW":
        _forbid_nhwc(model.network)
    if variant.compiled:
        model.network.compile(dynamic=False)
    return replace(model, network=Counted(model.network))


def _forbid_nhwc(network: nn.Module) -> None:
    """Undo the NHWC that loading sets and that the sampler's input would bring back."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    network.register_forward_pre_hook(contiguous)


def _refusal(variant: Variant, device: torch.device, compiled: bool) -> str | None:
    """Return why a variant is left out, or None."""
    if variant.compiled and not compiled:
        return "--no-compile"
    automatic = choose_precision("auto", device)
    slow = variant.dtype == "bf16" and automatic.dtype != torch.bfloat16
    return automatic.reason if slow else None


def _ours(model: ddimx.Model, batch: int, steps: int) -> Draw:
    options: dict[str, Any] = {"eta": 0.0, "spacing": "trailing", "seed": 0}
    if model.process.num_classes:
        options |= {"guidance": 1.0, "category": model.classes[0]}
    return lambda: ddimx.sample(model, count=batch, batch_size=batch, steps=steps, **options)


def _contender(name: str, model: ddimx.Model, draw: Draw, first: Tensor) -> Contender:
    begun = time.perf_counter()
    draw()  # compiled here, where it has to be
    seconds = time.perf_counter() - begun
    before = _calls(model)
    samples = draw()
    difference = (samples.cpu() - first.cpu()).square().mean().sqrt().item()
    facts = {"network_calls": _calls(model) - before, "rms_difference": difference}
    if "compiled" in name:
        facts["compile_s"] = seconds
    return Contender(name, lambda: _bytes(draw()), facts=facts)


def _calls(model: ddimx.Model) -> int:
    assert isinstance(model.network, Counted)
    return model.network.calls


def _bytes(samples: Tensor) -> Tensor:
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).cpu()


def _add_rates(row: dict[str, Any], batch: int) -> None:
    if "absent" not in row:
        row["images_per_s"] = 1e3 * batch / row["median_ms"]
        row["ms_per_call"] = row["median_ms"] / row["network_calls"]
