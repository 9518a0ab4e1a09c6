"""``python -m benchmarks SUITE|all``, ``--compare OLD.json``; ``figures`` writes the page.

Some words have a module and options of their own: ``paper`` measures quality, not speed, ``card``
makes the figures and pictures of a model's card, ``check`` holds every kernel and model to the CPU,
``tune`` chooses the tiles of a card's kernels, ``scale`` measures more than one process.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ddimx.device import choose_device, forbid_tf32
from ddimx.errors import DdimxError
from ddimx.files import write_bytes

from . import (
    attention,
    card,
    check,
    comparison,
    group_norm,
    machine,
    octree,
    paper,
    sample,
    scale,
    segments,
    startup,
    tune,
    update,
)
from .record import RESULTS, SCHEMA, Records, save
from .runner import Budget, Job
from .show import section, text, with_section
from .turns import interrupts, measure_all

PAGE = RESULTS.parent.parent / "docs" / "benchmarks.md"
# Each with its part of the time of "all", the most telling first: what one leaves is the others'.
SUITES = {
    "sample": 8.0,
    "group_norm": 1.5,
    "update": 1.5,
    "attention": 2.0,
    "octree": 3.0,
    "segments": 1.0,
    "startup": 2.0,
}
SHAPED = {"group_norm": group_norm.jobs, "update": update.jobs, "attention": attention.jobs}
OTHERS: dict[str, Callable[[Sequence[str]], int]] = {
    "paper": paper.main,
    "card": card.main,
    "check": check.main,
    "tune": tune.main,
    "scale": scale.main,
}
QUICK = 5  # rounds of --quick
QUICK_SECONDS = 165.0  # of --quick; with the start of Python and the last rounds three minutes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and (with --save) record; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in OTHERS:
            return OTHERS[words[0]](words[1:])
        parser = _parser()
        args = parser.parse_args(words)
        if args.shape and args.suite not in SHAPED:
            parser.error("--shape belongs to attention (B,N,D), update and group_norm (B,C,H,W)")
        if args.suite is None and args.compare is None:
            parser.error("name a suite, or a results file with --compare")
        if args.suite == "figures":
            page = with_section(PAGE.read_text(encoding="utf-8"), section(args.results))
            write_bytes(PAGE, page.encode())
            return 0
        with interrupts():
            return _compare(args) if args.compare is not None else _suites(args, words)
    except DdimxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _suites(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Measure one suite or all of them."""
    # Where figures are kept says nothing about them, and may name a folder of this machine.
    where = words.index("--results") if "--results" in words else len(words)
    command = [*words[:where], *words[where + 2 :]]
    suites = list(SUITES) if args.suite == "all" else [args.suite]
    budget = Budget()
    if args.seconds is not None or args.quick:
        budget.grant(args.seconds or QUICK_SECONDS)
    records: Records = {}
    for number, suite in enumerate(suites):
        share = SUITES[suite] / sum(SUITES[name] for name in suites[number:])
        records[suite] = _measure(suite, args, command, share * budget.left())
        print(text(records[suite]), file=sys.stderr if args.json else sys.stdout, flush=True)
        if "interrupted" in records[suite]:
            break
    if args.json:
        print(json.dumps(records, indent=2, allow_nan=False))
    stops = [record["interrupted"] for record in records.values() if "interrupted" in record]
    if args.save:
        # A suite of which an interrupt left nothing must not replace what was measured before.
        kept = {n: r for n, r in records.items() if r["tables"] or "interrupted" not in r}
        if kept:
            print(f"saved to {save(kept, args.results)}", file=sys.stderr)
    if stops:
        print("interrupted; what was measured before stands above", file=sys.stderr)
        return 128 + int(stops[0])
    return 1 if any("failed" in record for record in records.values()) else 0


