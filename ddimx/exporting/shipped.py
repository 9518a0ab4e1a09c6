"""One shape from the model that ships with the package, for those who have none yet."""

from __future__ import annotations

from pathlib import Path

from ..errors import DdimxError
from ..options import Options
from ..progress import Progress
from ..sampling.run import SampleRequest, run
from ..sampling.settings import resolve
from ..signals import polite_stop
from ..weights.locate.source import shipped_models
from ..weights.model import load_model

MODEL, CATEGORY = "furniture", "chair"


def sample_one(progress: Progress) -> Path:
    """Sample one shape into a fresh run folder and return the folder.

    Raises:
        DdimxError: no model of shapes ships with this version.
    """
    if MODEL not in shipped_models():
        raise DdimxError(
            "no shapes to export here: no run in ./runs holds token files, and this installation "
            f"has no model '{MODEL}'; give a token file (.npz, .npy) or a folder of them"
        )
    model = load_model(MODEL, progress=progress)
    settings = resolve(Options(count=1, category=CATEGORY), model)
    options = {"model": MODEL, "category": CATEGORY, "count": 1}
    command = f"ddimx sample --model {MODEL} --category {CATEGORY} -n 1"
    request = SampleRequest(model, settings, kind="npz", command=command, asked=options)
    with polite_stop() as stop:
        record, folder = run(request, stop, progress)
    if record["status"] != "complete":
        raise DdimxError(f"interrupted while sampling a shape into {folder}")
    return folder
