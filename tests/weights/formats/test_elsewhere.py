"""Checkpoints of guided-diffusion and denoising-diffusion-pytorch: what is read off them."""

import numpy as np
import pytest
import torch
import yaml

from ddimx.config_file import validate
from ddimx.errors import DdimxError, UsageError
from ddimx.models.edm import EdmUNet
from ddimx.models.guided import GuidedUNet
from ddimx.models.lucidrains import LucidrainsUNet
from ddimx.progress import Progress
from ddimx.solvers.schedule import Schedule
from ddimx.training.fine_tune import read_start
from ddimx.weights.configure import configure
from ddimx.weights.formats.pickled import read_pickled
from ddimx.weights.locate.source import Source
from ddimx.weights.model import load_model
from tests.weights import config_file, plain, same, weights

SECTIONS = ("data", "model", "diffusion", "training", "sampling", "optim")
DATA = {"dataset": "FOLDER", "image_size": 8, "channels": 3}
LEAST = {
    "guided": {
        "data": DATA,
        "model": {"name": "guided", "heads": 2},
        "diffusion": {"beta_schedule": "linear", "num_diffusion_timesteps": 1000},
    },
    "lucidrains": {"data": DATA, "model": {"name": "lucidrains"}},
}


def said(name, **changes):
    tree = {section: LEAST[name].get(section, {}) for section in SECTIONS}
    return validate({s: {**v, **changes.get(s, {})} for s, v in tree.items()}, "--config")


def guided(**settings):
    torch.manual_seed(0)
    settings = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "heads": 2, **settings}
    return GuidedUNet(image_size=8, **{"attn_resolutions": (4,), **settings})


def lucidrains_state(network, schedule=None, objective="v"):
    """A state dict of GaussianDiffusion: the network and the buffers that are read."""
    network = {f"model.{name}": value for name, value in network.state_dict().items()}
    if schedule is None:
        return network
    betas = torch.as_tensor(schedule, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    ratio = alpha_bar / (1 - alpha_bar)
    weight = {"epsilon": ratio / ratio, "x0": ratio, "v": ratio / (ratio + 1)}[objective]
    buffers = {"betas": betas, "alphas_cumprod": alpha_bar, "loss_weight": weight}
    return {**network, **{name: value.float() for name, value in buffers.items()}}


LINEAR = np.linspace(1e-4, 0.02, 1000)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_classes": 4, "predicts_variance": True, "scale_shift": True},
        {"resblock_updown": True, "ch_mult": (1, 2, 3), "num_res_blocks": 2, "heads": 4},
        {"attn_resolutions": (8, 4), "ch": 64, "ch_mult": (0.5, 1.5)},
        {"ch_mult": (1,), "attn_resolutions": ()},
    ],
)
def test_guided_diffusions_tensors_tell_its_settings(tmp_path, settings):
    network, path = guided(**settings), tmp_path / "ema_0.9999_000100.pt"
    torch.save(network.state_dict(), path)
    config = said("guided", model={"heads": settings.get("heads", 2)})
    model = load_model(path, device="cpu", dtype="fp32", config=config_file(tmp_path, config))
    assert same(model.network.state_dict(), network.state_dict())
    x, t, labels = torch.randn(2, 3, 8, 8), torch.tensor([1.0, 900.0]), None
    if settings.get("num_classes"):
        assert model.classes == ("0", "1", "2", "3")
        labels = torch.tensor([1, 3])
    with torch.no_grad():
        torch.testing.assert_close(model.network(x, t, labels), network.eval()(x, t, labels))
    assert model.weights == "ema"
    assert "the averaged weights, by the name of the file" in model.notes
    assert "new_attention_order is False" in model.notes[0]
    variance = "the network predicts a variance too, of which nothing is made"
    assert (variance in model.notes) == bool(settings.get("predicts_variance"))


