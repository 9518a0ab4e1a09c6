"""From the options of ``ddimx sample`` to a resolved run, and what follows a finished one."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model

_WHOLE = ("steps", "nfe", "seed", "start_index", "count", "batch_size")
_NUMBERS = ("eta", "temperature", "guidance")
_FLAGS = ("invariant",)


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
    wrong = [key for key, value in before["asked"].items() if not _is_option(key, value)]
    if wrong:
        raise UsageError(f"--resume {resume}: its manifest is damaged (asked: {wrong[0][:80]})")
    return {**before["asked"], **plain}, folder


def _is_option(key: str, value: object) -> bool:
    """Return whether a remembered value is of its option's kind; most options are text."""
    from .sample import REMEMBERED

    if key not in REMEMBERED:  # then nothing takes it from there
        return True
    if isinstance(value, bool) or key in _FLAGS:
        return isinstance(value, bool) and key in _FLAGS
    if key in _WHOLE:
        return isinstance(value, int)
    return isinstance(value, int | float if key in _NUMBERS else str)


def request_of(
    asked: dict[str, Any],
    out: Path | None,
    overwrite: bool,
    device: str,
    offline: bool,
    progress: Progress,
    *,
    trust_code: bool,
    begun: bool,
) -> SampleRequest:
    """Load the model and resolve everything that is asked of it.

    What can be seen to be wrong without the model is refused before it is loaded. With ``begun``
    the model may be named by the manifest in ``out`` alone (``--resume``): then it is loaded only
    if it is the one that the run was begun with.
    """
    from dataclasses import fields

    from ..exporting.settings import named_formats
    from ..files import sha256_file
    from ..runs.sinks import FORMATS
    from ..sampling.manifest import dtype_for
    from ..sampling.run import SampleRequest, load_init_noise
    from ..sampling.settings import Asked, resolve
    from ..weights.locate.source import Source, tensors_file
    from ..weights.model import load_model
    from .parse import clip_value, one_of, times, weights_choice

    kind = one_of("format", asked["kind"], FORMATS) if "kind" in asked else None
    if "export" in asked:
        named_formats([asked["export"]])
    which = weights_choice(asked.get("weights"))
    if begun and out is not None and not overwrite:
        source = Source(asked.get("model", "emoji"), which, offline=offline)
        check_begun(asked, out, lambda: sha256_file(tensors_file(source, progress)))
    model = load_model(
        asked.get("model", "emoji"),
        device=device,
        dtype=dtype_for(asked.get("dtype"), None if overwrite else out, device),
        weights=which,
        config=asked.get("config"),
        offline=offline,
        trust_code=trust_code,
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


def check_begun(asked: dict[str, Any], folder: Path, sha256: Callable[[], str]) -> None:
    """Refuse another run's folder as far as that can be seen without loading the model.

    Args:
        sha256: returns the digest of the model's tensors; asked only where a run is there.

    Raises:
        UsageError: another model, or another value of an option that stands in a run's identity.
        DdimxError: a manifest that cannot be read.
    """
    from ..runs.record import check_same
    from ..sampling import manifest

    before = manifest.read(folder) if folder.is_dir() else None
    if before is None:
        return
    defaults = {"seed": 0, "start_index": 0}
    named = {"seed": "seed", "start_index": "start_index", "format": "kind", "prompt": "prompt"}
    named |= {"guidance": "guidance", "category": "category"}
    now = {key: asked.get(name, defaults.get(key)) for key, name in named.items()}
    given = {key: value for key, value in now.items() if value is not None}
    old = {key: value for key, value in before["identity"].items() if key in given}
    count = asked["count"] if "count" in asked else before["count"]
    check_same(folder, before["count"], old, given, count)
    known = {"model_sha256": before["identity"].get("model_sha256")}
    check_same(folder, before["count"], known, {"model_sha256": sha256()}, count)


def _checked_kind(kind: str | None, asked: dict[str, Any], model: Model) -> str:
    """Return the format to write; refuse what this kind of model does not have."""
    from ..models.octree.process import DiscreteProcess
    from ..runs.shape_sink import FORMAT, check_format

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
    from ..exporting.api import export
    from ..files import write_json
    from ..runs.record import NAME
    from ..runs.run import reporting

    with reporting(folder):
        files = export(folder, format=formats.split(","), overwrite=overwrite)
        progress.say(f"{folder}: {len(files)} files of splats ({formats})")
        known = record.get("exported", [])
        record["exported"] = [*known, *(p.name for p in files if p.name not in known)]
        write_json(folder / NAME, record)
