"""diffusers' folders: read as saved by diffusers itself, written so that it loads them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel

from ddimx.errors import DdimxError, UsageError
from ddimx.models.factory import build
from ddimx.solvers.schedule import Schedule
from ddimx.weights.formats.diffusers.folder import read_folder, write_folder
from ddimx.weights.formats.diffusers.names import their_name, to_ours, to_theirs
from ddimx.weights.formats.diffusers.pipeline_code import is_diffusers_folder
from ddimx.weights.locate.source import Source, read_source
from ddimx.weights.model import load_model
from tests.weights import plain, same, weights
from tests.weights.formats.diffusers.models import CIFAR10, change, old_names, pipeline, unet


@pytest.fixture
def folder(tmp_path):
    pipeline().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def loaded(path):
    return load_model(path, device="cpu", dtype="fp32")


def compared(path, model, size=(8, 8)):
    """Largest difference of the networks' outputs on the same input, float64 would give 0."""
    torch.manual_seed(5)
    x, t = torch.randn(2, 3, *size), torch.tensor([3.0, 901.0])
    with torch.no_grad():
        return (loaded(path).network(x, t) - model(x, t).sample).abs().max().item()


def test_a_pipelines_folder_is_read(folder):
    model = loaded(folder)
    assert compared(folder, unet()) < 1e-5
    assert model.config.resolutions == (8, 4)
    assert model.config.model.attn_resolutions == (4,)
    assert model.config.model.norm_groups == 32
    assert (model.weights, model.form, model.notes) == ("unstated", "diffusers folder", ())
    assert model.config.sampling.spacing == "leading"
    assert model.config.sampling.clip is None
    np.testing.assert_allclose(
        model.process.schedule.betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-15
    )


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("layout", ["subfolders", "flat", "scheduler beside"])
def test_every_layout(tmp_path, safe, layout):
    """google/ddpm-cifar10-32 has all its files in the folder itself."""
    made = pipeline()
    path = tmp_path / "saved"
    made.save_pretrained(path, safe_serialization=safe)
    if layout != "subfolders":
        for file in [*(path / "unet").iterdir()]:
            file.rename(path / file.name)
        (path / "unet").rmdir()
    if layout == "flat":
        (path / "scheduler" / "scheduler_config.json").rename(path / "scheduler_config.json")
        (path / "model_index.json").unlink()
    assert is_diffusers_folder(path)
    assert same(
        read_folder(path).tensors, to_ours(made.unet.state_dict(), weights(plain()), 2, "memory")
    )
    assert read_source(Source(str(path)))[1].diffusion.beta_end == 0.02


def test_old_names_of_attention(tmp_path):
    model = unet()
    pipeline(model).save_pretrained(tmp_path / "new")
    pipeline(model).save_pretrained(tmp_path / "old", safe_serialization=False)
    renamed = old_names(model.state_dict())
    assert len(renamed.keys() - model.state_dict().keys()) == 4 * 8  # 4 blocks, 4 matrices + biases
    torch.save(renamed, tmp_path / "old" / "unet" / "diffusion_pytorch_model.bin")
    assert same(read_folder(tmp_path / "old").tensors, read_folder(tmp_path / "new").tensors)
    both = {**renamed, **model.state_dict()}
    torch.save(both, tmp_path / "old" / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(DdimxError, match="under its old name too"):
        read_folder(tmp_path / "old")


def test_the_map_of_names_is_one_to_one_for_cifar10():
    """328 parameters on either side, of equal sizes (section 2c of the reference)."""
    with torch.device("meta"):
        theirs = UNet2DModel(**CIFAR10).state_dict()
        config = plain(
            data={"image_size": 32},
            model={
                "ch": 128,
                "ch_mult": [1, 2, 2, 2],
                "num_res_blocks": 2,
                "attn_resolutions": [16],
            },
        )
        ours = build(config)[0].state_dict()
    renamed = to_theirs(ours, 4)
    assert len(renamed) == len(ours) == len(theirs) == 328
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in theirs.items()}
    back = to_ours(renamed, ours, 4, "x")
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in ours.items()}
    assert their_name("up.3.block.2.nin_shortcut.bias", 4) == (
        "up_blocks.0.resnets.2.conv_shortcut.bias"
    )


def test_a_tensor_that_does_not_belong_is_named(folder):
    state = {**unet().state_dict(), "time_embedding.cond_proj.weight": torch.zeros(3, 3)}
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(DdimxError, match=r"not part of this model: time_embedding\.cond_proj"):
        loaded(folder)


def test_what_is_written_is_what_diffusers_computes_with(tmp_path):
    config = plain(diffusion={"prediction": "v", "beta_schedule": "cosine"})
    model, _ = build(config)
    write_folder(tmp_path / "new", model.state_dict(), config, {"by": "us"}, "ema")
    read = DDIMPipeline.from_pretrained(tmp_path / "new")
    assert compared(tmp_path / "new", read.unet) < 1e-5
    assert read.scheduler.config.prediction_type == "v_prediction"
    expected = Schedule.from_config(config.diffusion).alpha_bars[1:]
    # diffusers' table is float32: 1000 factors of half an ulp of 1 each.
    np.testing.assert_allclose(read.scheduler.alphas_cumprod.numpy(), expected, atol=3e-5)
    found = read_folder(tmp_path / "new")
    assert (found.config, found.info, found.which) == (config, {"by": "us"}, "ema")
    assert same(found.tensors, model.state_dict())


