"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..data.examples import Examples, open_batches
from ..errors import DdimxError
from ..models.layers import Keyed
from ..models.process import Draws, Process
from ..noise import Noise
from ..signals import Stop
from .preview import draw_samples
from .report import Reporter
from .state import CHECKPOINTS, TrainState, checkpoints, save_checkpoint

VALIDATION_EXAMPLES = 512
VALIDATION_SEED = 0


@dataclass
class Trainer:
    """One training run: ``run`` goes on from ``state.step`` to the configured number of steps."""

    config: Config
    state: TrainState
    process: Process
    source: Examples
    held_out: Examples
    folder: Path
    noise: Noise
    device: torch.device
    info: dict[str, Any] = field(default_factory=dict)

    def run(self, stop: Stop, report: Reporter) -> bool:
        """Train until done (True) or asked to stop (False); either way a checkpoint is written.

        At each step the checkpoint comes first: what else is written is worth less, and is made
        up for by a run that goes on from that checkpoint.

        Raises:
            DdimxError: loss or gradient are not finite, or a checkpoint cannot be written; the
                last good checkpoint stays.
        """
        training = self.config.training
        batches = open_batches(self.source, self.config.data, self.noise, training.batch_size)
        total = min(
            training.n_iters,
            math.ceil(training.n_epochs * batches.order.epoch_size / training.batch_size),
        )
        start_seconds, earlier_seconds = time.perf_counter(), self.state.seconds
        report.start(self.state, total)
        if self.state.step:
            self._look(total, report)
        for step, positions, batch in batches.steps(self.state.step, total):
            loss, norm = self.step(step, positions, batch, total)
            self.state.seconds = earlier_seconds + time.perf_counter() - start_seconds
            step_count = self.state.step
            due = step_count % training.snapshot_freq == 0 or step_count == total or bool(stop)
            if due:
                self.save()
            report.step(self.state, loss, norm, batches.waited)
            if stop and not due:  # the user asked meanwhile
                due = True
                self.save()
            if due:
                report.saved(self.state)
            if stop:
                return False
            self._look(total, report)
        return True

    def _look(self, total: int, report: Reporter) -> None:
        """Measure and draw what is due at this step, unless that has been done."""
        step, training = self.state.step, self.config.training
        if (step % training.validation_freq == 0 or step == total) and not report.validated(step):
            report.validation(self.state, self.validate())
        picture = self._picture()
        if (step % training.snapshot_freq == 0 or step == total) and not picture.exists():
            try:
                self.draw_grid()
            except OSError as error:
                report.problem(self.state, str(picture.parent), error)

    def step(
        self, step: int, positions: Tensor, batch: Mapping[str, Tensor], total: int
    ) -> tuple[float, float]:
        """Do one optimizer step and return the loss and the gradient's norm before clipping."""
        network, optimizer, config = self.state.network, self.state.optimizer, self.config
        draws = Draws(self.noise, positions, step, config.training.batch_size)
        network.train()
        set_dropout_key(network, (self.noise, positions, step))
        with self._autocast():
            losses = self.process.loss(network, self._moved(batch), draws)
        loss = losses.mean()
        value = loss.item()
        self._check_finite("loss", value, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        clip = config.optim.grad_clip
        norm = nn.utils.clip_grad_norm_(network.parameters(), clip or math.inf).item()
        self._check_finite("gradient", norm, step)
        for group in optimizer.param_groups:
            group["lr"] = config.optim.learning_rate(step, total)
        optimizer.step()
        self.state.step = step + 1
        self.state.losses.append(value)
        self.state.norm = norm
        if config.model.ema:
            self.state.update_ema(config.model.ema_rate)
        return value, norm

    def validate(self) -> dict[str, float]:
        """Return the averaged weights' loss on as many training as held-out examples.

        Both are measured with the same draws, at the same times, without dropout, so that their
        ratio shows memorization and nothing else. No example is measured twice.
        """
        parts = {"train": self.source, "held_out": self.held_out}
        parts = {name: part for name, part in parts.items() if len(part)}
        count = min(VALIDATION_EXAMPLES, *map(len, parts.values()))
        with self._averaged():
            return {name: self._loss(part, count) for name, part in parts.items()}

    @torch.no_grad()
    def draw_grid(self) -> Path:
        """Write a grid of samples from the averaged weights, always the same noise."""
        path = self._picture()
        with self._averaged(), self._autocast():
            network, classes = self.state.network, self.config.model.classes
            draw_samples(path, self.process, network, VALIDATION_SEED, self.device, classes)
        return path

    def _picture(self) -> Path:
        return self.folder / "samples" / f"step-{self.state.step:08d}.png"

    def save(self) -> Path:
        """Write a checkpoint of the present state.

        Raises:
            DdimxError: it cannot be written; the last one is still there.
        """
        try:
            return save_checkpoint(
                self.folder / CHECKPOINTS,
                self.state,
                self.config,
                {**self.info, "seed": self.noise.seed},
                self.config.training.keep_checkpoints,
            )
        except OSError as error:
            raise DdimxError(
                f"cannot write the checkpoint of step {self.state.step}: "
                f"{error.strerror or error}; {self._last_good()}. "
                f"Go on with: {shlex.join(['ddimx', 'train', '--resume', str(self.folder)])}"
            ) from None

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights into the network for a while, in evaluation mode."""
        network = self.state.network
        own_weights = {n: v.clone() for n, v in network.state_dict().items()}
        if self.config.model.ema:
            network.load_state_dict(self.state.ema)
        network.eval()
        try:
            yield
        finally:
            network.load_state_dict(own_weights)

    @torch.no_grad()
    def _loss(self, source: Examples, count: int) -> float:
        size = self.config.training.batch_size
        batches = open_batches(source, self.config.data, Noise(VALIDATION_SEED), size)
        losses = []
        for step in range(math.ceil(count / size)):
            positions, batch = batches.batch(step)
            draws = Draws(Noise(VALIDATION_SEED), positions, step, size)
            with self._autocast():
                losses.append(self.process.loss(self.state.network, self._moved(batch), draws))
        return torch.cat(losses)[:count].mean().item()

    def _check_finite(self, what: str, value: float, step: int) -> None:
        """Stop before a step that would spoil the weights, and with them the next checkpoint."""
        if math.isfinite(value):
            return
        raise DdimxError(
            f"the {what} is {value} at step {step}; training stopped, {self._last_good()}. "
            "Lower optim.lr, or set optim.grad_clip."
        )

    def _last_good(self) -> str:
        paths = checkpoints(self.folder / CHECKPOINTS)
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def _moved(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self.config.training.precision
        if precision == "fp32" or (precision == "auto" and self.device.type != "cuda"):
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def set_dropout_key(network: nn.Module, key: tuple[Noise, Tensor, int]) -> None:
    """Give a network's keyed layers the address of this step's draws."""
    for module in network.modules():
        if isinstance(module, Keyed):
            module.key = key
