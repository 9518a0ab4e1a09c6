"""What every reader of weights returns, before it is known whether it suffices for a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..config import Config
from ..errors import DdimxError, UsageError
from .architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor

# "ema2": the average of a second rate, which a checkpoint of ours may hold (model.ema2_rate).
Which = Literal["ema", "ema2", "raw"]
# "unstated": one set of weights, and nothing in the file says which of them it is.
SetName = Literal["ema", "ema2", "raw", "unstated"]
UNUSED_VARIANCE = "the network predicts a variance too, of which nothing is made"


@dataclass(frozen=True, eq=False)
class Facts:
    """What another program's file tells of a network that is not ermongroup/ddim's.

    Attributes:
        form: whose file it is, for people.
        stated: what it says, as section -> key -> value; ``model.name`` among it.
        attention: the levels with attention, 0 the finest; None for a network without the choice.
        required: keys (or "key or key") that no tensor tells and a configuration has to, each with
            what that program calls it.
        defaults: keys that no tensor tells, and that are as by default unless a configuration says
            otherwise; a remark says so.
        notes: remarks that a person should see.
        null_row: whether "no class" would have a row of its own among the classes.
    """

    form: str
    stated: Mapping[str, Mapping[str, Any]]
    attention: tuple[int, ...] | None = None
    required: Mapping[str, str] = field(default_factory=dict)
    defaults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    null_row: bool = True


@dataclass(frozen=True, eq=False)
class WeightSet:
    """One set of weights in this package's parameter names, and what came with it.

    Attributes:
        form: the format, for people: "ddimx model", "diffusers folder", ...
        file: the file that holds the tensors, or the index of those that hold them.
        tensors: parameters by name; detached, on the CPU, in the stored dtype.
        which: which set this is; ``sets`` are those that the file offers.
        config: the configuration that the file carries, if it carries one.
        architecture: what the tensors, or another program's settings, say of our UNet.
        facts: what they say of another network.
        stated: what another program's settings say besides, as section -> key -> value.
        defaults: as ``stated``, for the sampling section: wishes, not facts about the weights.
        info: how the model was made, as far as the file says.
        notes: remarks that a person should see.
        which_is_noted: whether one of them says which set this is.
        config_file: the file that carries ``config``, where it is another than ``file``.
        shards: the files of the tensors, where they are several.
        decoder: the folder of what turns the network's latents into pictures, if it draws such.
        decoder_files: the decoder's own files.
    """

    form: str
    file: Path
    tensors: dict[str, Tensor]
    which: SetName
    sets: tuple[SetName, ...]
    config: Config | None = None
    architecture: Architecture | None = None
    facts: Facts | None = None
    stated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    which_is_noted: bool = False
    config_file: Path | None = None
    shards: tuple[Path, ...] = ()
    decoder: Path | None = None
    decoder_files: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file with the tensors, or the index with its shards, and what else decides."""
        return (self.file, *self.shards, *self.decoder_files)


def choose(path: Path, sets: tuple[SetName, ...], which: Which | None) -> SetName:
    """Return which of a file's sets to read: the wish, else the average, else the only one.

    Raises:
        DdimxError: a file without the weights that are wanted.
        UsageError: a wish that a file with one set cannot be held to.
    """
    if "unstated" in sets:
        if which is not None:
            raise UsageError(
                f"{path} holds one set of weights and does not say whether it is the average or "
                f"the raw one: omit --weights {which}"
            )
        return "unstated"
    choice = which or ("ema" if "ema" in sets or not sets else sets[0])
    if choice not in sets:
        others = " and ".join(sets) or "no"
        raise DdimxError(f"{path}: holds no {choice} weights but {others} weights")
    return choice
