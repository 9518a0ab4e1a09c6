"""Published models by name: verified files, mirrors, and CelebA by hand."""

import hashlib
import re

import pytest
import torch

from ddimx.config_file import load_config
from ddimx.errors import DdimxError, UsageError
from ddimx.progress import Progress
from ddimx.weights.locate import registry
from ddimx.weights.locate.registry import PUBLISHED, File, Published, published_file
from ddimx.weights.model import load_model
from tests.weights import config_file, original_list, plain, same, weights

QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DDIMX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DDIMX_MIRROR", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def small(monkeypatch, tmp_path, cache):
    """The name cifar10, standing for two small files that lie in the cache already."""
    config = plain()
    files = {}
    for seed, which in enumerate(("ema", "raw")):
        path = cache / which / "model.ckpt"
        path.parent.mkdir(parents=True)
        torch.save(weights(config, seed), path)
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        files[which] = File(f"{which}/model.ckpt", "https://example.invalid/", md5)
    entry = Published(str(config_file(tmp_path, config)), (), files)
    monkeypatch.setitem(PUBLISHED, "cifar10", entry)
    return config


def test_the_entries():
    assert list(PUBLISHED) == ["cifar10", "bedroom", "cat", "church"]
    files = [file for entry in PUBLISHED.values() for file in entry.files.values()]
    assert len({file.address for file in files}) == len({f.md5 for f in files}) == 8
    for file in files:
        assert re.fullmatch(
            r"https://heibox\.uni-heidelberg\.de/f/[0-9a-f]{20}/\?dl=1", file.address
        )
        assert re.fullmatch(r"[0-9a-f]{32}", file.md5)
        assert re.fullmatch(r"(ema_)?diffusion_\w+_model/model-\d+\.ckpt", file.path)
    for entry in PUBLISHED.values():
        assert entry.files["ema"].path == "ema_" + entry.files["raw"].path
    assert PUBLISHED["cifar10"].files["ema"].md5 == "1fa350b952534ae442b1d5235cce5cd3"


def test_the_configurations():
    for name in ("cifar10", "bedroom", "church"):
        assert PUBLISHED[name].load_config() == load_config(name)
    cat = PUBLISHED["cat"].load_config()
    assert (cat.data.category, cat.data.image_size) == ("cat", 256)
    assert cat.model == load_config("bedroom").model


@pytest.mark.parametrize(("which", "seed"), [(None, 0), ("ema", 0), ("raw", 1)])
def test_a_name_gives_the_file_that_was_asked_for(small, which, seed):
    model = load_model("cifar10", weights=which, device="cpu", dtype="fp32", offline=True)
    assert same(model.network.state_dict(), weights(small, seed))
    assert (model.weights, model.name) == (which or "ema", "cifar10")
    assert model.config == small
    assert model.notes == ()


def test_a_folder_of_the_same_name_is_not_taken_for_it(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    assert load_model("cifar10", device="cpu", offline=True).name == "cifar10"


def test_another_file_in_its_place_is_refused(small, cache):
    torch.save(weights(small, 9), cache / "ema" / "model.ckpt")
    with pytest.raises(DdimxError, match=r"has the MD5 \w+ instead of \w+; remove it"):
        load_model("cifar10", offline=True)


def test_a_missing_file_offline(cache):
    with pytest.raises(DdimxError) as caught:
        load_model("church", weights="raw", offline=True)
    assert str(cache / "diffusion_lsun_church_model" / "model-4432000.ckpt") in str(caught.value)
    assert "eb619b8a5ab95ef80f94ce8a5488dae3" in str(caught.value)
    assert not cache.exists()


def test_a_mirror_replaces_the_address(monkeypatch):
    file = PUBLISHED["cat"].files["ema"]
    assert file.source == file.address
    monkeypatch.setenv("DDIMX_MIRROR", "https://example.org/weights/")
    expected = "https://example.org/weights/ema_diffusion_lsun_cat_model/model-1761000.ckpt"
    assert file.source == expected
    monkeypatch.setenv("DDIMX_MIRROR", "/mnt/weights")
    with pytest.raises(UsageError, match="DDIMX_MIRROR=/mnt/weights: write http"):
        _ = file.source


def test_celeba_is_fetched_by_hand(cache):
    with pytest.raises(UsageError) as caught:
        published_file("celeba", None, offline=False, progress=QUIET)
    assert registry.CELEBA_PAGE in str(caught.value)
    assert str(cache / "celeba" / "ckpt.pth") in str(caught.value)


def test_celeba_from_its_place_is_a_list_with_an_average(cache, tmp_path, monkeypatch):
    config = plain()
    torch.save(original_list(weights(config, 1), weights(config, 2)), tmp_path / "ckpt.pth")
    (cache / "celeba").mkdir(parents=True)
    (tmp_path / "ckpt.pth").rename(cache / "celeba" / "ckpt.pth")
    monkeypatch.setattr("ddimx.weights.locate.source.load_config", lambda _: config)
    model = load_model("celeba", device="cpu", dtype="fp32")
    assert same(model.network.state_dict(), weights(config, 2))
    assert load_model("celeba", weights="raw", device="cpu").weights == "raw"
