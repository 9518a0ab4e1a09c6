"""diffusers' model folders: a UNet2DModel with its scheduler, as a pipeline saves them.

Neither reading nor writing needs diffusers itself. What its files cannot hold (data, training,
history, whether the weights are averaged) is written beside them into ``ddimx.json``, which
diffusers ignores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .... import __version__
from ....config import Config
from ....config_file import validate
from ....device import without_memory
from ....errors import DdimxError, UsageError
from ....files import whole_folder, write_json
from ....models.unet import UNet
from ....untrusted.text import read_object, shown
from ...architecture import Architecture, check_counts
from ...weight_set import SetName, WeightSet, Which, choose
from ..native import write_safetensors
from .decoder import decoder_files, decoder_of
from .names import to_ours, to_theirs
from .pipeline_code import EMA, INDEX, refuse_code
from .scheduler import read_scheduler, write_scheduler
from .settings import read_unet, write_unet
from .weight_files import PLAIN, WeightFiles, preferred, weight_files

FORM = "diffusers folder"
OURS = "ddimx.json"
SCHEMA = 1
# Settings that tell an average: of those that diffusers' EMAModel adds, what every version has.
_AVERAGE = {"decay", "optimization_step"}
_MADE_WITH = "0.42.1"  # whose settings these are; diffusers warns where it is older than that


def draws_from_text(path: Path) -> bool:
    """Return whether a pipeline's folder has a text encoder.

    Raises:
        UsageError: the pipeline brings code of its own.
        DdimxError: a damaged ``model_index.json``.
    """
    if not (path / INDEX).is_file():
        return False
    index = read_index(path)
    encoders = [value for name, value in index.items() if name.startswith("text_encoder")]
    return any(isinstance(value, list) and value and value[0] for value in encoders)


def read_index(path: Path) -> dict[str, Any]:
    """Return a pipeline's ``model_index.json``.

    Raises:
        UsageError: the pipeline brings code of its own.
        DdimxError: a damaged file.
    """
    index = _json(path / INDEX)
    refuse_code(path, index)
    return index


def read_folder(path: Path, which: Which | None = None) -> WeightSet:
    """Read a folder with ``unet/`` and ``scheduler/``, or with their files in it directly.

    Raises:
        DdimxError: a file that is missing or damaged, or settings that cannot be represented.
        UsageError: a wish for one set of weights where the folder does not say which it holds, or
            a pipeline that draws from a text or brings code of its own.
    """
    refuse_text(path)
    config, info, _ = _read_ours(path)
    sets = _sets(path)
    which_set = choose(path, tuple(sets), which)
    folder, files = sets[which_set]
    architecture, other = _unet_settings(folder)
    file, theirs = files.main, files.read()
    check_counts(architecture, theirs, str(file), time_dim=other["time_dim"])
    rows, rows_there = architecture.class_rows, len(theirs.get("class_embedding.weight", ()))
    if rows != rows_there:
        raise DdimxError(
            f"{file}: {rows_there} rows of classes, but num_class_embeds in config.json is {rows}"
        )
    names = _parameter_names(architecture, other)
    tensors = to_ours(theirs, names, len(architecture.ch_mult), str(file))
    statements, defaults, notes = _read_schedule(path)
    if other["predicts_variance"]:
        notes += (
            "the network predicts a variance too, the second half of its output, which is not "
            "used: --solver ddpm takes a fixed one",
        )
    if files.variant not in ("", "ema", "non_ema"):
        notes += (f"the weights are those of the variant {files.variant}, as there are no others",)
    if len(sets) > 1:
        kind, other_kind = ("averaged", "raw") if which_set == "ema" else ("raw", "ema")
        notes += (
            f"the {kind} weights are taken, {files.main.relative_to(path).as_posix()}; "
            f"--weights {other_kind} takes the others",
        )
    data = {"image_size": other.pop("image_size")}
    model = {**statements.get("model", {}), **other}
    decoder = _decoder(path)
    return WeightSet(
        form=FORM,
        decoder=decoder,
        decoder_files=() if decoder is None else decoder_files(decoder),
        file=file,
        tensors=tensors,
        which=which_set,
        sets=tuple(sets),
        shards=files.shards,
        config=config,
        config_file=None if config is None else path / OURS,
        architecture=architecture,
        stated={**statements, "model": model, "data": data},
        defaults={} if config is not None else defaults,
        info=info,
        notes=() if config is not None else notes,
        which_is_noted=len(sets) > 1 and config is None,
    )


def check_settings(path: Path) -> None:
    """Raise what :func:`read_folder` would, as far as the settings alone tell."""
    refuse_text(path)
    _unet_settings(_unet_folder(path))
    _read_schedule(path)
    _decoder(path)


def refuse_text(path: Path) -> None:
    """Raise UsageError if a pipeline draws from a text, which needs ``--prompt``."""
    if draws_from_text(path):
        raise UsageError(
            f"{path}: this is a text-to-image pipeline; it draws from a text only: "
            'ddimx sample --model ... --prompt "..."'
        )


def weights_of(path: Path, which: Which | None = None) -> tuple[Path, ...]:
    """Return the files that hold the UNet's tensors, and those of a decoder of its latents.

    Raises:
        UsageError: a pipeline that brings code of its own.
        DdimxError: a folder without such files, or without those that are wanted.
    """
    sets = _sets(path)
    decoder = _decoder(path)
    own = sets[choose(path, tuple(sets), which)][1].all
    return own if decoder is None else (*own, *decoder_files(decoder))


def decoder_part(path: Path) -> str | None:
    """Return the name of the part that turns a pipeline's latents into pictures, if any.

    Raises:
        UsageError: a pipeline that brings code of its own.
        DdimxError: a decoder that is not known.
    """
    decoder = _decoder(path)
    return None if decoder is None else decoder.name


def _decoder(path: Path) -> Path | None:
    return decoder_of(path, read_index(path)) if (path / INDEX).is_file() else None


def has_weights(path: Path) -> bool:
    """Return whether a folder has any file of the UNet's tensors."""
    return preferred(weight_files(_unet_folder(path))) is not None


