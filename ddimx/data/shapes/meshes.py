"""Reading meshes and point clouds: what a file is, and the surface that it holds."""

from __future__ import annotations

import gzip
import io
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt

from ...errors import DdimxError
from ...octree.fit import MARGIN, mesh_tree, points_tree
from ...octree.tree import Octree
from ...untrusted.archives import unzipped
from ...untrusted.foreign import FAULTS, reason
from ...untrusted.names import inside
from ...untrusted.text import read_bytes, shown
from .clouds import NoPointsError, read_numpy, read_pcd, read_text
from .gltf import Read, names_beside, read_gltf
from .obj import read_obj
from .off import read_off
from .ply import read_ply
from .polygons import Array, Index
from .stl import read_stl

_PACKED = (".obj.gz", ".ply.gz", ".stl.gz", ".off.gz", ".xyz.gz", ".pts.gz", ".pcd.gz")
MESHES = (".obj", ".ply", ".stl", ".off", ".glb", ".gltf", *_PACKED[:4])
POINTS = (".npz", ".npy", ".xyz", ".pts", ".txt", ".pcd", *_PACKED[4:])
EXTENSIONS = (*MESHES, *POINTS)

_COPIES = 16  # of a packed file's bytes while it is read: text, words, numbers, triangles
# How files begin that are something else than their names say.
_BEGINNINGS = {
    rb"ply[\r\n]": "a .ply",
    rb"glTF": "a .glb",
    rb"\s*(?:ST)?C?N?4?n?OFF\b": "an .off",
    rb"\x93NUMPY": "a .npy",
    rb"PK\x03\x04": "a zip file",
    rb"\x1f\x8b": "a file packed by gzip, whose name ends with .gz",
    rb"#[^\n]*\.PCD|VERSION [.\d]+\s+FIELDS": "a .pcd",
    rb"\s*solid\b[^\0]*?\bfacet\b": "an .stl",
    rb"\s*\{\s*\"": "a .gltf",
    rb"version https://git-lfs": "a pointer of Git LFS; 'git lfs pull' fetches the file itself",
    rb"Kaydara FBX Binary": "an FBX, which is not read; export it as a mesh",
    rb"BLENDER": "a Blender file, which is not read; export it as a mesh",
    rb"\s*(?i:<!DOCTYPE html|<html)": "a web page: the download went wrong",
    rb"\s*<\?xml": "XML, as .dae is, which is not read; convert it",
}


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


def ending(name: str) -> str:
    """Return by which of ``EXTENSIONS`` a file is read, "" if by none."""
    return max((each for each in EXTENSIONS if name.lower().endswith(each)), key=len, default="")


def read_surface(path: Path) -> Surface:
    """Read a mesh or a point cloud by the ending of its name; see ``EXTENSIONS``.

    Polygons are cut into triangles. Scenes are put together, each part where the scene has it. Of a
    PLY without faces the points are taken.

    Raises:
        DdimxError: no such file, one that cannot be read, or one of an unknown kind.
    """
    kind = ending(path.name)
    if not kind:
        raise DdimxError(f"{path}: '{path.suffix.lower()}' is not among {' '.join(EXTENSIONS)}")
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise DdimxError(f"{path}: not a plain file")
        if kind in (".npz", ".npy"):
            return read_points(path, str(path))
        with path.open("rb") as stream:
            return read_mesh(stream, kind, str(path), read=partial(_beside, path))
    except OSError as error:
        raise DdimxError(f"cannot read {path}: {error.strerror or error}") from None


def read_points(source: Path | bytes, name: str) -> Surface:
    """Read the points of a ``.npz`` or ``.npy``, a file or its bytes; ``name`` is for messages.

    Raises:
        OSError: it cannot be read.
        DdimxError: not such a file, or one that holds no points.
    """
    try:
        return Surface(read_numpy(source))
    except NoPointsError as error:
        raise DdimxError(f"{name}: {error}") from None
    except ValueError as error:
        raise DdimxError(f"{name}: not a readable .npz or .npy ({error})") from None


