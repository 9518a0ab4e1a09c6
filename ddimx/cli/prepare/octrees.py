"""``ddimx prepare octrees``: octrees from meshes and point clouds."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..shards import GatherOption, ShardOption, report_partial, shard_of
from .shapes import Depth, Replace, Visible, Workers, check_visible, cores, report, versions


def octrees(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="A folder or a zip file of shapes.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="The folder to write.")],
    depth: Depth = 6,
    split: Annotated[
        str,
        typer.Option(metavar="TRAIN,VAL,TEST", help="Shares of the parts, where SRC has none."),
    ] = "0.8,0.1,0.1",
    category: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Take only this category; the name of meshes in no such folder."
        ),
    ] = None,
    extension: Annotated[
        list[str] | None,
        typer.Option(
            metavar=".EXT",
            help="Take files of this kind only; may be repeated. Of files of one name beside each "
            "other the first kind counts (default: meshes before points).",
        ),
    ] = None,
    visible: Visible = False,
    workers: Workers = None,
    overwrite: Replace = False,
    shard: ShardOption = None,
    gather: GatherOption = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Turn meshes and point clouds into octrees of the cells their surface touches.

    SRC holds meshes (.obj, .ply, .stl, .off, .glb, .gltf), points (.npz, .npy, .ply, .xyz, .pts,
    .txt, .pcd) or octrees, also .obj.gz and the like: by themselves, in a folder per category,
    as <category>/<train|val|test>/<id>.obj, or as ShapeNetCore, PC15k,
    ShapeNet55 or Occupancy Networks have them; which it is, what is in it and what was passed over
    is said. Each shape is centered in a cube as large as its longest side, and the file keeps the
    way back. Where SRC has no parts, a shape's name alone decides. A stopped run goes on when the
    same command is given again. What cannot be read is left out, listed in failures.json, and
    makes the exit code 1. Several processes share the work with --shard 1/8 to 8/8, in any order
    or at once; the last one writes the lists.

    Examples:

      ddimx prepare octrees meshes data/shapes --depth 6

      ddimx prepare octrees ShapeNetCore.v2 data/shapenet --category chair --depth 6

      ddimx prepare octrees ShapeNetCore.v2.PC15k data/pc15k --depth 5

      ddimx prepare octrees meshes data/shapes --shard 3/8
    """
    from ...data.shapes.jobs import PrepareSettings
    from ...data.shapes.lists import part_of
    from ...data.shapes.prepare import Outcome, ShapeFolder
    from ...data.shapes.prepare_shards import run_shard
    from ...data.shapes.reading import job_of
    from ...data.shapes.scan import counted, scan_shapes
    from ...progress import Progress
    from ...runs.part import Partial

    shares = _shares(split)
    _check_apart(source, out)
    check_visible(depth, visible)
    kinds = [f".{word.lower().lstrip('.')}" for word in extension or ()]
    settings = PrepareSettings(str(source.resolve()), depth, visible=visible)
    shapes = ShapeFolder(out, settings)
    with Progress(quiet=quiet) as progress:
        part = shard_of(shard, gather, overwrite, out, progress)
        scan = scan_shapes(source, category=category, skip=out, extensions=kinds, progress=progress)
    jobs = [job_of(shape) for shape in scan.shapes]
    part_of_file = {job.file: shape.part for job, shape in zip(jobs, scan.shapes, strict=True)}

    def parts_of(outcome: Outcome) -> list[str]:
        return [
            part_of_file[m.job.file] or part_of(m.job.category, m.job.shape_id, shares)
            for m in outcome.made
        ]

    def finish(outcome: Outcome) -> None:
        shapes.finish(outcome, parts_of(outcome), versions() | {"split": list(shares)})

    with Progress(quiet=quiet) as progress, nullcontext() if part else shapes.alone():
        progress.say(f"{scan.root}: {scan}")
        if scan.skipped:
            progress.say(f"passed over: {counted(scan.skipped)}")
        if scan.remark:
            progress.say(f"note: {scan.remark}")
        outcome: Outcome | Partial
        count = workers or cores()
        if part is None:
            outcome = shapes.run(jobs, workers=count, progress=progress, overwrite=overwrite)
            finish(outcome)
        else:
            outcome = run_shard(
                *(shapes, jobs, part),
                workers=count,
                progress=progress,
                finish=finish,
                about={"split": list(shares), "layout": scan.layout},
                gather=gather,
            )
        if isinstance(outcome, Partial):
            report_partial(outcome, progress, json_output)
            return
        about = {"layout": scan.layout, "source": str(scan.root), "passed_over": scan.skipped}
        report(shapes, outcome, parts_of(outcome), progress, json_output, about)


def _shares(text: str) -> tuple[float, float, float]:
    """Return the three shares, brought to a sum of 1."""
    from ...errors import UsageError

    try:
        train, val, test = (float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--split {text}: three numbers are needed, as 0.8,0.1,0.1") from None
    total = train + val + test
    if not (min(train, val, test) >= 0 and train > 0 and abs(total - 1) < 1e-6):
        raise UsageError(f"--split {text}: shares of at least 0 that add up to 1, train above 0")
    return train, val, test


def _check_apart(source: Path, out: Path) -> None:
    from ...errors import UsageError

    if source.resolve() == out.resolve():
        raise UsageError(f"SRC and DST are the same folder: {source}")