def test_what_no_tensor_tells_has_to_be_said(tmp_path):
    path = tmp_path / "model000100.pt"
    torch.save(guided(num_classes=4).state_dict(), path)
    found = read_pickled(path, "raw")
    assert found.which == "raw"
    with pytest.raises(DdimxError, match="holds no ema weights but raw weights"):
        read_pickled(path, "ema")
    with pytest.raises(UsageError) as error:
        configure(found, None, "m.pt")
    for words in ("image_size", "heads or model.head_dim", "beta_schedule", "name: guided"):
        assert words in str(error.value)
    # The outline in the message suffices, once its gaps are filled.
    outline = str(error.value).partition("examples):\n")[2]
    filled = outline.replace("num_diffusion_timesteps: ...", "num_diffusion_timesteps: 1000")
    filled = filled.replace("image_size: ...", "image_size: 8").replace("heads: ...", "heads: 2")
    filled = filled.replace("beta_schedule: ...", "beta_schedule: linear")
    config = validate(yaml.safe_load(filled), "--config")
    assert configure(found, config, "m.pt")[0].model.heads == 2


def test_a_flow_needs_no_betas_but_says_which_times_its_network_is_given(tmp_path):
    """As TorchCFM's examples, whose network is guided-diffusion's."""
    path = tmp_path / "m.pt"
    torch.save({"net_model": guided().state_dict(), "ema_model": guided().state_dict()}, path)
    tree = {section: LEAST["guided"].get(section, {}) for section in SECTIONS}
    flow = {"prediction": "flow", "velocity": "to_data", "time_scale": 1.0}
    config = validate({**tree, "diffusion": flow}, "--config")
    assert configure(read_pickled(path), config, "m.pt")[0].diffusion.time_scale == 1.0
    config = validate({**tree, "diffusion": {"prediction": "flow"}}, "--config")
    with pytest.raises(UsageError, match=r"time_scale is missing: 1 where .* t in \[0, 1\]"):
        configure(read_pickled(path), config, "m.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"heads": None}}, "model.heads or model.head_dim is missing"),
        ({"model": {"ch": 64}}, "model.ch is 64, the file has 32"),
        ({"model": {"name": "lucidrains"}}, "model.name is lucidrains, .* is guided"),
        ({"model": {"attn_resolutions": [8]}}, r"attn_resolutions is \[8\], .* at \[4\]"),
        ({"model": {"classes": ["a"]}}, "model.classes has 1 names, the file 4 rows"),
        ({"diffusion": {"num_diffusion_timesteps": 4000}}, "time_scale is missing: 0.25 where"),
    ],
)
def test_what_contradicts_a_file_is_named(tmp_path, changes, message):
    path = tmp_path / "m.pt"
    torch.save(guided(num_classes=4).state_dict(), path)
    config = said("guided", **changes)
    if changes.get("model", {"heads": 2}).get("heads", 2) is None:
        tree = {s: LEAST["guided"].get(s, {}) for s in SECTIONS} | {"model": {"name": "guided"}}
        config = validate(tree, "--config")
    with pytest.raises(UsageError, match=message):
        configure(read_pickled(path), config, "m.pt")


