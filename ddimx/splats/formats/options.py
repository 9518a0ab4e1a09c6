"""What a writer may be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UsageError


@dataclass(frozen=True)
class EncodeOptions:
    """How to write a cloud.

    Attributes:
        sh_degree: 0, or 3 for viewers that want all coefficients; those above degree 0 are zero.
        text: the text form, where there is one.
        up: the axis that is up in the cloud as it is given to the writer, for formats that say so.

    Raises:
        UsageError: another degree.
    """

    sh_degree: int = 0
    text: bool = False
    up: str = "y"

    def __post_init__(self) -> None:
        if self.sh_degree not in (0, 3):
            raise UsageError(f"--sh-degree {self.sh_degree}: give 0 or 3")
