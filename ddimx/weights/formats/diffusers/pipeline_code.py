"""Folders of diffusers: how one is recognized, and those that bring code of their own.

The latter are refused, for a download must not run.

diffusers imports such code in several ways: a ``pipeline.py`` or another module that
``model_index.json`` names, a module in a component's folder, or (in versions before 0.42) any
installed or local module that is given as a component's library. Reading weights needs none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....errors import UsageError
from ....untrusted.names import LONGEST, relative

INDEX = "model_index.json"
STEM = "diffusion_pytorch_model"  # of the files of a network's tensors
EMA = "unet_ema"  # which diffusers' training scripts write beside unet
_CODE = {".py", ".pyc", ".pyd", ".so"}
_LIBRARIES = ("diffusers", "transformers")


def is_diffusers_folder(path: Path) -> bool:
    """Return whether a folder looks like diffusers': a pipeline's, or that of a UNet alone."""
    names = (INDEX, "unet/config.json", f"{EMA}/config.json")
    return any((path / name).is_file() for name in names) or (
        (path / "config.json").is_file() and any(path.glob(f"{STEM}*"))
    )


def refuse_code(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse a pipeline's folder that holds code, or whose index points at any.

    Args:
        index: what its ``model_index.json`` says.

    Raises:
        UsageError: with the file, or with the class and its module.
        DdimxError: a component that is not the name of a folder.
    """
    files = sorted(path for depth in ("*", "*/*") for path in folder.glob(depth))
    code = next((path for path in files if path.suffix.lower() in _CODE), None)
    if code is not None:
        raise _refused(folder, f"{code.relative_to(folder).as_posix()} lies in its folder")
    pipeline = index.get("_class_name")
    if not (pipeline is None or _is_word(pipeline)):
        raise _refused(folder, f"{INDEX} names the pipeline {pipeline!r}")
    for part, value in index.items():
        relative(part, folder / INDEX)
        if part.startswith("_") or not isinstance(value, list):
            continue
        if value[:1] in ([], [None]):
            continue  # a part that the pipeline goes without
        if len(value) != 2 or not (_is_word(value[1]) and _is_known(value[0])):
            raise _refused(folder, f"{INDEX} takes '{part}' from {value!r}")


def refuse_class_map(settings: Mapping[str, Any], file: Path) -> None:
    """Refuse a component's settings that name classes of its own for transformers to import.

    Raises:
        UsageError: with the file and the classes.
    """
    if settings.get("auto_map"):
        raise _refused(file.parent, f"auto_map in {file.name} names {settings['auto_map']!r}")


def _refused(folder: Path, what: str) -> UsageError:
    excerpt = what if len(what) <= 200 else f"{what[:200]}..."
    return UsageError(
        f"{folder}: a pipeline with code of its own ({excerpt}), which is never run, --trust-code "
        "or not; if the weights do without it, keep a copy of the folder without it and give that"
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST and value.isidentifier()


def _is_known(library: Any) -> bool:
    """Return whether a component's library is one that diffusers' own pipelines are made of."""
    if not _is_word(library):
        return False
    if library in _LIBRARIES:
        return True
    diffusers = find_spec("diffusers")  # found, not imported
    places = [] if diffusers is None else [*(diffusers.submodule_search_locations or ())]
    return any((Path(place) / "pipelines" / library).is_dir() for place in places)