def test_a_null_class_and_a_schedule_of_other_length(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(guided(num_classes=4).state_dict(), path)
    steps = {"num_diffusion_timesteps": 4000, "time_scale": 0.25}
    config, _ = configure(
        read_pickled(path), said("guided", model={"null_class": True}, diffusion=steps), "m.pt"
    )
    assert config.model.classes == ("0", "1", "2")
    assert (config.diffusion.beta_start, config.diffusion.beta_end) == (2.5e-5, 0.005)


@pytest.mark.parametrize("objective", ["epsilon", "x0", "v"])
def test_lucidrains_file_tells_schedule_and_objective(tmp_path, objective):
    torch.manual_seed(0)
    raw = LucidrainsUNet(ch=8, ch_mult=(1, 2), heads=2, head_dim=8)
    average = LucidrainsUNet(ch=8, ch_mult=(1, 2), heads=2, head_dim=8)
    model, ema = (lucidrains_state(n, LINEAR, objective) for n in (raw, average))
    online = {f"online_model.{name}": value for name, value in model.items()}
    content = {
        "step": 5,
        "model": model,
        "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "ema": {
            **{f"ema_model.{n}": v for n, v in ema.items()},
            **online,
            "initted": torch.ones(1),
        },
        "scaler": None,
        "version": "2.3.4",
    }
    path = tmp_path / "model-1.pt"
    torch.save(content, path)
    config = config_file(tmp_path, said("lucidrains"))
    for which, network in (("ema", average), ("raw", raw)):
        loaded = load_model(path, device="cpu", dtype="fp32", config=config, weights=which)
        assert same(loaded.network.state_dict(), network.state_dict())
        assert (loaded.weights, loaded.info["step"]) == (which, 5)
    assert loaded.config.diffusion.prediction == objective
    assert loaded.config.diffusion.beta_schedule == "linear"
    np.testing.assert_allclose(loaded.process.schedule.betas, LINEAR, rtol=1e-9)


def test_a_schedule_without_a_name_is_taken_as_numbers(tmp_path):
    """As its default, "sigmoid", which is another curve than DDPM's of that name."""
    table = 0.02 + 0.01 * np.sin(np.arange(50.0))
    torch.save(lucidrains_state(LucidrainsUNet(ch=8, ch_mult=(1, 2)), table), tmp_path / "m.pt")
    config, _ = configure(read_pickled(tmp_path / "m.pt"), said("lucidrains"), "m.pt")
    np.testing.assert_allclose(Schedule.from_config(config.diffusion).betas, table, rtol=1e-7)
    assert config.diffusion.num_diffusion_timesteps == 50


