"""``ddimx prepare furniture``: octrees from Sweet Home 3D's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError, optional_module
from .. import options
from .shapes import Depth, Replace, Visible, Workers, check_visible, cores, report, versions

FORMS = 24  # of each piece, with the piece itself
CRUMBS = 0.03  # of a shape's cells: what pieces apart from the largest may hold to be left out


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
            max=3,
            help="3 takes what can be recognized, with variants; 2 goes by names, without "
            "variants; 1 also fills the notches of some polygons.",
        ),
    ] = 3,
    variants: Annotated[
        int | None,
        typer.Option(
            "--variants",
            metavar="N",
            min=1,
            max=1000,
            help="Forms of each piece to train on, itself among them: mirrored, stretched, "
            "tapered, leaned (default: 24; the recipes 1 and 2 have one).",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Another seed makes other variants.")
    ] = 0,
    workers: Workers = None,
    overwrite: Replace = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Make octrees of Sweet Home 3D's furniture.

    Some 430 pieces in 13 categories: chair, table, sofa, bed, bench, cabinet, lamp, bath,
    appliance, plant, vessel, vehicle, person. Upright along +y, facing +z, in centimetres. In each
    category 7.5 percent are held out for validation and as many for tests, pieces that are alike
    together and without variants. ATTRIBUTION.md names the creators and licences (CC0 and CC BY
    3.0); whoever passes on the set, or weights trained on it, passes that on too. Needs the Debian
    package sweethome3d-furniture, or libraries given here.

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
    count, crumbs, way = 1, 0.0, f"; recipe {recipe}" if recipe > 1 else ""
    if recipe > 2:
        optional_module("scipy.sparse.csgraph", "octrees without crumbs", "3d")
        count, crumbs = variants or FORMS, CRUMBS
        way += f"; {count} variants, seed {seed}"
    elif (variants or 1) > 1:
        raise UsageError("--variants needs --recipe 3")
    libraries = [read_library(path) for path in find_libraries(library or [])]
    pieces = choose(libraries, category or [], recipe)
    source = ", ".join(part.path.name for part in libraries)
    if category:
        source += f" ({', '.join(sorted(set(category)))})"
    settings = PrepareSettings(source + way, depth, visible=visible, crumbs=crumbs)
    shapes = ShapeFolder(out, settings)
    with Progress(quiet=quiet) as progress, shapes.alone():
        outcome = shapes.run(
            jobs_of(pieces, recipe, count, seed),
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
