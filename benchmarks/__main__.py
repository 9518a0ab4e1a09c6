"""``python -m benchmarks update|attention|sample|octree|all``; ``figures`` shows what was saved.

``python -m benchmarks paper`` measures quality, not speed, and ``python -m benchmarks check`` holds
every kernel and model to the CPU; both have options of their own.
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

from . import attention, check, machine, octree, paper, sample, update
from .runner import Job, unsteady
from .show import section, text, with_section

RESULTS = Path(__file__).resolve().parent / "results"
PAGE = RESULTS.parent.parent / "docs" / "benchmarks.md"
SUITES = ("update", "attention", "sample", "octree")
SCHEMA = 1
FEWEST = 10  # rounds below which a 95% interval means little
QUICK = 5  # rounds of --quick


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and (with --save) record; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] in (["paper"], ["check"]):
        return _reported(lambda: (paper if words[0] == "paper" else check).main(words[1:]))
    parser = _parser()
    asked = parser.parse_args(words)
    if asked.shape and asked.suite not in ("update", "attention"):
        parser.error("--shape belongs to update (B,C,H,W) and to attention (B,N,D)")
    if asked.suite == "figures":
        page = with_section(PAGE.read_text(encoding="utf-8"), section(asked.results))
        write_bytes(PAGE, page.encode())
        return 0
    records: dict[str, Any] = {}
    # Where figures are kept says nothing about them, and may name a folder of this machine.
    where = words.index("--results") if "--results" in words else len(words)
    command = [*words[:where], *words[where + 2 :]]
    out = sys.stderr if asked.json else sys.stdout
    try:
        for suite in SUITES if asked.suite == "all" else (asked.suite,):
            records[suite] = _measure(suite, asked, command)
            print(text(records[suite]), file=out, flush=True)
        if asked.json:
            print(json.dumps(records, indent=2, allow_nan=False))
        if asked.save:
            print(f"saved to {save(records, asked.results)}", file=sys.stderr)
    except DdimxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 1 if any("failed" in record for record in records.values()) else 0


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", choices=(*SUITES, "all", "figures"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:N] or mps")
    parser.add_argument(
        "--rounds", type=_positive, help="default: 30 of update, 20 of attention, else 10"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK} rounds; the record says so, is saved table by table, whether steady or not, "
        "and a table that fails is named in it and passed over",
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


def _measure(suite: str, asked: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """Return a suite's record; of --quick with --save also save it after each table."""
    device = choose_device(asked.device)
    forbid_tf32()
    record: dict[str, Any] = {"schema": SCHEMA, "machine": machine.describe(device, words)}
    record |= {"quick": True} if asked.quick else {}
    record["tables"] = []
    for number, job in enumerate(_jobs(suite, asked, device), start=1):
        try:
            record["tables"].append(job())
        except attention.REFUSALS as error:
            if not asked.quick:
                raise
            reason = f"table {number}: {str(error).strip() or type(error).__name__}"
            record.setdefault("failed", []).append(reason.splitlines()[0])
        record["machine"]["load_average_after"] = machine.load_average()
        if asked.quick and asked.save:
            save({suite: record}, asked.results)
    return record


def _jobs(suite: str, asked: argparse.Namespace, device: torch.device) -> list[Job]:
    rounds = asked.rounds or (QUICK if asked.quick else None)
    compiled = not asked.no_compile
    if suite == "update":
        return update.jobs(device, rounds, shapes=asked.shape, compiled=compiled)
    if suite == "attention":
        return attention.jobs(device, rounds, shapes=asked.shape, compiled=compiled)
    if suite == "octree":
        return octree.jobs(device, rounds)
    return sample.jobs(device, rounds, model=asked.model, steps=asked.steps, compiled=compiled)


def _unfit(record: dict[str, Any]) -> list[str]:
    reasons: list[str] = []
    if record.get("quick"):
        return reasons
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
