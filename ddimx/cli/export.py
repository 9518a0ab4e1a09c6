"""``ddimx export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DdimxError, UsageError
from ..splats.colors import RULES
from . import options
from .common import end_interrupted
from .complete import splat_formats
from .output import print_json
from .shards import GatherOption, ShardOption, report_partial, shard_of

if TYPE_CHECKING:
    from ..progress import Progress
    from ..runs.part import Partial


def export(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE|DIR",
            show_default=False,
            help="A token file, or a folder of them (default: the newest run that made some).",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="3dgs|ply|splat|spz|glb|json",
            autocompletion=splat_formats,
            help="One or several, with commas or again (default: 3dgs, which every viewer opens).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        options.shared(
            "out",
            metavar="DIR|FILE",
            help="Folder, or the one file's name (default: beside the sources).",
        ),
    ] = None,
    max_depth: Annotated[
        int | None,
        typer.Option(min=1, help="The octrees' depth; a file of another depth is refused."),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Cut octrees that are deeper at depth N.")
    ] = None,
    center: Annotated[
        bool, typer.Option("--center", help="Put the middle of each shape's cube at the origin.")
    ] = False,
    unit: Annotated[
        str,
        typer.Option(
            metavar="N|cube",
            help="Divide coordinates by N: 100 turns centimeters into meters; 'cube' makes the "
            "edge of each shape's cube 1.",
        ),
    ] = "1",
    color: Annotated[
        str,
        typer.Option(
            metavar="|".join(["#RRGGBB", "NAME", *RULES]), help="Colors, all of them sRGB."
        ),
    ] = "height",
    light: Annotated[
        bool | None,
        typer.Option(
            "--light/--no-light",
            show_default=False,
            help="Bake light into the colors, for viewers that have none (default: for "
            f"{' and '.join(name for name, rule in RULES.items() if rule.lit)}).",
        ),
    ] = None,
    opacity: Annotated[float, typer.Option(help="Above 0, at most 1.")] = 0.95,
    scale: Annotated[float, typer.Option(help="Standard deviation in cells.")] = 0.5,
    surfel: Annotated[
        bool, typer.Option("--surfel", help="Flatten each Gaussian along the surface's normal.")
    ] = False,
    up: Annotated[
        str | None,
        typer.Option(
            metavar="y|z|-y",
            show_default=False,
            help="Axis that points up in the file (default: -y in 3dgs and splat, whose viewers "
            "expect that; else y). A turn, never a mirror.",
        ),
    ] = None,
    sh_degree: Annotated[
        int | None,
        typer.Option(
            metavar="0|1|2|3",
            show_default=False,
            help="Harmonics, all zero above 0 (default: 3 in 3dgs, whose first loaders demand it; "
            "else 0). 0 makes files of 3dgs a third as large.",
        ),
    ] = None,
    spz_version: Annotated[
        int | None,
        typer.Option(
            metavar="2|3|4",
            show_default=False,
            help="Of spz (default: 3): 2 for Unity's importer, 4 needs zstandard.",
        ),
    ] = None,
    text: Annotated[bool, typer.Option("--ascii", help="--format ply as text.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="One file of all shapes, side by side.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Also a PNG of three views of each shape.")
    ] = False,
    turntable: Annotated[
        bool, typer.Option("--turntable", help="Also a WebP of each shape that turns.")
    ] = False,
    workers: Annotated[
        int | None,
        options.workers("Processes (default: by number of shapes)."),
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace files that are there and differ.")
    ] = False,
    shard: ShardOption = None,
    gather: GatherOption = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Write octrees as Gaussian splats: one Gaussian for each leaf.

    3dgs is INRIA's PLY, splat antimatter15's, spz Niantic's, glb glTF with
    KHR_gaussian_splatting. ply is a point cloud with sizes and colors, for programs that are
    not splat viewers. Without a source and without any run, one shape is sampled from the shipped
    model first. Several processes share the shapes of a folder with --shard 1/8 to 8/8, in any
    order or at once; the last one says whether all are there.

    Examples:

      ddimx export --format 3dgs --preview

      ddimx export shapes/chair --format spz,glb --out splats --color category

      ddimx export chair.npz --out chair.ply --surfel --color tan --light

      ddimx export runs/0003-sample-furniture --merge --turntable

      ddimx export shapes --format spz --out splats --shard 3/8
    """
    from ..exporting.api import placed
    from ..exporting.destinations import is_file_name, merged_item
    from ..exporting.run import run
    from ..exporting.settings import ExportSettings, named_formats, unit_of
    from ..exporting.sources import newest_run
    from ..progress import Progress
    from ..runs.shared import remove_shared
    from ..signals import polite_stop
    from ..splats.formats import EncodeOptions
    from ..splats.from_octree import Look

    settings = ExportSettings(
        formats=named_formats(formats or ["3dgs"]),
        look=Look(color=color, opacity=opacity, scale=scale, surfel=surfel, light=light),
        up=up,
        options=EncodeOptions(sh_degree, text, spz_version=spz_version),
        max_depth=max_depth,
        depth=depth,
        center=center,
        unit=unit_of(unit),
        preview=preview,
        turntable=turntable,
        overwrite=overwrite,
        workers=workers,
    )
    with Progress(quiet=quiet) as progress:
        folder = None if is_file_name(out) else out
        part = shard_of(shard, gather, overwrite, folder, progress)
        if part is not None:
            _check_shared(source, folder, merge)
        elif folder is not None:
            remove_shared(folder)  # of an export that is complete, or to be overwritten
        if source is None:
            source = newest_run()
            if source is None:
                from ..exporting.shipped import sample_one  # which needs PyTorch

                progress.say("no run here has made shapes: sampling one from the shipped model")
                source = sample_one(progress)
            progress.say(f"exporting {source}")
        items = placed(source, out, settings, merge=merge)
        with polite_stop() as stop:
            if part is not None:
                from ..exporting.shards import run_shard

                assert folder is not None  # as _check_shared has seen
                shared = run_shard(
                    *(items, settings, stop, progress), folder=folder, shard=part, gather=gather
                )
                _report_shared(shared, folder, progress, json_output)
                if shared is None:
                    end_interrupted(progress, stop, "interrupted; the same command goes on")
                return
            one = merged_item(items) if merge else None
            record = run(items, settings, stop, progress, merged=one)
        if json_output:
            print_json(record)
        _report(record, progress)
        if record["status"] == "interrupted":
            end_interrupted(progress, stop, "interrupted; the same command goes on")


