"""What training carries from step to step, and its form on disk."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config, OptimConfig
from ..errors import DdimxError
from ..untrusted.text import shortened
from ..weights.formats.native import Header, read_header, read_tensors, save
from ..weights.formats.seal import damage
from ..weights.tensors import check_shapes, load_into
from .muon import Muon, split

# What Adam keeps of a parameter: a count, and tensors of the parameter's shape.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
CHECKPOINTS = "checkpoints"  # their folder inside a run's
DAMAGED = ".damaged"  # what is added to the name of one that cannot be trusted
_NAME = re.compile(r"^checkpoint-(\d{8,})\.safetensors$")


@dataclass
class TrainState:
    """Network, its averages, optimizer and position; ``step`` counts finished steps.

    ``losses`` are those of the steps since the log's last line, ``norm`` the last gradient's, and
    ``time_sums`` and ``time_counts`` the losses of these steps' examples by equal parts of the
    schedule: what the next line is made of, also after a resumption. ``remarks`` are what a user
    should know of a restored state.
    """

    network: nn.Module
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norm: float = 0.0
    ema2: dict[str, Tensor] = field(default_factory=dict)
    time_sums: list[float] = field(default_factory=list)
    time_counts: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _pairs: dict[int, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict, repr=False)

    @classmethod
    def fresh(cls, network: nn.Module, config: Config) -> TrainState:
        """Start from the network's present weights; without ``model.ema`` no average is kept."""
        weights = network.state_dict() if config.model.ema else {}
        second = weights if config.model.ema2_rate is not None else {}
        ema, ema2 = ({n: p.detach().clone() for n, p in part.items()} for part in (weights, second))
        return cls(network, ema, build_optimizer(network, config.optim), ema2=ema2)

    @property
    def learning_rate(self) -> float:
        """The rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def update_ema(self, rate: float, second_rate: float | None = None) -> None:
        """Move the averages towards the weights, faster during the first steps.

        Without that a short run's average would still hold its random start.
        """
        self._move(self.ema, rate)
        if second_rate is not None:
            self._move(self.ema2, second_rate)

    @torch.no_grad()
    def _move(self, averages: dict[str, Tensor], rate: float) -> None:
        rate = min(rate, (1 + self.step) / (10 + self.step))
        if id(averages) not in self._pairs:  # the weights are the same objects in every step
            weights = self.network.state_dict(keep_vars=True)
            pairs = list(averages.values()), [weights[name] for name in averages]
            self._pairs[id(averages)] = pairs
        average, current = self._pairs[id(averages)]
        torch._foreach_lerp_(average, current, 1.0 - rate)

    def add_by_time(self, sums: list[float], counts: list[int]) -> None:
        """Add a step's losses by parts of the schedule, and how many examples lay in each."""
        if len(self.time_sums) != len(sums):  # the first since the log's last line
            self.time_sums, self.time_counts = [0.0] * len(sums), [0] * len(sums)
        self.time_sums = [a + b for a, b in zip(self.time_sums, sums, strict=True)]
        self.time_counts = [a + b for a, b in zip(self.time_counts, counts, strict=True)]

    def clear(self) -> None:
        """Forget the losses: the log has a line of them."""
        self.losses.clear()
        self.time_sums.clear()
        self.time_counts.clear()


