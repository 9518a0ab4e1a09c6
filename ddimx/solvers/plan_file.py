"""Plans as files: a searched or edited table, kept for later runs of ``ddimx sample --plan``."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ..config import Prediction
from ..errors import UsageError
from ..files import write_json
from ..kernels.update.columns import ADDED, NEUTRAL
from ..untrusted.text import read_json, shortened, shown
from .plan import COLUMNS, Plan
from .schedule import CLEAN, Schedule

KIND = "ddimx plan"
SCHEMA = 1
TOLERANCE = 1e-6  # of levels; two machines' float64 schedules differ by a few 1e-16


def write_plan(path: Path, plan: Plan, origin: dict[str, Any]) -> None:
    """Write a plan with a record of where it came from."""
    write_json(path, {"kind": KIND, "schema": SCHEMA, "found": origin, "plan": plan.to_json()})


def read_plan(path: Path) -> tuple[Plan, dict[str, Any]]:
    """Read a plan file and return the plan with the record of where it came from.

    Raises:
        UsageError: not a plan file, or one with missing, misshapen or infinite columns.
    """
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plan {path}: not a readable plan file ({error})") from None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise UsageError(f"--plan {path}: not a plan file; evaluate solvers --search writes them")
    if value.get("schema") != SCHEMA:
        raise UsageError(f"--plan {path}: schema {shown(value.get('schema'))}, this reads {SCHEMA}")
    try:
        return plan_from_json(value["plan"]), dict(value.get("found", {}))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {shortened(str(error))}"
        raise UsageError(f"--plan {path}: damaged ({reason})") from None


def plan_from_json(value: dict[str, Any]) -> Plan:
    """Build a plan from what :meth:`Plan.to_json` returned, in this version or an earlier one.

    A field that is missing takes its default, or its neutral value if it is a column: earlier
    versions had fewer.

    Raises:
        KeyError, TypeError, ValueError: a column that is missing or unfit.
    """
    values: dict[str, Any] = {}
    for column in fields(Plan):
        optional = column.default is not MISSING or column.default_factory is not MISSING
        if column.name in ADDED and column.name not in value:
            values[column.name] = np.full(len(value["t"]), NEUTRAL[column.name])
            continue
        if column.name == "inputs" or (optional and column.name not in value):
            continue  # the file gives numbers, whatever they were computed from
        item = value[column.name]
        if column.name == "t":
            item = [np.nan if t is None else t for t in item]
        values[column.name] = np.array(item, np.float64) if column.name in COLUMNS else item
    for name, words in (("history", ("epsilon", "x0")), ("prediction", get_args(Prediction))):
        if values.get(name, words[0]) not in words:
            raise ValueError(f"{name} {shown(values[name])}; known are {', '.join(words)}")
    clip, notes = values.get("clip"), values.get("notes", ())
    if clip is not None and (isinstance(clip, bool) or not float(clip) > 0):
        raise ValueError(f"clip {shown(clip)}, expected null or a positive number")
    threshold = values.get("threshold")
    if threshold is not None:
        share, most = map(float, threshold)
        if not (0 < share <= 1 and most >= 1):
            raise ValueError(f"threshold {shown(threshold)}, expected a share and a bound")
        values["threshold"] = (share, most)
    if not all(isinstance(text, str) for text in (values.get("label", ""), *notes)):
        raise ValueError("label and notes are not text")
    return Plan(**{**values, "notes": tuple(notes)})


def check_fits(plan: Plan, schedule: Schedule, prediction: Prediction) -> None:
    """Raise UsageError unless the plan is one of this noise schedule and parametrisation."""
    if plan.prediction != prediction:
        raise UsageError(
            f"the plan is for a network that predicts {plan.prediction}, this one's is {prediction}"
        )
    rows = np.isfinite(plan.t)  # that call the network
    try:
        levels, level_to = schedule.alpha_bar(plan.t[rows]), schedule.alpha_bar(plan.t_to)
    except ValueError as error:
        reason = shortened(str(error))
        raise UsageError(f"the plan is for another number of timesteps: {reason}") from None
    if plan.t_to[-1] != CLEAN:
        raise UsageError(f"the plan ends at t = {plan.t_to[-1]:g}, not at clean data")
    pairs = [(plan.known_signal, np.sqrt(level_to)), (plan.known_sigma, np.sqrt(1 - level_to))]
    output = schedule.output_coefficients(levels, prediction)
    pairs += [(getattr(plan, n)[rows], c) for n, c in zip("rsuv", output, strict=True)]
    if not all(np.allclose(ours, due, rtol=TOLERANCE, atol=TOLERANCE) for ours, due in pairs):
        raise UsageError("the plan is for another noise schedule than this model's")
