"""Models of the Hugging Face hub, downloaded by the hub's own library into its own cache."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from ...errors import DdimxError, UsageError
from ..formats.diffusers.pipeline_code import INDEX, STEM

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = {".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".yml"}
_SETTINGS = [
    INDEX,
    "config.json",
    "unet/config.json",
    "scheduler_config.json",
    "scheduler/scheduler_config.json",
    "ddimx.json",
]
# What to look for, the next only if a model has none of those before.
_WEIGHTS = [
    [f"{STEM}.safetensors"],
    [f"{STEM}.bin"],
    [f"{STEM}.safetensors.index.json", f"{STEM}-*-of-*.safetensors"],
    [f"{STEM}.bin.index.json", f"{STEM}-*-of-*.bin"],
    [f"{STEM}.fp16.safetensors"],
]


def is_hub_id(name: str) -> bool:
    """Return whether a name is that of no path here, and could be "owner/model"."""
    file = Path(name).suffix in _FILES
    return not file and bool(_ID.fullmatch(name)) and not Path(name).exists()


def from_hub(name: str, *, offline: bool) -> Path:
    """Return the local copy of a model, downloading what is missing of it.

    The settings come first, so that a model that cannot be represented costs kilobytes only.

    Raises:
        UsageError: the hub's library is not installed.
        DdimxError: no such model, no network, or settings that cannot be represented.
    """
    from ..formats.diffusers.folder import check_settings, decoder_part, has_weights

    if find_spec("huggingface_hub") is None:
        raise UsageError(
            f"'{name}' is not a path; as an id of the Hugging Face hub it needs huggingface_hub: "
            "pip install 'ddimx[hub]'"
        )
    settings = snapshot(name, _SETTINGS, offline)
    check_settings(settings)
    part = decoder_part(settings)
    decoder = [] if part is None else [f"{part}/*.json", f"{part}/*.safetensors"]
    for names in _WEIGHTS:
        weights = [f"{place}{file}" for place in ("", "unet/") for file in names]
        folder = snapshot(name, [*_SETTINGS, *decoder, *weights], offline)
        if has_weights(folder):
            break
    return folder


def snapshot(name: str, patterns: list[str], offline: bool) -> Path:
    """Return the local copy of those files of a model that fit the patterns.

    Raises:
        DdimxError: no such model, or no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=offline))
    except LocalEntryNotFoundError:
        why = "offline nothing is downloaded" if offline else "the hub cannot be reached"
        raise DdimxError(
            f"'{name}' is not a path and not in the hub's cache, and {why}; "
            "copy its folder here and give the path with --model"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DdimxError(
            f"'{name}' is not a path, and the hub does not offer it: {reason}"
        ) from None
