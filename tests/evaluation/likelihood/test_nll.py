"""Bits per dimension of whole models and data sets."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from ddimx.config import DataConfig
from ddimx.config_file import override
from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.likelihood.bits import (
    DEQUANTIZE_ROW,
    PROBE_ROW,
    STRATUM_ROW,
    MeanWithError,
    dequantized,
    levels,
)
from ddimx.evaluation.likelihood.nll import NllSettings, nll
from ddimx.evaluation.likelihood.predictor import Predictor
from ddimx.noise import Noise
from ddimx.pixels import to_network
from ddimx.progress import Progress
from ddimx.weights.model import load_model
from tests.evaluation.likelihood.known import DEVIATION, MEAN, NormalPixels, normal_pixels

QUIET = Progress(quiet=True)


class Pixels:
    """A source of images of independent rounded normal pixels, 8x8."""

    families = None
    fingerprint = "normal"

    def __init__(self, count, deviation=DEVIATION):
        drawn = np.random.default_rng(5).normal(MEAN, deviation, (count, 8, 8, 3))
        self.all = np.clip(np.rint((drawn + 1) * 127.5), 0, 255).astype(np.uint8)
        self.labels = np.arange(count) % 2

    def __len__(self):
        return len(self.all)

    def images(self, indices):
        return self.all[indices]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def test_the_flow_of_an_exact_model_has_the_datas_density(loaded):
    """Between uniform pixels of one bin and the density of N(MEAN, DEVIATION^2) nothing is left."""
    settings = NllSettings(count=20, terms=0, flow_steps=40, batch_size=7)
    source = Pixels(20)
    found = nll(normal_pixels(loaded), source, settings, QUIET)
    batch = levels(torch.from_numpy(source.all), loaded.config.data)
    x = dequantized(batch, Noise(0), torch.arange(20)).numpy()
    # At t = 0 the noise of alpha_bar_0 = 1 - 4e-5 widens it; the prior's mean is left by 1e-5.
    ab = loaded.process.schedule.alpha_bars[1]
    variance = DEVIATION**2 + (1 - ab) / ab
    log = -0.5 * (x - MEAN) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)
    expected = -log.mean(axis=(1, 2, 3)) / math.log(2) - math.log2(2 / 255)
    # The network works in float32 (1e-7) and one probe sees a diagonal Jacobian exactly.
    np.testing.assert_allclose(found.parts["flow"], expected, atol=2e-5)


def test_the_bound_of_an_exact_model_lies_above_its_flow(loaded):
    found = nll(
        normal_pixels(loaded), Pixels(20), NllSettings(count=20, terms=1000, flow_steps=20), QUIET
    )
    difference = found.parts["bound"] - found.parts["flow"]
    assert difference.mean() > -3 * difference.std(ddof=1) / 20**0.5
    assert difference.mean() < 0.5
    total = found.parts["prior"] + found.parts["middle"] + found.parts["decoder"]
    np.testing.assert_allclose(found.parts["bound"], total, rtol=1e-12)


def test_bits_do_not_depend_on_the_batch(loaded):
    settings = NllSettings(count=5, terms=8, flow_steps=3, batch_size=5)
    source = Pixels(9)
    one = nll(loaded, source, settings, QUIET)
    other = nll(loaded, source, dataclasses.replace(settings, batch_size=2), QUIET)
    np.testing.assert_array_equal(one.images, [0, 2, 4, 6, 8])
    for name in one.parts:
        # Other batch sizes round convolutions otherwise (5e-7 each), here through 12 calls.
        np.testing.assert_allclose(one.parts[name], other.parts[name], rtol=1e-4)
    # Image 4 measured with other company, too.
    fewer = nll(loaded, source, dataclasses.replace(settings, count=3), QUIET)
    np.testing.assert_array_equal(fewer.images, [0, 4, 8])
    np.testing.assert_allclose(fewer.parts["flow"][1], one.parts["flow"][2], rtol=1e-4)
    seeded = nll(loaded, source, dataclasses.replace(settings, seed=1), QUIET)
    assert (seeded.parts["flow"] != one.parts["flow"]).all()


def test_each_image_is_told_its_own_class(loaded):
    seen = []

    class Listening(NormalPixels):
        def forward(self, y, t, labels=None):
            seen.append(labels.tolist())
            return super().forward(y, t)

    model = dataclasses.replace(loaded, network=Listening(loaded.process.schedule))
    nll(model, Pixels(4), NllSettings(count=4, terms=2, flow_steps=1, batch_size=3), QUIET)
    assert seen == [[0, 1, 0]] * 7 + [[1]] * 7  # 2 + 1 terms and 4 calls of the flow's step


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_predictions_of_every_kind_agree(loaded, prediction):
    """The same exact posterior told as epsilon, x0 or v gives one x0 and one velocity."""
    schedule = loaded.process.schedule

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, y, t, labels=None):
            ab = torch.from_numpy(schedule.alpha_bar(t.double().numpy())).view(-1, 1, 1, 1)
            pull = (y - ab.sqrt() * MEAN) / (ab * DEVIATION**2 + 1 - ab)
            x0, eps = MEAN + ab.sqrt() * DEVIATION**2 * pull, (1 - ab).sqrt() * pull
            v = ab.sqrt() * eps - (1 - ab).sqrt() * x0
            return {"x0": x0, "epsilon": eps, "v": v}[prediction]

    model = dataclasses.replace(
        loaded,
        network=Told(),
        config=override(loaded.config, [f"diffusion.prediction={prediction}"]),
    )
    told = Predictor(model, torch.zeros(2, dtype=torch.int64))
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 3, 2, 2)
    for t in (0.0, 300.0, 900.0):
        ab = float(schedule.alpha_bar(t))
        pull = (x - ab**0.5 * MEAN) / (ab * DEVIATION**2 + 1 - ab)
        x0, eps = MEAN + ab**0.5 * DEVIATION**2 * pull, (1 - ab) ** 0.5 * pull
        # Dividing by alpha at t = 900 (0.15) costs a digit.
        torch.testing.assert_close(told.x0(x, torch.full((2,), t).double()), x0, rtol=0, atol=1e-13)
        v = ab**0.5 * eps - (1 - ab) ** 0.5 * x0
        torch.testing.assert_close(told.velocity(x, t), v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("keys", [{}, {"rescaled": False}, {"uniform_dequantization": True}])
def test_bins_are_those_of_training(keys):
    data = DataConfig(dataset="NPZ", image_size=16, channels=1, **keys)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    batch = levels(pixels, data)
    center = batch.center.flatten()
    torch.testing.assert_close(center.diff(), torch.full((255,), 2 * batch.half).double())
    middle = torch.full((1, 1, 16, 16), 0.5) if data.uniform_dequantization else None
    seen = to_network(pixels, data, middle).double()
    torch.testing.assert_close(batch.center, seen, rtol=0, atol=2**-23)
    x = dequantized(batch, Noise(0), torch.tensor([1]))
    assert ((x - batch.center).abs() <= batch.half).all()
    assert (x - batch.center).std() == pytest.approx(batch.half / 3**0.5, rel=0.2)
    assert batch.bits_of_bin == pytest.approx(math.log2(2 * batch.half))


def test_a_figure_is_a_mean_with_its_standard_error():
    figure = MeanWithError.of(np.array([1.0, 2.0, 4.0, 5.0]))
    assert figure.mean == 3.0
    assert figure.standard_error == pytest.approx((10 / 3 / 4) ** 0.5)
    assert str(figure) == "3.000 ± 0.913"
    assert MeanWithError.of(np.array([2.0])).standard_error == 0


def test_what_cannot_be_measured_is_refused(loaded):
    with pytest.raises(UsageError, match="no images"):
        nll(loaded, Pixels(0), NllSettings(count=1), QUIET)
    logit = DataConfig(
        dataset="NPZ", image_size=8, channels=3, rescaled=False, logit_transform=True
    )
    with pytest.raises(UsageError, match="logit_transform is not measured"):
        levels(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), logit)

    class Broken(NormalPixels):
        def forward(self, y, t, labels=None):
            return super().forward(y, t) * math.nan

    model = dataclasses.replace(loaded, network=Broken(loaded.process.schedule))
    with pytest.raises(DdimxError, match="bits of image 0 are not finite"):
        nll(model, Pixels(1), NllSettings(count=1, terms=1, flow_steps=0), QUIET)


def test_published_figures_stand_beside_cifar10s_alone(loaded):
    """A bound is "<=", the flow's bits are not."""
    settings = NllSettings(count=1, terms=1, flow_steps=0)
    model = dataclasses.replace(loaded, network=NormalPixels(loaded.process.schedule))
    assert "published" not in nll(model, Pixels(1), settings, QUIET).facts
    config = override(loaded.config, ["data.dataset=CIFAR10"])
    found = nll(dataclasses.replace(model, config=config), Pixels(1), settings, QUIET)
    lines = [line for line in found.in_words() if line.startswith("published: ")]
    assert len(lines) == len(found.facts["published"]) == 5
    assert lines[0].startswith("published: DDPM, L_simple: variational bound: <= 3.75 (")
    assert lines[1].startswith("published: the same weights: probability flow: 3.28 (")


def test_rows_of_noise_are_a_format():
    """Renumbering changes every figure that anyone measured; below 2^31 are the timesteps."""
    assert (DEQUANTIZE_ROW, STRATUM_ROW, PROBE_ROW) == (2**31, 2**31 + 1, 2**31 + 2)
