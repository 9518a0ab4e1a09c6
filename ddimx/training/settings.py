"""From what was asked for to a whole configuration: chosen, read, or taken from other weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..categories import classes_within
from ..config import OCTREE_MODELS, Config, DataConfig
from ..config_file import apply, validate
from ..data.recognize import DataSet, recognize
from ..data.shapes.octrees import with_depth_of_files
from ..errors import UsageError
from ..progress import Progress
from ..untrusted.text import shown
from ..weights.locate.source import Source
from ..weights.weight_set import Which
from . import choose
from .fine_tune import WITH_LEVELS, Start, check_agrees, of_size, read_start

# Keys of the data that belong to the model, or to how it is trained, and not to one data set.
_OF_DATA = (
    *("image_size", "channels", "max_depth", "rescaled", "logit_transform", "num_workers"),
    *("uniform_dequantization", "gaussian_dequantization", "random_flip", "random_scale"),
)
_OF_TRAINING = (
    *("antithetic", "snr_clip", "class_dropout"),
    *("parent_corruption", "parent_drawing", "precision"),
)
# What an option of the command line sets, which --set may set as well.
_FLAGS = {"--size": "data.image_size", "--steps": "training.n_iters"}
_FLAGS |= {"--batch-size": "training.batch_size", "--data": "data.root"}


@dataclass(frozen=True)
class TrainRequest:
    """What the command line asks for; ``resume`` and ``init`` exclude each other.

    ``init`` names weights as :class:`ddimx.weights.locate.source.Source` does, ``init_weights``
    which of them. ``data`` is a path, ``size`` (width, height). ``classes`` says whether the data's
    classes are used, ``strict`` whether unreadable files are an error. ``config_file`` says where
    ``config`` is from, for messages; ``trust_code`` allows its ``model.name`` to be imported as
    ``package.module:Class``.
    """

    label: str
    config: Config | None
    overrides: tuple[str, ...] = ()
    data: str | None = None
    size: tuple[int, int] | None = None
    steps: int | None = None
    batch_size: int | None = None
    classes: bool = True
    strict: bool = False
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    resume: str | None = None
    init: str | None = None
    init_weights: Which | None = None
    offline: bool = False
    trust_code: bool = False
    config_file: str = "the configuration"
    command: str = ""

    def settings(self) -> tuple[str, ...]:
        """Return the options that set a key, and then ``--set``, as ``section.key=value``.

        Raises:
            UsageError: an option and ``--set`` for the same key.
        """
        width, height = self.size or (0, 0)
        flags = {
            "--size": self.size and f"{width}x{height}",
            "--steps": self.steps,
            "--batch-size": self.batch_size,
        }
        by_hand = apply({}, self.overrides)
        for flag, value in {**flags, "--data": self.data}.items():
            section, _, name = _FLAGS[flag].partition(".")
            if value is not None and name in by_hand.get(section, {}):
                raise UsageError(f"{flag} and --set {_FLAGS[flag]} say the same: give one of them")
        values = [f"{_FLAGS[flag]}={value}" for flag, value in flags.items() if value is not None]
        return (*values, *self.overrides)


@dataclass(frozen=True, eq=False)
class Settings:
    """With what a run begins.

    Attributes:
        config: the whole configuration.
        data: what ``--data`` names, or None.
        named_in: what names its network, for messages.
        start: the weights to start from, or None.
        remarks: what was chosen or adapted, for a person.
    """

    config: Config
    data: DataSet | None
    named_in: str
    start: Start | None
    remarks: tuple[str, ...]


def resolve(request: TrainRequest, progress: Progress) -> Settings:
    """Return the configuration of a run that begins, without opening its data.

    ``--config`` decides where it is given, else the weights of ``--init``, else the choice of
    :mod:`ddimx.training.choose`. ``--data`` takes the place of the configuration's data. Options
    and ``--set`` come last.

    Raises:
        UsageError: nothing that says what to train or on what, or a contradiction.
        DdimxError: data or weights that cannot be read.
    """
    settings, start, own = request.settings(), None, None
    if request.init is not None:
        source = Source(request.init, request.init_weights, offline=request.offline)
        start = read_start(source, request.config, progress)
        own = start.config
    base, named_in = request.config, request.config_file
    if start is not None and own is not None and (base is None or start.completed):
        base, named_in = own, str(start.file)
    wishes = apply({}, settings)
    data = None
    if request.data is not None:
        white = _white(wishes.get("data", {}).get("white"))
        data = recognize(request.data, white=white, progress=progress)
    if base is None and data is None:
        raise UsageError(
            "name a configuration with --config, or with --data what to train on: a folder, zip "
            "or tars of pictures, a packed .npy, an .npz, or a folder of octrees"
        )
    if data is None and request.config is None and "root" not in wishes.get("data", {}):
        place = own and own.data
        if place and place.dataset == "FOLDER" and place.root is None:  # of another program's file
            raise UsageError(f"--init {request.init} does not say on what to train: give --data")
    remarks: list[str] = []
    tree: dict[str, Any] = (
        {} if base is None else json.loads(base.model_dump_json(exclude_unset=True))
    )
    if data is not None:
        label = f"--init {request.init}" if request.config is None else request.config_file
        tree["data"] = _data_section(data, base, label, wishes.get("data", {}), remarks)
        wished = wishes.get("training", {})
        loop, optim, ema_rate = choose.training(
            data.count,
            octrees=data.octrees,
            steps=_whole(wished.get("n_iters")),
            batch=_whole(wished.get("batch_size")),
            tuning=base is not None,
        )
        if base is None:
            size, channels = _sides(tree["data"]["image_size"]), tree["data"]["channels"]
            network = choose.transformer(data.count) if data.octrees else None
            tree["model"] = network or choose.unet(size, channels, data.count)
            tree |= choose.diffusion(octrees=data.octrees) | {"training": loop, "optim": optim}
            tree["model"]["ema_rate"] = ema_rate
        elif request.config is None:  # how these weights were made is not how they are tuned
            kept = {k: v for k, v in tree["training"].items() if k in _OF_TRAINING}
            tree |= {"training": loop | kept, "optim": optim}
            tree["model"]["ema_rate"] = ema_rate
        if base is not None and base.model.name in WITH_LEVELS:
            tree["model"] |= _levels(base, _sides(tree["data"]["image_size"]))
        tree["model"]["classes"] = list(data.classes)
        if data.classes and request.classes and tree["model"].get("name") == "lucidrains":
            raise UsageError(
                f"--data {data.root} has classes, and the network 'lucidrains' has none: "
                "--no-classes trains without them"
            )
    elif tree["data"].get("balance", "none") != "none":
        kind = str(wishes.get("data", {}).get("dataset", "NPZ")).upper()
        if kind not in ("NPZ", "OCTREE"):  # which alone can say what belongs together
            tree["data"]["balance"] = "none"
            remarks.append(f"data.balance is left out: a {kind} data set has no families")
    if not request.classes:
        tree["model"]["classes"] = []
    label = f"--data {request.data}" if data is not None else "--set"
    config = validate(apply(tree, settings), label)
    classes = config.model.classes
    strange = [word for word in config.data.unflipped if not classes_within(classes, word)]
    if strange:
        remarks.append(f"data.unflipped: no class or group of classes is called {strange[0]}")
    depth = config.data.max_depth
    if own is None and "max_depth" not in wishes.get("data", {}):
        config = with_depth_of_files(config)
        if config.data.max_depth != depth:
            remarks.append(
                f"{config.data.root}: octrees of depth {config.data.max_depth}, so the model is "
                f"of that depth, not {depth}"
            )
    if base is not None and config.model.name != base.model.name:
        named_in = "--set"
    if start is not None and own is not None:
        check_agrees(own, config, f"--init {start.name}")
        if own.data.random_flip and config.data.random_flip and data is not None:
            remarks.append(
                f"examples are mirrored at random, as those of {start.name} were; --set "
                "data.random_flip=false leaves them as they are"
            )
        remarks += of_size(own, config, start.name)
    return Settings(config, data, named_in, start, tuple(remarks))


def _data_section(
    data: DataSet, base: Config | None, label: str, wish: Mapping[str, Any], remarks: list[str]
) -> dict[str, Any]:
    """Return a configuration's data section for a data set.

    Args:
        data: the data set.
        base: the configuration whose network is trained; None if that is to be chosen.
        label: where it is from, for messages.
        wish: the keys that will be set after it, which size and channels have to fit.
        remarks: is added to.

    Raises:
        UsageError: data that this network, or the wish, does not fit.
    """
    root, section = f"--data {data.root}", dict(data.data)
    if base is not None:
        kinds = ("octrees", "images")
        drawn, held = (
            kinds[0] if octrees else kinds[1]
            for octrees in (base.model.name in OCTREE_MODELS, data.octrees)
        )
        if drawn != held:
            raise UsageError(f"{root} holds {held}, and the model of {label} draws {drawn}")
        stored = base.data.model_dump(mode="json", exclude_unset=True)
        # Arrays have a size of their own, pictures take the model's; the depth is the model's.
        own_keys = () if data.octrees else section.keys()
        section |= {k: stored[k] for k in _OF_DATA if k in stored and k not in own_keys}
    if data.octrees:
        if "image_size" in wish:
            raise UsageError(f"{root} holds octrees, and --size is for images")
        depth, needed = data.data["max_depth"], section["max_depth"]
        if depth < needed:
            raise UsageError(
                f"{root}: octrees of depth {depth}, and the model draws depth {needed}: their last "
                f"levels are missing. Prepare them again with --depth {needed}"
            )
        if depth > needed:
            remarks.append(f"the octrees of depth {depth} are cut to {needed}, the model's depth")
        return section
    if data.scan is not None:
        side = choose.usual_size(data.sides)
        if base is None and "image_size" not in wish:
            remarks.append(f"images of {side}x{side} pixels are trained on; --size says otherwise")
        section["image_size"] = wish.get("image_size", section.get("image_size", side))
    elif "image_size" in wish and _sides(wish["image_size"]) != _sides(section["image_size"]):
        height, width = _sides(section["image_size"])
        raise UsageError(
            f"{root}: its images are {width}x{height} and are not resized; train on the folder "
            "that it was made of, or pack that again in another size"
        )
    channels = section["channels"] = wish.get("channels", section.get("channels", data.channels))
    if base is not None and label.startswith("--init") and channels != base.data.channels:
        whose = f"--set data.channels={shown(channels)}" if "channels" in wish else root
        raise UsageError(
            f"{whose}: {shown(channels)} channels, and the model of {label} draws "
            f"{base.data.channels}, which its weights cannot change; train without --init"
        )
    if data.scan is not None and channels == 1:
        gray = int((data.scan.channels == 1).sum())
        if gray < data.count:
            remarks.append(
                f"{data.count - gray} of {data.count} pictures are in color and become gray"
            )
        elif base is None:
            remarks.append("the pictures are gray, and so is the model (data.channels is 1)")
    elif data.scan is not None and channels == 3 and (data.scan.channels == 4).any():
        way = "" if base is not None else "; --set data.channels=4 makes a model with alpha"
        remarks.append(
            f"transparent parts of pictures are put on {wish.get('background', 'white')}{way}"
        )
    return section


def _levels(base: Config, sides: tuple[int, int]) -> dict[str, Any]:
    """Return the keys of ``model`` that say where attention is, so that the same levels attend."""
    finest, old = max(sides) // base.model.patch_size, base.resolutions
    if finest == old[0]:
        return {}
    resolutions = base.model.model_dump(include={"attn_resolutions", "attn_resolutions_up"})
    return {
        key: [finest // 2 ** old.index(size) for size in sizes if size in old]
        for key, sizes in resolutions.items()
        if sizes is not None
    }


def _sides(image_size: Any) -> tuple[int, int]:
    """Return height and width of what ``data.image_size`` may be.

    Raises:
        UsageError: something else.
    """
    try:
        return DataConfig(dataset="", image_size=image_size, channels=1).sides
    except ValidationError:
        text = shown(image_size)
        raise UsageError(f"data.image_size {text}: write 64, or 64x48, width first") from None


def _white(value: Any) -> float | None:
    """Return what ``data.white`` may be; of what else may be set, validation speaks."""
    try:
        return DataConfig(dataset="", image_size=1, channels=1, white=value).white
    except ValidationError:
        return None


def _whole(value: Any) -> int | None:
    """Return a count that is one; of what else may be set, validation speaks."""
    return value if isinstance(value, int) and value > 0 else None
