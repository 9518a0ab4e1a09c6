"""``ddimx prepare furniture``: octrees from Sweet Home 3D's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options
from .shapes import Depth, Replace, Visible, Workers, check_visible, cores, report, versions


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
        Path,
        options.shared("out", metavar="DIR", help="The folder to write (default: data/furniture)."),
    ] = Path("data/furniture"),
    depth: Depth = 6,
    category: Annotated[
        list[str] | None,
        typer.Option(
            "--category", metavar="NAME", help="Take only this category; may be repeated."
        ),
    ] = None,
    visible: Visible = False,
    recipe: Annotated[
        int,
        typer.Option(
            min=1,
            max=2,
            help="1 makes the set that the model furniture learned from, where the notches of some "
            "polygons are filled.",
        ),
    ] = 2,
    workers: Workers = None,
    overwrite: Replace = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Make octrees of Sweet Home 3D's furniture.

    Some 450 pieces in 13 categories: chair, table, sofa, bed, bench, cabinet, lamp, bath,
    appliance, plant, vessel, vehicle, person. Upright along +y, facing +z, in centimetres. In each
    category 7.5 percent are held out for validation and as many for tests, variants of one
    design together. ATTRIBUTION.md names the creators and licences (CC0 and CC BY 3.0); whoever
    passes on the set, or weights trained on it, passes that on too. Needs the Debian package
    sweethome3d-furniture, or libraries given here.

    Examples:

      ddimx prepare furniture && ddimx train --config furniture

      ddimx prepare furniture --depth 5 --category chair --category table --out data/seats
    """
    from ...data.shapes.jobs import PrepareSettings
    from ...data.shapes.prepare import ShapeFolder
    from ...files import write_bytes
    from ...progress import Progress
    from ...recipes.furniture.attribution import attribution
    from ...recipes.furniture.dataset import choose, jobs_of, made_pieces, parts_of
    from ...recipes.furniture.sweethome import find_libraries, read_library

    check_visible(depth, visible)
    libraries = [read_library(path) for path in find_libraries(library or [])]
    pieces = choose(libraries, category or [])
    source = ", ".join(part.path.name for part in libraries)
    if category:
        source += f" ({', '.join(sorted(set(category)))})"
    if recipe > 1:
        source += f"; recipe {recipe}"
    shapes = ShapeFolder(out, PrepareSettings(source, depth, visible=visible))
    with Progress(quiet=quiet) as progress, shapes.alone():
        outcome = shapes.run(
            jobs_of(pieces, recipe),
            workers=workers or cores(),
            progress=progress,
            overwrite=overwrite,
        )
        made = made_pieces(pieces, outcome)
        parts = parts_of(made, out, outcome)
        credits_ = attribution(libraries, [piece.item for piece in made])
        write_bytes(out / "ATTRIBUTION.md", credits_.encode())
        shapes.finish(outcome, parts, versions())
        report(shapes, outcome, parts, progress, json_output)
