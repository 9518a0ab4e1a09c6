"""PyTorch's own files: ermongroup/ddim's checkpoint lists and plain state dicts.

``torch.load(weights_only=True)`` builds tensors and plain containers and nothing else; a file that
needs more than that is refused.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import Config
from ...errors import DdimxError
from ...files import whole_file
from ...untrusted.archives import open_zip
from ...untrusted.text import shortened
from ..architecture import from_tensors
from ..tensors import check_plain
from ..weight_set import SetName, WeightSet, Which, choose
from .contents import Part, contents_of, flattened, remarks
from .elsewhere import of_other_network
from .families import NETWORKS, outline, pickled_object, refused_family, unknown_network
from .guided import named_set

LIST = "ermongroup list"
STATE_DICT = "state dict"
_MODULE = "module."  # what torch.nn.DataParallel puts before every name
_ZIP = b"PK\x03\x04"
# What torch.load raises on damaged files besides its UnpicklingError.
_DAMAGED = (
    *(OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError),
    *(AttributeError, AssertionError, ImportError, OverflowError, MemoryError, struct.error),
)
_START = 1 << 16  # bytes of a plain pickle in which the names of its classes are looked for
_STEP, _EMA = 3, 4  # places in the list (model, optimizer, epoch, step, EMA)


def read_pickled(path: Path, which: Which | None = None) -> WeightSet:
    """Read a list (model, optimizer, epoch, step[, EMA]) or a state dict.

    Raises:
        DdimxError: not such a file, or without the weights asked for.
        UsageError: a wish for one set of a state dict, which does not say what it holds.
    """
    return weights_in(load_tensors(path), path, which)


def load_tensors(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, memory-mapped where its format allows it.

    Raises:
        DdimxError: not such a file, damaged, or holding more than tensors and plain containers.
    """
    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle's protocol: the error says what to do
            zipped = stream.read(len(_ZIP)) == _ZIP
            stream.seek(0)
            if not zipped or path.suffix == ".safetensors":
                # torch.load goes by that name, we by content
                if zipped:
                    _check_members(path)
                return torch.load(stream, map_location="cpu", weights_only=True)
        _check_members(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # Of a module that could do anything torch says so without the usual words.
        text = str(error)
        reason = text.partition("WeightsUnpickler error: ")[2].partition("\n")[0]
        forbidden = re.search(r"unsupported GLOBAL .*", text)
        reason = reason or (forbidden[0] if forbidden else "")
        with path.open("rb") as stream:
            start = "" if zipped else stream.read(_START).decode("latin-1")
        raise DdimxError(
            f"{path}: not a file of tensors alone, which is all that is read from a pickle; it "
            f"holds {pickled_object(reason, start)}"
        ) from None
    except _DAMAGED as error:
        reason = shortened(str(error).partition("\n")[0]) or type(error).__name__
        raise DdimxError(f"{path}: not a readable PyTorch file ({reason})") from None


def _check_members(path: Path) -> None:
    """Raise ValueError unless a zip of torch.save unpacks to about its own size."""
    with open_zip(path) as archive:
        archive.check(archive.names)


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file that holds them by name, and nothing else.

    Raises:
        DdimxError: as :func:`load_tensors`, or other contents.
    """
    content = load_tensors(path)
    if not _is_state_dict(content):
        raise DdimxError(f"{path}: {outline(content)}; not a state dict, names with tensors")
    check_plain(content, str(path))
    return dict(content)


def weights_in(content: Any, path: Path, which: Which | None) -> WeightSet:
    """Return one set of weights of what :func:`load_tensors` returned.

    A list is ermongroup/ddim's. In a mapping, weights may lie under any keys and prefixes
    (``state_dict``, ``ema``, ``module.``, ``_orig_mod.``): their own names tell whose they are.

    Raises:
        DdimxError: another program's checkpoint, by its name, or no weights at all.
        UsageError: a wish for one set of a file that does not say which it holds.
    """
    if isinstance(content, Sequence) and len(content) > _STEP and _is_state_dict(content[0]):
        return _of_list(content, path, which)
    tensors = flattened(content) if isinstance(content, Mapping) else {}
    keys = [*content] if isinstance(content, Mapping) else []
    family = refused_family(tensors, keys)
    if family is not None:
        raise DdimxError(f"{path}: this is {family}")
    contents = contents_of(tensors)
    parts = contents.parts
    unnamed_average = len(parts) == 1 and "shadow_params" in _keys(content)
    by_name: SetName | None = None
    if len(parts) == 1 and parts[0].set_name == "unstated":
        if parts[0].network.name == "guided" and not parts[0].prefix and not unnamed_average:
            by_name = named_set(path)
        set_name: SetName = "raw" if unnamed_average else by_name or "unstated"
        contents = replace(contents, parts=(replace(parts[0], set_name=set_name),))
        parts = contents.parts
    if not parts and "shadow_params" in _keys(content):
        raise DdimxError(
            f"{path}: an average without names (shadow_params), as diffusers' EMAModel keeps it. "
            "Where it was made, write it with its names: ema.copy_to(model.parameters()), then "
            "torch.save(model.state_dict(), NEW)"
        )
    if not parts and tensors and not _is_state_dict(content):
        raise DdimxError(f"{path}: {outline(content)}; {unknown_network(tensors)}")
    if not parts and not _is_state_dict(content):
        raise DdimxError(f"{path}: {outline(content)}; neither a state dict nor {LIST}")
    sets = {part.set_name: part for part in parts} or {
        "unstated": Part(NETWORKS[0], "", "unstated")
    }
    which_set = choose(path, tuple(sets), which)
    part = sets[which_set]
    others = [other.prefix for other in parts if len(other.prefix) > len(part.prefix)]
    part_tensors = {
        name[len(part.prefix) :]: value
        for name, value in tensors.items()
        if name.startswith(part.prefix) and not any(name.startswith(other) for other in others)
    }
    check_plain(part_tensors, str(path))
    notes = remarks(contents, part)
    which_is_noted = bool(notes) or by_name is not None
    if unnamed_average:
        notes = (*notes, "the average in the file has no names (shadow_params) and is not read")
    if by_name is not None:
        kind = "averaged" if by_name == "ema" else "last (raw)"
        notes = (*notes, f"the {kind} weights, by the name of the file")
    weights = WeightSet(
        form=STATE_DICT,
        file=path,
        tensors=part_tensors,
        which=which_set,
        sets=tuple(sets),
        info=_step(content.get("step", content.get("global_step"))),
        notes=notes,
        which_is_noted=which_is_noted,
    )
    if part.network.name == "unet":
        return replace(weights, architecture=from_tensors(part_tensors, str(path)))
    return of_other_network(weights, part, tensors)


def _keys(content: Any) -> set[str]:
    """Return the keys of a mapping and of the mappings in it."""
    if not isinstance(content, Mapping):
        return set()
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    return {key for part in (content, *inner) for key in part if isinstance(key, str)}


def _of_list(content: Sequence[Any], path: Path, which: Which | None) -> WeightSet:
    """Return one set of a list (model, optimizer, epoch, step[, EMA])."""
    sets: dict[SetName, Mapping[str, Tensor]] = {"raw": content[0]}
    if len(content) > _EMA and _is_state_dict(content[_EMA]):
        sets["ema"] = content[_EMA]
    which_set = choose(path, tuple(sets), which)
    check_plain(sets[which_set], str(path))
    tensors = {name.removeprefix(_MODULE): value for name, value in sets[which_set].items()}
    return WeightSet(
        form=LIST,
        file=path,
        tensors=tensors,
        which=which_set,
        sets=tuple(sets),
        architecture=from_tensors(tensors, str(path)),
        info=_step(content[_STEP]),
    )


def write_list(
    path: Path,
    raw: Mapping[str, Tensor],
    ema: Mapping[str, Tensor],
    config: Config,
    step: int,
    *,
    replace: bool = True,
) -> None:
    """Write (model, optimizer, epoch, step, EMA) as ermongroup/ddim's runner saves and reads it.

    The model's names bear ``module.``, the average's do not. The optimizer is a fresh Adam: its
    moments are not carried over. The same weights give the same bytes. ``replace`` is as in
    :func:`ddimx.files.whole_file`.
    """
    optim = config.optim
    adam = torch.optim.Adam(
        [torch.nn.Parameter(value) for value in raw.values()],
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        amsgrad=optim.amsgrad,
    )
    model = {_MODULE + name: value.contiguous() for name, value in raw.items()}
    average = {name: value.contiguous() for name, value in ema.items()}
    with whole_file(path, replace=replace) as part, part.open("wb", buffering=1 << 20) as stream:
        # Given a path, torch would name the archive inside by it: by that of a temporary file.
        torch.save([model, adam.state_dict(), 0, step, average], stream)


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _step(value: Any) -> dict[str, Any]:
    return {"step": value} if isinstance(value, int) and 0 <= value < 1 << 63 else {}
