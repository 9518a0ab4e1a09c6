"""``ddimx evaluate shapes``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options
from ..common import one_of

if TYPE_CHECKING:
    from ...evaluation.shapes.sets import Listed, ShapeSet
    from ...progress import Progress

SHOWN = 5  # invalid files that are listed on the screen; the record holds all


def shapes(
    samples: Annotated[
        Path,
        typer.Option(metavar="DIR|ZIP", help="A folder of 'ddimx sample', or any token files."),
    ],
    reference: Annotated[
        Path,
        typer.Option(
            metavar="DIR|ZIP", help="Shapes to compare with: a prepared data set, or PC15k."
        ),
    ],
    train: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|ZIP", help="Training shapes, for novelty (default: the reference's own)."
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="train|val|test", help="Which part of the reference.")
    ] = "test",
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only shapes of this category; may be repeated."),
    ] = None,
    points: Annotated[int, typer.Option(min=1, help="Points per shape.")] = 2048,
    point_seeds: Annotated[
        int, typer.Option(min=1, max=1024, help="Draws of the points to average over.")
    ] = 1,
    emd: Annotated[
        bool, typer.Option("--emd", help="The earth mover's distance too, exact and slow.")
    ] = False,
    emd_points: Annotated[int, typer.Option(min=1, help="Points per shape for --emd.")] = 256,
    distances: Annotated[
        bool, typer.Option("--distances/--no-distances", help="1-NNA, COV and MMD.")
    ] = True,
    floors: Annotated[
        bool,
        typer.Option("--floors/--no-floors", help="What the reference and training shapes reach."),
    ] = True,
    seed: options.Seed = 0,
    workers: Annotated[
        int | None, options.workers("Threads (default: one a core); changes no figure.")
    ] = None,
    out: Annotated[
        Path | None, options.shared("out", metavar="FILE.json", help="Write the record.")
    ] = None,
    overwrite: Annotated[bool, options.shared("overwrite", help="Replace --out.")] = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure shapes against a reference: 1-NNA, COV, MMD, validity, connectivity, novelty.

    A set is a run folder, a folder of token files, a prepared data set or one of its lists
    (DIR/val.jsonl); all but prepared sets may lie in a zip file. Of point clouds, in a tree as
    PC15k has it, octrees are made that are as deep as the samples. Figures come with 95% intervals
    and with what the reference and the training shapes themselves reach; the record states the
    protocol. Needs pip install "ddimx[3d]".

    Examples:

      ddimx evaluate shapes --samples runs/0001-sample-furniture --reference data/furniture

      ddimx evaluate shapes --samples big --reference data/chairs --emd --point-seeds 3 -o q.json
    """
    from ...data.shapes.lists import PARTS
    from ...evaluation.shapes import sets as places
    from ...files import write_json
    from ...progress import Progress
    from ...runs.lock import lock_file
    from ..output import print_json, refuse_existing

    part = one_of("split", split, PARTS)
    refuse_existing(out, overwrite)
    with Progress(quiet=quiet) as progress, lock_file(out):
        listed = _listed(samples, reference, train, part)

        from ...evaluation.shapes.quality import Protocol, quality  # which needs PyTorch

        protocol = Protocol(
            points=points,
            seed=seed,
            repeats=point_seeds,
            emd_points=emd_points if emd else 0,
            distances=distances,
            floors=floors,
            workers=workers,
        )
        sets = _read(listed, category or [], progress)
        of_samples, of_reference, of_training = (
            sets["samples"],
            sets["reference"],
            sets.get("train"),
        )
        record = quality(
            of_samples.trees,
            of_reference.trees,
            None if of_training is None else of_training.trees,
            protocol,
            invalid=len(of_samples.invalid),
            categories=places.named_on_both_sides(of_samples.categories, of_reference.categories),
            progress=progress,
        )
        record = _with_sources(record, sets, category or [])
        for line in _notes(record):
            progress.say(line)
        if out is not None:
            write_json(out, record)
            progress.say(f"{out}: the record")
    if json_output:
        print_json(record)
    else:
        from rich.console import Console

        from ...evaluation.shapes.report import table

        Console().print(table(record))


def _listed(samples: Path, reference: Path, train: Path | None, split: str) -> dict[str, Listed]:
    """Find all sets before reading any, so that a wrong name is told at once."""
    from ...evaluation.shapes import sets

    listed = {"samples": sets.find(samples), "reference": sets.find(reference, split)}
    of_training = train or sets.training_list(reference, split)
    if of_training is not None:
        listed["train"] = sets.find(of_training, "train")
    return listed


def _read(
    listed: dict[str, Listed], categories: list[str], progress: Progress
) -> dict[str, ShapeSet]:
    """Read the sets."""
    from ...evaluation.shapes import sets

    read: dict[str, ShapeSet] = {}
    for name, files in listed.items():  # the samples first: their depth is the others'
        depth = min((t.depth for t in read["samples"].trees), default=None) if read else None
        strict = name != "samples"
        read[name] = sets.read(
            files, categories=categories, strict=strict, depth=depth, progress=progress
        )
    return read


def _with_sources(
    record: dict[str, Any], sets: dict[str, ShapeSet], categories: list[str]
) -> dict[str, Any]:
    """Put what was compared before the figures, and files' names for indices."""
    from ... import __version__

    if "novelty" in record:
        novelty = record["novelty"]
        rows = zip(sets["samples"].files, novelty.pop("nearest"), novelty.pop("iou"), strict=True)
        novelty["nearest"] = [
            {"sample": sample, "training": sets["train"].files[index], "iou": iou}
            for sample, index, iou in rows
        ]

    return {
        "ddimx": __version__,
        **{name: one.label for name, one in sets.items()},
        "categories": sorted(categories),
        **record,
        "invalid": list(sets["samples"].invalid),
    }


def _notes(record: dict[str, Any]) -> list[str]:
    """Return what stands above the table: the protocol in one line, remarks, invalid files."""
    counts, protocol = record["counts"], record["protocol"]
    distances = f", {record['compared']} a side" if "compared" in record else ""
    lines = [
        f"{counts['samples']} samples, {counts['reference']} references{distances}, "
        f"{counts['train']} training shapes, depth {record['depth']}; {protocol['points']} points "
        f"uniform inside occupied cells of the unit cube, seed {protocol['seed']}"
    ]
    lines += [f"note: {note}" for note in record["notes"]]
    lines += [f"  {message}" for message in record["invalid"][:SHOWN]]
    more = len(record["invalid"]) - SHOWN
    return lines + ([f"  and {more} more (--out and --json list all)"] if more > 0 else [])
