"""Reading meshes and point clouds: OBJ, PLY, STL, OFF, GLB through trimesh, and NumPy's files."""

from __future__ import annotations

import io
import logging
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError, UsageError
from ...octree.fit import MARGIN, mesh_tree, points_tree
from ...octree.tree import Octree
from ...untrusted.arrays import ArrayHeader, is_npy, npz_headers, read_npy, read_npz
from ...untrusted.foreign import FAULTS, reason
from .gltf import check_glb

MESHES = (".obj", ".ply", ".stl", ".off", ".glb")
POINTS = (".npz", ".npy")
EXTENSIONS = (*MESHES, *POINTS)

_COPIES = 8  # of points, float64 and on their way to cells
# Corners of one face. It is cut into triangles from its first corner, each of which may cross the
# whole shape; the largest faces that CAD programs write, circles, have a few hundred.
CORNERS = 4096
_OBJ_LINE = re.compile(rb"^([vf])[ \t]+([^\n]+)", re.MULTILINE)
_OBJ_OTHER = re.compile(rb"/[^ \t\n]*")


@dataclass(frozen=True, eq=False)
class Surface:
    """What a file holds: a mesh, or points where ``faces`` is None.

    Attributes:
        vertices: float64 [V, 3], in the file's units.
        faces: int64 [F, 3], indices of vertices.
    """

    vertices: npt.NDArray[np.float64]
    faces: npt.NDArray[np.int64] | None = None

    def tree(self, depth: int, margin: float = MARGIN) -> Octree:
        """Return its octree; raises OctreeError, as ``mesh_tree`` and ``points_tree`` say."""
        if self.faces is None:
            return points_tree(self.vertices, depth, margin)
        return mesh_tree(self.vertices, self.faces, depth, margin)


def read_surface(path: Path) -> Surface:
    """Read a mesh or a point cloud by the ending of its name; see ``EXTENSIONS``.

    Scenes are put together, each part where the scene has it. Materials and textures are not read,
    so that a missing one does no harm. Of a PLY without faces the points are taken.

    Raises:
        UsageError: trimesh is not installed.
        DdimxError: no such file, one that cannot be read, or one of an unknown kind.
    """
    kind = path.suffix.lower()
    if kind not in EXTENSIONS:
        raise DdimxError(f"{path}: '{kind}' is not among {' '.join(EXTENSIONS)}")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise DdimxError(f"{path}: not a plain file")
        if kind in POINTS:
            return Surface(_cloud(path))
        with path.open("rb") as stream:
            return read_mesh(stream, kind, str(path))
    except OSError as error:
        raise DdimxError(f"cannot read {path}: {error.strerror or error}") from None


def read_mesh(stream: IO[bytes], kind: str, name: str) -> Surface:
    """Read a mesh from an open file; ``name`` is for messages, the rest as :func:`read_surface`."""
    trimesh = require_trimesh()
    try:
        content = stream.read()
        if kind == ".obj":
            content = _bare_obj(content)
        elif kind == ".glb":
            check_glb(content)
        with _silence():
            options = {"skip_materials": True} if kind in (".obj", ".glb", ".ply") else {}
            if kind == ".obj":
                options["maintain_order"] = True
            # Bytes without a name, beside which nothing is looked for.
            scene = trimesh.load_scene(
                io.BytesIO(content),
                file_type=kind[1:],
                process=False,
                **options,
            )
            parts = list(_parts(scene, trimesh))
    except FAULTS as error:
        raise DdimxError(
            f"{name}: not a readable {kind[1:].upper()} file ({reason(error)})"
        ) from None
    surface = _whole(parts)
    if not len(surface.vertices):
        raise DdimxError(f"{name}: there is no mesh in it")
    if surface.faces is None and kind != ".ply":
        raise DdimxError(f"{name}: the mesh has no faces (of points alone make a .ply or .npz)")
    return surface


def _bare_obj(content: bytes) -> bytes:
    """Return an OBJ's vertices and faces without all else: textures, normals, groups, materials.

    None of it counts for the surface, and trimesh makes a mesh of its own for each group: of a
    million lines 'usemtl' or 'o' it takes half a minute.

    Raises:
        ValueError: a face of more than ``CORNERS`` corners.
    """
    lines = []
    for kind, rest in _OBJ_LINE.findall(content.replace(b"\r\n", b"\n").replace(b"\\\n", b"")):
        if kind == b"f":
            rest = _OBJ_OTHER.sub(b"", rest)
            if len(rest) > 2 * CORNERS and len(rest.split()) > CORNERS:
                raise ValueError(f"a face of {len(rest.split())} corners, {CORNERS} are read")
        lines.append(kind + b" " + rest)
    return b"\n".join(lines) + b"\n"


def warm_up() -> None:
    """Import what meshes are read with, for a process that is to read many."""
    with suppress(UsageError):  # points need no trimesh; a mesh will say it
        require_trimesh()


def require_trimesh() -> ModuleType:
    """Return trimesh, or raise a UsageError that says how to install it."""
    try:
        import trimesh
    except ImportError:
        raise UsageError(
            'meshes are read with trimesh, which is not installed: pip install "ddimx[3d]"'
        ) from None
    return trimesh


@contextmanager
def _silence() -> Iterator[None]:
    """Keep trimesh's remarks about textures off the screen."""
    logger = logging.getLogger("trimesh")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _parts(scene: Any, trimesh: ModuleType) -> Iterator[Surface]:
    """Yield a scene's meshes and points where they stand; trimesh reads some of it only now."""
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        part = scene.geometry[name]
        vertices = np.asarray(part.vertices, np.float64) @ transform[:3, :3].T + transform[:3, 3]
        if isinstance(part, trimesh.Trimesh) and len(part.faces):
            yield Surface(vertices, np.asarray(part.faces, np.int64))
        elif isinstance(part, trimesh.Trimesh | trimesh.PointCloud):
            yield Surface(vertices)


def _whole(parts: list[Surface]) -> Surface:
    """Put parts together: the meshes, or where there are none, the points."""
    meshes = [part for part in parts if part.faces is not None]
    if not any(len(part.vertices) for part in meshes):
        return Surface(np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)]))
    counts = np.cumsum([0, *(len(part.vertices) for part in meshes)])
    faces = [part.faces + n for part, n in zip(meshes, counts, strict=False)]
    return Surface(np.concatenate([part.vertices for part in meshes]), np.concatenate(faces))


def _cloud(path: Path) -> npt.NDArray[np.float64]:
    """Read points from ``.npy``, or from ``.npz``: 'points', or its only array [N, 3]."""
    try:
        array = read_npy(path, _COPIES) if is_npy(path) else None
        headers = (
            dict(npz_headers(path))
            if array is None
            else {"points": ArrayHeader(array.shape, array.dtype, fortran=False, length=0)}
        )
        if "tokens" in headers:
            raise DdimxError(f"{path}: this is an octree already, there is nothing to prepare")
        fitting = [k for k, about in headers.items() if about.shape[1:] == (3,)]
        name = "points" if "points" in headers else fitting[0] if len(fitting) == 1 else ""
        if name not in fitting or headers[name].dtype.kind not in "iuf":
            what = (
                ", ".join(f"{key} {a.dtype} {a.shape}" for key, a in headers.items()) or "nothing"
            )
            raise DdimxError(
                f"{path}: no points [N, 3] under the name 'points'; it holds {what[:500]}"
            )
        points = read_npz(path, [name], _COPIES)[name] if array is None else array
    except ValueError as error:
        raise DdimxError(f"{path}: not a readable .npz or .npy ({error})") from None
    return np.asarray(points, dtype=np.float64)
