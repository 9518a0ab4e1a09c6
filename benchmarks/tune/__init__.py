"""Choose the tiles of the kernels on this card: ``python -m benchmarks tune``.

For every class of problems it compiles the candidates that the operation's ``tiles.py`` names (in
several processes, which fill Triton's cache), holds each to the definition in float64, and measures
those that pass in interleaved rounds of graph replays. A tile replaces the table's own only where
its paired ratio has an interval above ``BETTER``. What is measured is written after every class, so
that a run that is ended has lost nothing: the table as a Python file (``kernels/_tuned.py``, read
by every ``tiles.py``), and beside it all that was measured as JSON.

After the table has changed, the counts of ``tests/kernels/*_compiled.py`` are recorded again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures import TimeoutError as OutOfTime
from contextlib import contextmanager
from dataclasses import astuple
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ddimx.device import choose_device
from ddimx.errors import UsageError
from ddimx.files import write_bytes, write_json
from ddimx.kernels import _tuned
from ddimx.kernels._dispatch import INTERPRETED
from ddimx.kernels._launch import architecture

from ..attention import REFUSALS
from ..device import graphed, waiter
from ..machine import describe
from ..runner import Contender, measure, paired_ratio
from ..turns import first_line
from .problems import PROBLEMS, TRIAL, Case, Problem, Tile

TABLE = Path(_tuned.__file__).resolve()
BETTER = 1.02  # how many times as fast a tile must be to replace the table's own
ROUNDS = 5
SHORTEST = 0.005  # seconds of replays per round
FEW = 2  # tiles beside the table's own, where nothing is compiled
# The largest error over the largest value, in units of the inputs' rounding: the scores and the
# weights are rounded to it, the sums are float32.
ROUNDINGS = 4.0


def main(arguments: Sequence[str]) -> int:
    """Tune everything or some operations within a set time; 1 if a tile computes something else."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tune", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto or cuda[:N]")
    parser.add_argument("--seconds", type=float, default=300.0, metavar="N", help="default 300")
    parser.add_argument(
        "--only",
        action="append",
        metavar="OPERATION",
        choices=sorted({p.operation for p in PROBLEMS}),
    )
    parser.add_argument(
        "--table", type=Path, default=TABLE, metavar="FILE", help=f"default {TABLE.name}"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="what was measured, as JSON")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    trial = device.type != "cuda" and INTERPRETED
    if device.type != "cuda" and not trial:
        raise UsageError(
            f"tune needs a CUDA device; on {device.type} it can be tried with TRITON_INTERPRET=1"
        )
    record: dict[str, Any] = {"machine": describe(device, ["tune"]), "problems": []}
    dtype = torch.float32 if trial else torch.bfloat16
    problems = [
        problem
        for problem in (TRIAL if trial else PROBLEMS)
        if args.only is None or problem.operation in args.only
    ]
    end, wrong = time.perf_counter() + args.seconds, False
    with compilers(device) as pool:
        for number, problem in enumerate(problems):
            seconds = (end - time.perf_counter()) / (len(problems) - number)
            result = tuned(problem, device, dtype, seconds, pool)
            record["problems"].append(result)
            wrong |= any("wrong" in row for row in result["tiles"])
            print(_line(result), flush=True)
            if not trial:  # the interpreter's times say nothing
                write_table(args.table, architecture(device), result)
            if args.out is not None:
                write_json(args.out, record)
    return 1 if wrong else 0


@contextmanager
def compilers(device: torch.device) -> Iterator[ProcessPoolExecutor | None]:
    """Yield processes that fill Triton's cache; none in the interpreter."""
    if device.type != "cuda":
        yield None
        return
    workers = max(1, min(8, (os.cpu_count() or 2) - 1))
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@lru_cache(maxsize=1)
def prepared(problem: Problem, device: str, dtype: torch.dtype) -> Case:
    """Return a problem's tensors, made once for all of its tiles."""
    return problem.prepare(torch.device(device), dtype)


def compile_tile(problem: Problem, device: str, dtype: torch.dtype, tile: Tile) -> Tile:
    """Run a tile once in this process, so that its code lies in Triton's cache.

    Raises:
        RuntimeError: the card refuses it; Triton's own errors do not travel between processes.
    """
    case = prepared(problem, device, dtype)
    try:
        case.launched(tile)()
        waiter(torch.device(device))()
    except REFUSALS as error:
        raise RuntimeError(first_line(error)) from None
    return tile


