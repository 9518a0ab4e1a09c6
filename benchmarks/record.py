"""The files of the results folder: one for each device, with a record of each suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ddimx.errors import DdimxError
from ddimx.files import write_json

from . import machine
from .runner import unsteady

RESULTS = Path(__file__).resolve().parent / "results"
SCHEMA = 2
FEWEST = 10  # rounds below which a 95% interval means little

Records = dict[str, Any]


def save(records: dict[str, Any], folder: Path) -> Path:
    """Put each suite's record into the device's file; the other suites' records stay.

    Raises:
        DdimxError: figures that should not be published: too few rounds, or a baseline that
            wandered, because the machine was busy with something else. Quick records are kept
            whatever they say, and say that they are quick.
    """
    reasons = [reason for record in records.values() for reason in _unfit(record)]
    if reasons:
        raise DdimxError("not saved: " + "; ".join(reasons))
    device = next(iter(records.values()))["machine"]["device"]
    path = folder / f"{machine.slug(device)}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, before | records)
    return path


def _unfit(record: dict[str, Any]) -> list[str]:
    reasons: list[str] = []
    if record.get("quick"):
        return reasons
    for table in record["tables"]:
        if not table["baseline"]:  # of figures that are no times in rounds
            continue
        rounds = min(row["rounds"] for row in table["rows"] if "rounds" in row)
        if rounds < FEWEST:
            reasons.append(f"{table['title']}: {rounds} rounds, {FEWEST} are needed")
        elif (reason := unsteady(table)) is not None:
            reasons.append(reason)
    return reasons
