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
from ..weights.tensors import check_shapes, load_into
from .muon import Muon, split

# What Adam keeps of a parameter: a count, and tensors of the parameter's shape.
MOMENTS = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
CHECKPOINTS = "checkpoints"  # their folder inside a run's
_NAME = re.compile(r"^checkpoint-(\d{8,})\.safetensors$")


@dataclass
class TrainState:
    """Network, its average, optimizer and position; ``step`` counts finished steps.

    ``losses`` are those of the steps since the log's last line, ``norm`` the last gradient's: what
    the next line is made of, also after a resumption.
    """

    network: nn.Module
    ema: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    norm: float = 0.0
    _pairs: tuple[list[Tensor], list[Tensor]] | None = field(default=None, repr=False)

    @classmethod
    def fresh(cls, network: nn.Module, config: Config) -> TrainState:
        """Start from the network's present weights; without ``model.ema`` no average is kept."""
        weights = network.state_dict() if config.model.ema else {}
        ema = {n: p.detach().clone() for n, p in weights.items()}
        return cls(network, ema, build_optimizer(network, config.optim))

    @torch.no_grad()
    def update_ema(self, rate: float) -> None:
        """Move the average towards the weights, faster during the first steps.

        Without that a short run's average would still hold its random start.
        """
        rate = min(rate, (1 + self.step) / (10 + self.step))
        if self._pairs is None:  # the weights are the same objects in every step
            weights = self.network.state_dict(keep_vars=True)
            self._pairs = list(self.ema.values()), [weights[name] for name in self.ema]
        average, current = self._pairs
        torch._foreach_lerp_(average, current, 1.0 - rate)


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
    folder: Path, state: TrainState, config: Config, info: dict[str, Any], keep: int
) -> Path:
    """Write ``checkpoint-<step>.safetensors`` and remove all but the newest ``keep``.

    Raises:
        OSError: it cannot be written; those that were there are still there.
    """
    tensors = {f"model.{n}": p for n, p in state.network.state_dict().items()}
    tensors |= {f"ema.{n}": p for n, p in state.ema.items()}
    tensors |= {
        f"optim.{key}.{name}": value
        for name, parameter in state.network.named_parameters()
        for key, value in state.optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }
    path = folder / f"checkpoint-{state.step:08d}.safetensors"
    position = {"step": state.step, "seconds": round(state.seconds, 1)}
    pending = {"losses": state.losses, "grad_norm": state.norm}
    save(path, tensors, Header("checkpoint", config, {**info, **position, **pending}))
    for old in checkpoints(folder)[:-keep]:
        with suppress(OSError):  # the next time it is tried again
            old.unlink(missing_ok=True)
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, oldest step first."""
    if not folder.is_dir():
        return []
    pairs = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.match(p.name))]
    return [path for _, path in sorted(pairs)]


def restore(path: Path, state: TrainState) -> dict[str, Any]:
    """Load a checkpoint into ``state`` and return the ``info`` it was saved with.

    Raises:
        DdimxError: not a checkpoint, damaged, or of another architecture.
    """
    header = read_header(path)
    if header.kind != "checkpoint":
        raise DdimxError(f"{path}: a model, not a checkpoint; start from it with --init")
    if "step" not in header.info:
        raise DdimxError(f"{path}: its header does not say at which step it was written")
    load_into(state.network, read_tensors(path, "model."), str(path))
    # A run that kept no average until now begins one at its present weights.
    average = read_tensors(path, "ema.") or state.network.state_dict()
    check_shapes(state.network, average, f"{path}: the average")
    for name, value in state.ema.items():
        value.copy_(average[name])
    _restore_optimizer(state, read_tensors(path, "optim."), str(path))
    state.step = int(header.info["step"])
    state.seconds = float(header.info.get("seconds", 0.0))
    state.losses = [float(loss) for loss in header.info.get("losses", [])]  # version 0.1: none
    state.norm = float(header.info.get("grad_norm", 0.0))
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