def build_optimizer(network: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """Return Adam, AdamW or Muon as the configuration says; its rate is set before every step.

    On a CPU and with CUDA Adam is PyTorch's fused one: one pass over weights, gradients and
    moments. All leave weights and moments alone where their attribute ``found_inf`` is 1.
    """
    if optim.optimizer == "Muon":
        return Muon(
            *split(network),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            momentum=optim.momentum,
        )
    kinds = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
    parameters = list(network.parameters())
    fused = {p.device.type for p in parameters} in ({"cpu"}, {"cuda"})
    optimizer: torch.optim.Optimizer = kinds[optim.optimizer](
        parameters,
        lr=optim.lr,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        amsgrad=optim.amsgrad,
        fused=fused,
    )
    return optimizer


def save_checkpoint(
    folder: Path,
    state: TrainState,
    config: Config,
    info: dict[str, Any],
    keep: int,
    keep_every: int | None = None,
) -> Path:
    """Write ``checkpoint-<step>.safetensors`` and remove all but the newest ``keep``.

    Those of steps that are multiples of ``keep_every`` are not removed.

    Raises:
        OSError: it cannot be written; those that were there are still there.
    """
    tensors = {f"model.{n}": p for n, p in state.network.state_dict().items()}
    tensors |= {f"ema.{n}": p for n, p in state.ema.items()}
    tensors |= {f"ema2.{n}": p for n, p in state.ema2.items()}
    tensors |= {
        f"optim.{key}.{name}": value
        for name, parameter in state.network.named_parameters()
        for key, value in state.optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }
    path = folder / f"checkpoint-{state.step:08d}.safetensors"
    position = {"step": state.step, "seconds": round(state.seconds, 1)}
    pending = {"losses": state.losses, "grad_norm": state.norm}
    pending |= {"time_sums": state.time_sums, "time_counts": state.time_counts}
    pending |= {"learning_rate": state.learning_rate}
    save(path, tensors, Header("checkpoint", config, {**info, **position, **pending}))
    for old in checkpoints(folder)[:-keep]:
        if keep_every is not None and step_of(old) % keep_every == 0:
            continue
        with suppress(OSError):  # the next time it is tried again
            old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest step first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.match(p.name)), key=step_of)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name."""
    match = _NAME.match(path.name)
    assert match is not None
    return int(match[1])


def newest_whole(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """Return the newest checkpoint that is not damaged, and those after it with what they are.

    Raises:
        DdimxError: all are damaged, or one cannot be opened.
    """
    damaged: list[tuple[Path, str]] = []
    for path in reversed(checkpoints(folder)):
        reason = damage(path)
        if reason is None:
            return path, damaged
        damaged.append((path, reason))
    if damaged:
        told = "; ".join(f"{path.name}: {reason}" for path, reason in damaged)
        raise DdimxError(
            f"{folder}: all checkpoints are damaged ({told}). Put whole ones there, or move these "
            "away, and the same command begins again"
        )
    return None, []


def set_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name under which it is no checkpoint, and return that.

    Raises:
        DdimxError: it cannot be renamed.
    """
    place, number = path.with_name(path.name + DAMAGED), 1
    while place.exists():
        number += 1
        place = path.with_name(f"{path.name}{DAMAGED}-{number}")
    try:
        path.rename(place)
    except OSError as error:
        raise DdimxError(
            f"{path} is damaged and cannot be renamed: {error.strerror or error}"
        ) from None
    return place


def restore(path: Path, state: TrainState) -> dict[str, Any]:
    """Load a checkpoint into ``state`` and return the ``info`` it was saved with.

    Raises:
        DdimxError: not a checkpoint, damaged, or of another architecture.
    """
    reason = damage(path)
    if reason is not None:
        raise DdimxError(f"{path}: damaged: {reason}; --resume RUN takes the newest whole one")
    header = read_header(path)
    if header.kind != "checkpoint":
        raise DdimxError(f"{path}: a model, not a checkpoint; start from it with --init")
    if "step" not in header.info:
        raise DdimxError(f"{path}: its header does not say at which step it was written")
    load_into(state.network, read_tensors(path, "model."), str(path))
    # A run that kept no average until now begins one at its present weights, and a second one at
    # the first, which is nearer to what it will be.
    average = read_tensors(path, "ema.") or state.network.state_dict()
    second = read_tensors(path, "ema2.") if state.ema2 else {}
    for which, own, values in (
        ("", state.ema, average),
        (" ema2", state.ema2, second or average),
    ):
        check_shapes(state.network, values, f"{path}: the average{which}")
        for name, value in own.items():
            value.copy_(values[name])
    if state.ema2 and not second:
        state.remarks.append(
            f"{path.name} holds no second average (model.ema2_rate): it begins as a copy of the "
            "first one"
        )
    _restore_optimizer(state, read_tensors(path, "optim."), str(path))
    state.step = int(header.info["step"])
    state.seconds = float(header.info.get("seconds", 0.0))
    state.losses = [float(loss) for loss in header.info.get("losses", [])]  # version 0.1: none
    state.norm = float(header.info.get("grad_norm", 0.0))
    state.time_sums = [float(value) for value in header.info.get("time_sums", [])]
    state.time_counts = list(header.info.get("time_counts", []))
    for group in state.optimizer.param_groups:
        group["lr"] = header.info.get("learning_rate", group["lr"])
    return header.info


def _restore_optimizer(state: TrainState, tensors: dict[str, Tensor], label: str) -> None:
    parameters = dict(state.network.named_parameters())
    for full, value in tensors.items():
        key, _, name = full.partition(".")
        parameter = parameters.get(name)
        due = None if parameter is None else torch.Size() if key == "step" else parameter.shape
        if parameter is None or key not in MOMENTS or value.shape != due:
            raise DdimxError(f"{label}: not of this network's optimizer: {shortened(full)}")
        # Optimizers keep their step counters on the CPU unless they are fused.
        if key == "step":
            on_device = bool(state.optimizer.defaults["fused"])
            moment = value.to(parameter.device) if on_device else value
        else:
            # In the parameter's layout in memory: fused Adam goes through both side by side.
            moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
            moment.copy_(value)
        state.optimizer.state[parameter][key] = moment
