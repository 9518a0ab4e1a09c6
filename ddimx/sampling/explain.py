"""Plans and costs in words and tables, before anything is computed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.table import Table

from ..models.octree.process import DiscreteProcess
from ..solvers.table import AnyPlan
from ..weights.model import Model
from .batch import finish_tokens, run_batch
from .memory import bytes_per_sample, together, weight_bytes
from .settings import Settings

TIMED_BATCH = 4


def plan_table(plan: AnyPlan) -> Table:
    """Return the plan's rows as a table; columns that are constant and idle are left out."""
    table = Table(title=f"{plan.label}; {len(plan)} rows, {plan.nfe} network calls", box=None)
    columns = plan.columns()
    for name in ("row", *columns):
        table.add_column(name, justify="right")
    for row in range(len(plan)):
        table.add_row(str(row), *(_cell(values[row]) for values in columns.values()))
    return table


def costs(model: Model, settings: Settings) -> dict[str, Any]:
    """Return the cost of a run: evaluations, memory and an estimate of the time.

    The time is that of one row on a small batch, measured now, times rows and samples; a warm-up
    comes first. On a machine that is busy it is rough. Of octrees one is drawn, and the memory is
    None, since nobody knows how large the others will be.
    """
    passes = 2 if settings.guidance != 1.0 else 1
    memory: int | None = None
    if isinstance(model.process, DiscreteProcess):
        seconds = _seconds_per_shape(model, settings) * settings.count
    else:
        each = bytes_per_sample(model, settings.guidance)
        memory = weight_bytes(model) + each * together(settings)
        seconds = _seconds_per_row(model, settings) * len(settings.table) * settings.count
    return {
        "nfe": settings.table.nfe,
        "forward_passes_per_sample": settings.table.nfe * passes,
        "count": settings.count,
        "batch_size": settings.batch_size,
        "memory_bytes": memory,
        "estimated_seconds": round(seconds, 2),
    }


def _seconds_per_shape(model: Model, settings: Settings) -> float:
    """Return the time of one shape, which depends on its size: that of the run's first one."""
    first = settings.indices[:1]
    finish_tokens(model, settings, first)
    begun = time.perf_counter()
    finish_tokens(model, settings, first)
    return time.perf_counter() - begun


def _seconds_per_row(model: Model, settings: Settings) -> float:
    """Return the time of one row for one sample."""
    samples = settings.indices[: min(TIMED_BATCH, settings.batch_size)]
    steps = run_batch(model, settings, samples)
    next(steps)
    begun, rows = time.perf_counter(), 0
    for _, step in zip(range(2), steps, strict=False):
        step.y.sum().item()  # waits for the device
        rows += 1
    if not rows:  # a plan of one row: its warm-up is all there is to time
        begun, rows = time.perf_counter(), 1
        next(run_batch(model, settings, samples)).y.sum().item()
    return (time.perf_counter() - begun) / rows / len(samples)


def _cell(value: Any) -> str:
    if isinstance(value, np.bool_):
        return "yes" if value else "-"
    if np.isnan(value):
        return "-"
    return f"{value:g}" if value == round(value) else f"{value:.6f}"
