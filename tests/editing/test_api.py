"""``ddimx.inpaint``, ``ddimx.encode``, ``ddimx.interpolate`` on tensors: as the verbs do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ddimx
from ddimx.errors import UsageError
from ddimx.pixels import to_bytes, to_network
from tests.editing import edited, make_picture, opened
from tests.sampling import pictures


@pytest.fixture(autouse=True)
def _without_the_check_of_memory(monkeypatch):
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


@pytest.fixture(scope="module")
def model(tiny_model):
    return ddimx.load_model(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture
def image(tmp_path, model):
    pixels = make_picture(tmp_path / "a.png")
    return to_network(torch.from_numpy(pixels)[None], model.config.data)[0]


MASK = torch.zeros(8, 8, dtype=torch.bool)
MASK[:, :4] = True
FOUR = {"steps": 4, "invariant": True}


def test_inpaint_is_what_the_verb_writes(model, tiny_model, image, tmp_path):
    variants = ddimx.inpaint(model, image, MASK, count=3, category="round", **FOUR)
    assert (variants.shape, variants.dtype) == ((3, 3, 8, 8), torch.float32)
    assert torch.equal(variants[:, :, ~MASK], image[:, ~MASK].expand(3, -1, -1))
    options = ("--mask", "left", "-n", 3, "--category", "round", "--invariant")
    edited("inpaint", tiny_model, tmp_path / "a.png", *options, "-o", tmp_path / "o")
    for i, expected in enumerate(to_bytes(variants, model.config.data).numpy()):
        assert (opened(tmp_path / "o" / f"a-{i:02d}.png") == expected).all()


def test_strength_starts_from_the_image(model, image):
    little = ddimx.inpaint(model, image, strength=0.1, count=2, steps=10, spacing="leading")
    assert (little - image).abs().mean() < 0.05  # one step from t = 0, noise of 1 / 100
    both = ddimx.inpaint(model, image, MASK, strength=0.5, count=1, **FOUR)
    assert torch.equal(both[0][:, ~MASK], image[:, ~MASK])


def test_encode_and_sample_return_the_image(model, image):
    images = torch.stack([image, image.flip(-1), -image])
    latents = ddimx.encode(model, images, steps=40, batch_size=2, refine=8)
    plain = {"eta": 0.0, "guidance": 1.0, "category": "none"}
    back = ddimx.sample(model, count=3, start=latents, steps=40, **plain)
    assert (back - images).square().mean().sqrt() < 0.1
    assert (back - images.roll(1, 0)).square().mean().sqrt() > 0.5


def test_interpolate_is_what_the_verb_writes(model, tiny_model, tmp_path):
    states = ddimx.interpolate(model, 1, 2, frames=3, **FOUR)
    edited("interpolate", tiny_model, 1, 2, "--frames", 3, "--invariant", "-o", tmp_path / "o")
    expected = to_bytes(states, model.config.data).numpy().astype(np.int64)
    assert (pictures(tmp_path / "o", range(3)) == expected).all()
    latent = torch.ones(3, 8, 8)
    square = ddimx.interpolate(model, 1, latent, latent, 2, frames=2, **FOUR)
    assert square.shape == (4, 3, 8, 8)
    assert torch.equal(square[[0, 3]], states[[0, 2]])
    assert torch.equal(square[1], square[2])


def test_what_does_not_fit_is_refused(model, image):
    for call, message in (
        (lambda: ddimx.inpaint(model, image), "give a mask of what to paint, or a strength"),
        (lambda: ddimx.inpaint(model, image, strength=0.5, solver="auto"), "name a solver"),
        (lambda: ddimx.encode(model, image[None], plan="plan.json"), "inversion, not by a plan"),
        (lambda: ddimx.inpaint(model, image[:, :4], MASK), r"image has shape \(3, 4, 8\)"),
        (lambda: ddimx.inpaint(model, image, MASK[:4]), r"mask is torch.bool \(4, 8\)"),
        (lambda: ddimx.inpaint(model, image, MASK.float()), "mask is torch.float32"),
        (lambda: ddimx.inpaint(model, image, MASK | True), "nothing to keep or nothing to paint"),
        (lambda: ddimx.inpaint(model, image, MASK & False), "nothing to keep or nothing to paint"),
        (lambda: ddimx.inpaint(model, image * float("nan"), MASK), "finite"),
        (lambda: ddimx.encode(model, image), r"image has shape"),
        (lambda: ddimx.encode(model, image[None], eta=0.5), "eta 0, not 0.5"),
        (lambda: ddimx.interpolate(model, 1, 2, 3), "two ends or four corners, not 3"),
        (lambda: ddimx.interpolate(model, 1, image[None]), "latent has shape"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
