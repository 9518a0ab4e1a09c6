"""A model whose every pixel is normal: its probability flow has a closed form."""

import dataclasses

import numpy as np
import torch
from torch import nn

from ddimx.options import Options
from ddimx.sampling.settings import resolve

MEAN, DEVIATION = 0.3, 0.4


class NormalPixels(nn.Module):
    """The exact v of data whose pixels are independent, N(MEAN, DEVIATION^2)."""

    def __init__(self, schedule):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))  # from which the denoiser learns the dtype
        self.schedule = schedule

    def forward(self, y, t, labels=None):
        level = self.schedule.alpha_bar(t.double().numpy())
        ab = torch.from_numpy(level).reshape(-1, 1, 1, 1)
        alpha, sigma = ab.sqrt(), (1 - ab).sqrt()
        variance = ab * DEVIATION**2 + 1 - ab
        pull = (y.double() - alpha * MEAN) / variance
        x0, eps = MEAN + alpha * DEVIATION**2 * pull, sigma * pull
        return (alpha * eps - sigma * x0).to(y.dtype)


def normal_pixels(model):
    """Return a loaded model with that network in place of its own."""
    return dataclasses.replace(model, network=NormalPixels(model.process.schedule))


def settings_of(model, seed=0, count=3):
    asked = Options(solver="ddim", eta=0.0, steps=1, seed=seed, count=count, batch_size=2)
    return resolve(asked, model)


def exact_end(model, settings):
    """Return x_0 of the flow down to t = 0, where x0's mean is the last word; float64."""
    index = torch.tensor(list(settings.indices))
    x = settings.noise.normal(index, model.process.shape).double()
    ab = model.process.schedule.alpha_bar(np.array([999.0, 0.0]))
    scale = np.sqrt(ab * DEVIATION**2 + 1 - ab)
    last = np.sqrt(ab[1]) * MEAN + (x - np.sqrt(ab[0]) * MEAN) * scale[1] / scale[0]
    pull = (last - np.sqrt(ab[1]) * MEAN) / scale[1] ** 2
    return MEAN + np.sqrt(ab[1]) * DEVIATION**2 * pull
