"""What a writer may be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError


@dataclass(frozen=True)
class EncodeOptions:
    """How to write a cloud.

    Attributes:
        sh_degree: up to which degree there are spherical harmonics, 0 to 3; those above degree 0
            are zero. None: what most readers of the format need.
        text: the text form, where there is one.
        up: the axis that is up in the cloud as it is given to the writer, for formats that say so.
        spz_version: of Niantic's format, 2 to 4; None: 3.

    Raises:
        UsageError: another degree or version.
    """

    sh_degree: int | None = None
    text: bool = False
    up: str = "y"
    spz_version: int | None = None

    def __post_init__(self) -> None:
        if self.sh_degree not in (None, 0, 1, 2, 3):
            raise UsageError(f"--sh-degree {self.sh_degree}: give 0, 1, 2 or 3")
        if self.spz_version not in (None, 2, 3, 4):
            raise UsageError(f"--spz-version {self.spz_version}: give 2, 3 or 4")


def rest_count(sh_degree: int) -> int:
    """Return how many coefficients stand above degree 0, of three channels: 0, 9, 24 or 45."""
    return 3 * ((sh_degree + 1) ** 2 - 1)