def _sets(path: Path) -> dict[SetName, tuple[Path, WeightFiles]]:
    """Return the sets of weights in a folder: the UNet's own folder and the files, of each.

    Raises:
        DdimxError: none, or several variants of which none is usual.
    """
    unet = _unet_folder(path)
    if (path / EMA / "config.json").is_file():
        raw = preferred(weight_files(unet)) if unet != path else None
        own: dict[SetName, tuple[Path, WeightFiles]] = {"ema": (path / EMA, _files(path / EMA))}
        return own if raw is None else {**own, "raw": (unet, raw)}
    sets, files = weight_files(unet), _files(unet)
    if files.variant in ("", "ema") and "non_ema" in sets:
        return {"ema": (unet, files), "raw": (unet, sets["non_ema"])}
    by_name: dict[str, SetName] = {"ema": "ema", "non_ema": "raw"}
    name = by_name.get(files.variant) or _read_ours(path)[2]
    if name == "unstated" and _json(unet / "config.json").keys() >= _AVERAGE:
        name = "ema"
    return {name: (unet, files)}


def _files(folder: Path) -> WeightFiles:
    sets = weight_files(folder)
    files = preferred(sets)
    if files is not None:
        return files
    if sets:
        variants = ", ".join(sorted(sets))
        raise DdimxError(
            f"{folder}: the variants {variants}, of which none is usual; keep one of them in a copy"
        )
    others = sorted(p.name for p in folder.glob("*") if p.suffix in {".safetensors", ".bin"})
    remark = f", only {', '.join(others)}" if others else ""
    raise DdimxError(f"{folder}: neither {' nor '.join(PLAIN)}{remark}")


