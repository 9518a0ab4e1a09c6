"""``python -m benchmarks update|attention|sample|octree|all``; ``readme`` shows what was saved.

``python -m benchmarks paper`` measures quality, not speed, and has options of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ddimx.device import choose_device, forbid_tf32
from ddimx.errors import DdimxError
from ddimx.files import write_bytes, write_json

from . import attention, machine, octree, paper, sample, update
from .runner import unsteady
from .show import readme_section, text, with_section

RESULTS = Path(__file__).resolve().parent / "results"
README = RESULTS.parent.parent / "README.md"
SUITES = ("update", "attention", "sample", "octree")
SCHEMA = 1
FEWEST = 10  # rounds below which a 95% interval means little


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and (with --save) record; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["paper"]:
        return _reported(lambda: paper.main(words[1:]))
    parser = _parser()
    asked = parser.parse_args(words)
    if asked.shape and asked.suite not in ("update", "attention"):
        parser.error("--shape belongs to update (B,C,H,W) and to attention (B,N,D)")
    if asked.suite == "readme":
        section = readme_section(asked.results)
        write_bytes(README, with_section(README.read_text(encoding="utf-8"), section).encode())
        return 0
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


def _reported(run: Callable[[], int]) -> int:
    try:
        return run()
    except DdimxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=(*SUITES, "all", "readme"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:N] or mps")
    parser.add_argument(
        "--rounds", type=_positive, help="default: 30 of update, 20 of attention, else 10"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout, tables on stderr")
    parser.add_argument("--save", action="store_true", help="record in the results folder")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    group = parser.add_argument_group("sample")
    group.add_argument("--model", default="emoji", help="a shipped model, a file or a run")
    group.add_argument("--steps", type=_positive, default=sample.STEPS)
    group = parser.add_argument_group("update, attention")
    group.add_argument("--shape", type=_shape, action="append", default=[], metavar="B,C,H,W|B,N,D")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
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
    compiled = not asked.no_compile
    if suite == "update":
        return update.run(device, asked.rounds, shapes=asked.shape, compiled=compiled)
    if suite == "attention":
        return attention.run(device, asked.rounds, shapes=asked.shape, compiled=compiled)
    if suite == "octree":
        return octree.run(device, asked.rounds)
    return sample.run(device, asked.rounds, model=asked.model, steps=asked.steps, compiled=compiled)


def _unfit(record: dict[str, Any]) -> list[str]:
    reasons = []
    for table in record["tables"]:
        rounds = table["rows"][0]["rounds"]
        if rounds < FEWEST:
            reasons.append(f"{table['title']}: {rounds} rounds, {FEWEST} are needed")
        elif (reason := unsteady(table)) is not None:
            reasons.append(reason)
    return reasons


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{word} is not positive")
    return value


def _shape(word: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in word.split(","))


if __name__ == "__main__":
    sys.exit(main())
