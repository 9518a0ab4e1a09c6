"""Which files of a network's folder hold its tensors: whole or in shards, of which variant.

diffusers names them ``diffusion_pytorch_model[.VARIANT].safetensors`` (or ``.bin``). A large
network is cut into shards, and ``diffusion_pytorch_model.safetensors.index[.VARIANT].json`` says
which tensor lies in which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ....errors import DdimxError
from ....untrusted.names import relative
from ....untrusted.text import read_object, shortened, shown
from ..native import read_tensors
from ..pickled import load_state_dict
from .pipeline_code import STEM

PLAIN = (f"{STEM}.safetensors", f"{STEM}.bin")
_WHOLE = re.compile(rf"{STEM}(?:\.([\w-]+))?\.(safetensors|bin)")
_INDEX = re.compile(rf"{STEM}\.(safetensors|bin)\.index(?:\.([\w-]+))?\.json")
_SHARD = re.compile(r"-[0-9]+-of-[0-9]+$")
# Which variant is read where there is no file without one, the first that is there.
_VARIANTS = ("ema", "non_ema", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class WeightFiles:
    """One set of tensors on disk.

    Attributes:
        main: the file, or the index of the shards.
        variant: what its name says besides, "fp16" for instance, or "".
        shards: the files of the tensors where they are several.
    """

    main: Path
    variant: str = ""
    shards: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """All files, the index first."""
        return (self.main, *self.shards)

    def read(self) -> dict[str, Tensor]:
        """Return the tensors by their names, on the CPU.

        Raises:
            DdimxError: a file that is missing or damaged, or an index that the shards do not bear
                out.
        """
        if not self.shards:
            return _read(self.main)
        places = _weight_map(self.main)
        tensors: dict[str, Tensor] = {}
        for shard in self.shards:
            if not shard.is_file():
                raise DdimxError(f"{self.main}: {shard.name} is missing; copy it beside the index")
            for name, value in _read(shard).items():
                if places.get(name) != shard.name:
                    raise DdimxError(
                        f"{shard}: holds {shortened(name)}, which {self.main.name} does not place "
                        "there"
                    )
                tensors[name] = value
        absent = sorted(places.keys() - tensors.keys())
        if absent:
            raise DdimxError(f"{self.main}: no shard holds {', '.join(map(shortened, absent[:3]))}")
        return tensors


def weight_files(folder: Path) -> dict[str, WeightFiles]:
    """Return the sets of tensors in a network's folder, by their variants ("" is none).

    Safetensors are preferred to pickles, one file to shards.

    Raises:
        DdimxError: a damaged index, or one that names a file elsewhere.
    """
    candidates: dict[str, dict[tuple[bool, bool], Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        whole, index = _WHOLE.fullmatch(path.name), _INDEX.fullmatch(path.name)
        if whole and not _SHARD.search(whole[1] or ""):
            candidates.setdefault(whole[1] or "", {})[whole[2] == "bin", False] = path
        elif index:
            candidates.setdefault(index[2] or "", {})[index[1] == "bin", True] = path
    sets = {}
    for variant, of_variant in candidates.items():
        (_, sharded), main = min(of_variant.items())
        shards: tuple[Path, ...] = ()
        if sharded:
            names = sorted({*_weight_map(main).values()})
            # In the hub's cache each file is a link to a place beside the folder.
            shards = tuple(folder / name for name in names)
        sets[variant] = WeightFiles(main, variant, shards)
    return sets


def preferred(sets: dict[str, WeightFiles]) -> WeightFiles | None:
    """Return the set without a variant, else that of a known one, else the only one."""
    for variant in ("", *_VARIANTS):
        if variant in sets:
            return sets[variant]
    return next(iter(sets.values())) if len(sets) == 1 else None


def _read(file: Path) -> dict[str, Tensor]:
    return read_tensors(file) if file.suffix == ".safetensors" else load_state_dict(file)


def _weight_map(index: Path) -> dict[str, str]:
    """Return the shard's file name of every tensor that an index lists.

    Raises:
        DdimxError: not such an index, or a name of a file that is not beside it.
    """
    try:
        places = read_object(index).get("weight_map")
    except (OSError, ValueError) as error:
        raise DdimxError(f"cannot read {index}: {error}") from None
    if not isinstance(places, dict) or not places:
        raise DdimxError(f"{index}: weight_map is {shown(places)}; names with files are needed")
    strange = next((value for value in places.values() if not isinstance(value, str)), "")
    if strange != "":
        raise DdimxError(f"{index}: weight_map holds {shown(strange)}; a file's name is needed")
    for name in {*places.values()}:
        if "/" in relative(name, index) or "\\" in name:
            raise DdimxError(f"{index}: names {shown(name)}, a file that is not beside it")
    suffix = f".{_INDEX.fullmatch(index.name)[1]}"  # type: ignore[index]
    bad = next((name for name in places.values() if not name.endswith(suffix)), None)
    if bad is not None:
        raise DdimxError(f"{index}: names {shown(bad)}, which is no {suffix} file")
    return places
