"""Training that starts from other weights: their settings, what may differ, the classes anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import OCTREE_MODELS, Config
from ..errors import UsageError
from ..progress import Progress
from ..solvers.continuous import schedule_of
from ..untrusted.text import first_of
from ..weights.locate.registry import NAMES
from ..weights.locate.source import Source, completed, find_weights

# What of the network is no part of its architecture: other data, or only the training, decide it.
_FREE = {"type", "in_channels", "out_ch", "classes", "null_class"}
_FREE |= {"dropout", "ema", "ema_rate", "ema2_rate", "var_type"}
# What of the process decides the draws of training alone, and what its curve alone.
_OF_TRAINING = {"p_mean", "p_std", "transitions"}
_OF_CURVE = {"beta_schedule", "beta_start", "beta_end", "shift", "sigma_min", "sigma_max", "rho"}
# Where a network of ours holds its classes, and what every example's sum has in it exactly once.
_EMBEDDINGS = {
    "unet": ("class_embedding.weight", "temb.dense.1.bias"),
    "guided": ("label_emb.weight", "time_embed.2.bias"),
    "octree": ("label.weight", "transition.weight"),
}
WITH_LEVELS = ("unet", "guided")  # whose attention is named by the sizes of feature maps
_SHOWN = 8  # names of classes in one line


@dataclass(frozen=True, eq=False)
class Start:
    """The weights of ``--init``.

    Attributes:
        name: as the user wrote it.
        tensors: the network's parameters by name.
        config: the weights' own configuration; None where only ``--config`` says what they are.
        file: what holds that configuration, for messages.
        notes: remarks of those who read the weights.
        completed: whether ``config`` is that of ``--config`` with what the file says besides.
    """

    name: str
    tensors: Mapping[str, Tensor]
    config: Config | None
    file: Path
    notes: tuple[str, ...]
    completed: bool = False


def read_start(source: Source, explicit: Config | None, progress: Progress) -> Start:
    """Read weights to start from, of any format that ``--model`` takes.

    Args:
        source: what names them; without a configuration.
        explicit: that of ``--config``, for weights that come without their own.

    Raises:
        UsageError: an unknown name, or weights that need ``--config``.
        DdimxError: a download that failed, or a file that cannot be read or represented.
    """
    weights, config = find_weights(source, progress), None
    says_all = weights.config is not None or "diffusion" in weights.stated or source.name in NAMES
    if says_all or explicit is None:
        weights, config = completed(weights, source)
    elif weights.facts is not None or (
        weights.architecture is not None and not explicit.model.classes
    ):
        # Bare tensors, of which --config says the rest. New classes are the caller's to make.
        weights, config = completed(weights, replace(source, config=explicit))
        return Start(source.name, weights.tensors, config, weights.file, weights.notes, True)
    file = weights.config_file or weights.file
    return Start(source.name, weights.tensors, config, file, weights.notes)


def check_agrees(own: Config, config: Config, label: str) -> None:
    """Refuse a configuration that makes something else of weights than they were trained for.

    Classes, dropout and average may differ, and the size of images unless layers are named by it;
    of token networks the kinds of noise may be fewer. The architecture of a class from elsewhere,
    ``package.module:Class``, is not compared: loading shows whether the tensors fit.

    Raises:
        UsageError: the keys that differ, each with both values.
    """
    pairs: list[tuple[str, Any, Any]] = []
    if ":" not in own.model.name:  # what the keys mean to a class from elsewhere is not known here
        before, after = _architecture(own), _architecture(config)
        pairs += [(f"model.{key}", before[key], after[key]) for key in before]
    keys = ["max_depth"] if own.data.octrees else ["channels", "rescaled", "logit_transform"]
    if own.model.name in ("song", "dhariwal"):  # whose layers are named by it
        keys.append("image_size")
    pairs += [(f"data.{key}", getattr(own.data, key), getattr(config.data, key)) for key in keys]
    old, new = own.diffusion.model_dump(), config.diffusion.model_dump()
    one, two = (schedule_of(c.diffusion).alpha_bars for c in (own, config))
    same = one.shape == two.shape and np.allclose(one, two, rtol=1e-6, atol=0)
    pairs += [
        (f"diffusion.{key}", old[key], new[key])
        for key in old.keys() - _OF_TRAINING - (_OF_CURVE if same else set())
    ]
    kinds = (own.diffusion.transitions, config.diffusion.transitions)
    if own.model.name in OCTREE_MODELS and not set(kinds[1]) <= set(kinds[0]):
        pairs.append(("diffusion.transitions", *kinds))
    problems = sorted(
        f"  {key} is {_plain(now)}, the weights have {_plain(old)}"
        for key, old, now in pairs
        if old != now
    )
    if problems:
        raise UsageError(
            f"{label}: the configuration contradicts the weights:\n"
            + "\n".join(problems)
            + "\nLeave these keys out, or begin a new run"
            + (" without --init." if label.startswith("--init") else ".")
        )


def of_size(own: Config, config: Config, name: str) -> list[str]:
    """Return a remark if weights, called ``name``, are trained on images of another size now."""
    if own.data.sides == config.data.sides:
        return []
    before, now = ("x".join(map(str, c.data.sides[::-1])) for c in (own, config))
    return [f"{name} was trained on images of {before}, and sees {now} now"]


def _architecture(config: Config) -> dict[str, Any]:
    """Return what decides the network's function, besides its weights, in comparable values."""
    values = {k: v for k, v in config.model.model_dump().items() if k not in _FREE}
    octrees = config.model.name in OCTREE_MODELS
    values["name"] = "octree" if octrees else config.model.name
    if octrees:
        values["vocab_size"] = 256
    if config.model.name in WITH_LEVELS:
        sizes = config.resolutions
        for key in ("attn_resolutions", "attn_resolutions_up"):
            attending = values[key] if values[key] is not None else values["attn_resolutions"]
            values[key] = [sizes.index(n) if n in sizes else n for n in sorted(attending)[::-1]]
    return values


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def with_classes(start: Start, network: nn.Module, config: Config) -> tuple[Start, str | None]:
    """Return weights whose classes are those of ``config``, and a remark on what became of them.

    A class of the same name keeps its embedding; a new one begins as "no class", so that the first
    step continues from what the network draws without a class. A network that had no classes gets
    zeros, and one that loses them keeps "no class" where it is added to every example. Where none
    of the rows stands for "no class", their mean does.

    Args:
        start: weights with a configuration of their own.
        network: that of ``config``, for the shapes.
        config: the configuration to train with.

    Raises:
        UsageError: other classes for a network whose embedding is not known here.
    """
    assert start.config is not None
    before, model = start.config.model, config.model
    old, new = before.classes, model.classes
    if (old, before.null_class or not old) == (new, model.null_class or not new):
        return start, None
    kind = "octree" if model.name in OCTREE_MODELS else model.name
    if kind not in _EMBEDDINGS:
        raise UsageError(
            f"{start.name}: other classes for a network '{model.name}' cannot be made from its "
            "weights: set model.classes as they are there, or train without --init"
        )
    (embedding, everywhere), tensors = _EMBEDDINGS[kind], dict(start.tensors)
    if not old:
        tensors[embedding] = torch.zeros(network.state_dict()[embedding].shape)
        remark = f"{start.name} has no classes; new ones: {_names(new)}"
        return replace(start, tensors=tensors), remark
    rows = tensors.pop(embedding).float()  # stored in half precision, it may be
    no_class = rows[-1] if before.null_class else rows.mean(dim=0)
    if not new:
        tensors[everywhere] = tensors[everywhere].float() + no_class
        return replace(start, tensors=tensors), f"the {len(old)} classes of {start.name} are left"
    chosen = [rows[old.index(name)] if name in old else no_class for name in new]
    tensors[embedding] = torch.stack([*chosen, no_class] if model.null_class else chosen)
    parts = {
        "new": [name for name in new if name not in old],
        "as before": [name for name in new if name in old],
        "left": [name for name in old if name not in new],
    }
    told = "; ".join(f"{what}: {_names(names)}" for what, names in parts.items() if names)
    return replace(start, tensors=tensors), f"classes: {told}; all other weights are kept"


def _names(names: Sequence[str]) -> str:
    return first_of(names, _SHOWN, 40)