def test_lucidrains_without_buffers_has_to_be_told(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(lucidrains_state(LucidrainsUNet(ch=8, ch_mult=(1, 2))), path)
    with pytest.raises(UsageError, match=r"prediction is missing .* edm for its ElucidatedDiff"):
        configure(read_pickled(path), said("lucidrains"), "m.pt")
    schedule = {"beta_schedule": "linear", "num_diffusion_timesteps": 500}
    with pytest.raises(UsageError, match=r"diffusion.prediction is missing \(objective: epsilon"):
        configure(read_pickled(path), said("lucidrains", diffusion=schedule), "m.pt")
    schedule["prediction"] = "v"
    config, _ = configure(read_pickled(path), said("lucidrains", diffusion=schedule), "m.pt")
    assert (config.diffusion.beta_start, config.diffusion.beta_end) == (2e-4, 0.04)
    schedule["beta_schedule"] = "sigmoid"
    with pytest.raises(UsageError, match=r"not the curve of that name .*diffusion.trained_betas"):
        configure(read_pickled(path), said("lucidrains", diffusion=schedule), "m.pt")
    edm = said("lucidrains", diffusion={"prediction": "edm"})
    assert configure(read_pickled(path), edm, "m.pt")[0].diffusion.prediction == "edm"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("middle_block.1.qkv.weight", torch.zeros(192, 64, 1, 1), "OpenAI's consistency models"),
        ("middle_block.1.encoder_kv.weight", torch.zeros(2, 2), "GLIDE, which needs a text"),
        ("input_blocks.1.0.in_layers.2.weight", torch.zeros(()), "not the UNet of guided"),
    ],
)
def test_networks_like_guided_diffusions_are_told_apart(tmp_path, name, value, message):
    torch.save(guided().state_dict() | {name: value}, tmp_path / "m.pt")
    with pytest.raises(DdimxError, match=message):
        read_pickled(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("song", "settings"),
    [
        (True, {"num_classes": 3, "encoder": "residual", "resample_filter": (1, 3, 3, 1)}),
        (True, {"ch_mult": (1, 2, 2), "encoder": "skip", "decoder": "skip", "fourier_time": True}),
        (False, {"ch": 64, "num_classes": 3, "attn_resolutions": (8,)}),
    ],
)
def test_edms_tensors_tell_all_but_what_wraps_them(tmp_path, song, settings):
    torch.manual_seed(0)
    settings = {"ch": 16, "ch_mult": (1, 2), "attn_resolutions": (4,), **settings}
    network = EdmUNet(song=song, image_size=8, num_res_blocks=1, **settings)
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save({**state, "model.map_augment.weight": torch.zeros(16, 9)}, tmp_path / "m.pt")
    found = read_pickled(tmp_path / "m.pt")
    with pytest.raises(UsageError, match=r"prediction \(edm, for a network of EDMPrecond"):
        configure(found, None, "m.pt")
    model = {"name": "song" if song else "dhariwal", "null_class": True}
    tree = {name: {} for name in SECTIONS}
    tree |= {"data": DATA, "model": model, "diffusion": {"prediction": "edm"}}
    config = config_file(tmp_path, validate(tree, "--config"))
    loaded = load_model(tmp_path / "m.pt", device="cpu", dtype="fp32", config=config)
    assert same(loaded.network.state_dict(), network.state_dict())
    assert loaded.process.can_guide == bool(settings.get("num_classes"))
    assert "diffusion.sigma_data is 0.5" in loaded.notes[0]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: LucidrainsUNet(ch=8, ch_mult=(1, 2), in_channels=6), "self_condition=True"),
        (lambda: LucidrainsUNet(ch=8, in_channels=6, predicts_variance=True), "self_condition"),
        (lambda: GuidedUNet(image_size=8, ch=32, in_channels=6), "an upsampler of guided"),
        (
            lambda: GuidedUNet(image_size=8, ch=32, in_channels=6, predicts_variance=True),
            "an upsampler of guided",
        ),
        (lambda: EdmUNet(song=True, image_size=8, ch=16, out_ch=6), "EDM's iDDPMPrecond"),
    ],
)
def test_networks_for_other_tasks_are_refused(tmp_path, network, message):
    torch.save(network().state_dict(), tmp_path / "m.pt")
    with pytest.raises(DdimxError, match=message):
        read_pickled(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_conv.weight": torch.zeros(8, 3, 7)}, "a Unet1D"),
        ({"mid_attn.norm.g": None, "mid_block1.block1.proj.weight": None}, "a UViT of denoising"),
        ({}, "its ContinuousTimeGaussianDiffusion"),
    ],
)
def test_lucidrains_other_modules_are_refused_by_name(tmp_path, changes, message):
    state = LucidrainsUNet(ch=8, ch_mult=(1, 2)).state_dict() | changes
    state = {f"model.{name}": value for name, value in state.items() if value is not None}
    torch.save({"model": state, "step": 3}, tmp_path / "m.pt")
    with pytest.raises(DdimxError, match=message):
        read_pickled(tmp_path / "m.pt")


def test_training_completes_the_configuration_of_our_bare_tensors_too(tmp_path):
    torch.save({"ema": weights(plain(), 1)}, tmp_path / "m.pt")
    tree = {name: {} for name in SECTIONS} | {"data": DATA, "model": {"attn_resolutions": [4]}}
    wish, progress = Source(str(tmp_path / "m.pt")), Progress(quiet=True)
    start = read_start(wish, validate(tree, "--config"), progress)
    assert start.completed
    assert start.config.model.ch == plain().model.ch
    wrong = {"attn_resolutions": [4], "ch": 64}
    with pytest.raises(UsageError, match=r"model.ch is 64, the file has 32"):
        read_start(wish, validate({**tree, "model": wrong}, "--config"), progress)


def test_training_can_start_from_them(tmp_path):
    torch.save(lucidrains_state(LucidrainsUNet(ch=8, ch_mult=(1, 2)), LINEAR), tmp_path / "m.pt")
    start = read_start(Source(str(tmp_path / "m.pt")), said("lucidrains"), Progress(quiet=True))
    assert start.completed
    assert (start.config.model.ch, start.config.diffusion.prediction) == (8, "v")
