"""The shipped model: small, self-describing, and a model of emoji rather than of noise."""

from pathlib import Path

import pytest

import ddimx
from ddimx.config_file import load_config
from ddimx.pixels import to_bytes
from ddimx.weights.formats.native import read_header, read_tensors
from ddimx.weights.locate.source import find_model

PATH = find_model("emoji")


@pytest.fixture(scope="module")
def images():
    model = ddimx.load_model("emoji", device="cpu", dtype="fp32")
    samples = ddimx.sample(model, steps=10, count=16, seed=0)
    return to_bytes(samples, model.config.data).numpy().astype(int)


def test_the_file_is_small_and_in_16_bit():
    assert PATH.stat().st_size < 12_000_000
    assert {str(t.dtype) for t in read_tensors(PATH).values()} == {"torch.float16"}


def test_the_header_tells_the_history():
    header = read_header(PATH)
    wanted = {"command", "history", "images_seen", "hours", "device", "data_sha256", "licence"}
    assert wanted <= header.info.keys()
    assert header.info["images_seen"] == header.info["step"] * header.config.training.batch_size
    assert header.info["data_sha256"] in PATH.with_suffix(".md").read_text(encoding="utf-8")
    assert Path(PATH.with_suffix(".md")).stat().st_size > 0


def test_the_shipped_configuration_is_the_one_it_was_trained_with():
    config = load_config("emoji")
    assert read_header(PATH).config == config


def test_samples_are_on_white_and_not_alike(images):
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 200).mean() > 0.9  # noise would have half of its values above the middle
    flat = images.reshape(len(images), -1)
    apart = [abs(a - b).mean() for i, a in enumerate(flat) for b in flat[:i]]
    assert min(apart) > 5


def test_neighboring_pixels_are_alike(images):
    """In noise the mean difference of neighbors is that of any two pixels."""
    near = abs(images[:, :, 1:] - images[:, :, :-1]).mean()
    far = abs(images[:, :, 16:] - images[:, :, :-16]).mean()
    assert near < 0.5 * far


def test_a_category_is_drawn_as_asked():
    """Flags fill the middle of their rows from edge to edge; faces do not reach the corners."""
    model = ddimx.load_model("emoji", device="cpu", dtype="fp32")
    flags, faces = (
        to_bytes(
            ddimx.sample(model, steps=10, count=8, category=category), model.config.data
        ).numpy()
        for category in ("flags", "smileys")
    )
    edge = (slice(None), slice(10, 22), slice(1, 4))
    assert flags[edge].astype(int).mean() + 40 < faces[edge].astype(int).mean()
