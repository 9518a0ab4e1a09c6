"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..data.batches import BatchStream, divided
from ..data.examples import Examples, open_batches
from ..device import sent
from ..errors import DdimxError
from ..models.layers import set_dropout_key
from ..models.process import Draws, Process
from ..noise import Noise
from ..sampling import compiled
from ..signals import Stop
from .compute import Compute, choose_compute, keep_inputs_alone
from .distributed import Group
from .measure import Distance, LossesByTime
from .muon import Muon
from .preview import draw_samples, pictures
from .report import Reporter
from .state import CHECKPOINTS, TrainState, checkpoints, save_checkpoint

VALIDATION_EXAMPLES = 512
VALIDATION_SEED = 0
# Steps between two looks at what a GPU has computed, for which it has to be waited. They divide
# the steps between two lines of the log.
LOOK_EVERY = 10


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
    compute: Compute | None = None  # None: what the configuration says
    distance: Distance | None = None  # to the training images, where training.fid_every asks
    group: Group = field(default_factory=Group)  # of which this trainer computes its rank's part

    def __post_init__(self) -> None:
        """Prepare what is kept on the device between two looks at it."""
        network = self.state.network
        self._compute = self.compute or choose_compute(self.config, self.device, network)
        if self.config.training.activation_checkpointing:
            keep_inputs_alone(network)
        if isinstance(self.state.optimizer, Muon):
            self.state.optimizer.exact = self._compute.precision == "fp32"
        # Compiled, and one of several ranks, where it is; evaluation takes the network itself.
        self._trained = self.group.trainable(network)
        self.look_every = LOOK_EVERY if self.device.type == "cuda" else 1
        self._unseen: list[tuple[int, Tensor, Tensor]] = []  # step, loss and gradient's norm
        self._unreported: list[float] = []  # losses
        self._by_time = LossesByTime(self.process)
        self._spoilt = torch.zeros((), device=self.device)  # 1 once one of them was not finite
        self._copying: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._copying = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def compile(self) -> float:
        """Compile the network and its gradient, and return how many seconds that took.

        It is the work of one step that changes neither weights nor moments.

        Raises:
            DdimxError: it failed; the message's first line says why.
        """
        network, training = self.state.network, self.config.training
        start_seconds = time.perf_counter()
        positions, batch = divided(*self._batches().batch(self.state.step), training.accumulate)[0]
        arriving = self._arriving({"": positions, **batch})
        key = self.noise, arriving.pop(""), self.state.step
        draws = Draws(self.noise, positions, self.state.step, training.batch_size)
        network.train()
        # What draws its mask itself shows the mask's size: compiled code gets them all drawn.
        set_dropout_key(network, key)
        with torch.no_grad(), self._compute.autocast():
            self.process.loss(network, arriving, draws)
        set_dropout_key(network, key)
        trained: nn.Module = network
        failure: Exception | None = None
        try:
            trained = cast(nn.Module, torch.compile(network, dynamic=False))
            # The others of a machine find what its first process has compiled.
            with self.group.first_of_machine(), compiled.code_folder():
                with self._compute.autocast():
                    losses = self.process.loss(trained, arriving, draws)
                losses.mean().backward()  # type: ignore[no-untyped-call]
        except torch.cuda.OutOfMemoryError:
            raise
        # A compiler, a linker or a loader may raise anything, and a network that is not compiled
        # can still be trained: the caller says why, and goes on or ends.
        except Exception as error:  # noqa: BLE001 - raised below, when all ranks know
            failure = error
        finally:
            self.state.optimizer.zero_grad(set_to_none=True)
        # All ranks train what is compiled, or none.
        failures = torch.tensor(float(failure is not None), device=self.device)
        if self.group.total(failures):
            text = "it failed on another rank" if failure is None else str(failure).strip()
            reason = (text.splitlines() or [type(failure).__name__])[0]
            raise DdimxError(f"the network cannot be compiled here: {reason}") from failure
        self._trained = self.group.trainable(trained)
        return time.perf_counter() - start_seconds

    def _batches(self) -> BatchStream[Any]:
        """Return the batches of the examples that this rank computes."""
        size, part = self.config.training.batch_size, (self.group.rank, self.group.size)
        return open_batches(self.source, self.config.data, self.noise, size, part)

    def run(self, stop: Stop, report: Reporter) -> bool:
        """Train until done (True) or asked to stop (False); either way a checkpoint is written.

        At each step the checkpoint comes first: what else is written is worth less, and is made
        up for by a run that goes on from that checkpoint.

        Raises:
            DdimxError: loss or gradient are not finite, or a checkpoint cannot be written; the
                last good checkpoint stays.
        """
        training = self.config.training
        batches, group = self._batches(), self.group
        total = min(
            training.n_iters,
            math.ceil(training.n_epochs * batches.order.epoch_size / training.batch_size),
        )
        start_seconds, earlier_seconds = time.perf_counter(), self.state.seconds
        report.start(self.state, total)
        if self.state.step:
            self._measure(total, report)
        for step, positions, batch in batches.steps(self.state.step, total):
            group.at(step)
            self.step(step, positions, batch, total)
            step_count = self.state.step
            due = step_count % training.snapshot_freq == 0 or step_count == total
            validates = step_count % training.validation_freq == 0
            every = training.fid_every
            measures = every is not None and step_count % every == 0
            looks = due or validates or measures or step_count % self.look_every == 0
            stops = group.stopping(stop, now=looks)  # the same on all ranks
            due |= stops
            if not (looks or stops):
                continue
            self.look()
            losses, self._unreported = self._unreported, []
            self.state.seconds = earlier_seconds + time.perf_counter() - start_seconds
            if due:
                self.save()
            report.step(self.state, losses, self.state.norm, batches.waited)
            stops = stops or group.stopping(stop, now=False)
            if stops and not due:  # the user asked meanwhile
                due = True
                self.save()
            if due:
                report.saved(self.state)
            if stops:
                return False
            self._measure(total, report)
        return True

    def _measure(self, total: int, report: Reporter) -> None:
        """Measure and draw what is due at this step, unless that has been done, on rank 0 alone."""
        if not self.group.is_first:
            return
        with self.group.writing():
            self._measure_here(total, report)

    def _measure_here(self, total: int, report: Reporter) -> None:
        step, training = self.state.step, self.config.training
        if (step % training.validation_freq == 0 or step == total) and not report.validated(step):
            report.validation(self.state, self.validate())
        picture = self._picture()
        if (step % training.snapshot_freq == 0 or step == total) and not picture.exists():
            try:
                self.draw_grid()
            except OSError as error:
                report.problem(self.state, str(picture.parent), error)
        due = step % (training.fid_every or 1) == 0 or step == total
        if self.distance is not None and due and not report.measured(step):
            try:
                report.distance(self.state, self.distance, self.measure())
            except (DdimxError, torch.cuda.OutOfMemoryError) as error:
                what = f"{self.distance.name} of step {step}"
                report.problem(self.state, what, OSError(str(error)))
        if step % training.snapshot_freq == 0 or step == total:
            report.curves(self.state)

    def step(
        self, step: int, positions: Tensor, batch: Mapping[str, Tensor], total: int
    ) -> tuple[Tensor, Tensor]:
        """Do one optimizer step and return the loss and the gradient's norm before clipping.

        ``positions`` and ``batch`` are those of this rank; loss and gradient are the means over
        the examples of all ranks. Both are 0-d and on the device, for which nothing here waits
        unless it is looked at after every step: :meth:`look` tells what they are. A step whose
        loss or gradient is not finite leaves weights and moments as they are, and so do all steps
        after it.

        Raises:
            DdimxError: they are not finite, where every step is looked at.
        """
        network, optimizer, config = self.state.network, self.state.optimizer, self.config
        count = config.training.batch_size
        network.train()
        optimizer.zero_grad(set_to_none=True)
        parts = divided(positions, dict(batch), config.training.accumulate)
        loss = torch.zeros((), device=self.device)
        for number, (own, part) in enumerate(parts, start=1):
            draws = Draws(self.noise, own, step, count)
            arriving = self._arriving({"": own, **part})
            set_dropout_key(network, (self.noise, arriving.pop(""), step))
            with self.group.part(self._trained, last=number == len(parts)):
                with self._compute.autocast():
                    losses = self.process.loss(self._trained, arriving, draws)
                # Examples count the same, in whichever part or rank they are.
                share = losses.mean() if len(losses) == count else losses.sum() / count
                share.backward()  # type: ignore[no-untyped-call]
            loss += share.detach()
            self._by_time.add(draws, losses)
        loss = self.group.total(loss)
        self._by_time.end_step(self.group.total)
        clip = config.optim.grad_clip
        norm = nn.utils.clip_grad_norm_(network.parameters(), clip or math.inf)
        self._unseen.append((step, loss, norm))
        if self.look_every == 1:
            self.look()
        else:
            bad = (~(loss.isfinite() & norm.isfinite())).to(self._spoilt.dtype)
            self._spoilt = torch.maximum(self._spoilt, bad)
            optimizer.found_inf = self._spoilt  # type: ignore[attr-defined]
        for group in optimizer.param_groups:
            group["lr"] = config.optim.learning_rate(step, total)
        optimizer.step()
        self.state.step = step + 1
        if config.model.ema:
            self.state.update_ema(config.model.ema_rate, config.model.ema2_rate)
        return loss, norm

    def look(self) -> None:
        """Wait for the steps that were not looked at yet, and note their losses.

        Raises:
            DdimxError: a loss or a gradient is not finite; the weights are those before that step.
        """
        if not self._unseen:
            return
        values = torch.stack([value for _, *pair in self._unseen for value in pair]).tolist()
        steps, self._unseen = [step for step, _, _ in self._unseen], []
        losses, norms = values[::2], values[1::2]
        for step, loss, norm in zip(steps, losses, norms, strict=True):
            for what, value in (("loss", loss), ("gradient", norm)):
                if not math.isfinite(value):
                    raise DdimxError(
                        f"the {what} is {value} at step {step}; training stopped, "
                        f"{self._last_good()}. Lower optim.lr, or set optim.grad_clip."
                    )
        self.state.losses += losses
        self.state.norm = norms[-1]
        self._unreported += losses
        for sums, counts in self._by_time.take():
            self.state.add_by_time(sums, counts)

    def validate(self) -> dict[str, float]:
        """Return the averaged weights' loss on as many training as held-out examples.

        Both are measured with the same draws, at the same times, without dropout, so that their
        ratio shows memorization and nothing else. No example is measured twice. Of a second
        average the same is measured, under names that end in ``_ema2``.
        """
        parts = {"train": self.source, "held_out": self.held_out}
        parts = {name: part for name, part in parts.items() if len(part)}
        count = min(VALIDATION_EXAMPLES, *map(len, parts.values()))
        with self._averaged():
            losses = {name: self._loss(part, count) for name, part in parts.items()}
        if self.state.ema2:
            with self._averaged(self.state.ema2):
                for name, part in parts.items():
                    losses[f"{name}_ema2"] = self._loss(part, count)
        return losses

    def measure(self) -> float:
        """Return the Fréchet distance of samples of the averaged weights to the training images.

        Always the same noise, and the classes of evenly spread training images, so that they are
        as frequent as there.

        Raises:
            DdimxError: there is none.
        """
        assert self.distance is not None
        count, labels = self.config.training.fid_samples, None
        if self.process.num_classes:
            assert self.source.labels is not None
            places = np.linspace(0, len(self.source) - 1, count).round().astype(np.int64)
            labels = self.source.labels[places].tolist()
        network, seed, autocast = self.state.network, VALIDATION_SEED, self._compute.autocast
        drawn = pictures(self.process, network, labels, count, seed, self.device, autocast)
        with self._averaged():
            return self.distance(drawn, self.folder)

    @torch.no_grad()
    def draw_grid(self) -> Path:
        """Write a grid of samples from the averaged weights, always the same noise."""
        path = self._picture()
        with self._averaged(), self._compute.autocast():
            network, classes = self.state.network, self.config.model.classes
            draw_samples(path, self.process, network, VALIDATION_SEED, self.device, classes)
        return path

    def _picture(self) -> Path:
        return self.folder / "samples" / f"step-{self.state.step:08d}.png"

    def save(self) -> Path:
        """Write a checkpoint of the present state, on rank 0 alone.

        Raises:
            DdimxError: it cannot be written; the last one is still there.
        """
        path = self.folder / CHECKPOINTS / f"checkpoint-{self.state.step:08d}.safetensors"
        if not self.group.is_first:
            return path
        try:
            with self.group.writing():
                return save_checkpoint(
                    self.folder / CHECKPOINTS,
                    self.state,
                    self.config,
                    {**self.info, "seed": self.noise.seed},
                    self.config.training.keep_checkpoints,
                    self.config.training.keep_every,
                )
        except OSError as error:
            raise DdimxError(
                f"cannot write the checkpoint of step {self.state.step}: "
                f"{error.strerror or error}; {self._last_good()}. "
                f"Go on with: {shlex.join(['ddimx', 'train', '--resume', str(self.folder)])}"
            ) from None

    @contextmanager
    def _averaged(self, average: dict[str, Tensor] | None = None) -> Iterator[None]:
        """Put averaged weights into the network for a while, the first ones, in evaluation mode."""
        network = self.state.network
        own_weights = {n: v.clone() for n, v in network.state_dict().items()}
        if self.config.model.ema:
            network.load_state_dict(average or self.state.ema)
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
        for step, positions, batch in batches.steps(0, math.ceil(count / size)):
            draws = Draws(Noise(VALIDATION_SEED), positions, step, size)
            with self._compute.autocast():
                losses.append(self.process.loss(self.state.network, self._arriving(batch), draws))
        return torch.cat(losses)[:count].mean().item()

    def _last_good(self) -> str:
        paths = checkpoints(self.folder / CHECKPOINTS)
        return f"the last good checkpoint is {paths[-1]}" if paths else "there is no checkpoint yet"

    def _arriving(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a batch on the device; CUDA copies it beside what is being computed."""
        if self._copying is None:
            return {name: value.to(self.device) for name, value in batch.items()}
        now = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copying):
            moved = {name: sent(value, self.device) for name, value in batch.items()}
        now.wait_stream(self._copying)
        for value in moved.values():
            value.record_stream(now)
        return moved
