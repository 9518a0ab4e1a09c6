"""Names, paths and hub ids: what each is taken for, by content and not by name."""

import shutil
import sys

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from ddimx.errors import DdimxError, UsageError
from ddimx.weights.formats.diffusers.folder import write_folder
from ddimx.weights.formats.native import Header, save
from ddimx.weights.locate import hub as subject
from ddimx.weights.locate.source import Source, find_weights, read_any, read_source
from tests.weights import original_list, plain, same, weights
from tests.weights.formats.diffusers.models import change

CONFIG = plain()
EMA = weights(CONFIG, 2)


def as_native(path):
    save(path, EMA, Header("model", CONFIG, {"weights": "ema"}))


def as_safetensors(path):
    save_file(EMA, path)


def as_list(path):
    torch.save(original_list(weights(CONFIG, 1), EMA), path)


def as_state_dict(path):
    torch.save(EMA, path)


def as_old_state_dict(path):
    torch.save(EMA, path, _use_new_zipfile_serialization=False)


def as_folder(path):
    write_folder(path, EMA, CONFIG, {}, "ema")


FORMS = {
    as_native: "ddimx model",
    as_safetensors: "state dict",
    as_list: "ermongroup list",
    as_state_dict: "state dict",
    as_old_state_dict: "state dict",
    as_folder: "diffusers folder",
}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.ckpt", "a"])
@pytest.mark.parametrize("write", FORMS, ids=lambda write: write.__name__)
def test_a_format_is_known_by_its_content(tmp_path, write, name):
    write(tmp_path / name)
    found = find_weights(Source(str(tmp_path / name)))
    assert found.form == FORMS[write]
    assert same(found.tensors, EMA)


@pytest.mark.parametrize("content", [b"", b"text that is no model", b"\x00" * 64, b"GIF89a"])
def test_what_is_no_model_is_named(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DdimxError, match="x: not a readable model"):
        read_any(tmp_path / "x", None)


def test_an_unreadable_path_is_named(tmp_path):
    with pytest.raises(DdimxError, match=r"cannot read .*absent"):
        read_any(tmp_path / "absent", None)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that has one model, and a record of what was asked for.

    As the real one does, it gives of the model what matches the patterns.
    """
    as_folder(tmp_path / "server")
    asked = []

    def download(name, *, allow_patterns, local_files_only):
        asked.append((name, local_files_only))
        if name != "someone/model":
            raise LocalEntryNotFoundError("not there")
        for file in (tmp_path / "server").rglob("*.*"):
            name = file.relative_to(tmp_path / "server").as_posix()
            if name in allow_patterns:
                (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, tmp_path / "copy" / name)
        return str(tmp_path / "copy")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_hub_id_is_downloaded_by_the_hubs_own_library(hub, tmp_path, kind):
    if kind == "bin":
        file = tmp_path / "server" / "unet" / "diffusion_pytorch_model.safetensors"
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    found, config = read_source(Source("someone/model"))
    assert (found.form, config) == ("diffusers folder", CONFIG)
    assert same(found.tensors, EMA)
    calls = {"safetensors": 2, "bin": 3}[kind]  # settings, then one kind of file after the other
    assert hub == [("someone/model", False)] * calls
    read_source(Source("someone/model", offline=True))
    assert set(hub[calls:]) == {("someone/model", True)}


def test_a_model_that_cannot_be_represented_is_not_downloaded(hub, tmp_path):
    change(tmp_path / "server" / "unet" / "config.json", center_input_sample=True)
    with pytest.raises(DdimxError, match="center_input_sample is True"):
        read_source(Source("someone/model"))
    assert hub == [("someone/model", False)]
    assert not list((tmp_path / "copy").rglob("*.safetensors"))


def test_a_path_is_not_taken_for_a_hub_id(hub, tmp_path):
    (tmp_path / "someone").mkdir()
    as_list(tmp_path / "someone" / "model")
    assert find_weights(Source("someone/model")).form == "ermongroup list"
    for name in ("someone/absent.pth", "some/where/else", "./someone", "/someone/x"):
        with pytest.raises(DdimxError, match=r"unknown model|no checkpoint"):
            find_weights(Source(name))
    assert hub == []


def test_a_hub_id_that_is_not_to_be_had(hub):
    with pytest.raises(DdimxError, match="'no/such' is not a path and not in the hub's cache"):
        find_weights(Source("no/such"))
    with pytest.raises(DdimxError, match="offline nothing is downloaded"):
        find_weights(Source("no/such", offline=True))


def test_without_the_hubs_library(hub, monkeypatch):
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"needs huggingface_hub: pip install 'ddimx\[hub\]'"):
        find_weights(Source("someone/model"))
