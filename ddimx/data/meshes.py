"""Reading meshes and point clouds: OBJ, PLY, STL, OFF, GLB through trimesh, and NumPy's files."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..errors import DdimxError, UsageError
from ..files import DAMAGED_NUMPY
from ..octree.fit import MARGIN, mesh_tree, points_tree
from ..octree.tree import Octree

MESHES = (".obj", ".ply", ".stl", ".off", ".glb")
POINTS = (".npz", ".npy")
EXTENSIONS = (*MESHES, *POINTS)

# What trimesh's parsers let through when a file is not what its name says.
_PARSER_FAULTS = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    OSError,
    EOFError,
    ImportError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


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
        with path.open("rb") as stream:
            if kind in POINTS:
                return Surface(_cloud(stream, str(path)))
            return read_mesh(stream, kind, str(path))
    except OSError as error:
        raise DdimxError(f"cannot read {path}: {error.strerror or error}") from None


def read_mesh(stream: IO[bytes], kind: str, name: str) -> Surface:
    """Read a mesh from an open file; ``name`` is for messages, the rest as :func:`read_surface`."""
    trimesh = require_trimesh()
    try:
        with _silence():
            # Bytes without a name, beside which nothing is looked for.
            content = io.BytesIO(stream.read())
            scene = trimesh.load_scene(content, file_type=kind[1:], process=False, **_options(kind))
            parts = list(_parts(scene, trimesh))
    except _PARSER_FAULTS as error:
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        raise DdimxError(f"{name}: not a readable {kind[1:].upper()} file ({reason})") from None
    surface = _whole(parts)
    if not len(surface.vertices):
        raise DdimxError(f"{name}: there is no mesh in it")
    if surface.faces is None and kind != ".ply":
        raise DdimxError(f"{name}: the mesh has no faces (of points alone make a .ply or .npz)")
    return surface


def require_trimesh() -> ModuleType:
    """Return trimesh, or raise a UsageError that says how to install it."""
    try:
        import trimesh
    except ImportError:
        raise UsageError(
            'meshes are read with trimesh, which is not installed: pip install "ddimx[3d]"'
        ) from None
    return trimesh


def _options(kind: str) -> dict[str, Any]:
    """Return how to read a file as its own numbers say, without what hangs on it."""
    return {"skip_materials": True, "maintain_order": True} if kind == ".obj" else {}


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
        placed = np.asarray(part.vertices, np.float64) @ transform[:3, :3].T + transform[:3, 3]
        if isinstance(part, trimesh.Trimesh) and len(part.faces):
            yield Surface(placed, np.asarray(part.faces, np.int64))
        elif isinstance(part, trimesh.Trimesh | trimesh.PointCloud):
            yield Surface(placed)


def _whole(parts: list[Surface]) -> Surface:
    """Put parts together: the meshes, or where there are none, the points."""
    meshes = [part for part in parts if part.faces is not None]
    if not any(len(part.vertices) for part in meshes):
        return Surface(np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)]))
    counts = np.cumsum([0, *(len(part.vertices) for part in meshes)])
    faces = [part.faces + n for part, n in zip(meshes, counts, strict=False)]
    return Surface(np.concatenate([part.vertices for part in meshes]), np.concatenate(faces))


def _cloud(stream: IO[bytes], name: str) -> npt.NDArray[np.float64]:
    """Read points from ``.npy``, or from ``.npz``: 'points', or its only array [N, 3]."""
    try:
        loaded = np.load(stream, allow_pickle=False)
        arrays = {"points": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except DAMAGED_NUMPY as error:
        raise DdimxError(f"{name}: not a readable .npz or .npy ({error})") from None
    if "tokens" in arrays:
        raise DdimxError(f"{name}: this is an octree already, there is nothing to prepare")
    fitting = [a for a in arrays.values() if a.ndim == 2 and a.shape[1] == 3]
    points = arrays.get("points", fitting[0] if len(fitting) == 1 else None)
    if points is None or points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "iuf":
        held = ", ".join(f"{key} {a.dtype} {a.shape}" for key, a in arrays.items()) or "nothing"
        raise DdimxError(f"{name}: no points [N, 3] under the name 'points'; it holds {held}")
    return np.asarray(points, dtype=np.float64)
