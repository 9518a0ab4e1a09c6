"""Pipelines whose network draws latents: decoded as diffusers does, never taken for pictures."""

import json
import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, UNet2DModel, VQModel

import ddimx
from ddimx.editing.settings import resolve_editing
from ddimx.errors import DdimxError, UsageError
from ddimx.options import Options
from ddimx.progress import Progress
from ddimx.training.fine_tune import read_start
from ddimx.weights.describe import describe
from ddimx.weights.locate.source import Source, tensors_files
from ddimx.weights.model import load_model
from ddimx.weights.publish import publish
from tests.sampling import invoke
from tests.weights.formats.diffusers.models import change
from tests.weights.formats.diffusers.test_settings_parity import THEIRS

TWICE = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 4,
}


def decoder(kind):
    torch.manual_seed(1)
    if kind is VQModel:
        return VQModel(**TWICE, num_vq_embeddings=16).eval()
    return AutoencoderKL(**TWICE, latent_channels=3, scaling_factor=0.3, shift_factor=0.1).eval()


@pytest.fixture
def pipe(request):
    torch.manual_seed(0)
    kind = getattr(request, "param", VQModel)
    made = LDMPipeline(decoder(kind), UNet2DModel(**THEIRS).eval(), DDIMScheduler())
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "ldm")
    return tmp_path / "ldm"


@pytest.mark.parametrize("pipe", [VQModel, AutoencoderKL], indirect=True, ids=["VQ", "VAE"])
def test_latents_are_decoded_as_in_diffusers(pipe, folder):
    model = load_model(folder, device="cpu", dtype="fp32")
    start = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    got = ddimx.sample(model, start=start, count=2, steps=2)
    pipe.scheduler.set_timesteps(2)
    latents = start
    with torch.no_grad():
        for t in pipe.scheduler.timesteps:
            latents = pipe.scheduler.step(pipe.unet(latents, t).sample, t, latents).prev_sample
        shift = pipe.vqvae.config.get("shift_factor") or 0.0
        latents = latents / pipe.vqvae.config.scaling_factor + shift
        expected = pipe.vqvae.decode(latents).sample
    assert got.shape == (2, 3, 16, 16)
    assert expected.std() > 0.01
    assert (got - expected).abs().max() < 1e-4


def test_the_files_are_pictures_of_the_decoders_size(folder, tmp_path):
    done = invoke(
        "sample", "--model", str(folder), "--steps", "1", "-n", "1", "--out", str(tmp_path / "out")
    )
    assert done.code == 0
    from PIL import Image

    picture = np.asarray(Image.open(tmp_path / "out" / "000000.png"))
    assert picture.shape == (16, 16, 3)
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert record["identity"]["model_sha256"] == load_model(folder, device="cpu").sha256


def test_the_decoder_is_part_of_the_model(folder):
    before = load_model(folder, device="cpu").sha256
    change(folder / "vqvae" / "config.json", scaling_factor=0.9)
    assert load_model(folder, device="cpu").sha256 != before
    assert folder / "vqvae" / "config.json" in tensors_files(Source(str(folder)))
    assert describe(Source(str(folder)))["model"]["decoder"] == str(folder / "vqvae")


def test_nothing_else_takes_latents_for_pictures(folder, tmp_path):
    model = load_model(folder, device="cpu")
    with pytest.raises(UsageError, match=r"draws latents, which its vqvae \((VQ|Auto).*at the end"):
        resolve_editing(Options(), model)
    with pytest.raises(UsageError, match="are not trained here"):
        model.process.loss(model.network, {}, None)
    for refused in (
        lambda: publish(Source(str(folder)), tmp_path / "m.safetensors"),
        lambda: read_start(Source(str(folder)), None, Progress(quiet=True)),
    ):
        with pytest.raises(UsageError, match="no pictures without its vqvae"):
            refused()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: change(p / "model_index.json", vqvae=["diffusers", "AutoencoderDC"]), "known"),
        (lambda p: change(p / "vqvae" / "config.json", _class_name="UNet2DModel"), "_class_name"),
        (lambda p: change(p / "vqvae" / "config.json", auto_map={"a": "b"}), "code of its own"),
        (
            lambda p: change(p / "vqvae" / "config.json", latent_channels=4),
            "cannot be loaded|4, the",
        ),
        (
            lambda p: (p / "vqvae" / "diffusion_pytorch_model.safetensors").write_bytes(b"x"),
            "not a readable safetensors file",
        ),
        (lambda p: (p / "vqvae" / "config.json").unlink(), "cannot read"),
        (
            lambda p: change(p / "vqvae" / "config.json", layers_per_block=10**9),
            "layers_per_block is 1000000000, in a file of",
        ),
        (
            lambda p: change(p / "vqvae" / "config.json", block_out_channels=[8, 8 * 10**6]),
            "its settings are of [0-9]{12,} numbers, its files hold",
        ),
        (
            lambda p: (p / "vqvae" / "x.index.json").write_text('{"weight_map": {"a": "../b"}}'),
            "leads upwards",
        ),
    ],
)
def test_a_decoder_that_will_not_do(folder, damage, message):
    damage(folder)
    with pytest.raises((DdimxError, UsageError), match=message):
        load_model(folder, device="cpu")


def test_without_diffusers_latents_are_not_written(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UsageError, match="diffusers, which models that draw latents need"):
        load_model(folder, device="cpu")
