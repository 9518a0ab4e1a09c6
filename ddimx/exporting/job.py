"""One shape, from its token file to the files it becomes; also what other processes run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DdimxError, UsageError
from ..files import write_bytes
from ..octree.errors import OctreeError
from ..octree.file import Shape, read_shape
from ..octree.tree import Octree
from ..splats.cloud import GaussianCloud, merge
from ..splats.formats import FORMATS
from ..splats.frames import rotation_to
from ..splats.from_octree import from_octree
from ..splats.neighbors import neighborhood
from ..timing import Clock
from .pictures import Scene, preview_png, turntable_webp
from .settings import ExportSettings
from .sources import ExportItem

GAP = 1.15  # between the middles of shapes side by side, in widths of the largest
# From the file to its checked masks; from these to the leaves' keys; from the leaves to Gaussians;
# from these to the bytes of files, pictures among them; and those to the disk.
PARTS = ("read", "decode", "splats", "encode", "draw", "write")
PICTURES = {"preview": preview_png, "turntable": turntable_webp}


@dataclass(frozen=True)
class ExportResult:
    """What became of one item: its files, or the reason for which there are none.

    ``seconds`` is what each of :data:`PARTS` took, by a :class:`~ddimx.timing.Clock`.
    """

    label: str
    splats: int = 0
    files: tuple[dict[str, Any], ...] = ()
    error: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)


def export_item(item: ExportItem, settings: ExportSettings) -> ExportResult:
    """Export one shape; what is wrong with it is returned, so that others can go on."""
    clock = Clock()
    try:
        scene = scene_of(item, settings, clock)
        files = write_scene(scene, item.base, settings, clock, item.exact)
    except DdimxError as error:
        return ExportResult(item.label, error=str(error), seconds=clock.seconds)
    return ExportResult(item.label, len(scene.cloud), tuple(files), seconds=clock.seconds)


def scene_of(item: ExportItem, settings: ExportSettings, clock: Clock) -> Scene:
    """Read a shape and make its Gaussians; what that takes is added to ``clock``.

    Raises:
        DdimxError: no octree, another depth than was said, no category to color it by, or
            coordinates that float32 cannot hold.
    """
    with clock.part("read"):
        shape = _shape(item, settings.max_depth)
    tree = shape.tree
    if settings.depth is not None:
        if settings.depth > tree.depth:
            raise DdimxError(
                f"{item.label}: an octree of depth {tree.depth} cannot be cut at --depth "
                f"{settings.depth}"
            )
        tree = tree.coarser(settings.depth)
    # In float64, as the cube is; only what stands in a file is rounded.
    unit = tree.edge if settings.unit == "cube" else settings.unit
    lower, edge = [low / unit for low in tree.lower], tree.edge / unit
    if settings.center or not settings.formats:  # a picture has no place
        lower = [-edge / 2] * 3
    tree = Octree(tree.masks, (lower[0], lower[1], lower[2]), edge)
    with clock.part("decode"):
        _ = tree.leaves  # which the tree keeps
    look, drawn = settings.look, settings.preview or settings.turntable
    with clock.part("splats"):
        around = neighborhood(tree) if drawn or look.lit or look.needs_normals else None
        try:
            cloud = from_octree(tree, look, category=shape.category, around=around)
        except (UsageError, OctreeError) as error:
            raise DdimxError(f"{item.label}: {error}") from None
    return Scene(cloud, None if around is None else around.spreads, look.lit)


def _shape(item: ExportItem, max_depth: int | None) -> Shape:
    if isinstance(item.source, Path):
        return read_shape(item.source, depth=max_depth)
    depth = item.source.tree.depth
    if max_depth is not None and depth != max_depth:
        raise DdimxError(f"{item.label}: the octree is of depth {depth}, not {max_depth}")
    return item.source


def side_by_side(scenes: Sequence[Scene]) -> Scene:
    """Return one scene of all shapes in a square grid on the ground, the first at the back left.

    They keep their sizes: shapes of which some are in meters and some in inches look it.

    Raises:
        DdimxError: the sizes differ so much that float32 cannot tell the cells of the small apart.
    """
    columns = int(np.ceil(np.sqrt(len(scenes))))
    widths = [np.ptp(scene.cloud.positions[:, [0, 2]], axis=0).max() for scene in scenes]
    step = GAP * float(max(widths)) or 1.0
    clouds = []
    for i, scene in enumerate(scenes):
        row, column = divmod(i, columns)
        low, high = scene.cloud.positions.min(axis=0), scene.cloud.positions.max(axis=0)
        middle = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        positions = scene.cloud.positions - middle + [column * step, 0, row * step]
        positions = positions.astype(np.float32)
        if len(np.unique(positions, axis=0)) < len(positions):
            raise DdimxError(
                f"the largest of these shapes is {max(widths):.3g} wide; beside it float32, which "
                f"all formats hold, cannot tell the cells of one that is {widths[i]:.3g} wide "
                "apart: --unit cube makes them alike in size"
            )
        clouds.append(replace(scene.cloud, positions=positions))
    spreads = [scene.spreads for scene in scenes if scene.spreads is not None]
    together = np.concatenate(spreads) if len(spreads) == len(scenes) else None
    return Scene(merge(clouds), together, scenes[0].baked)


def write_scene(
    scene: Scene, base: Path, settings: ExportSettings, clock: Clock, exact: Path | None = None
) -> list[dict[str, Any]]:
    """Make all files of a scene, then write those that are not there already.

    Args:
        base, exact: where to, as in :meth:`ExportSettings.targets`.
        clock: counts what it takes.

    Raises:
        DdimxError: a format cannot hold it, a file is there with other contents (then none is
            written), or one cannot be written.
    """
    targets = settings.targets(base, exact)
    contents = {}
    for what in targets:
        with clock.part("draw" if what in PICTURES else "encode"):
            contents[what] = (
                PICTURES[what](scene) if what in PICTURES else encoded(scene.cloud, what, settings)
            )
    with clock.part("write"):
        states = {
            what: _state(path, contents[what], overwrite=settings.overwrite)
            for what, path in targets.items()
        }
        for what, path in targets.items():
            if states[what] == "written":
                try:
                    write_bytes(path, contents[what])
                except OSError as error:
                    raise DdimxError(f"cannot write {path}: {error.strerror or error}") from None
    return [
        {"path": str(path), "format": what, "bytes": len(contents[what]), "state": states[what]}
        for what, path in targets.items()
    ]


def encoded(cloud: GaussianCloud, name: str, settings: ExportSettings) -> bytes:
    """Return a cloud that is y up as the bytes of a file of one format."""
    format_ = FORMATS[name]
    up = settings.up_of(format_)
    turned = cloud if up == "y" else cloud.rotated(rotation_to(up))
    return format_.encode(turned, replace(settings.options, up=up))


def _state(path: Path, content: bytes, *, overwrite: bool) -> str:
    """Return "unchanged" or "written"; a file with other contents is not replaced unasked."""
    try:
        old_content = path.read_bytes() if path.stat().st_size == len(content) else b""
    except (FileNotFoundError, NotADirectoryError):
        return "written"
    except OSError as error:
        raise DdimxError(f"cannot read {path}: {error.strerror or error}") from None
    if old_content == content:
        return "unchanged"
    if not overwrite:
        raise DdimxError(f"{path} is there with other contents; give --overwrite, or another --out")
    return "written"
