"""The shipped model of furniture: small, self-describing, and a model of furniture."""

import json
from importlib import resources

import numpy as np
import pytest

import ddimx
from ddimx.config_file import load_config
from ddimx.octree.geometry import largest_share
from ddimx.octree.tree import from_tokens
from ddimx.recipes.furniture.categories import CATEGORIES
from ddimx.weights.formats.native import read_header, read_tensors
from ddimx.weights.locate.source import find_model

PATH = find_model("furniture")


@pytest.fixture(scope="module")
def shapes():
    """Eight tables and eight lamps, with four steps per level, each drawn once."""
    model = ddimx.load_model("furniture", device="cpu", dtype="fp32")
    return {
        category: ddimx.sample_shapes(
            model, count=8, steps=4, redraw=0, clean=False, category=category, seed=0
        )
        for category in ("table", "lamp")
    }


def test_the_file_is_small_and_in_16_bit():
    assert PATH.stat().st_size < 12_000_000
    assert {str(t.dtype) for t in read_tensors(PATH).values()} == {"torch.float16"}


def test_the_header_tells_the_history():
    header = read_header(PATH)
    wanted = {"command", "history", "shapes_seen", "hours", "device", "data_sha256", "licence"}
    assert wanted <= header.info.keys()
    assert header.info["shapes_seen"] == header.info["step"] * header.config.training.batch_size
    assert header.info["data_sha256"] in PATH.with_suffix(".md").read_text(encoding="utf-8")
    assert set(header.config.model.classes) <= set(CATEGORIES)


def test_the_shipped_configuration_is_the_one_it_was_trained_with():
    assert json.loads(read_header(PATH).config.model_dump_json()) == json.loads(
        load_config("furniture").model_dump_json()
    )


def test_the_creators_of_the_training_shapes_come_with_it():
    text = (
        resources.files("ddimx")
        .joinpath("pretrained", "furniture-attribution.md")
        .read_text(encoding="utf-8")
    )
    for word in ("Scopia", "Kator Legaz", "CC0", "creativecommons.org/licenses/by/3.0", "changed"):
        assert word in text, word


def test_every_sample_is_an_octree_and_holds_together(shapes):
    for tree in shapes["table"] + shapes["lamp"]:
        assert from_tokens(tree.tokens(), 5).counts == tree.counts
    shares = [largest_share(tree) for tree in shapes["table"] + shapes["lamp"]]
    assert np.mean(shares) > 0.8


def test_a_category_is_drawn_as_asked(shapes):
    """Tables are wider than high, lamps higher than wide."""

    def proportions(tree):
        x, y, z = np.ptp(tree.centers(), axis=0)
        return y / max(x, z)

    tables, lamps = (np.median([proportions(t) for t in shapes[c]]) for c in ("table", "lamp"))
    assert tables < 1 < lamps


def test_samples_differ(shapes):
    counts = {tree.counts for tree in shapes["table"]}
    assert len(counts) == 8