def write_folder(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Config,
    info: dict[str, Any],
    which_set: SetName,
    *,
    replace: bool = True,
) -> None:
    """Write a folder that ``DDIMPipeline.from_pretrained`` loads, whole or not at all.

    ``replace`` is as in :func:`ddimx.files.whole_folder`.

    Raises:
        UsageError: a configuration that diffusers cannot represent.
    """
    unet, scheduler = write_unet(config, str(path)), write_scheduler(config, str(path))
    version = {"_diffusers_version": _MADE_WITH}
    index = {
        "_class_name": "DDIMPipeline",
        **version,
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", unet["_class_name"]],
    }
    ours = {
        "schema": SCHEMA,
        "ddimx": __version__,
        "weights": which_set,
        "config": json.loads(config.model_dump_json(exclude_unset=True)),
        "info": info,
    }
    theirs = to_theirs(tensors, len(config.model.ch_mult))
    with whole_folder(path, replace=replace) as part:
        write_json(part / INDEX, index)
        write_json(part / OURS, ours)
        write_json(part / "unet" / "config.json", {**unet, **version})
        write_json(part / "scheduler" / "scheduler_config.json", {**scheduler, **version})
        write_safetensors(part / "unet" / PLAIN[0], theirs, {"format": "pt"})


def other_files(path: Path) -> list[str]:
    """Return what lies in a folder besides the files of such a model."""
    own = {INDEX, OURS, "unet/config.json", "scheduler/scheduler_config.json"}
    own |= {f"unet/{name}" for name in PLAIN}
    files = {str(p.relative_to(path).as_posix()) for p in path.rglob("*") if not p.is_dir()}
    return sorted(files - own)


def _read_schedule(path: Path) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """Return facts, sampling defaults and notes of the folder's scheduler, none without one."""
    places = [path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json"]
    # A training script's checkpoint has none; its pipeline, written at the end, lies around it.
    around = next((p for p in (path, path.parent) if p.name.startswith("checkpoint-")), None)
    if around is not None and (around.parent / INDEX).is_file():
        places.append(around.parent / "scheduler" / "scheduler_config.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return {}, {}, ()
    scheduler = read_scheduler(_json(file), str(file))
    statements = {"diffusion": scheduler.diffusion, "model": scheduler.model}
    notes = scheduler.notes
    if file == places[-1] and len(places) > 2:
        notes += (f"the noise schedule is that of {file}",)
    return statements, scheduler.sampling, notes


def _read_ours(path: Path) -> tuple[Config | None, dict[str, Any], SetName]:
    """Return what ``ddimx.json`` says; without it one set of weights that nothing is known of."""
    file = path / OURS
    if not file.is_file():
        return None, {}, "unstated"
    values = _json(file)
    parts = (values.get("config"), values.get("info", {}))
    if values.get("schema") != SCHEMA or not all(isinstance(part, dict) for part in parts):
        raise DdimxError(f"{file}: not of schema {SCHEMA}, which this version reads; update ddimx")
    which_set: SetName = (
        values["weights"] if values.get("weights") in ("ema", "ema2", "raw") else "unstated"
    )
    return validate(values["config"], str(file)), dict(values.get("info", {})), which_set


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, finite=False)  # -Infinity is a default of DPMSolver's
    except (OSError, ValueError) as error:
        raise DdimxError(f"cannot read {path}: {error}") from None


def _unet_folder(path: Path) -> Path:
    return path / "unet" if (path / "unet").is_dir() else path


def _unet_settings(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    file = folder / "config.json"
    settings = _json(file)
    kind = settings.get("_class_name")
    if kind != "UNet2DModel":
        raise DdimxError(f"{file}: _class_name is {shown(kind)}, not UNet2DModel")
    return read_unet(settings, str(file))


def _parameter_names(architecture: Architecture, other: Mapping[str, Any]) -> list[str]:
    with without_memory():
        network = UNet(
            num_classes=architecture.class_rows,
            null_class=False,
            **{**architecture.keys(), **architecture.attended(other["image_size"]), **other},
        )
    return list(network.state_dict())
