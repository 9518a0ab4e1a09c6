"""From the options of ``ddimx sample`` to a resolved run, and what follows a finished one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model


def asked_for(
    given: dict[str, Any], resume: str | None, out: Path | None
) -> tuple[dict[str, Any], Path | None]:
    """Return the options and the folder; --resume fills in what the interrupted run was given."""
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if v is not None}
    if resume is None:
        return plain, out
    if out is not None:
        raise UsageError("--resume names the folder already; leave --out away")
    from ..runs import last_run
    from ..sampling import manifest

    folder = last_run("sample") if resume == "last" else Path(resume)
    before = manifest.read(folder)
    if before is None or "verb" in before["identity"]:  # other verbs name themselves there
        raise UsageError(f"--resume {resume}: no sampling run in {folder}")
    return {**before["asked"], **plain}, folder


def request_of(
    asked: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    device: str,
    offline: bool,
    progress: Progress,
) -> SampleRequest:
    """Load the model and resolve everything that is asked of it.

    What can be seen to be wrong without the model is refused before it is loaded.
    """
    from dataclasses import fields

    from ..exporting.settings import named_formats
    from ..sampling.manifest import dtype_for
    from ..sampling.run import SampleRequest, load_init_noise
    from ..sampling.settings import Asked, resolve
    from ..sampling.sinks import FORMATS
    from ..weights.model import load_model
    from .parse import clip_value, one_of, times, weights_choice

    kind = one_of("format", asked["kind"], FORMATS) if "kind" in asked else None
    if "export" in asked:
        named_formats([asked["export"]])
    model = load_model(
        asked.get("model", "emoji"),
        device=device,
        dtype=dtype_for(asked.get("dtype"), None if overwrite else out, device),
        weights=weights_choice(asked.get("weights")),
        config=asked.get("config"),
        offline=offline,
        progress=progress,
    )
    kind = _checked_kind(kind, asked, model)
    path = Path(asked["init_noise"]) if "init_noise" in asked else None
    states = None if path is None else load_init_noise(path, model.process.shape)
    values = {f.name: asked[f.name] for f in fields(Asked) if f.name in asked}
    parsed = {"timesteps": times(asked.get("timesteps")), "clip": clip_value(asked.get("clip"))}
    settings = resolve(
        Asked(**{**values, **parsed}), model, available=None if states is None else len(states)
    )
    return SampleRequest(
        model=model,
        settings=settings,
        kind=kind,
        out=out,
        overwrite=overwrite,
        init_noise=path,
        command=shlex.join(["ddimx", *sys.argv[1:]]),
        asked=asked,
    )


def _checked_kind(kind: str | None, asked: dict[str, Any], model: Model) -> str:
    """Return the format to write; refuse what this kind of model does not have."""
    from ..models.octree.process import DiscreteProcess
    from ..sampling.shape_sink import FORMAT, check_format

    if isinstance(model.process, DiscreteProcess):
        if "init_noise" in asked:
            raise UsageError(f"--init-noise is for images, and '{model.name}' draws octrees")
        check_format(kind or FORMAT, model.name)
        return FORMAT
    if "export" in asked:
        raise UsageError(f"--export writes octrees as splats, and '{model.name}' draws images")
    return kind or "png"


def export_finished(
    formats: str, record: dict[str, Any], folder: Path, progress: Progress, *, overwrite: bool
) -> None:
    """Write a finished run's shapes as splats too; its manifest names them from then on."""
    from ..exporting.python import export
    from ..files import write_json
    from ..runs.record import NAME
    from ..runs.run import reporting

    with reporting(folder):
        files = export(folder, format=formats.split(","), overwrite=overwrite)
        progress.say(f"{folder}: {len(files)} files of splats ({formats})")
        known = record.get("exported", [])
        record["exported"] = [*known, *(p.name for p in files if p.name not in known)]
        write_json(folder / NAME, record)
