"""``ddimx prepare octrees`` and ``ddimx prepare furniture``: octrees from meshes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options

if TYPE_CHECKING:
    from ..data.shape_set import Outcome, ShapeSet
    from ..progress import Progress

SHOWN = 20  # bad meshes that are listed on the screen; --json and failures.json hold all

Depth = Annotated[
    int, typer.Option(metavar="N", min=1, max=12, help="Subdivisions: a grid of 2^N cells a side.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes (default: one a core).")
]
Visible = Annotated[
    bool,
    typer.Option("--visible", help="Leave out cells that cannot be seen from outside (depth 1-9)."),
]
Replace = Annotated[
    bool, typer.Option("--overwrite", help="Make a set of other settings again, in its place.")
]


def octrees(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="The folder of meshes.")],
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
    visible: Visible = False,
    workers: Workers = None,
    overwrite: Replace = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn meshes and point clouds into octrees of the cells their surface touches.

    SRC holds .obj, .ply, .stl, .off or .glb meshes, or points as .npz, .npy or .ply: by themselves,
    in a folder per category, as <category>/<train|val|test>/<id>.obj, or as ShapeNet's
    <synset>/<id>/models/model_normalized.obj. Each is centred in a cube as large as its longest
    side, and the file keeps the way back. A shape's name alone decides its part. A stopped run
    goes on when the same command is given again. Meshes that cannot be read are left out, listed
    in failures.json, and make the exit code 1. Meshes need trimesh: pip install "ddimx[3d]".

    Examples:

      ddimx prepare octrees meshes data/shapes --depth 6

      ddimx prepare octrees ShapeNetCore.v2 data/shapenet --category chair --depth 6
    """
    from ..data.meshes import POINTS, require_trimesh
    from ..data.shape_set import Settings, ShapeSet
    from ..data.shape_sources import find_shapes, job_of, part_of
    from ..progress import Progress

    shares = _shares(split)
    _check_apart(source, out)
    _check_visible(depth, visible)
    found = find_shapes(source, category=category, skip=out)
    if any(shape.path.suffix.lower() not in POINTS for shape in found):
        require_trimesh()
    settings = Settings(str(source.resolve()), depth, visible=visible)
    shapes = ShapeSet(out, settings)
    with Progress(quiet=quiet) as progress:
        outcome = shapes.run(
            [job_of(shape) for shape in found],
            workers=workers or _cores(),
            progress=progress,
            overwrite=overwrite,
        )
        given = {job_of(shape).file: shape.part for shape in found}
        parts = [
            given[m.job.file] or part_of(m.job.category, m.job.shape_id, shares)
            for m in outcome.made
        ]
        shapes.finish(outcome, parts, _versions() | {"split": list(shares)})
        _report(shapes, outcome, parts, progress, json_output)


