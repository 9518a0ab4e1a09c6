"""The Gaussian process: what is added to an image in training, and what the network learns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import Config, Prediction
from ..noise import Noise, Stream
from ..solvers.executor import Draw, Known, Step, execute
from ..solvers.plan import Plan
from ..solvers.registry import SolverChoice, make_plan
from ..solvers.schedule import Schedule
from ..solvers.timesteps import Times
from .denoiser import Denoiser
from .process import Draws, drawn_labels, drawn_timesteps


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """DDPM's forward process (arXiv 2006.11239) for any beta schedule and parametrisation."""

    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, ...]
    num_classes: int = 0
    class_dropout: float = 0.0
    antithetic: bool = True

    @classmethod
    def from_config(cls, config: Config) -> GaussianProcess:
        """Build the process that a configuration describes."""
        return cls(
            schedule=Schedule.from_config(config.diffusion),
            prediction=config.diffusion.prediction,
            shape=config.sample_shape,
            num_classes=len(config.model.classes),
            class_dropout=config.training.class_dropout,
            antithetic=config.training.antithetic,
        )

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return the squared error of the prediction, averaged over elements: float32 [B].

        ``batch`` holds ``x`` float32 [B, C, H, W] and, for a conditional model, ``label``
        int64 [B].
        """
        x0 = batch["x"]
        t = self.timesteps(draws)
        alpha_bar = self._alpha_bar(t, x0)
        noise = draws.noise.normal(
            draws.positions, self.shape, row=draws.step, stream=Stream.TRAIN_NOISE, device=x0.device
        )
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = (signal * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        out = network(noisy, t.to(x0.device, torch.float32), self._labels(batch, draws))
        targets = {"epsilon": noise, "x0": x0, "v": signal * noise - sigma * x0}
        error = out.to(torch.float32) - targets[self.prediction]
        losses: Tensor = error.square().flatten(1).mean(dim=1)
        return losses

    def plan(self, choice: SolverChoice, times: Times) -> Plan:
        """Return the solver's plan over ascending ``times``."""
        return make_plan(choice, self.schedule, times, self.prediction)

    def prior(self, noise: Noise, samples: Tensor, device: torch.device) -> Tensor:
        """Draw x_T of the given sample indices, float32 [B, C, H, W]."""
        return noise.normal(samples, self.shape, stream=Stream.INIT, device=device)

    def sample(
        self,
        network: nn.Module,
        plan: Plan,
        start: Tensor,
        draw: Draw,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
    ) -> Iterator[Step]:
        """Run ``plan`` from ``start`` [B, ...] and yield after every row.

        ``labels`` int64 [B] are for conditional models; ``num_classes`` means no class.
        """
        null = self.num_classes if self.num_classes else None
        denoiser = Denoiser(network, labels=labels, null_label=null, guidance=guidance)
        return execute(plan, denoiser, start, draw, guidance=guidance, known=known)

    def timesteps(self, draws: Draws) -> Tensor:
        """Draw int64 [B] in 0..T-1; with ``antithetic`` the two halves of a batch pair t, T-1-t."""
        return drawn_timesteps(draws, self.schedule.num_timesteps, antithetic=self.antithetic)

    def _alpha_bar(self, t: Tensor, like: Tensor) -> Tensor:
        table = torch.from_numpy(self.schedule.alpha_bars[1:])
        values = table[t].to(like.device, torch.float32)
        return values.view(-1, *(1 for _ in self.shape))

    def _labels(self, batch: Mapping[str, Tensor], draws: Draws) -> Tensor | None:
        if not self.num_classes:
            return None
        return drawn_labels(draws, batch["label"], self.num_classes, self.class_dropout)
