"""``ddimx.inpaint``, ``ddimx.encode``, ``ddimx.interpolate`` on tensors: as the verbs do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ddimx
from ddimx.editing.inpaint import Edit, inpaint_settings
from ddimx.errors import UsageError
from ddimx.options import Options
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


def test_a_mask_is_painted_with_jumps_whatever_the_models_own_solver(model, image):
    """A solver that remembers earlier steps could not go back; ddim takes its place."""
    sampling = model.config.sampling.model_copy(update={"solver": "unipc:2", "eta": 0.0})
    config = model.config.model_copy(update={"sampling": sampling})
    process = replace(model.process, defaults=sampling)
    other = replace(model, config=config, process=process)
    own = Options(steps=4)
    for edit, named, label in (
        (Edit(), own, "RePaint"),
        (Edit(resample=3), own, "RePaint"),
        (Edit(resample=1), own, "unipc"),
        (Edit(), replace(own, solver="unipc:2"), "unipc"),
    ):
        plan = inpaint_settings(named, other, edit, images=1, masked=True).image_plan
        assert label in plan.label
        assert (plan.label.startswith("ddim")) == (label == "RePaint")
    assert "unipc" in inpaint_settings(own, other, Edit(), images=1, masked=False).image_plan.label


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
        (lambda: ddimx.encode(model, image[:, :4]), r"image has shape"),
        (lambda: ddimx.encode(model, []), "at least one image to encode"),
        (lambda: ddimx.encode(model, image[None], eta=0.5), "eta 0, not 0.5"),
        (lambda: ddimx.interpolate(model, 1, 2, 3), "two ends or four corners, not 3"),
        (lambda: ddimx.interpolate(model, 1, image[None]), "latent has shape"),
        (lambda: ddimx.interpolate(model, 1, "a.png"), "latent must be a tensor or an array"),
        (lambda: ddimx.interpolate(model, True, 1), "latent must be a tensor or an array, got boo"),
        (lambda: ddimx.interpolate(model, 1, 2, frames="a"), "frames must be a whole number, got"),
        (lambda: ddimx.interpolate(model, 1, 2, count=4), "interpolate has no option 'count'"),
        (lambda: ddimx.encode(model, image, seed=3), "encode has no option 'seed'"),
        (lambda: ddimx.encode(model, image, refine="a"), "refine must be a whole number, got 'a'"),
        (lambda: ddimx.inpaint(model, image, MASK, jump="a"), "jump must be a whole number"),
        (lambda: ddimx.inpaint(model, image, strength="a"), "strength must be a number, got 'a'"),
        (lambda: ddimx.inpaint(model, image, MASK.numpy().astype(np.uint8)), "levels 0 and 1"),
    ):
        with pytest.raises(UsageError, match=message):
            call()


def test_pictures_of_any_kind_are_read_alike(model, image, tmp_path):
    """A PIL image, its file, uint8 pixels and a float array are one image."""
    picture = ddimx.to_pil(image)
    picture.save(tmp_path / "picture.png")
    pixels = np.asarray(picture)
    assert pixels.shape == (8, 8, 3)
    state = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
    expected = ddimx.encode(model, state[None], steps=2)
    for same in (picture, pixels, tmp_path / "picture.png", str(tmp_path / "picture.png"),
                 state, state.numpy(), state.numpy()[None], pixels[None], [picture]):  # fmt: skip
        assert torch.allclose(ddimx.encode(model, same, steps=2), expected, atol=1e-5)
    assert len(ddimx.encode(model, [picture, pixels, state], steps=1)) == 3
    large = picture.resize((20, 16))
    with pytest.raises(UsageError, match=r"the image is 20x16, .* 8x8; .*resize=True"):
        ddimx.encode(model, large)
    assert ddimx.encode(model, large, steps=1, resize=True).shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match=r"pixels have shape \(8, 8, 5\)"):
        ddimx.encode(model, np.zeros((8, 8, 5), np.uint8))


def test_masks_of_any_kind_are_read_alike(model, image):
    expected = ddimx.inpaint(model, image, MASK, steps=2, count=1, resample=1)
    white = 255 * MASK.numpy().astype(np.uint8)
    for mask in (MASK.numpy(), white, Image.fromarray(white)):
        painted = ddimx.inpaint(model, image, mask, steps=2, count=1, resample=1)
        assert torch.equal(painted, expected)


def test_what_is_transparent_is_painted(model, image):
    picture = ddimx.to_pil(image).convert("RGBA")
    picture.putalpha(Image.fromarray(255 * (~MASK).numpy().astype(np.uint8)))
    painted = ddimx.inpaint(model, picture, steps=2, count=1, resample=1)
    state = torch.from_numpy(np.asarray(ddimx.to_pil(image))).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(painted[0][:, ~MASK], state[:, ~MASK], atol=1e-6)


def test_samples_as_pil_images(model):
    images = torch.tensor([-1.0, 0.0, 1.0, 7.0]).view(4, 1, 1, 1).expand(4, 3, 2, 5)
    pictures = ddimx.to_pil(images)
    assert [(p.mode, p.size, p.getpixel((4, 1))) for p in pictures] == [
        ("RGB", (5, 2), (value,) * 3) for value in (0, 128, 255, 255)
    ]
    assert ddimx.to_pil(images[0, :1]).mode == "L"
    with pytest.raises(UsageError, match=r"images have shape \(2, 5\)"):
        ddimx.to_pil(images[0, 0])


def test_a_model_of_something_else_is_named(image):
    model = ddimx.load_model("furniture", device="cpu")
    for call, name in (
        (lambda: ddimx.encode(model, image), "encode"),
        (lambda: ddimx.inpaint(model, image, MASK), "inpaint"),
        (lambda: ddimx.interpolate(model, 1, 2), "interpolate"),
    ):
        message = f"ddimx.{name} needs a model of images, and 'furniture' draws octrees"
        with pytest.raises(UsageError, match=message):
            call()


def test_an_array_is_a_latent_too(model):
    latent = torch.zeros(3, 8, 8)
    ends = (latent.numpy(), np.int64(2))
    between = ddimx.interpolate(model, *ends, frames=3, steps=2)
    assert torch.equal(between, ddimx.interpolate(model, latent, 2, frames=3, steps=2))


def test_what_is_no_picture_is_refused():
    assert ddimx.to_pil(np.zeros((3, 2, 5), np.float32)).getpixel((0, 0)) == (128,) * 3
    for wrong in ("abc", 3, None, np.zeros((3, 2, 5), np.uint8)):
        with pytest.raises(UsageError, match="to_pil takes images as floating point"):
            ddimx.to_pil(wrong)