def furniture(
    library: Annotated[
        list[Path] | None,
        typer.Option(
            "--library",
            metavar="FILE.sh3f",
            help="A furniture library; may be repeated (default: all that Debian installs).",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to write.")
    ] = Path("data/furniture"),
    depth: Depth = 6,
    category: Annotated[
        list[str] | None,
        typer.Option(
            "--category", metavar="NAME", help="Take only this category; may be repeated."
        ),
    ] = None,
    visible: Visible = False,
    workers: Workers = None,
    overwrite: Replace = False,
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make octrees of Sweet Home 3D's furniture.

    Some 450 pieces in 13 categories: chair, table, sofa, bed, bench, cabinet, lamp, bath,
    appliance, plant, vessel, vehicle, person. Upright along +y, facing +z, in centimetres. In each
    category 7.5 percent are held out for validation and as many for tests, variants of one
    design together. ATTRIBUTION.md names the creators and licences (CC0 and CC BY 3.0); whoever
    passes on the set, or weights trained on it, passes that on too. Needs the Debian package
    sweethome3d-furniture, or libraries given here, and trimesh: pip install "ddimx[3d]".

    Examples:

      ddimx prepare furniture && ddimx train --config furniture

      ddimx prepare furniture --depth 5 --category chair --category table --out data/seats
    """
    from ..data.attribution import attribution
    from ..data.furniture_set import choose, jobs_of, made_pieces, parts_of
    from ..data.meshes import require_trimesh
    from ..data.shape_set import Settings, ShapeSet
    from ..data.sweethome import find_libraries, read_library
    from ..files import write_bytes
    from ..progress import Progress

    _check_visible(depth, visible)
    require_trimesh()
    libraries = [read_library(path) for path in find_libraries(library or [])]
    pieces = choose(libraries, category or [])
    source = ", ".join(part.path.name for part in libraries)
    if category:
        source += f" ({', '.join(sorted(set(category)))})"
    shapes = ShapeSet(out, Settings(source, depth, visible=visible))
    with Progress(quiet=quiet) as progress:
        outcome = shapes.run(
            jobs_of(pieces), workers=workers or _cores(), progress=progress, overwrite=overwrite
        )
        made = made_pieces(pieces, outcome)
        parts = parts_of(made, out, outcome)
        credits_ = attribution(libraries, [piece.item for piece in made])
        write_bytes(out / "ATTRIBUTION.md", credits_.encode())
        shapes.finish(outcome, parts, _versions())
        _report(shapes, outcome, parts, progress, json_output)


def _shares(text: str) -> tuple[float, float, float]:
    """Return the three shares, brought to a sum of 1."""
    from ..errors import UsageError

    try:
        train, val, test = (float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--split {text}: three numbers are needed, as 0.8,0.1,0.1") from None
    total = train + val + test
    if not (min(train, val, test) >= 0 and train > 0 and abs(total - 1) < 1e-6):
        raise UsageError(f"--split {text}: shares of at least 0 that add up to 1, train above 0")
    return train, val, test


def _check_apart(source: Path, out: Path) -> None:
    from ..errors import UsageError

    if source.resolve() == out.resolve():
        raise UsageError(f"SRC and DST are the same folder: {source}")


def _check_visible(depth: int, visible: bool) -> None:
    from ..errors import UsageError
    from ..octree.visible import MAX_VISIBLE_DEPTH

    if visible and depth > MAX_VISIBLE_DEPTH:
        raise UsageError(f"--visible needs a --depth of at most {MAX_VISIBLE_DEPTH}")


def _cores() -> int:
    import os

    return os.cpu_count() or 1


def _versions() -> dict[str, Any]:
    """Return the versions that a prepared set records."""
    from importlib.metadata import PackageNotFoundError, version

    from .. import __version__

    found = {"ddimx": __version__}
    for name in ("numpy", "trimesh"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"versions": found}


def _report(
    shapes: ShapeSet, outcome: Outcome, parts: list[str], progress: Progress, json_output: bool
) -> None:
    """Say what there is now; exit with 1 if something could not be made."""
    from .output import print_json

    summary = _summary(shapes, outcome, parts)
    progress.stop()  # so that the lines stand below the bar
    progress.say(_text(summary))
    if json_output:
        print_json(summary)
    if outcome.failed:
        raise typer.Exit(1)


def _summary(shapes: ShapeSet, outcome: Outcome, parts: list[str]) -> dict[str, Any]:
    from ..data.shape_set import PARTS

    categories: dict[str, dict[str, int]] = {}
    for made, part in zip(outcome.made, parts, strict=True):
        counts = categories.setdefault(made.job.category, dict.fromkeys(PARTS, 0))
        counts[part] += 1
    return {
        "path": str(shapes.folder),
        "depth": shapes.settings.depth,
        "shapes": len(outcome.made),
        "found": outcome.found,
        "parts": {part: parts.count(part) for part in PARTS},
        "categories": dict(sorted(categories.items())),
        "failed": [{"source": m.job.origin, "reason": m.reason} for m in outcome.failed],
    }


def _text(summary: dict[str, Any]) -> str:
    """Return what the person at the terminal reads at the end."""
    found, failed = summary["found"], summary["failed"]
    state = f" ({found} were there already)" if found else ""
    counts = ", ".join(f"{count} {part}" for part, count in summary["parts"].items())
    lines = [
        f"{summary['path']}: {summary['shapes']} octrees of depth {summary['depth']}{state}: {counts}"
    ]
    width = max(map(len, summary["categories"]))
    lines += [
        f"  {name:{width}}  {sum(parts.values()):5d}"
        for name, parts in summary["categories"].items()
    ]
    if failed:
        lines += [f"{len(failed)} could not be made (failures.json lists all):"]
        lines += [f"  {one['reason']}" for one in failed[:SHOWN]]
        lines += ["mend or remove them and give the same command, or train without them"]
    return "\n".join(lines)
