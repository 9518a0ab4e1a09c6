"""Plans and costs in words and tables, before anything is computed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from ..solvers.table import AnyPlan, GuidedByRow
from ..weights.model import Model
from .batch import finish_batch, run_batch
from .memory import bytes_per_sample, together, weight_bytes
from .settings import Settings

TIMED_BATCH = 4


def plan_table(plan: AnyPlan, guidance: float = 1.0) -> Table:
    """Return the plan's rows as a table; without columns that are constant and have no effect.

    ``guidance`` is the run's weight. The column ``guidance`` holds each row's own, where they
    differ.
    """
    counts = ((len(plan), "row"), (plan.nfe, "network call"))
    rows, calls = (f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts)
    title = f"{plan.label}; {rows}, {calls}"
    columns = plan.columns()
    if guidance != 1.0:
        title += f", guidance {guidance:g}"
        if "g" in columns and isinstance(plan, GuidedByRow):
            title += f" in a part of the rows: {plan.passes(guidance)} passes"
            columns["guidance"] = columns["g"] * guidance + (1 - columns["g"])
    columns.pop("g", None)
    table = Table(title=title, box=None)
    for name in ("row", *columns):
        table.add_column(name, justify="right")
    for row in range(len(plan)):
        table.add_row(str(row), *(_cell(values[row]) for values in columns.values()))
    return table


def costs(model: Model, settings: Settings) -> dict[str, Any]:
    """Return the cost of a run: evaluations, memory and an estimate of the time.

    Where all rows cost the same, the time is that of one row on a small batch, measured now, times
    rows and samples, a row without guidance counting half of one with it; else that of one whole
    sample. A warm-up comes first. On a machine that is busy it is rough. The memory is None where
    it cannot be known in advance.
    """
    each = bytes_per_sample(model, settings.guidance)
    memory = None if each is None else weight_bytes(model) + each * together(model, settings)
    if model.process.even_rows:
        whole = settings  # guidance in every row, whichever rows are timed
        if isinstance(settings.plan, GuidedByRow):
            whole = replace(settings, plan=settings.plan.guided_within(0.0, 1.0))
        seconds = _seconds_per_row(model, whole) * len(settings.plan)
        seconds *= settings.passes / whole.passes
    else:
        for _ in range(2):  # the first is the warm-up
            start = time.perf_counter()
            finish_batch(model, settings, settings.indices[:1])
            seconds = time.perf_counter() - start
    return {
        "nfe": settings.plan.nfe,
        "forward_passes_per_sample": settings.passes,
        "count": settings.count,
        "batch_size": settings.batch_size,
        "memory_bytes": memory,
        "estimated_seconds": round(seconds * settings.count, 2),
    }


def _seconds_per_row(model: Model, settings: Settings) -> float:
    """Return the time of one row for one sample."""
    samples = settings.indices[: min(TIMED_BATCH, settings.batch_size)]
    steps = run_batch(model, settings, samples)
    model.process.finish(next(steps))  # waits for the device
    start, rows = time.perf_counter(), 0
    for _, step in zip(range(2), steps, strict=False):
        model.process.finish(step)
        rows += 1
    if not rows:  # a plan of one row: its warm-up is all there is to time
        start, rows = time.perf_counter(), 1
        model.process.finish(next(run_batch(model, settings, samples)))
    return (time.perf_counter() - start) / rows / len(samples)


def _cell(value: Any) -> str:
    if isinstance(value, np.bool_):
        return "yes" if value else "-"
    if np.isnan(value):
        return "-"
    text = f"{value:g}" if value == round(value) else f"{value:.6f}"
    return text.removeprefix("-") if float(text) == 0 else text
