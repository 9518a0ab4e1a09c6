"""Bytes to the network's range and back."""

import numpy as np
import pytest
import torch

from ddimx.config import DataConfig
from ddimx.pixels import to_bytes, to_network, to_unit

EVERY_BYTE = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)


def data(**changes):
    return DataConfig(dataset="NPZ", image_size=16, channels=1, **changes)


RANGES = {
    "rescaled": data(),
    "plain": data(rescaled=False),
    "logit": data(rescaled=False, logit_transform=True),
}


@pytest.mark.parametrize("kind", RANGES)
def test_every_byte_comes_back(kind):
    x = to_network(EVERY_BYTE, RANGES[kind])
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert (x.flatten().diff() > 0).all()
    assert torch.equal(to_bytes(x, RANGES[kind]), EVERY_BYTE)


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("rescaled", lambda b: b / 127.5 - 1),
        ("plain", lambda b: b / 255),
        ("logit", lambda b: np.log((p := 1e-6 + (1 - 2e-6) * b / 255) / (1 - p))),
    ],
)
def test_the_ranges_are_the_originals(kind, formula):
    x = to_network(EVERY_BYTE, RANGES[kind]).flatten().double().numpy()
    expected = formula(np.arange(256, dtype=np.float64))
    assert np.allclose(x, expected, rtol=0.0, atol=1e-6 if kind != "logit" else 0.05)
    assert np.allclose(x[1:-1], expected[1:-1], rtol=0.0, atol=1e-4)


def test_channels_come_first_and_pixels_keep_their_place():
    pixels = torch.arange(2 * 3 * 4 * 3, dtype=torch.uint8).view(2, 3, 4, 3)
    x = to_network(pixels, data(rescaled=False))
    assert x.shape == (2, 3, 3, 4)
    assert x[1, 2, 0, 3].item() == pytest.approx(pixels[1, 0, 3, 2].item() / 255)
    assert torch.equal(to_bytes(x, data(rescaled=False)), pixels)
    assert to_bytes(x, data(rescaled=False)).is_contiguous()


def test_uniform_dequantization_fills_each_level_and_no_more():
    config = data(rescaled=False, uniform_dequantization=True)
    for u in (0.0, 2.0**-33, 0.25, 0.999):
        x = to_network(EVERY_BYTE, config, torch.full((1, 1, 16, 16), u)).flatten()
        expected = (torch.arange(256, dtype=torch.float64) + u) / 256
        assert torch.allclose(x.double(), expected, rtol=0.0, atol=1e-7)
    top = to_network(EVERY_BYTE, config, torch.ones(1, 1, 16, 16))
    assert top.max() == 1.0
    for changes in ({}, {"rescaled": False, "logit_transform": True}):
        config = data(uniform_dequantization=True, **changes)
        for u in (0.0, 1.0):
            x = to_network(EVERY_BYTE, config, torch.full((1, 1, 16, 16), u))
            assert x.isfinite().all()
            assert changes or x.abs().max() <= 1.0


def test_gaussian_dequantization_adds_a_hundredth():
    config = data(rescaled=False, gaussian_dequantization=True)
    z = torch.linspace(-3, 3, 256).view(1, 1, 16, 16)
    x = to_network(EVERY_BYTE, config, z) - to_network(EVERY_BYTE, data(rescaled=False))
    assert torch.allclose(x, 0.01 * z, rtol=0.0, atol=1e-6)


def test_noise_that_no_key_asks_for_is_not_added():
    z = torch.ones(1, 1, 16, 16)
    assert torch.equal(to_network(EVERY_BYTE, data(), z), to_network(EVERY_BYTE, data()))


def test_samples_outside_the_range_are_clamped():
    x = torch.tensor([-7.0, -1.001, 1.001, 7.0]).view(1, 1, 2, 2)
    assert to_bytes(x, data()).flatten().tolist() == [0, 0, 255, 255]
    assert to_unit(x, data()).flatten().tolist() == [0.0, 0.0, 1.0, 1.0]


def test_halves_are_rounded_up():
    halves = torch.tensor([0.4999, 0.5001, 1.5001, 254.4999]).view(1, 1, 2, 2) / 255
    assert to_bytes(halves, data(rescaled=False)).flatten().tolist() == [0, 1, 2, 254]


def test_low_precision_samples_are_converted_in_float32():
    x = to_network(EVERY_BYTE, data()).to(torch.bfloat16)
    assert torch.equal(to_bytes(x, data()), to_bytes(x.float(), data()))
