"""What a decoding of octrees gives."""

from __future__ import annotations

import warnings
from typing import NamedTuple

from torch import Tensor


class Decoded(NamedTuple):
    """The leaves of B trees, tree after tree, each tree's in ascending order of their keys.

    Attributes:
        keys: int64 [M], Morton keys of 3 depth bits.
        tree: int32 [M], to which tree each leaf belongs.
        centers: float32 [M, 3], in the units of the trees' cubes.
        half: float32 [B], half the edge of a tree's leaves.
        valid: bool [B]. If one is False, that stream is not an octree of this depth, and nothing
            here is to be used, for the others' leaves may stand at wrong places.
    """

    keys: Tensor
    tree: Tensor
    centers: Tensor
    half: Tensor
    valid: Tensor

    @property
    def centres(self) -> Tensor:
        """Return ``centers`` under its name of version 0.1."""
        warnings.warn("Decoded.centres is now Decoded.centers", DeprecationWarning, stacklevel=2)
        return self.centers