def tuned(
    problem: Problem,
    device: torch.device,
    dtype: torch.dtype,
    seconds: float,
    pool: ProcessPoolExecutor | None,
) -> dict[str, Any]:
    """Return what was measured of one class of problems, and the tile that is best.

    Half of the time at most goes into compiling; what is not ready by then is left out.
    """
    begun = time.perf_counter()
    first, *others = problem.candidates(architecture(device), dtype)
    own = astuple(first)
    # Those that differ least from the table's own first: time may end before all are compiled.
    others.sort(key=lambda tile: sum(a != b for a, b in zip(astuple(tile), own, strict=True)))
    ready, refused = [first], []
    if pool is None:
        ready += others[:FEW]
    else:
        work = {pool.submit(compile_tile, problem, str(device), dtype, t): t for t in others}
        try:
            for done in as_completed(work, timeout=max(1.0, seconds / 2)):
                if done.exception() is None:
                    ready.append(work[done])
                else:
                    refused.append({"tile": astuple(work[done]), "refused": str(done.exception())})
        except OutOfTime:
            for future in work:
                future.cancel()
    case = prepared(problem, str(device), dtype)
    rows: list[dict[str, Any]] = []
    calls: dict[str, Contender] = {}
    allowed = ROUNDINGS * torch.finfo(dtype).eps
    for tile in ready:
        if tile is not first and time.perf_counter() - begun > 0.75 * seconds:
            break
        row: dict[str, Any] = {"tile": astuple(tile)}
        try:
            step = case.launched(tile)
            step()
            row["error"] = case.error()
            if not row["error"] <= allowed:
                row["wrong"] = f"errs by {row['error']:.3g}, allowed is {allowed:.3g}"
            else:
                call = graphed(step, device) if device.type == "cuda" else step
                calls[str(astuple(tile))] = Contender(str(astuple(tile)), call, warm=True)
        except REFUSALS as error:
            row["refused"] = first_line(error)
        rows.append(row)
    best = own
    if str(own) in calls:
        times = measure(list(calls.values()), ROUNDS, wait=waiter(device), shortest=SHORTEST)
        for row in rows:
            if (mine := times.get(str(row["tile"]))) is None:
                continue
            ratio = paired_ratio(times[str(own)], mine)
            row |= {"ms": 1e3 * float(sorted(mine)[len(mine) // 2]), "times_as_fast": ratio.median}
            row["better"] = ratio.low > BETTER
        better = [row for row in rows if row.get("better")]
        best = max(better, key=lambda row: row["times_as_fast"])["tile"] if better else own
    return {
        "operation": problem.operation,
        "problem": problem.name(dtype),
        "own": own,
        "best": best,
        "tiles": rows + refused,
        "not_tried": 1 + len(others) - len(rows) - len(refused),
    }


def write_table(path: Path, arch: str, result: dict[str, Any]) -> None:
    """Put a class's tile into the table and write it as the Python file that kernels read."""
    if result["best"] == result["own"]:
        return
    table = _tuned.TILES.setdefault(arch, {}).setdefault(result["operation"], {})
    table[result["problem"]] = tuple(result["best"])
    before, _, rest = TABLE.read_text(encoding="utf-8").partition("\nTILES: ")
    _, _, after = rest.partition("\n\n\ndef ")
    lines = ["TILES: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {"]
    for name, operations in sorted(_tuned.TILES.items()):
        lines.append(f'    "{name}": {{')
        for each, problems in sorted(operations.items()):
            lines.append(f'        "{each}": {{')
            lines += [f'            "{p}": {fields},' for p, fields in sorted(problems.items())]
            lines.append("        },")
        lines.append("    },")
    lines.append("}")
    write_bytes(path, f"{before}\n{chr(10).join(lines)}\n\n\ndef {after}".encode())


def _line(result: dict[str, Any]) -> str:
    timed = [row for row in result["tiles"] if "ms" in row]
    text = f"{result['operation']}, {result['problem']}: {len(timed)} tiles measured"
    text += f", {result['not_tried']} not tried" if result["not_tried"] else ""
    for row in result["tiles"]:
        if "wrong" in row:
            text += f"\n  WRONG {row['tile']}: {row['wrong']}"
    own = next((row for row in timed if row["tile"] == result["own"]), None)
    best = next((row for row in timed if row["tile"] == result["best"]), None)
    if own is None or best is None:
        return f"{text}; the table's own cannot run here"
    if best is own:
        return f"{text}; the table's own stays, {own['ms']:.4g} ms"
    return (
        f"{text}; {result['best']} takes {best['ms']:.4g} ms instead of {own['ms']:.4g}, "
        f"{best['times_as_fast']:.3g} times as fast"
    )
