"""Every shipped configuration trains on its data set when the files lie in their usual place."""

import json

import numpy as np
import pytest

from ddimx.config_file import load_config, shipped_configs
from ddimx.data.images.sources import USUAL_PLACES
from ddimx.weights.formats.native import read_header
from tests.data.images.official import celeba, cifar10, encoded, ffhq, lsun, smooth
from tests.sampling import invoke

# The smallest network of each shape: one channel a group.
TINY = ["training.n_iters=1", "training.batch_size=2", "model.ch=32", "model.num_res_blocks=1"]
MAKE = {
    "CIFAR10": lambda folder, category: cifar10(folder),
    "CELEBA": lambda folder, category: celeba(folder),
    "LSUN": lambda folder, category: lsun(folder, category, count=2),
}
ORIGINAL = [n for n in shipped_configs() if load_config(n).data.dataset in MAKE]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run ``ddimx train`` in an empty folder; without drawing, which says nothing of the data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.training.loop.Trainer.draw_grid", lambda self: None)

    def run(name, *settings):
        options = [word for item in (*TINY, *settings) for word in ("--set", item)]
        done = invoke("train", "--config", name, "--device", "cpu", "-o", "run", *options)
        assert done.code == 0, done.err
        return read_header(tmp_path / "run" / "checkpoints" / "checkpoint-00000001.safetensors")

    return run


def test_the_list_of_configurations():
    assert {"cifar10", "celeba", "bedroom", "church"} <= set(ORIGINAL)


@pytest.mark.parametrize("name", ORIGINAL)
def test_a_configuration_runs_as_it_stands(train, tmp_path, name):
    """From ``data/<set>``, with both losses, so that training and held-out part were read."""
    data = load_config(name).data
    MAKE[data.dataset](tmp_path / USUAL_PLACES[data.dataset], data.category)
    # Of 256 pixels the network sees 32x32 patches, which is a thirtieth of the time.
    coarse = [] if data.image_size < 256 else ["model.patch_size=8", "model.ch_mult=[1,1]"]
    header = train(name, *coarse)
    assert header.config.data.root is None
    assert len(header.info["data_sha256"]) == 64
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"validation_train", "validation_held_out"} <= lines[-1].keys()


def test_another_place_is_named_by_the_root(train, tmp_path):
    cifar10(tmp_path / "elsewhere", archive=False)
    assert train("cifar10", "data.root=elsewhere").config.data.root == "elsewhere"


def test_cifar10_with_its_classes(train, tmp_path):
    from ddimx.data.images.cifar10 import CLASSES

    cifar10(tmp_path / "data" / "cifar10")
    header = train("cifar10", f"model.classes={json.dumps(CLASSES)}")
    assert header.config.model.classes == CLASSES


def test_ffhq_the_cat_and_a_packed_file(train, tmp_path):
    """What has no configuration of its own is another one's with other words."""
    small = ["data.image_size=32", "model.ch_mult=[1,1]"]
    ffhq(tmp_path / "data" / "ffhq", sizes=(32,))
    assert train("celeba", "data.dataset=FFHQ", *small).config.data.dataset == "FFHQ"
    lsun(tmp_path / "data" / "lsun", "cat", count=2)
    (tmp_path / "run").rename(tmp_path / "first")
    assert train("church", "data.category=cat", *small).config.data.category == "cat"
    (tmp_path / "run").rename(tmp_path / "second")
    (tmp_path / "pictures").mkdir()
    for i in range(30):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(encoded(smooth(i, 40, 50)))
    done = invoke("prepare", "images", "pictures", "packed.npy", "--size", 32)
    assert done.code == 0
    assert "next: ddimx train --data packed.npy\n" in done.err
    packed = ["data.dataset=PACKED", "data.root=packed.npy"]
    assert train("church", *packed, *small).config.data.root == "packed.npy"


def test_a_packed_file_trains_to_the_same_weights_as_its_folder(train, tmp_path):
    from ddimx.weights.formats.native import read_tensors

    (tmp_path / "pictures").mkdir()
    for i in range(30):
        (tmp_path / "pictures" / f"{i}.png").write_bytes(encoded(smooth(i, 40, 50)))
    invoke("prepare", "images", "pictures", "packed.npy", "--size", 32, "-q")
    weights = []
    for kind, root in (("FOLDER", "pictures"), ("PACKED", "packed.npy")):
        train("cifar10", f"data.dataset={kind}", f"data.root={root}", "model.ch_mult=[1,1]")
        path = tmp_path / "run" / "checkpoints" / "checkpoint-00000001.safetensors"
        weights.append(read_tensors(path, "model."))
        (tmp_path / "run").rename(tmp_path / kind)
    for name, value in weights[0].items():
        assert np.array_equal(value.numpy(), weights[1][name].numpy())