def read_mesh(
    stream: IO[bytes], kind: str, name: str, *, read: Read | None = None, fans: bool = False
) -> Surface:
    """Read a mesh, or points, from an open file; raises as :func:`read_surface`.

    Args:
        kind: one of ``EXTENSIONS``, but not one of NumPy's.
        name: for messages.
        read: reads the files beside a ``.gltf``.
        fans: as ``triangles_of`` has it, of an OBJ.
    """
    plain = kind.removesuffix(".gz")
    parts: list[tuple[Array, Index | None]]
    try:
        content = stream.read()
        if plain != kind:
            if not content.startswith(b"\x1f\x8b"):
                raise ValueError("it is not packed; its name should not end with .gz")
            packed = cast(IO[bytes], gzip.GzipFile(fileobj=io.BytesIO(content)))
            with unzipped(packed, len(content), _COPIES) as unpacked:
                content = unpacked.read()
        _check_beginning(content[:1024], plain)
        if plain == ".obj":
            parts = [read_obj(content, fans=fans)]
        elif plain in (".glb", ".gltf"):
            parts = read_gltf(content, read)
        elif plain in _TEXTS:
            parts = [(_TEXTS[plain](content), None)]
        else:
            parts = [_MESHES[plain](content)]
    except FAULTS as error:
        why = str(error) if type(error) is ValueError else reason(error)
        raise DdimxError(f"{name}: not a readable {plain[1:].upper()} file ({why})") from None
    surface = _whole([Surface(*part) for part in parts])
    if not len(surface.vertices):
        raise DdimxError(f"{name}: there is no mesh in it")
    has_faces = surface.faces is not None and len(surface.faces)
    if not has_faces and (surface.faces is not None or plain in (".glb", ".gltf")):
        raise DdimxError(f"{name}: the mesh has no faces (points alone: write .ply, .xyz or .npz)")
    return surface


def stamp_of(path: Path) -> tuple[str, int]:
    """Return what changes when a file does, and the bytes that are read.

    Of a ``.gltf`` the files that it names count too.
    """
    paths = [path]
    if path.suffix.lower() == ".gltf":
        with suppress(OSError, ValueError, DdimxError):
            uris = names_beside(read_bytes(path))
            paths += [inside(path.parent, _file_name(uri), path) for uri in uris]
    stamp, size = [], 0
    for each in paths:
        with suppress(OSError):  # a link to nowhere: reading it will say so
            status = each.stat()
            stamp.append(f"{status.st_size}-{status.st_mtime_ns}")
            size += status.st_size
    return " ".join(stamp), size


def warm_up() -> None:
    """Import what meshes are read with, for a process that is to read many."""
    import plyfile  # noqa: F401


_MESHES: dict[str, Callable[[bytes], tuple[Array, Index | None]]] = {
    ".ply": read_ply,
    ".stl": read_stl,
    ".off": read_off,
}
_TEXTS = {".xyz": read_text, ".pts": read_text, ".txt": read_text, ".pcd": read_pcd}


def _check_beginning(content: bytes, kind: str) -> None:
    """Raise ValueError for a file that is of another kind than its name says."""
    for pattern, what in _BEGINNINGS.items():
        if not what.endswith(f" {kind}") and re.match(pattern, content):
            raise ValueError(f"by its content it is {what}")


def _file_name(uri: str) -> str:
    """Return the name of a file beside a ``.gltf``, whose characters may be written as %20.

    Raises:
        ValueError: an address of another kind, or not UTF-8.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", uri):
        raise ValueError(f"its buffer {shown(uri)} is not a file beside it")
    return unquote_to_bytes(uri).decode()


def _beside(origin: Path, uri: str, length: int) -> bytes:
    """Read a file that a ``.gltf`` names, within its folder and nowhere else."""
    name = _file_name(uri)
    path = inside(origin.parent, name, origin)
    if not path.is_file():
        raise ValueError(f"its buffer {shown(name)} is not there")
    if path.stat().st_size < length:
        raise ValueError(f"its buffer {shown(name)} is shorter than the {length} bytes declared")
    with path.open("rb") as stream:
        return stream.read(length)


def _whole(parts: list[Surface]) -> Surface:
    """Put parts together: the meshes, or where there are none, the points."""
    meshes = [part for part in parts if part.faces is not None]
    if not any(len(part.vertices) for part in meshes):
        return Surface(np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)]))
    counts = np.cumsum([0, *(len(part.vertices) for part in meshes)])
    faces = [part.faces + n for part, n in zip(meshes, counts, strict=False)]
    return Surface(np.concatenate([part.vertices for part in meshes]), np.concatenate(faces))
