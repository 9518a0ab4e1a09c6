"""Reading a shape's file, in a folder or a zip file, as what an octree is made of."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...errors import DdimxError
from ...octree.errors import OctreeError
from ...octree.file import SUFFIXES, holds_tokens, read_shape
from ...octree.fit import MARGIN
from ...octree.tree import Octree
from ...untrusted.archives import Member, read_member
from .jobs import Job
from .meshes import Surface, ending, read_mesh, read_points, read_surface, stamp_of
from .scan import ShapeFile

COPIES = 8  # of a zip's member while it becomes a shape


@dataclass(frozen=True, eq=False)
class Cells:
    """An octree as a source of octrees: where it is deeper than what is wanted, it is cut."""

    octree: Octree

    def tree(self, depth: int, margin: float = MARGIN) -> Octree:
        """Return the octree at ``depth``, in its own cube whatever the margin.

        Raises:
            OctreeError: it is less deep.
        """
        own = self.octree.depth
        if own < depth:
            raise OctreeError(f"an octree of depth {own}, not {depth}; give --depth {own}")
        return self.octree.coarser(depth)


def job_of(shape: ShapeFile) -> Job:
    """Return what makes a shape."""
    stamp, size = stamp_of(shape.path)
    read: Callable[[], Surface | Cells] = partial(read_file, shape.path)
    if shape.member is not None:
        member = shape.member
        stamp, size = f"{member.checksum:08x}-{member.size}", member.size
        read = partial(read_zipped, shape.path, member)
    return Job(
        category=shape.category,
        shape_id=shape.shape_id,
        origin=shape.origin,
        stamp=stamp,
        read=read,
        size=size,
    )


def read_file(path: Path) -> Surface | Cells:
    """Read a mesh, a point cloud, or an octree that was made already.

    Raises:
        UsageError: a library is not installed.
        DdimxError: no such file, one that cannot be read, or one of an unknown kind.
    """
    if path.suffix.lower() in SUFFIXES and path.is_file() and holds_tokens(path):
        return Cells(read_shape(path).tree)
    return read_surface(path)


def read_zipped(path: Path, member: Member) -> Surface | Cells:
    """Read what is a member of a zip file, as :func:`read_file`."""
    name, content = f"{path}:{member.name}", content_of(path, member)
    if ending(member.name) not in SUFFIXES:
        return read_mesh(io.BytesIO(content), ending(member.name), name)
    if holds_tokens(content):
        return Cells(read_shape(Path(name), content=content).tree)
    return read_points(content, name)


def content_of(path: Path, member: Member) -> bytes:
    """Return the bytes of a zip file's member that becomes a shape.

    Raises:
        DdimxError: it cannot be read, or is too large for what is made of it.
    """
    try:
        return read_member(path, member, COPIES)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: cannot read {member.name} ({error})") from None