def test_images_that_are_not_square_both_ways(tmp_path):
    pipeline(unet(sample_size=(8, 16))).save_pretrained(tmp_path / "theirs")
    model = loaded(tmp_path / "theirs")
    assert compared(tmp_path / "theirs", unet(sample_size=(8, 16)), (8, 16)) < 1e-5
    assert model.config.sample_shape == (3, 8, 16)
    assert model.config.model.attn_resolutions == (8,)  # the longer side
    write_folder(tmp_path / "ours", model.network.state_dict(), model.config, {}, "ema")
    written = UNet2DModel.from_pretrained(tmp_path / "ours" / "unet")
    assert tuple(written.config.sample_size) == (8, 16)
    assert compared(tmp_path / "ours", written, (8, 16)) < 1e-5


def test_it_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    config = plain()
    write_folder(tmp_path / "m", weights(config), config, {}, "ema")
    before = (tmp_path / "m" / "model_index.json").stat().st_ino

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddimx.weights.formats.diffusers.folder.write_safetensors", full)
    with pytest.raises(OSError, match="No space"):
        write_folder(tmp_path / "m", weights(config), config, {}, "raw")
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m" / "model_index.json").stat().st_ino == before


def test_a_wish_for_one_set_is_not_guessed(folder):
    with pytest.raises(UsageError, match="does not say whether"):
        read_folder(folder, "raw")


def test_without_a_scheduler_the_noise_must_be_given(folder, tmp_path):
    (folder / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(UsageError, match=r"no scheduler_config\.json.*give --config"):
        loaded(folder)
    config = plain(diffusion={"beta_schedule": "quad"})
    assert read_source(Source(str(folder), config=config))[1] == config


def test_a_configuration_that_contradicts_the_folder(folder):
    config = plain(diffusion={"beta_end": 0.01, "prediction": "v"}, model={"norm_groups": 16})
    with pytest.raises(UsageError) as caught:
        read_source(Source(str(folder), config=config))
    assert str(caught.value).splitlines()[1:] == [
        "  diffusion.beta_end is 0.01, the file has 0.02",
        "  diffusion.prediction is v, the file has epsilon",
        "  model.norm_groups is 16, the file has 32",
    ]


def test_ours_beside_theirs_may_not_contradict_them(tmp_path):
    path = tmp_path / "m"
    write_folder(path, weights(plain()), plain(), {}, "ema")
    change(path / "scheduler" / "scheduler_config.json", beta_end=0.03)
    config = read_source(Source(str(path)))[1]  # ours does not set that key
    assert config.diffusion.beta_end == 0.03
    write_folder(path, weights(plain()), plain(diffusion={"beta_end": 0.02}), {}, "ema")
    change(path / "scheduler" / "scheduler_config.json", beta_end=0.03)
    with pytest.raises(UsageError, match=r"diffusion\.beta_end is 0\.02, the file has 0\.03"):
        read_source(Source(str(path)))
    change(path / "ddimx.json", schema=9)
    with pytest.raises(DdimxError, match=r"ddimx\.json: not of schema 1"):
        read_folder(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "unet" / "config.json").unlink(), r"cannot read .*config\.json"),
        (lambda p: (p / "unet" / "config.json").write_text("{"), r"cannot read .*config\.json"),
        (lambda p: (p / "unet" / "config.json").write_text("[]"), "expected settings in braces"),
        (
            lambda p: change(p / "unet" / "config.json", _class_name="UNet2DConditionModel"),
            "_class_name is 'UNet2DConditionModel', not UNet2DModel",
        ),
        (
            lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").rename(
                p / "unet" / "model.safetensors"
            ),
            r"neither .* nor .*, only model\.safetensors",
        ),
        (
            lambda p: (p / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
            "not a readable safetensors file",
        ),
    ],
)
def test_a_damaged_folder_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(DdimxError, match=message):
        loaded(folder)


def test_files_that_will_not_do_are_named_in_order(folder, monkeypatch):
    """A folder's files come in any order."""
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("b.bin", "c.safetensors", "a.bin"):
        (folder / "unet" / name).write_bytes(b"")
    weights.unlink()
    real = Path.glob
    monkeypatch.setattr(Path, "glob", lambda p, pattern: sorted(real(p, pattern), reverse=True))
    with pytest.raises(DdimxError, match=r"only a\.bin, b\.bin, c\.safetensors"):
        loaded(folder)


def test_a_ddpm_pipelines_scheduler(tmp_path):
    scheduler = DDPMScheduler(variance_type="fixed_large", clip_sample_range=2.0)
    DDPMPipeline(unet(), scheduler).save_pretrained(tmp_path / "m")
    model = loaded(tmp_path / "m")
    assert model.config.model.var_type == "fixedlarge"
    assert model.config.sampling.clip == 2.0
    assert ["clips x0 to 2 (clip_sample=True)" in note for note in model.notes] == [True]
    assert json.loads(model.config.model_dump_json())["diffusion"]["prediction"] == "epsilon"
