"""``python -m benchmarks sample|update|all``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddimx.device import choose_device, forbid_tf32
from ddimx.errors import DdimxError
from ddimx.files import write_json

from . import machine, sample, update
from .runner import unsteady

RESULTS = Path(__file__).resolve().parent / "results"
SUITES = ("update", "sample")
SCHEMA = 1
FEWEST = 10  # rounds below which a 95% interval means little

COLUMNS = {
    "median_ms": "median ms",
    "p20_ms": "p20",
    "p80_ms": "p80",
    "verdict": "times as fast",
    "gb_per_s": "GB/s",
    "share_of_copy": "of copy",
    "images_per_s": "images/s",
    "ms_per_call": "ms/call",
    "rms_difference": "rms diff.",
    "compile_s": "compile s",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and (with --save) record; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = _parser().parse_args(words)
    try:
        records = _measure(asked, words)
        out = sys.stderr if asked.json else sys.stdout
        for record in records.values():
            print(text(record), file=out)
        if asked.json:
            print(json.dumps(records, indent=2, allow_nan=False))
        if asked.save:
            print(f"saved to {save(records, asked.results)}", file=sys.stderr)
    except DdimxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def save(records: dict[str, Any], folder: Path) -> Path:
    """Put each suite's record into the device's file; the other suites' records stay.

    Raises:
        DdimxError: figures that should not be published: too few rounds, or a baseline that
            wandered, because the machine was busy with something else.
    """
    reasons = [reason for record in records.values() for reason in _unfit(record)]
    if reasons:
        raise DdimxError("not saved: " + "; ".join(reasons))
    device = next(iter(records.values()))["machine"]["device"]
    path = folder / f"{machine.slug(device)}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, before | records)
    return path


def text(record: dict[str, Any]) -> str:
    """Return a record as tables for people."""
    about = record["machine"]
    lines = [f"{about['device']}, torch {about['versions']['torch']}, load {about['load_average']}"]
    for table in record["tables"]:
        lines += ["", table["title"], *_aligned(table), *(f"  {note}" for note in table["notes"])]
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=(*SUITES, "all"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:N] or mps")
    parser.add_argument("--rounds", type=_positive, help="default: 30 of update, 10 of sample")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, tables on stderr")
    parser.add_argument("--save", action="store_true", help="record in the results folder")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    group = parser.add_argument_group("sample")
    group.add_argument("--model", default="emoji", help="a shipped model, a file or a run")
    group.add_argument("--steps", type=_positive, default=sample.STEPS)
    group = parser.add_argument_group("update")
    group.add_argument("--shape", type=_shape, action="append", default=[], metavar="B,C,H,W")
    group.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser


def _measure(asked: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    device = choose_device(asked.device)
    forbid_tf32()
    records = {}
    for suite in SUITES if asked.suite == "all" else (asked.suite,):
        about = machine.describe(device, words)
        tables = _run(suite, asked, device)
        about["load_average_after"] = machine.load_average()
        records[suite] = {"schema": SCHEMA, "machine": about, "tables": tables}
    return records


def _run(suite: str, asked: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    if suite == "update":
        compiled = not asked.no_compile
        return update.run(device, asked.rounds, shapes=asked.shape, compiled=compiled)
    return sample.run(device, asked.rounds, model=asked.model, steps=asked.steps)


def _unfit(record: dict[str, Any]) -> list[str]:
    reasons = []
    for table in record["tables"]:
        rounds = table["rows"][0]["rounds"]
        if rounds < FEWEST:
            reasons.append(f"{table['title']}: {rounds} rounds, {FEWEST} are needed")
        elif (reason := unsteady(table)) is not None:
            reasons.append(reason)
    return reasons


def _aligned(table: dict[str, Any]) -> list[str]:
    shown = [key for key in COLUMNS if any(key in row for row in table["rows"])]
    cells = [["", *(COLUMNS[key] for key in shown)]]
    for row in table["rows"]:
        if "absent" not in row:
            cells.append([row["name"], *(_cell(row, key, table) for key in shown)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    ]
    absent = [f"  {r['name']}: absent, {r['absent']}" for r in table["rows"] if "absent" in r]
    return [*lines, *absent]


def _cell(row: dict[str, Any], key: str, table: dict[str, Any]) -> str:
    if key == "verdict" and row["name"] == table["baseline"]:
        return "baseline"
    value = row.get(key, "")
    return value if isinstance(value, str) else f"{value:.3g}"


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is not positive")
    return value


def _shape(word: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in word.split(","))


if __name__ == "__main__":
    sys.exit(main())
