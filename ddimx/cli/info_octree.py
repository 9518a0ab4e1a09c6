"""``ddimx info`` of octree token files: it needs NumPy alone, and starts without PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from .output import show

SUFFIXES = (".npz", ".npy")


def octree_info(name: str, others: Mapping[str, Any], json_output: bool) -> bool:
    """Describe a token file or a folder of them; return False if the name is neither.

    Args:
        others: options that are for models, by name; None where not set.

    Raises:
        UsageError: an option for models.
        OctreeError: a file that is not an octree.
        DdimxError: no such file, or a folder with files that are not octrees.
    """
    path = Path(name)
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        refuse(others, f"{name} holds octree tokens")
        _file(path, json_output)
        return True
    return path.is_dir() and not _is_model(name) and _folder(path, others, json_output)


def _file(path: Path, json_output: bool) -> None:
    from ..octree.describe import describe
    from ..octree.file import read_shape
    from ..octree.picture import BLOCKS, PLAIN, picture

    shape = read_shape(path)
    show(describe(path, shape), json_output)
    if not json_output:
        typer.echo()
        for line in picture(shape.tree, BLOCKS if _prints(BLOCKS) else PLAIN):
            typer.echo(line)


def _folder(folder: Path, others: Mapping[str, Any], json_output: bool) -> bool:
    from ..errors import DdimxError
    from ..octree.describe import describe_folder, shapes_in

    files = shapes_in(folder)
    if not files:
        return False
    refuse(others, f"{folder} holds octree tokens")
    facts = describe_folder(folder, files)
    show(facts, json_output)
    if broken := facts["broken"]:
        raise DdimxError(f"{len(broken)} of {len(files)} files in {folder} are not octrees")
    return True


def refuse(others: Mapping[str, Any], what: str) -> None:
    """Raise UsageError for an option that is for models; ``what`` says what was named."""
    from ..errors import UsageError

    for option, value in others.items():
        if value is not None:
            raise UsageError(f"{option} is for models; {what}")


def _is_model(name: str) -> bool:
    """Return whether a folder is a training run, or is called as a known model by a bare name.

    A run may hold arrays that are no octrees, as the statistics for ``training.fid_every``.
    """
    pattern = "checkpoint-*.safetensors"
    if any(any(place.glob(pattern)) for place in (Path(name), Path(name) / "checkpoints")):
        return True
    if Path(name).name != name:
        return False
    from ..weights.locate.registry import NAMES
    from ..weights.locate.source import shipped_models

    return name in (*NAMES, *shipped_models())


def _prints(characters: str) -> bool:
    try:
        characters.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
