"""``ddimx evaluate solvers``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UsageError
from .. import options
from ..common import end_interrupted, load
from ..output import print_json

if TYPE_CHECKING:
    from ...evaluation.solvers.study import SolverStudy
    from ...progress import Progress
    from ...sampling.settings import Settings

NAMES = ("solvers.csv", "solvers.png", "solvers.json")
RECORD = NAMES[2]


def solvers(
    model: options.Model = None,
    nfe: Annotated[
        str, typer.Option("--nfe", metavar="N,N,...", help="Numbers of network evaluations.")
    ] = "5,10,20,50",
    solver: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A solver to measure, repeatable (default: all)."),
    ] = None,
    spacing: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A spacing to measure, repeatable (default: all)."),
    ] = None,
    guidance: options.Guidance = None,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Class to draw (default: a mix).")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="How many samples.")] = 8,
    seed: options.Seed = 0,
    reference: Annotated[
        int, typer.Option(metavar="N", help="Evaluations of the reference.")
    ] = 400,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="Also search a plan for each --nfe and write it as plan-N.json."
        ),
    ] = False,
    search_count: Annotated[
        int, typer.Option(help="How many samples of the seed after --seed a search fits.")
    ] = 24,
    trials: Annotated[int, typer.Option(help="How many lists of times a search tries.")] = 150,
    out: options.Out = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace results in --out.")
    ] = False,
    batch_size: options.BatchSize = None,
    config: options.ModelConfig = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    dtype: options.ExactDtype = "fp32",
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure how far each solver's x_0 is from that of many small steps, from the same x_T.

    The error says how well the sampler's equation is solved, not how good the pictures are. A
    searched plan is fitted to other samples than those it is measured on; use it with
    'ddimx sample --plan'. The same command into the same --out goes on where it stopped.
    The chart needs pip install "ddimx[plot]"; all else is written without it.

    Examples:

      ddimx evaluate solvers --nfe 5,10,20,50

      ddimx evaluate solvers --nfe 10 --solver ddim --solver unipc:2 --guidance 1 --search
    """
    import shlex
    import signal

    from rich.console import Console

    from ...editing.pictures import image_shape
    from ...evaluation.solvers.compare import ALL_SPACINGS, DETERMINISTIC, candidates
    from ...evaluation.solvers.report import error_table
    from ...evaluation.solvers.study import study
    from ...option_values import parse_guidance
    from ...options import Options
    from ...progress import Progress
    from ...runs.run import Stopped, locked_output
    from ...sampling.settings import default_guidance, resolve
    from ...signals import Interrupted, polite_stop
    from ...weights.locate.source import SUFFIX

    nfes = _numbers(nfe)
    if reference < 20 or count < 1 or search_count < 1 or trials < 1:
        raise UsageError("--reference must be at least 20, counts and trials at least 1")
    loaded = load(
        model,
        device=device,
        dtype=dtype,
        weights=weights,
        config=config,
        offline=offline,
        trust_code=trust_code,
        progress=Progress(quiet=quiet),
    )
    image_shape(loaded)  # octrees have measures of their own: 'evaluate shapes'

    wish = parse_guidance(default_guidance(loaded) if guidance is None else guidance)
    guided = (0.0, 1.0) if wish.start is None or wish.end is None else (wish.start, wish.end)
    if search and guided != (0.0, 1.0):
        raise UsageError("--search fits plans that are guided in every row: give --guidance alone")

    def settings(of_seed: int, samples: int) -> Settings:
        options = Options(solver="ddim", eta=0.0, clip="none", steps=1, seed=of_seed, count=samples)
        options = replace(options, guidance=wish.weight, category=category, batch_size=batch_size)
        return resolve(options, loaded)

    measured = settings(seed, count)
    fitted = settings((seed + 1) % 2**64, search_count) if search else None
    names = solver or DETERMINISTIC, spacing or ALL_SPACINGS
    plans, missing = candidates(loaded, nfes, *names, guided)
    if not plans and not search:
        raise UsageError(f"--nfe {nfe}: there is nothing to measure: {missing[0]}")

    label = Path(loaded.name).name.removesuffix(SUFFIX)
    with (
        Progress(quiet=quiet) as progress,
        polite_stop() as stop,
        locked_output(out, "solvers", label, [*NAMES, *map(_plan_name, nfes)]) as folder,
    ):
        if overwrite:
            _clear(folder)
        try:
            result = study(
                loaded,
                measured,
                nfes,
                solver,
                spacing,
                reference,
                progress,
                guided=guided,
                search_settings=fitted,
                trials=trials,
                earlier=_before(folder),
                save=lambda result: _save(result, folder, "running"),
                stop=stop,
            )
        except (Stopped, Interrupted):
            stop.signal = stop.signal or signal.SIGINT
            progress.stop()
            again = f"the same command with --out {shlex.quote(str(folder))} goes on"
            end_interrupted(progress, stop, f"interrupted; {again}")
        _write(result, folder, progress)
    if json_output:
        print_json({"folder": str(folder), **result.to_json()})
    elif not quiet:
        Console().print(error_table(result.results))