def _compare(args: argparse.Namespace) -> int:
    """Measure again what a results file holds; 1 where something of ours became slower."""
    old = comparison.read_records(args.compare)
    known = [suite for suite in old if suite not in OTHERS]  # what has no rounds to compare
    suites = known if args.suite in (None, "all") else [args.suite]
    if strange := [suite for suite in suites if suite not in old or suite not in SUITES]:
        raise DdimxError(f"{args.compare} holds {', '.join(old)}, not {strange[0]}")
    bad = False
    for suite in suites:
        # The command that was recorded, so that both runs have the same shapes, steps and rounds.
        words = shlex.split(old[suite]["machine"]["command"])[3:]
        then = _parser().parse_args([suite, *words[1:]])
        then.json = then.save = False
        now = machine.describe(choose_device(then.device), words)
        if not args.any_machine:
            comparison.refuse_other_machine(args.compare, old[suite]["machine"], now)
        for versions in comparison.other_versions(old[suite]["machine"], now):
            print(f"{suite}: {versions}: the baselines may have moved")
        before = {table["title"]: table for table in old[suite]["tables"]}
        tables: dict[str, Any] = {}
        # Twice where something looks slower: a neighbor that was loud in one table is not a change.
        titles = list(before)
        seconds = old[suite].get("seconds", float("inf"))
        changes: list[comparison.Change] = []
        for _ in range(2):
            if not titles:
                break
            record = _measure(suite, then, words, seconds, titles)
            if "interrupted" in record:
                return 128 + int(record["interrupted"])
            tables |= {table["title"]: table for table in record["tables"]}
            changes = [
                change
                for title, table in tables.items()
                if title in before
                for change in comparison.changes(before[title], table)
            ]
            titles = list(dict.fromkeys(change.table for change in changes if change.slower))
        for change in changes:
            print(change, flush=True)
            bad |= change.slower
        for name in comparison.missing(old[suite]["tables"], list(tables.values())):
            print(f"GONE   {name}: was measured then and was not now")
            bad = True
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suite", nargs="?", choices=(*SUITES, "all", "figures"))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:N] or mps")
    parser.add_argument(
        "--rounds", type=_positive, help="default: 30 of update, 20 of attention, else 10"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"at most {QUICK} rounds of smaller problems in {QUICK_SECONDS:.0f} seconds; the "
        "record says so, is saved table by table, whether steady or not, and a table that fails or "
        "does not fit into its time is named in it and passed over; what takes long to compile "
        "is added to the tables of sample when all are measured",
    )
    parser.add_argument(
        "--seconds", type=_positive, metavar="N", help="leave out what does not fit into this time"
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout, tables on stderr")
    parser.add_argument("--save", action="store_true", help="record in the results folder")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD.json",
        help="measure again what this file holds, of one suite or of all, and fail where a row's "
        f"ratio to the baseline has an interval below {comparison.LIMIT} of what it was",
    )
    parser.add_argument(
        "--any-machine", action="store_true", help="compare with another machine's file too"
    )
    group = parser.add_argument_group("sample")
    group.add_argument("--model", help="only this one: a shipped model, a file or a run")
    group.add_argument("--steps", type=_positive, help="default: by model and batch")
    group = parser.add_argument_group("update, attention, group_norm")
    group.add_argument("--shape", type=_shape, action="append", default=[], metavar="B,C,H,W|B,N,D")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser


def _measure(
    suite: str,
    args: argparse.Namespace,
    words: Sequence[str],
    seconds: float,
    titles: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Return a suite's record; of --quick with --save also save it after each table.

    Args:
        seconds: how long it may take, infinity for as long as it needs.
        titles: the tables to measure, by default all.
    """
    device = choose_device(args.device)
    forbid_tf32()
    budget = Budget()
    record: dict[str, Any] = {"schema": SCHEMA, "machine": machine.describe(device, words)}
    record |= {"quick": True} if args.quick else {}
    if seconds != float("inf"):
        budget.grant(seconds)  # so that jobs know that there is an end
        record["seconds"] = round(seconds, 1)
    jobs = _jobs(suite, args, device, budget)
    if titles is not None:
        # A title may end with what is counted only when the table is measured.
        jobs = [
            j for j in jobs if any(t == j.title or t.startswith(f"{j.title}, ") for t in titles)
        ]

    def done() -> None:
        record["machine"]["load_average_after"] = machine.load_average()
        if device.type == "cuda":
            record["machine"]["clocks_after"] = machine.clocks()
        if args.quick and args.save and record["tables"]:
            save({suite: record}, args.results)

    failures = attention.REFUSALS if args.quick else ()
    measure_all(jobs, record, budget, seconds, failures=failures, done=done)
    return record


def _jobs(suite: str, args: argparse.Namespace, device: torch.device, budget: Budget) -> list[Job]:
    rounds = args.rounds or (QUICK if args.quick else None)
    wishes: dict[str, Any] = {"compiled": not args.no_compile, "budget": budget}
    if suite in SHAPED:
        return SHAPED[suite](device, rounds, shapes=args.shape, **wishes)
    if suite == "segments":
        return segments.jobs(device, rounds, **wishes)
    if suite == "octree":
        return octree.jobs(device, rounds, budget=budget)
    if suite == "startup":
        return startup.jobs(rounds, quick=args.quick, budget=budget)
    return sample.jobs(
        device, rounds, model=args.model, steps=args.steps, quick=args.quick, **wishes
    )


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is not a whole number of at least 1")
    return int(word)


def _shape(word: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in word.split(","))


if __name__ == "__main__":
    sys.exit(main())
