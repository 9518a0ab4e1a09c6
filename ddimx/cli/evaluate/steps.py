"""``ddimx evaluate steps``."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ...errors import UsageError
from ...option_values import steps_option, temperature_option
from .. import options
from ..common import end_interrupted, load, one_of
from ..output import print_json

if TYPE_CHECKING:
    from ...evaluation.steps.study import Record, Sets
    from ...evaluation.steps.variants import Ways
    from ...progress import Progress
    from ...weights.model import Model

NAMES = ("steps.json", "steps.csv", "steps.png")
WIDTH = 120

T = TypeVar("T")


def steps(
    reference: Annotated[
        Path, typer.Option(metavar="DIR", help="Shapes to compare with: a prepared data set.")
    ],
    model: Annotated[
        str | None,
        options.shared("model", help="A model of octrees, as 'ddimx sample' (default: furniture)."),
    ] = "furniture",
    split: Annotated[
        str,
        typer.Option(
            metavar="train|val|test", help="Parts of a prepared reference, with commas: val,test."
        ),
    ] = "test",
    train: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Training shapes, for novelty (default: the reference's own)."
        ),
    ] = None,
    numbers: Annotated[
        str,
        typer.Option(
            "--steps", metavar="N,N,...", help="Steps per level; 1/8/6/4/4 is a number for each."
        ),
    ] = "1,2,4,8,16",
    transition: Annotated[
        str | None,
        typer.Option(
            metavar="absorbing,uniform", help="Kinds of noise (default: those of the training)."
        ),
    ] = None,
    routing: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="random, confidence, entropy[:NATS].")
    ] = "random,confidence",
    solver: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="ddim or pfdiff:k,h; repeatable (default: ddim)."),
    ] = None,
    eta: Annotated[str, typer.Option(metavar="V,V,...", help="Added noise, 0..1.")] = "0",
    temperature: Annotated[
        str,
        typer.Option(
            metavar="V,V,...",
            help="Of the draw of each token; 1-0.6 falls within a level, 1/1/0.8 has one for each.",
        ),
    ] = "1",
    guidance: Annotated[
        str, typer.Option(metavar="V,V,...", help="Classifier-free guidance; 1 is off.")
    ] = "1",
    redraw: Annotated[
        str, typer.Option(metavar="N,N,...", help="Further draws of a level that breaks a shape.")
    ] = "0",
    count: Annotated[
        int, typer.Option("--count", "-n", min=2, help="Shapes drawn for each way.")
    ] = 48,
    category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Draw and compare only this class.")
    ] = None,
    mix: Annotated[
        str,
        typer.Option(
            metavar="reference|even",
            help="Classes in the reference's proportions, or drawn as 'ddimx sample' does.",
        ),
    ] = "reference",
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove crumbs and fill holes first, as sample --clean.")
    ] = False,
    distances: Annotated[
        bool, typer.Option("--distances/--no-distances", help="1-NNA, COV and MMD too.")
    ] = False,
    points: Annotated[int, typer.Option(min=1, help="Points per shape for distances.")] = 2048,
    seed: options.Seed = 0,
    workers: Annotated[
        int | None, options.workers("Threads of distances (default: one a core).")
    ] = None,
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
    """Measure how the quality of octrees depends on steps, noise, routing and temperature.

    Every combination of the listed values draws the same --count shapes: connectivity, novelty and,
    with --distances, 1-NNA, COV and MMD, against the network's real calls for each shape (encoding
    finished levels once is not counted). Give --steps last thought by 1-NNA, not by connectivity
    alone, which a low temperature raises at the cost of variety. The same command into the same
    --out goes on where it stopped. Needs pip install "ddimx[3d]", for the charts "ddimx[plot]" too.

    Examples:

      ddimx evaluate steps --reference data/furniture --transition absorbing,uniform --distances

      ddimx evaluate steps --reference data/furniture --steps 8 --solver ddim --solver pfdiff:1,1
    """
    from ...data.shapes.lists import PARTS
    from ...evaluation.shapes.quality import Protocol
    from ...evaluation.steps.study import StepsSettings, StepsStudy
    from ...progress import Progress
    from ...runs.run import locked_output
    from ...signals import polite_stop
    from ...weights.locate.source import SUFFIX

    parts = [one_of("split", part, PARTS) for part in _listed("split", split, str)]
    protocol = Protocol(
        points=points, seed=seed, distances=distances, floors=False, workers=workers
    )
    chosen = StepsSettings(
        count, protocol, seed, one_of("mix", mix, ("reference", "even")), batch_size, clean
    )
    with Progress(quiet=quiet) as progress, polite_stop() as stop:
        loaded = load(
            model or "furniture",
            device=device,
            dtype=dtype,
            weights=weights,
            config=config,
            offline=offline,
            trust_code=trust_code,
            progress=progress,
        )
        ways = _ways(
            loaded, numbers, transition, routing, solver, eta, temperature, guidance, redraw
        )
        sets = _sets(loaded, reference, train, parts, category, progress)
        label = Path(loaded.name).name.removesuffix(SUFFIX)
        with locked_output(out, "steps", label, NAMES) as folder:
            study = StepsStudy(loaded, sets, chosen, None if overwrite else _before(folder))
            omitted: list[str] = []
            write = partial(_write, folder=folder, omitted=omitted)
            record = study.run(ways, progress, write, stop)
        progress.stop()
        if omitted:
            progress.say(omitted[-1])
        progress.say(f"{folder}: {', '.join(name for name in NAMES if (folder / name).exists())}")
        _print(record, folder, json_output)
        if record["status"] == "interrupted":
            again = f"the same command with --out {shlex.quote(str(folder))} goes on"
            end_interrupted(progress, stop, f"interrupted; {again}")


def _ways(
    model: Model,
    steps: str,
    transition: str | None,
    routing: str,
    solver: list[str] | None,
    eta: str,
    temperature: str,
    guidance: str,
    redraw: str,
) -> Ways:
    from ...evaluation.steps.variants import Ways
    from ...models.octree.process import DiscreteProcess

    process = DiscreteProcess.of(model.process, "evaluate steps")
    return Ways(
        steps=_listed("steps", steps, _steps_of_a_way),
        transition=_listed("transition", transition, str) if transition else process.transitions,
        routing=_listed("routing", routing, str),
        solver=solver or ["ddim"],
        eta=_listed("eta", eta, float),
        temperature=_listed("temperature", temperature, temperature_option),
        guidance=_listed("guidance", guidance, float),
        redraw=_listed("redraw", redraw, int),
    )


def _steps_of_a_way(text: str) -> int | str:
    """Return a number of steps, or one for each level as the record and its table write it."""
    steps = steps_option([int(part) for part in text.split("/")])
    assert not isinstance(steps, int)
    return steps[0] if len(steps) == 1 else "/".join(map(str, steps))


def _listed(name: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """Parse values with commas between them."""
    try:
        values = [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        values = []
    if not values:
        raise UsageError(f"--{name} {text}: write values with commas between them")
    return values


def _sets(
    model: Model,
    reference: Path,
    train: Path | None,
    parts: list[str],
    category: str | None,
    progress: Progress,
) -> Sets:
    """Read the shapes of the model's classes, or of one of them."""
    from ...errors import unknown
    from ...evaluation.shapes import sets
    from ...evaluation.steps.study import Sets

    if category is not None and model.classes and category not in model.classes:
        raise unknown("category", category, model.classes)
    classes = list(model.classes) if category is None else [category]
    whole = not sets.parts_of(reference)
    lists = [sets.find(reference, part) for part in (parts[:1] if whole else parts)]
    place = train or (None if "train" in parts else sets.training_list(reference, parts[0]))
    training = None if place is None else sets.find(place, "train")

    def shapes_of(listed: sets.Listed) -> sets.ShapeSet:
        depth = model.config.data.max_depth
        return sets.read(listed, categories=classes, depth=depth, progress=progress)

    return Sets(
        sets.joined([shapes_of(listed) for listed in lists]),
        None if training is None else shapes_of(training),
    )


