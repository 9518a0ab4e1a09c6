"""Contact sheets by pixel, and memory by bytes that were counted by hand."""

import numpy as np
import pytest
import torch

from ddimx.sampling.grid import GAP, grid
from ddimx.sampling.memory import PeakMemory, bytes_per_sample, free_bytes
from ddimx.weights.model import load_model


def test_a_grid_places_every_image_and_enlarges_small_ones():
    images = np.zeros((5, 32, 32, 3), dtype=np.uint8)
    images[:] = np.arange(5, dtype=np.uint8)[:, None, None, None] * 10
    sheet = grid(images)
    cell = 4 * 32 + GAP  # 32 pixels are enlarged four times, three columns for five images
    assert sheet.shape == (2 * cell + GAP, 3 * cell + GAP, 3)
    corners = [sheet[GAP + i // 3 * cell, GAP + i % 3 * cell, 0] for i in range(6)]
    assert corners == [0, 10, 20, 30, 40, 255]
    assert (sheet[:GAP] == 255).all()


def test_large_images_keep_their_size():
    assert grid(np.zeros((1, 256, 200, 1), dtype=np.uint8)).shape == (256 + 8, 200 + 8, 1)


def test_columns_can_be_chosen():
    sheet = grid(np.zeros((4, 128, 128, 3), dtype=np.uint8), columns=4)
    assert sheet.shape == (128 + 2 * GAP, 4 * (128 + GAP) + GAP, 3)


def test_peak_memory_is_the_largest_sum_of_what_lives():
    with torch.device("meta"):
        x = torch.empty(1000)  # before the count
        with PeakMemory() as memory:
            a = x * 2  # 4000 bytes
            b = a.view(10, 100)  # a view: nothing
            c = b + 1  # 8000
            del a, b
            d = c.double()  # after the release of 4000: 4000 + 8000
            del c
            e = d[:10].sum()  # 8000 + 8
    assert memory.peak == 12_000
    assert memory.now == 8_008
    assert e.shape == ()


def test_guidance_needs_twice_the_activations(tiny_model):
    model = load_model(tiny_model, device="cpu", dtype="fp32")
    plain, guided = bytes_per_sample(model, 1.0), bytes_per_sample(model, 3.0)
    state = 16 * 4 * 3 * 8 * 8  # 16 copies of the state in float32
    assert guided - state == 2 * (plain - state)
    half = load_model(tiny_model, device="cpu", dtype="bf16")
    assert 2 * (bytes_per_sample(half, 1.0) - state) == plain - state


@pytest.mark.skipif(not __import__("pathlib").Path("/proc/meminfo").exists(), reason="no /proc")
def test_free_memory_of_this_machine_is_plausible():
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert 10**8 < free < 10**14
