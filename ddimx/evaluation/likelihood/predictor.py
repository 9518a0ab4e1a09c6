"""One network as the quantities that likelihoods are made of: x0 and the flow's velocity."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ...models.denoiser import Denoiser
from ...solvers.plan import Array
from ...weights.model import Model


class Predictor:
    """A model's predictions for given classes, in float64 around the network's own precision."""

    def __init__(self, model: Model, labels: Tensor | None) -> None:
        """Wrap ``model`` for the images of int64 [B] ``labels`` (None: no class)."""
        classes = model.process.num_classes
        if labels is None and classes:
            raise ValueError("a conditional model needs labels")
        self._schedule = model.process.schedule
        self._prediction = model.config.diffusion.prediction
        self._denoiser = Denoiser(
            model.network,
            schedule=self._schedule,
            labels=None if labels is None else labels.to(model.device),
        )
        self._device = model.device
        self._dtype = next(model.network.parameters()).dtype

    def x0(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the prediction of clean data at float64 states [B, ...] and times [B]."""
        ab = self._schedule.alpha_bar(t.numpy())
        r, s, _, _ = self._schedule.output_coefficients(ab, self._prediction)
        return _column(r, x) * x + _column(s, x) * self._network(x, t)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Return v = alpha eps - sigma x0 at float64 states [B, ...] and one time.

        Differentiable in ``x``. With alpha = cos(theta) and sigma = sin(theta), v is dx / dtheta
        along the probability flow (Salimans and Ho, arXiv 2202.00512, appendix D).
        """
        out = self._network(x, torch.full((len(x),), t, dtype=torch.float64))
        if self._prediction == "v":
            return out
        ab = self._schedule.alpha_bar(np.array([t]))
        coefficients = self._schedule.output_coefficients(ab, self._prediction)
        r, s, u, w = (float(c[0]) for c in coefficients)
        signal, sigma = math.sqrt(ab[0]), math.sqrt(1 - ab[0])
        return (signal * u - sigma * r) * x + (signal * w - sigma * s) * out

    def _network(self, x: Tensor, t: Tensor) -> Tensor:
        y = x.to(self._dtype).to(self._device)  # in this order: not every device has float64
        out: Tensor = self._denoiser(y, t.to(torch.float32).to(self._device)).out
        return out.to("cpu", torch.float64)


def _column(values: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(values).view(-1, *(1 for _ in like.shape[1:]))
