"""Writing models: one file of ours to share, or the formats of diffusers and ermongroup/ddim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..config import Config
from ..config_file import dump_yaml, override
from ..device import DTYPES
from ..errors import DdimxError, UsageError
from ..files import OtherContents, sha256_files, sweep, write_bytes
from ..progress import Progress
from ..runs.lock import lock_file
from .formats.diffusers.folder import other_files, write_folder
from .formats.diffusers.scheduler import write_scheduler
from .formats.diffusers.settings import write_unet
from .formats.ermongroup import check_ddim
from .formats.native import Header, save
from .formats.pickled import write_list
from .locate.source import SUFFIX, Source, find_weights, read_source
from .weight_set import WeightSet

Form = Literal["native", "diffusers", "ddim"]
FORMS: tuple[Form, ...] = ("native", "diffusers", "ddim")
_SUFFIXES = {"native": SUFFIX, "ddim": ".pth"}


def publish(
    source: Source,
    target: Path,
    *,
    form: Form = "native",
    dtype: str = "fp32",
    notes: Sequence[str] = (),
    settings: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> WeightSet:
    """Write weights as a model of another form or precision and return what was read.

    ``native`` is one file with the configuration and the history (command, data, device, images
    seen, hours) in its header; ``diffusers`` a folder for ``DDIMPipeline.from_pretrained``;
    ``ddim`` a checkpoint list of ermongroup/ddim with its configuration beside it. A list has
    room for both sets of weights and gets both where the source has them and no wish was stated.
    ``notes`` are "key=text" pairs for the history, ``settings`` overrides of the configuration's
    sampling section, the defaults that the model brings along. A target that is there and is what
    would be written is left as it is.

    Raises:
        UsageError: the target exists with other contents or has another suffix, a malformed note,
            weights that do not fit into the dtype's range, or a model that the form cannot
            represent.
        DdimxError: a source that cannot be read, a target that cannot be written.
    """
    _check_target(target, form, overwrite)
    weights, config = read_source(source, progress)
    other = [item for item in settings if not item.startswith("sampling.")]
    if other:
        raise UsageError(f"--set {other[0]}: only sampling.* can change without training again")
    config = override(config, settings)
    _check_representable(form, config, str(source.name))
    stored = _cast(weights.tensors, dtype, source.name)
    info = {**_history(weights, config), **_parsed(notes), "dtype": dtype}
    try:
        with lock_file(target):
            sweep(target.parent, target.name, target.with_suffix(".yml").name)
            if form == "native":
                header = Header("model", config, {**info, "weights": weights.which})
                save(target, stored, header, replace=overwrite)
            elif form == "diffusers":
                write_folder(target, stored, config, info, weights.which, replace=overwrite)
                if config.model.classes:
                    weights = replace(weights, notes=(*weights.notes, _of_classes(config)))
            else:
                _write_ddim(target, stored, weights, source, config, dtype, overwrite)
    except OtherContents:
        raise _exists(target) from None
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DdimxError(f"cannot write {target}: {reason}") from None
    return weights


def size_of(target: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    files = [p for p in target.rglob("*") if p.is_file()] if target.is_dir() else [target]
    return sum(p.stat().st_size for p in files)


def _check_target(target: Path, form: Form, overwrite: bool) -> None:
    suffix = _SUFFIXES.get(form)
    if suffix is not None and target.suffix != suffix:
        raise UsageError(f"{target}: a model of form '{form}' ends in {suffix}")
    if form == "diffusers" and target.suffix in _SUFFIXES.values():
        raise UsageError(f"{target}: form 'diffusers' is a folder, not a file")
    companions = [target.with_suffix(".yml")] if form == "ddim" else []
    for path in (target, *companions):
        if path.exists() and path.is_dir() != (form == "diffusers"):
            if not overwrite:
                raise _exists(path)
            raise UsageError(f"{path} is a {'folder' if path.is_dir() else 'file'}; name another")
    if target.is_dir() and (others := other_files(target)):
        if not overwrite:
            raise _exists(target)
        raise UsageError(f"{target} holds other files too, {others[0]} for one; name another")


def _exists(path: Path) -> UsageError:
    return UsageError(f"{path} exists; --overwrite replaces it")


def _check_representable(form: Form, config: Config, label: str) -> None:
    if form != "native" and config.data.octrees:
        raise UsageError(f"{label}: form '{form}' holds image models, and this is one of octrees")
    if form == "diffusers":
        write_unet(config, label)
        write_scheduler(config, label)
    elif form == "ddim":
        check_ddim(config, label)


def _of_classes(config: Config) -> str:
    count = len(config.model.classes)
    none = f" and {count} for no class" if config.model.null_class else ""
    return (
        "diffusers' pipelines for such a network give it no class; call its unet yourself with "
        f"class_labels, 0 to {count - 1}{none}"
    )


def _cast(tensors: dict[str, Tensor], dtype: str, label: str) -> dict[str, Tensor]:
    stored = {name: value.to(DTYPES[dtype]) for name, value in tensors.items()}
    if not all(torch.isfinite(value).all() for value in stored.values()):
        raise UsageError(f"{label}: some weights exceed the range of {dtype}; use bf16 or fp32")
    return stored


def _write_ddim(
    target: Path,
    stored: dict[str, Tensor],
    weights: WeightSet,
    source: Source,
    config: Config,
    dtype: str,
    overwrite: bool,
) -> None:
    settings, text = target.with_suffix(".yml"), dump_yaml(config).encode()
    if settings.exists() and settings.read_bytes() != text and not overwrite:
        raise _exists(settings)
    raw = stored
    if source.which is None and weights.which == "ema" and "raw" in weights.sets:
        other = find_weights(Source(source.name, "raw", source.config, source.offline))
        raw = _cast(other.tensors, dtype, source.name)
    step = weights.info.get("step", 0)
    step = step if isinstance(step, int) else 0
    write_list(target, raw, stored, config, step, replace=overwrite)
    write_bytes(settings, text)


def _history(weights: WeightSet, config: Config) -> dict[str, Any]:
    # What only this file or a resumption needs.
    passing = ("weights", "losses", "grad_norm", "time_sums", "time_counts", "learning_rate")
    info = {key: value for key, value in weights.info.items() if key not in passing}
    if weights.form == "ddimx checkpoint":
        count_key = "shapes_seen" if config.data.octrees else "images_seen"
        info[count_key] = info["step"] * config.training.batch_size
        info["hours"] = round(info.get("seconds", 0.0) / 3600, 2)
    elif not weights.form.startswith("ddimx"):
        info.setdefault("converted_from", weights.form)
        info.setdefault("source_sha256", sha256_files(weights.files))
    return info


def _parsed(notes: Sequence[str]) -> dict[str, str]:
    pairs = [note.partition("=") for note in notes]
    bad = [key for key, sign, _ in pairs if not (key and sign)]
    if bad:
        raise UsageError(f"--note {bad[0]}: write KEY=TEXT")
    return {key: text for key, _, text in pairs}
