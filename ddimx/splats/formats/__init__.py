"""File formats of splats: each module has ``encode(cloud, options) -> bytes``, pure and exact.

The same cloud gives the same bytes: no comments, no times. ``FORMATS`` says of each what its files
are called, which axis is up in them unless told otherwise, and what it can hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...errors import UsageError, unknown
from ..cloud import GaussianCloud
from . import antimatter, gltf, inria, niantic, plain_json, plain_ply
from .options import EncodeOptions

__all__ = ["FORMATS", "EncodeOptions", "Format", "format_named"]


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        suffix: of its files; "3dgs" is a PLY too, so its files are called ``.3dgs.ply``.
        up: the axis that points up unless the user says otherwise (:mod:`ddimx.splats.frames`).
        encode: makes the file's bytes.
        harmonics: whether there is room for spherical harmonics above degree 0.
        text: whether there is a text form.
        about: what it is for, in a few words.
    """

    suffix: str
    up: str
    encode: Callable[[GaussianCloud, EncodeOptions], bytes]
    harmonics: bool
    text: bool
    about: str

    def check(self, name: str, options: EncodeOptions) -> None:
        """Refuse what this format cannot hold.

        Raises:
            UsageError: harmonics or text where there is no room for them.
        """
        if options.sh_degree and not self.harmonics:
            raise UsageError(f"--sh-degree {options.sh_degree}: {name} has no room for harmonics")
        if options.text and not self.text:
            raise UsageError(f"--ascii: {name} has no text form that any viewer reads")


FORMATS = {
    "ply": Format(".ply", "y", plain_ply.encode, False, True, "point cloud with sizes"),
    "3dgs": Format(".3dgs.ply", "-y", inria.encode, True, False, "what every viewer opens"),
    "splat": Format(".splat", "-y", antimatter.encode, False, False, "32 bytes a splat"),
    "spz": Format(".spz", "y", niantic.encode, True, False, "compressed to about 9 bytes"),
    "glb": Format(".glb", "y", gltf.encode, True, False, "glTF, KHR_gaussian_splatting"),
    "json": Format(".json", "y", plain_json.encode, False, False, "for programs and eyes"),
}


def format_named(name: str) -> Format:
    """Return a format.

    Raises:
        UsageError: no format of that name.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]
