"""DDIM as one would write it after reading the paper, around a model's own network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import ddimx
from ddimx.models.gaussian import GaussianProcess
from ddimx.noise import Noise

Draw = Callable[[], Tensor]


def eager_loop(model: ddimx.Model, batch: int, steps: int, clip: float | None = None) -> Draw:
    """Return DDIM of the paper (eta 0, trailing times) in PyTorch's own operations.

    ``clip`` bounds the prediction of clean data, as most pipelines do and the paper does not.

    The network is the model's, called directly; nothing of ddimx's sampler takes part, but for
    the times, the noise levels and the starting noise, so that both can be compared.
    """
    process = model.process
    assert isinstance(process, GaussianProcess)
    total = process.schedule.num_timesteps
    times = np.round(np.arange(total, 0, -total / steps)).astype(int) - 1
    alpha_bars = process.schedule.alpha_bars  # alpha_bar[0] = 1 comes before time 0
    levels = alpha_bars[times + 1], np.append(alpha_bars[times[1:] + 1], 1.0)
    predictions = {"epsilon": _from_epsilon, "v": _from_v, "x0": _from_x0}
    predict = predictions[process.prediction]
    labels = torch.zeros(batch, dtype=torch.int64, device=model.device)

    @torch.no_grad()
    def draw() -> Tensor:
        x = Noise(0).normal(range(batch), process.shape, device=model.device)
        for t, ab, ab_to in zip(times.tolist(), *levels, strict=True):
            at = torch.full((batch,), float(t), device=x.device)
            out = model.network(x, at, labels) if process.num_classes else model.network(x, at)
            x0, epsilon = predict(x, out, ab**0.5, (1 - ab) ** 0.5)
            x0 = x0 if clip is None else x0.clamp(-clip, clip)
            x = ab_to**0.5 * x0 + (1 - ab_to) ** 0.5 * epsilon
        return x

    return draw


def _from_epsilon(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return (x - sigma * out) / signal, out


def _from_v(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return signal * x - sigma * out, sigma * x + signal * out


def _from_x0(x: Tensor, out: Tensor, signal: float, sigma: float) -> tuple[Tensor, Tensor]:
    return out, (x - signal * out) / sigma
