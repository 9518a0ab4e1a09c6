"""One shape from the model that ships with the package, for those who have none yet."""

from __future__ import annotations

from pathlib import Path

from ..errors import DdimxError
from ..progress import Progress


def sample_one(progress: Progress) -> Path:
    """Sample one shape into a fresh run folder and return the folder.

    Raises:
        DdimxError: no model of shapes ships with this version.
    """
    raise DdimxError(
        "no shapes to export here: no run in ./runs holds token files, and this version ships no "
        "model of shapes; give a token file (.npz, .npy) or a folder of them"
    )