def _plan_name(nfe: int) -> str:
    return f"plan-{nfe}.json"


def _numbers(text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",") if part.strip()})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 1:
        raise UsageError(f"--nfe {text}: write positive whole numbers with commas, as 5,10,20")
    return numbers


def _before(folder: Path) -> SolverStudy | None:
    """Return what an interrupted study left, with its searched plans."""
    from ...evaluation.solvers.study import SEARCHED, SolverStudy
    from ...solvers.plan_file import read_plan
    from ...untrusted.text import read_object

    path = folder / RECORD
    if not path.is_file():
        return None
    try:
        record = read_object(path)
        if "status" not in record:
            raise UsageError(
                f"{folder} holds results already, of version {record.get('ddimx')}, which this one "
                "cannot add to; choose another --out or --overwrite"
            )
        nfes = [r["nfe"] for r in record["results"] if r["solver"] == SEARCHED]
        plans = {n: folder / _plan_name(n) for n in nfes}
        searched = {n: read_plan(path)[0] for n, path in plans.items() if path.is_file()}
        return SolverStudy.from_json(record, searched)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is not a record of a study ({error!r}); choose another --out or --overwrite"
        ) from None


def _clear(folder: Path) -> None:
    """Remove an earlier study's files, its record last."""
    for path in (*folder.glob("plan-*.json"), *(folder / name for name in NAMES)):
        if path.name in NAMES or re.fullmatch(r"plan-\d+\.json", path.name):
            path.unlink(missing_ok=True)


def _save(result: SolverStudy, folder: Path, status: str) -> None:
    """Write the plans and the record, without which a plan's file counts as not there."""
    from ...files import write_json
    from ...solvers.plan_file import write_plan

    for n, plan in result.plans.items():
        if any(r.nfe == n and r.solver == "searched" for r in result.results):
            write_plan(folder / _plan_name(n), plan, result.found(n))
    write_json(folder / RECORD, result.to_json(status))


def _write(result: SolverStudy, folder: Path, progress: Progress) -> None:
    """Write table, plot, plans and, last, the record; say in words what came out."""
    from ...evaluation.chart import write_charts
    from ...evaluation.solvers.report import csv_text, panel
    from ...files import write_bytes

    assert result.reference_error is not None
    write_bytes(folder / NAMES[0], csv_text(result.results).encode())
    omitted = write_charts(folder / NAMES[1], [panel(result.results, result.reference_error)])
    _save(result, folder, "complete")
    for n in result.plans:
        progress.say(f"plan of {n} evaluations: ddimx sample --plan {folder / _plan_name(n)}")
    for line in result.in_words():
        progress.say(line)
    if omitted:
        progress.say(omitted)
    progress.say(f"{folder}: {', '.join(name for name in NAMES if (folder / name).exists())}")
