"""The model file: round trips, what is refused, and which weights are taken."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as library_bytes

from ddimx.config_file import override
from ddimx.errors import DdimxError, UsageError
from ddimx.models.factory import build
from ddimx.weights.formats.native import (
    Header,
    read_header,
    read_native,
    read_tensors,
    save,
    write_safetensors,
)
from ddimx.weights.locate.source import find_model
from ddimx.weights.model import load_model


@pytest.fixture
def tensors(tiny_config, formula_weights):
    return formula_weights(build(tiny_config)[0]).state_dict()


def header_of(config, kind="model", **info):
    return Header(kind, config, info)


def test_a_file_gives_back_what_was_saved(tiny_config, tensors, tmp_path):
    path = tmp_path / "m.safetensors"
    save(path, tensors, header_of(tiny_config, note="grün"))
    found = read_native(path)
    assert (found.form, found.config, found.info) == ("ddimx model", tiny_config, {"note": "grün"})
    assert found.tensors.keys() == tensors.keys()
    assert all(torch.equal(found.tensors[name], tensors[name]) for name in tensors)


def test_the_library_reads_what_is_written(tmp_path):
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64)
    kinds += (torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    values = torch.arange(6).reshape(2, 3)
    tensors = {f"t{(7 * i) % 10}": values.to(kind) for i, kind in enumerate(kinds)}
    tensors |= {"empty": torch.zeros(0, 4), "turned": values.T.float()}
    write_safetensors(tmp_path / "a", tensors, {"note": 'ä"\\\n'})
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == {"note": 'ä"\\\n'}
    back = load_file(tmp_path / "a")
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)


def test_the_bytes_are_those_of_the_library(tmp_path):
    tensors = {name: torch.arange(5.0) + i for i, name in enumerate("bcaÄ")}
    tensors |= {"scalar": torch.tensor(2.5), "half": torch.ones(3).half()}
    write_safetensors(tmp_path / "ours", tensors, {"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == library_bytes(tensors, {"format": "pt"})


def test_the_same_model_is_the_same_file(tiny_config, tensors, tmp_path):
    # The library orders the metadata anew for every file.
    for name in ("a", "b", "c", "d"):
        save(tmp_path / name, tensors, header_of(tiny_config, note="x"))
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c", "d")}) == 1


def test_a_checkpoint_holds_two_sets_and_one_is_asked_for(tiny_config, tmp_path):
    path = tmp_path / "c.safetensors"
    both = {"model.w": torch.zeros(2), "ema.w": torch.ones(2), "optim.step.w": torch.tensor(3.0)}
    save(path, both, header_of(tiny_config, "checkpoint"))
    assert read_native(path, "ema").tensors["w"].tolist() == [1, 1]
    assert read_native(path, "raw").tensors["w"].tolist() == [0, 0]
    assert (read_native(path).which, read_native(path).sets) == ("ema", ("ema", "raw"))
    assert read_tensors(path, "optim.").keys() == {"step.w"}


def test_a_checkpoint_without_an_average_says_so(tiny_config, tmp_path):
    path = tmp_path / "c.safetensors"
    save(path, {"model.w": torch.zeros(2)}, header_of(tiny_config, "checkpoint"))
    with pytest.raises(DdimxError, match="holds no ema weights but raw weights"):
        read_native(path, "ema")
    assert read_native(path).which == "raw"
    save(path, {"optim.w": torch.zeros(2)}, header_of(tiny_config, "checkpoint"))
    with pytest.raises(DdimxError, match="holds no ema weights but no weights"):
        read_native(path)


def test_a_model_file_is_held_to_what_it_says_of_its_weights(tiny_config, tmp_path):
    path = tmp_path / "m.safetensors"
    save(path, {"w": torch.zeros(2)}, header_of(tiny_config, weights="raw"))
    assert read_native(path).which == "raw"
    with pytest.raises(DdimxError, match=r"holds no ema weights but raw weights$"):
        read_native(path, "ema")
    save(path, {"w": torch.zeros(2)}, header_of(tiny_config))
    assert read_native(path).which == "unstated"
    with pytest.raises(UsageError, match=r"does not say .* omit --weights raw"):
        read_native(path, "raw")


def test_a_truncated_file_is_named(tiny_config, tensors, tmp_path):
    path = tmp_path / "m.safetensors"
    save(path, tensors, header_of(tiny_config))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DdimxError, match=r"m\.safetensors: not a readable safetensors file"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in a zip", b"\x00" * 64])
def test_what_is_no_safetensors_file_is_refused(content, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(DdimxError, match="not a readable safetensors file"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DdimxError, match="no weights file"):
        read_header(tmp_path / "absent.safetensors")


def test_another_programs_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(DdimxError, match="without this package's header"):
        read_header(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ddimx.schema": "99"}, "written in schema 99.*update ddimx"),
        ({"ddimx.config": "{"}, "header is damaged"),
        ({"ddimx.config": json.dumps({"data": {}})}, "invalid configuration"),
    ],
)
def test_a_header_that_cannot_be_understood(changes, message, tiny_config, tmp_path):
    path = tmp_path / "m.safetensors"
    metadata = {"ddimx.schema": "1", "ddimx.config": tiny_config.model_dump_json()}
    save_file({"w": torch.zeros(1)}, path, metadata | changes)
    with pytest.raises(DdimxError, match=message):
        read_header(path)


def test_a_folder_stands_for_its_newest_checkpoint(tiny_config, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    for step in (5, 12):
        path = folder / f"checkpoint-{step:08d}.safetensors"
        save(path, {"ema.w": torch.zeros(1)}, header_of(tiny_config, "checkpoint", step=step))
    assert find_model(tmp_path / "run").name == "checkpoint-00000012.safetensors"
    assert find_model(folder).name == "checkpoint-00000012.safetensors"


def test_a_folder_without_a_checkpoint(tmp_path):
    with pytest.raises(DdimxError, match=r"no checkpoint in this folder, and no diffusers model$"):
        find_model(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(DdimxError, match=r"no checkpoint in this folder.* model\.safetensors: na"):
        find_model(tmp_path)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(UsageError, match=r"unknown model 'emojy'; did you mean 'emoji'\?"):
        find_model("emojy")


def test_a_loaded_model_is_ready_and_describes_itself(tiny_model, tiny_config):
    model = load_model(tiny_model, device="cpu", dtype="bf16")
    assert {p.dtype for p in model.network.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not model.network.training
    assert (model.config, model.weights, model.classes) == (
        tiny_config,
        "unstated",
        ("round", "square"),
    )


def test_weights_of_another_architecture_are_named(tiny_config, tensors, tmp_path):
    path = tmp_path / "m.safetensors"
    wider = override(tiny_config, ["model.ch=16"])
    save(path, tensors, header_of(wider))
    with pytest.raises(DdimxError, match=r"do not fit the configuration: of another shape: \S+ \["):
        load_model(path)