def _check_shared(source: Path | None, folder: Path | None, merge: bool) -> None:
    """Refuse what several processes cannot make together.

    Raises:
        UsageError: one file of all shapes, or no source or folder that is the same for all.
    """
    if merge:
        raise UsageError(
            "--merge makes one file of all shapes, which one process makes: --shard 1/1"
        )
    if folder is None:
        raise UsageError(
            "several processes export into one folder: name it with --out, the same for all; "
            "--shard 1/1 is this process alone"
        )
    if source is None:
        raise UsageError("several processes export the same shapes: name their folder")


def _report_shared(
    result: dict[str, Any] | Partial | None, folder: Path, progress: Progress, json_output: bool
) -> None:
    """Say what all shards have made, or how far they are.

    Raises:
        DdimxError: some shapes failed; the others are written.
    """
    from ..exporting.api import failures
    from ..runs.part import Partial

    if result is None:
        return
    if isinstance(result, Partial):
        report_partial(result, progress, json_output)
        return
    if json_output:
        print_json(result)
    progress.say(
        f"{folder}: {result['exported']:,} of {result['shapes']:,} shapes exported by "
        f"{result['shards']} shards, {result['files']:,} files, {result['splats']:,} splats, "
        f"{result['bytes'] / 1e6:.1f} MB, {result['seconds']:.1f} s"
    )
    if result["failed"]:
        raise DdimxError(failures(result))


def _report(record: dict[str, Any], progress: Progress) -> None:
    """Say what was made.

    Raises:
        DdimxError: some shapes failed; the others are written.
    """
    from ..exporting.api import failures

    files = [file for shape in record["exported"] for file in shape["files"]]
    size = sum(file["bytes"] for file in files) / 1e6
    for file in files[:4]:
        progress.say(f"{file['path']}{'' if file['state'] == 'written' else ' is up to date'}")
    if len(files) > 4:
        progress.say(f"and {len(files) - 4} more files")
    progress.say(
        f"{len(record['exported'])} exported, {record['splats']} splats, {size:.1f} MB, "
        f"{record['seconds']:.1f} s"
    )
    if record["failed"]:
        raise DdimxError(failures(record))
