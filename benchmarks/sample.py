"""Sampling end to end: starting noise, all steps, clamping to bytes, back in main memory.

Loading the model and encoding PNGs are not part of it. Milliseconds per network call are the
whole time divided by the calls that a hook counted, so the sampler's own work is in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import ddimx
from ddimx.device import choose_precision

from .runner import Absent, Contender, compare
from .update import waiter

ROUNDS = 10
STEPS = 50
BATCHES = (1, 16)


@dataclass(frozen=True)
class Variant:
    """One way to run the same network."""

    dtype: str
    layout: str

    @property
    def name(self) -> str:
        """Precision and memory layout, as the tables show them."""
        return f"{self.dtype} {self.layout}"


VARIANTS = tuple(Variant(d, m) for d in ("fp32", "bf16") for m in ("NCHW", "NHWC"))


def run(
    device: torch.device,
    rounds: int | None = None,
    *,
    model: str = "emoji",
    steps: int = STEPS,
    batches: Sequence[int] = BATCHES,
) -> list[dict[str, Any]]:
    """Return a table for every batch size: fp32 and bf16, NCHW and NHWC."""
    no_bf16 = _no_fast_bf16(device)
    models = {
        variant.name: load_variant(variant, model, device)
        for variant in VARIANTS
        if variant.dtype != "bf16" or no_bf16 is None
    }
    baseline = models[VARIANTS[0].name]
    tables = []
    for batch in batches:
        first = _draw(baseline, batch, steps)
        peers = [
            _contender(v.name, models[v.name], batch, steps, first)
            if v.name in models
            else Absent(v.name, no_bf16 or "")
            for v in VARIANTS
        ]
        title = f"sample, {baseline.name}, batch {batch}, {steps} steps of DDIM"
        notes = [
            "rms diff.: to the first row's samples of the same seed, in [-1, 1]",
            f"model sha256 {baseline.sha256}",
        ]
        tables.append(compare(title, peers, rounds or ROUNDS, wait=waiter(device), notes=notes))
        for row in tables[-1]["rows"]:
            _add_rates(row, batch)
    return tables


def _no_fast_bf16(device: torch.device) -> str | None:
    """Return why bf16 is left out, or None where the device computes it fast."""
    automatic = choose_precision("auto", device)
    return None if automatic.dtype == torch.bfloat16 else automatic.reason


def load_variant(variant: Variant, name: str, device: torch.device) -> ddimx.Model:
    """Return the model in a variant's precision and memory layout."""
    model = ddimx.load_model(name, device=str(device), dtype=variant.dtype)
    if variant.layout == "NCHW":
        _forbid_nhwc(model.network)
    return model


def _forbid_nhwc(network: nn.Module) -> None:
    """Undo the NHWC that loading sets and that the sampler's input would bring back."""
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def contiguous(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    network.register_forward_pre_hook(contiguous)


def _contender(name: str, model: ddimx.Model, batch: int, steps: int, first: Tensor) -> Contender:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    hook = model.network.register_forward_hook(count)
    samples = _draw(model, batch, steps)
    hook.remove()
    difference = (samples - first).square().mean().sqrt().item()
    facts = {"network_calls": calls, "rms_difference": difference}
    return Contender(name, lambda: _bytes(_draw(model, batch, steps)), facts=facts)


def _draw(model: ddimx.Model, batch: int, steps: int) -> Tensor:
    return ddimx.sample(model, count=batch, batch_size=batch, steps=steps, seed=0)


def _bytes(samples: Tensor) -> Tensor:
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def _add_rates(row: dict[str, Any], batch: int) -> None:
    if "absent" not in row:
        row["images_per_s"] = 1e3 * batch / row["median_ms"]
        row["ms_per_call"] = row["median_ms"] / row["network_calls"]
