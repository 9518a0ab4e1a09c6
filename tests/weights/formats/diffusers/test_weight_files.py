"""Shards, variants and averages: which files of a folder are read, and that it is said."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel

from ddimx.errors import DdimxError, UsageError
from ddimx.files import sha256_file, sha256_files
from ddimx.weights.formats.diffusers.folder import read_folder
from ddimx.weights.locate.source import Source, find_model, read_source, tensors_files
from ddimx.weights.model import load_model
from tests.weights import same
from tests.weights.formats.diffusers.test_settings_parity import THEIRS

STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return DDPMPipeline(UNet2DModel(**THEIRS), DDPMScheduler())


@pytest.fixture(scope="module")
def whole(pipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "m"
    pipe.save_pretrained(path)
    return read_folder(path)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_shards_are_read_as_one(pipe, whole, tmp_path, safe):
    path = tmp_path / "m"
    pipe.save_pretrained(path, max_shard_size="100KB", safe_serialization=safe)
    found = read_folder(path)
    assert same(found.tensors, whole.tensors)
    assert len(found.shards) > 2
    assert found.file.name == f"{STEM}.{'safetensors' if safe else 'bin'}.index.json"
    assert tensors_files(Source(str(path))) == found.files
    before = load_model(path, device="cpu").sha256
    assert before == sha256_files(found.files)
    other = found.shards[1]
    other.write_bytes(found.shards[0].read_bytes())
    assert sha256_files(found.files) != before
    with pytest.raises(DdimxError, match=r"holds .*, which .*index\.json does not place there"):
        read_folder(path)
    other.unlink()
    with pytest.raises(DdimxError, match=f"{other.name} is missing"):
        read_folder(path)


def test_a_variant_is_read_where_there_is_no_other(pipe, whole, tmp_path):
    path = tmp_path / "m"
    half = UNet2DModel(**THEIRS)
    half.load_state_dict(pipe.unet.state_dict())
    DDPMPipeline(half.half(), pipe.scheduler).save_pretrained(path, variant="fp16")
    found = read_folder(path)
    assert found.tensors["conv_in.bias"].dtype == torch.float16
    assert "the variant fp16" in found.notes[-1]
    pipe.save_pretrained(path)
    assert same(read_folder(path).tensors, whole.tensors)
    assert not any("variant" in note for note in read_folder(path).notes)


def test_variants_that_nobody_knows(pipe, tmp_path):
    path = tmp_path / "m"
    pipe.save_pretrained(path, variant="one")
    assert "the variant one" in read_folder(path).notes[-1]
    pipe.save_pretrained(path, variant="two")
    with pytest.raises(DdimxError, match="the variants one, two, of which none is usual"):
        read_folder(path)


def test_the_weights_without_an_average_beside_them(pipe, whole, tmp_path):
    path = tmp_path / "m"
    pipe.save_pretrained(path)
    pipe.unet.__class__(**THEIRS).save_pretrained(path / "unet", variant="non_ema")
    assert read_folder(path).sets == ("ema", "raw")
    assert read_folder(path).which == "ema"
    assert same(read_folder(path, "ema").tensors, whole.tensors)
    assert not same(read_folder(path, "raw").tensors, whole.tensors)


# --- what train_unconditional leaves --------------------------------------------------------------


@pytest.fixture
def trained(pipe, tmp_path):
    """A checkpoint of the training script with --use_ema, and the pipeline of its end."""
    out = tmp_path / "ddpm-model-64"
    network = UNet2DModel(**THEIRS)
    average = EMAModel(
        network.parameters(), decay=0.5, model_cls=UNet2DModel, model_config=network.config
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01
    average.step(network.parameters())
    for step in (500, 1000):
        checkpoint = out / f"checkpoint-{step}"
        average.save_pretrained(checkpoint / "unet_ema")
        network.save_pretrained(checkpoint / "unet")
        torch.save({}, checkpoint / "scheduler.bin")  # of the learning rate
        (checkpoint / "random_states_0.pkl").write_bytes(b"\x80\x04N.")
    average.copy_to(network.parameters())
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(out)
    return out


def test_the_checkpoints_of_diffusers_training_script(trained):
    checkpoint = trained / "checkpoint-500"
    ema, raw = (read_folder(checkpoint, which) for which in ("ema", "raw"))
    assert (ema.which, raw.which, ema.sets) == ("ema", "raw", ("ema", "raw"))
    assert ema.file.parent.name == "unet_ema"
    assert raw.file.parent.name == "unet"
    assert same(read_folder(trained).tensors, ema.tensors)  # the script's end stores the average
    assert read_folder(trained).which == "unstated"
    assert read_folder(checkpoint / "unet_ema").which == "ema"
    model = load_model(checkpoint, device="cpu")
    assert model.weights == "ema"
    assert any(f"the noise schedule is that of {trained}" in note for note in model.notes)
    assert any("the averaged weights are taken, unet_ema/" in note for note in model.notes)
    assert any("the raw weights are taken, unet/" in note for note in raw.notes)
    assert model.which_is_noted
    assert raw.which_is_noted
    assert not read_folder(trained).which_is_noted
    assert model.sha256 == sha256_file(ema.file)


def test_a_training_that_was_interrupted(trained):
    for name in ("model_index.json", "unet", "scheduler"):
        path = trained / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert find_model(trained) == trained / "checkpoint-1000"
    with pytest.raises(UsageError, match=r"no scheduler_config\.json.*give --config"):
        read_source(Source(str(trained)))


# --- hostile indexes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"conv_in.weight": "../../secret.safetensors"}, "leads upwards"),
        ({"conv_in.weight": "/etc/secret.safetensors"}, "is not relative"),
        ({"conv_in.weight": "C:secret.safetensors"}, "is not relative"),
        ({"conv_in.weight": "sub/secret.safetensors"}, "a file that is not beside it"),
        ({"conv_in.weight": "sub\\secret.safetensors"}, "a file that is not beside it"),
        ({"conv_in.weight": "secret.bin"}, "no .safetensors file"),
        ({"conv_in.weight": 3}, "holds 3; a file's name is needed"),
        ({"conv_in.weight": ["x"]}, "a file's name is needed"),
        ({}, "names with files are needed"),
        ([], "names with files are needed"),
        (None, "names with files are needed"),
    ],
)
def test_an_index_leads_nowhere_else(pipe, tmp_path, places, message):
    pipe.save_pretrained(tmp_path / "m")
    unet = tmp_path / "m" / "unet"
    (unet / f"{STEM}.safetensors").rename(tmp_path / "secret.safetensors")
    shutil.copytree(tmp_path / "m", tmp_path / "m" / "sub")
    (unet / f"{STEM}.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(DdimxError, match=message):
        read_folder(tmp_path / "m")
