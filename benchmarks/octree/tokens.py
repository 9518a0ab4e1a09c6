"""One row of a token plan: ``ddimx.kernels.discrete_update`` against softmax and multinomial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ddimx.kernels.discrete_update import (
    COLUMNS,
    IDS,
    MASK,
    TokenState,
    Transition,
    UpdateOptions,
    discrete_update,
    preference,
)

from ..device import graphed, launches, waiter
from ..runner import Budget, Contender, Job, compare

# A few shapes' tokens of a level, and a batch's.
COUNTS = (4096, 65536)
KEEP, NOISE = 0.5, 0.1
STREAM = 5
DRAWS = 50_000  # of the check
TEMPERATURE = 0.8

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One row of a plan: what noise is, and the weights of keeping a token and of noise."""

    transition: Transition
    keep: float = KEEP
    noise: float = NOISE


def jobs(device: torch.device, rounds: int, budget: Budget) -> list[Job]:
    """Return what measures a table for either transition and each number of tokens."""

    def job(row: Row, count: int) -> Job:
        title = f"discrete update, {row.transition}, {count:,} tokens"
        return Job(title, partial(_table, title, row, count, device, rounds, budget), weight=0.5)

    return [job(row, count) for row in (Row("absorbing"), Row("uniform")) for count in COUNTS]


def eager_step(row: Row) -> Step:
    """Return the row in PyTorch's own operations, as one would write it."""

    def step(logits: Tensor, ids: Tensor) -> Tensor:
        probabilities = torch.softmax(logits[:, 1:] / TEMPERATURE, dim=1)
        x0 = (torch.multinomial(probabilities, 1)[:, 0] + 1).to(torch.uint8)
        if row.transition == "absorbing":
            x0 = torch.where(ids == MASK, x0, ids)
            noise = torch.zeros_like(ids)
        else:
            noise = torch.randint_like(ids, 1, IDS)
        u = torch.rand(len(ids), device=ids.device)
        drawn = torch.where(u > 1 - row.noise, noise, x0)
        return torch.where(u <= row.keep, ids, drawn)

    return step


def our_step(row: Row, count: int, device: torch.device) -> Step:
    """Return the same row as one launch, its noise keyed by sample and cell."""
    values = dict.fromkeys(COLUMNS, 0.0)
    values |= {"keep": row.keep, "noise": row.noise, "inverse_temperature": 1 / TEMPERATURE}
    table = torch.tensor([list(values.values())], device=device)
    ordinal, seed = torch.tensor(0, device=device), torch.tensor(0, device=device)
    keys = torch.arange(count, device=device)
    samples = torch.zeros_like(keys)
    fixed = UpdateOptions(row.transition, STREAM, want_x0=False)

    def step(logits: Tensor, ids: Tensor) -> Tensor:
        state = TokenState(ids, keys, samples)
        return discrete_update(table, ordinal, logits, state, seed, fixed).ids

    return step


def check(row: Row, device: torch.device) -> None:
    """Raise unless both steps draw from the row's distribution, to six standard errors."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, IDS, generator=generator).expand(DRAWS, IDS).contiguous().to(device)
    ids = torch.full((DRAWS,), MASK if row.transition == "absorbing" else 7, dtype=torch.uint8)
    expected = torch.zeros(IDS, dtype=torch.float64)
    expected[1:] = torch.softmax(logits[0, 1:].cpu().double() / TEMPERATURE, dim=0)
    expected *= 1 - row.keep - row.noise
    expected[int(ids[0])] += row.keep
    noise = [MASK] if row.transition == "absorbing" else list(range(1, IDS))
    expected[noise] += row.noise / len(noise)
    error = 6 * (expected * (1 - expected) / DRAWS).sqrt() + 1 / DRAWS
    for name, step in (("eager", eager_step(row)), ("ddimx", our_step(row, DRAWS, device))):
        counts = torch.bincount(step(logits, ids.to(device)).cpu().long(), minlength=IDS)
        if ((counts / DRAWS - expected).abs() > error).any():
            raise RuntimeError(f"{name}: draws do not follow the row's distribution")


def _table(
    title: str, row: Row, count: int, device: torch.device, rounds: int, budget: Budget
) -> dict[str, Any]:
    check(row, device)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, IDS, generator=generator).to(device)
    ids = torch.randint(1, IDS, (count,), generator=generator, dtype=torch.uint8)
    if row.transition == "absorbing":
        ids[torch.rand(count, generator=generator) < 0.5] = MASK
    ids = ids.to(device)
    eager, ours = eager_step(row), our_step(row, count, device)
    calls = {
        "eager softmax and multinomial": lambda: eager(logits, ids),
        "ddimx discrete_update": lambda: ours(logits, ids),
    }
    moved = logits.nbytes + 2 * ids.nbytes
    peers = [Contender(n, call, moved, launches(call, device)) for n, call in calls.items()]
    if device.type == "cuda":
        peers.append(Contender("ddimx, graph", graphed(calls["ddimx discrete_update"], device)))
    notes = [
        "GB/s: all float32 logits read once, though a token that keeps its id needs none",
        "eager draws from PyTorch's generator, ddimx noise that is keyed to sample and cell",
        f"ddimx discrete_update runs as: {': '.join(preference(device))}",
    ]
    table = compare(title, peers, rounds, wait=waiter(device), notes=notes, budget=budget)
    for line in table["rows"]:
        if "median_ms" in line:
            line["mtokens_per_s"] = count / line["median_ms"] / 1e3
    return table
