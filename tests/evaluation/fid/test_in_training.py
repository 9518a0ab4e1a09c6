"""The distance to the training images while a model trains: by the numbers of ``evaluate fid``."""

import json

import numpy as np
import pytest
import torch

from ddimx.config_file import dump_yaml, override
from ddimx.data.images.sources import open_source
from ddimx.errors import UsageError
from ddimx.evaluation.fid import features
from ddimx.evaluation.fid.frechet import Accumulator, frechet_distance, read_statistics
from ddimx.evaluation.fid.images import Pixels
from ddimx.evaluation.fid.in_training import open_distance
from ddimx.progress import Progress
from tests.evaluation.fid.tiny_features import MeanColors
from tests.sampling import invoke

CPU = torch.device("cpu")


@pytest.fixture
def networks(monkeypatch):
    """Networks of mean colors in place of InceptionV3, one for each time that it is opened."""
    made = []

    def inception(weights, device, *, offline, progress):
        made.append(MeanColors())
        return made[-1]

    monkeypatch.setattr(features, "inception", inception)
    return made


def statistics(images):
    total = Accumulator()
    total.add(images.astype(np.float64).mean(axis=(1, 2)) / 255)
    return total.statistics({})


def test_the_distance_is_that_of_the_definition(tiny_config, networks, tmp_path):
    source = open_source(tiny_config)
    distance = open_distance(tiny_config, source, CPU, True, Progress(quiet=True))
    assert (distance.key, distance.name) == ("fid", "FID")
    training = source.images(np.arange(len(source)))
    assert distance(iter([training[:8], training[8:]]), tmp_path) == pytest.approx(0, abs=1e-9)
    other = 255 - training[:10]
    expected = frechet_distance(statistics(other), statistics(training))
    assert expected > 0.01
    assert distance(iter([other[:7], other[7:]]), tmp_path) == pytest.approx(expected, rel=1e-6)
    # The training images were measured once, and are known to whoever goes on.
    assert sum(networks[0].batches) == len(training) + len(training) + 10
    kept = read_statistics(tmp_path / "fid-reference.npz")
    assert (kept.count, kept.features) == (len(training), None)
    again = open_distance(tiny_config, source, CPU, True, Progress(quiet=True))
    assert again(iter([other]), tmp_path) == pytest.approx(expected, rel=1e-6)
    assert sum(networks[1].batches) == 10


def test_statistics_of_other_images_or_features_are_not_taken(tiny_config, networks, tmp_path):
    source, quiet = open_source(tiny_config), Progress(quiet=True)
    training = source.images(np.arange(len(source)))
    open_distance(tiny_config, source, CPU, True, quiet)(iter([training]), tmp_path)
    file = tmp_path / "fid-reference.npz"
    whole = file.read_bytes()
    source.fingerprint = "another"
    other = open_distance(tiny_config, source, CPU, True, quiet)
    other(iter([training]), tmp_path)
    third = open_distance(tiny_config, source, CPU, True, quiet)
    networks[2].about["network"] = "another"
    third(iter([training]), tmp_path)
    file.write_bytes(whole[: len(whole) // 2])
    fourth = open_distance(tiny_config, source, CPU, True, quiet)
    fourth(iter([training]), tmp_path)
    counts = [sum(network.batches) for network in networks]
    assert counts == [2 * len(training)] * 4


@pytest.mark.parametrize("channels", [1, 4])
def test_gray_and_transparent_images_are_seen_in_color(tiny_config, networks, channels, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, channels), dtype=np.uint8)
    source = Pixels(images)
    distance = open_distance(tiny_config, source, CPU, True, Progress(quiet=True))
    assert distance(iter([images]), tmp_path) == pytest.approx(0, abs=1e-9)


def test_train_measures_and_names_it(tiny_config, networks, tmp_path, monkeypatch):
    items = ["training.fid_every=3", "training.fid_samples=6", "training.snapshot_freq=3"]
    (tmp_path / "tiny.yml").write_text(dump_yaml(override(tiny_config, items)))
    monkeypatch.chdir(tmp_path)
    command = ("train", "-c", "tiny.yml", "--device", "cpu", "-o", "run")
    done = invoke(*command)
    assert done.code == 0, done.err
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    measured = [(line["step"], line["fid"]) for line in log if "fid" in line]
    assert [step for step, _ in measured] == [3, 6]
    assert all(value > 0 for _, value in measured)
    assert "step 3: FID 0." in done.err
    assert "measuring 14 training images, once" in " ".join(done.err.split())
    assert networks[0].batches == [14, 6, 6]


def test_a_distance_on_other_features_is_never_called_fid(tiny_config, monkeypatch):
    class Named(MeanColors):
        def __init__(self, device):
            super().__init__()
            self.about["figure"] = "Fréchet distance on mean colors (no FID)"

    monkeypatch.setattr(features, "EfficientNetLite", Named)
    config = override(tiny_config, ["training.fid_features=efficientnet-lite0"])
    distance = open_distance(config, open_source(config), CPU, True, Progress(quiet=True))
    assert distance.key == "frechet_distance"
    assert distance.name == "Fréchet distance on mean colors (no FID)"


def test_a_network_that_is_missing_is_an_error_before_anything_is_written(
    tiny_config, tmp_path, monkeypatch
):
    def missing(weights, device, *, offline, progress):
        raise UsageError("FID needs torch-fidelity")

    monkeypatch.setattr(features, "inception", missing)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yml").write_text(dump_yaml(override(tiny_config, ["training.fid_every=3"])))
    done = invoke("train", "-q", "-c", "tiny.yml", "--device", "cpu")
    assert done.code == 2
    assert "FID needs torch-fidelity" in done.err
    assert not (tmp_path / "runs").exists()


def test_octrees_have_none():
    from tests.models.octree.small import octree_config

    with pytest.raises(UsageError, match=r"training\.fid_every is for images"):
        override(octree_config(), ["training.fid_every=100"])