def _before(folder: Path | None) -> dict[str, Any] | None:
    """Return the record that a study left in its folder, if there is one."""
    from ...untrusted.text import read_object

    path = None if folder is None else folder / NAMES[0]
    if path is None or not path.exists():
        return None
    try:
        record = read_object(path)
        return record if isinstance(record["rows"], list) else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not the record of a study ({error}); choose another --out or --overwrite"
        ) from None


def _print(record: Record, folder: Path, as_json: bool) -> None:
    import sys

    from rich.console import Console

    from ...evaluation.steps.report import table

    if as_json:
        print_json({"folder": str(folder), **record})
    elif record["rows"]:
        # A file or a pipe has no width of its own.
        Console(width=None if sys.stdout.isatty() else WIDTH).print(table(record))


def _write(record: Record, folder: Path, omitted: list[str]) -> None:
    """Write the record, the table and the charts; why there are none is added to ``omitted``."""
    from ...evaluation.chart import write_charts
    from ...evaluation.steps.report import PANEL_SIZE, csv_text, panels
    from ...files import write_bytes, write_json

    write_json(folder / NAMES[0], record)
    if not record["rows"]:
        return
    write_bytes(folder / NAMES[1], csv_text(record).encode())
    reason = write_charts(folder / NAMES[2], panels(record), PANEL_SIZE)
    if reason:
        omitted.append(reason)
