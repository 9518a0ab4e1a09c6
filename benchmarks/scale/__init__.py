"""``python -m benchmarks scale``: what more than one process gives, and what it costs.

Six tables: images a second of one process and of two, sampling and training; how long training
takes to start on many pictures; the boundary of an epoch; the memory of runs of many samples; and
what the contract of shards costs, simulated with failures (``--shards 10000``: this one alone).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ddimx.errors import UsageError

from .. import machine
from ..record import RESULTS, SCHEMA, save
from ..runner import Budget, Job, Table
from ..show import text
from ..turns import Record, interrupts, measure_all
from . import failures, processes

ROUNDS, QUICK_ROUNDS = 10, 3
TABLES = ("sampling", "training", "start", "epochs", "memory", "shards")


def main(words: Sequence[str]) -> int:
    """Measure, print and (with --save) record; return the exit code."""
    args = _parser().parse_args(words)
    if not hasattr(os, "fork"):
        raise UsageError("scale needs fork, which this system does not have")
    device = torch.device("cpu")
    torch.set_num_threads(1)
    where = words.index("--results") if "--results" in words else len(words)
    command = ["scale", *words[:where], *words[where + 2 :]]
    record: Record = {"schema": SCHEMA, "machine": machine.describe(device, command)}
    record |= {"quick": True} if args.quick else {}
    chosen = ["shards"] if args.shards and not args.only else args.only or TABLES
    jobs = [Job(name, _measure(name, args)) for name in chosen]

    def done() -> None:
        record["machine"]["load_average_after"] = machine.load_average()

    with interrupts():
        measure_all(jobs, record, Budget(), float("inf"), done=done)
    print(text(record), file=sys.stderr if args.json else sys.stdout, flush=True)
    if args.json:
        print(json.dumps(record, indent=2, allow_nan=False))
    if args.save and record["tables"]:
        print(f"saved to {save({'scale': record}, args.results)}", file=sys.stderr)
    return 128 + int(record["interrupted"]) if "interrupted" in record else 0


def _measure(name: str, args: argparse.Namespace) -> Callable[[], Table]:
    """Return what measures one of ``TABLES``."""
    quick = args.quick
    rounds = args.rounds or (QUICK_ROUNDS if quick else ROUNDS)
    shards = args.shards or (100 if quick else 1_000)
    return {
        "sampling": lambda: processes.sampling(rounds, 16 if quick else 64),
        "training": lambda: processes.training(1 if quick else rounds, 256, 8 if quick else 32),
        "start": lambda: processes.start(2 if quick else rounds, 20_000),
        "epochs": lambda: processes.epochs(rounds, 20_000),
        "memory": lambda: processes.memory((200, 1_000) if quick else (1_000, 100_000)),
        "shards": lambda: failures.table(shards, args.at_once, args.folder, _say),
    }[name]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument(
        "--shards", type=_positive, metavar="N", help="the simulation alone, begun with N shards"
    )
    parser.add_argument("--only", type=_tables, metavar="TABLE,...", help=", ".join(TABLES))
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        metavar="DIR",
        help="where the simulated runs are made: the file system that you want to know about",
    )
    parser.add_argument(
        "--at-once", type=_positive, default=64, metavar="N", help="processes begun at one moment"
    )
    parser.add_argument("--rounds", type=_positive, help=f"default: {ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="less of everything, in two minutes")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, tables on stderr")
    parser.add_argument("--save", action="store_true", help="record in the results folder")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    return parser


def _tables(words: str) -> list[str]:
    names = words.split(",")
    if strange := [name for name in names if name not in TABLES]:
        raise argparse.ArgumentTypeError(f"'{strange[0]}' is none of {', '.join(TABLES)}")
    return names


def _positive(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"'{word}' is not a whole number of at least 1")
    return int(word)
