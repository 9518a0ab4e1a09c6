"""Settings whose wrong value is silently wrong: each is read, and refused by its name."""

import inspect

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from ddimx.config_file import validate
from ddimx.errors import DdimxError, UsageError
from ddimx.solvers.schedule import Schedule
from ddimx.weights.formats.diffusers.scheduler import (
    CLASSES,
    CONTINUOUS,
    OF_DDIM,
    OF_DDPM,
    OWN_SPACING,
    SCHEDULER_DEFAULTS,
    read_scheduler,
    write_scheduler,
)
from ddimx.weights.formats.diffusers.settings import UNET_DEFAULTS, read_unet, write_unet
from tests.weights import plain
from tests.weights.formats.diffusers.models import NEEDED, PAPER, SMALL, unet

DDIM = {"_class_name": "DDIMScheduler", **PAPER}


def defaults_of(kind):
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.name != "self"}


def test_the_defaults_are_diffusers_own():
    """An absent setting has diffusers' default, so ours must be the same."""
    assert defaults_of(UNet2DModel) == UNET_DEFAULTS
    assert defaults_of(DDIMScheduler) == SCHEDULER_DEFAULTS | OF_DDIM
    assert defaults_of(DDPMScheduler) == SCHEDULER_DEFAULTS | OF_DDPM


# DPMSolverSDEScheduler needs torchsde even for its signature.
@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"DPMSolverSDEScheduler"}))
def test_the_defaults_of_every_scheduler_are_diffusers_own(name):
    theirs, ours = defaults_of(getattr(diffusers, name)), CLASSES[name][0]
    assert {key: theirs.get(key, value) for key, value in ours.items()} == ours
    absent = ours.keys() - theirs.keys()
    switches = {"clip_sample", "thresholding", "steps_offset", "rescale_betas_zero_snr"}
    assert not any(ours[key] for key in switches & absent)
    assert "set_alpha_to_one" in ours or "set_alpha_to_one" not in theirs


@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_defaults_of_processes_without_betas(name):
    theirs, ours = defaults_of(getattr(diffusers, name)), CONTINUOUS[name]
    assert {key: theirs.get(key, value) for key, value in ours.items()} == ours
    absent = ours.keys() - theirs.keys()
    assert not any(ours[key] for key in absent)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("downsample_padding", 1),
        ("flip_sin_to_cos", True),
        ("freq_shift", 0),
        ("norm_eps", 1e-5),
        ("attention_head_dim", 8),
    ],
)
def test_a_silent_setting_is_read_given_or_by_default(setting, value):
    """Each changes the output without an error, which the first lines show."""
    x, t = torch.ones(1, 3, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        right, wrong = unet()(x, t).sample, unet(**{setting: value})(x, t).sample
    assert right.shape == wrong.shape
    assert (right - wrong).abs().max() > 1e-7
    assert UNET_DEFAULTS[setting] == value
    stated = read_unet({**SMALL, setting: value}, "c.json")
    assert stated != read_unet(SMALL, "c.json")
    assert read_unet({key: v for key, v in SMALL.items() if key != setting}, "c.json") == stated


def test_all_wrong_settings_are_named_at_once():
    wrong = {"center_input_sample": True, "time_embedding_type": "learned", "norm_eps": "x"}
    with pytest.raises(DdimxError) as caught:
        read_unet({**SMALL, **wrong}, "c.json")
    lines = str(caught.value).splitlines()[1:]
    assert {line.split()[0] for line in lines} == wrong.keys()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"center_input_sample": True}, "center_input_sample"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type"),
        ({"mid_block_scale_factor": 1.41}, "mid_block_scale_factor"),
        ({"downsample_type": "fir"}, "downsample_type"),
        ({"upsample_type": "fir"}, "upsample_type"),
        ({"downsample_padding": 2}, "downsample_padding"),
        ({"act_fn": "celu"}, "act_fn"),
        ({"attn_norm_num_groups": 7}, "attn_norm_num_groups is 7; it must divide 64"),
        ({"attention_head_dim": 100}, "attention_head_dim is 100; .* has fewer channels"),
        ({"freq_shift": 16}, "freq_shift is 16; less than half"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"sample_size": None}, "sample_size is None.*write the size of the training images"),
        ({"sample_size": [8, 16, 8]}, "sample_size"),
        ({"out_channels": 5}, "out_channels is 5 and in_channels 3"),
        ({"block_out_channels": [32, 44]}, "norm_num_groups is 32; it must divide"),
        ({"block_out_channels": [32]}, "differ in length"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "SkipDownBlock2D"),
        ({"something_new": 3}, "something_new is 3; a setting that is not known here"),
    ],
)
def test_what_this_network_is_not_is_refused_by_name(changes, named):
    with pytest.raises(DdimxError, match=named):
        read_unet({**SMALL, **changes}, "c.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"act_fn": "swish"},
        {"time_embedding_dim": 128},
        {"attn_norm_num_groups": 32},
        {"attention_head_dim": 64},  # the width of every attention: one head
        {"sample_size": [8, 8]},
        {"decay": 0.9999, "optimization_step": 5, "inv_gamma": 1.0},  # diffusers' EMAModel
        {"_use_default_values": ["x"], "something_new": None},
    ],
)
def test_other_words_for_the_same_network(changes):
    assert read_unet({**SMALL, **changes}, "c.json") == read_unet(SMALL, "c.json")
    known = {key: value for key, value in changes.items() if key in UNET_DEFAULTS}
    x, t = torch.ones(1, 3, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        assert torch.equal(unet()(x, t).sample, unet(**known)(x, t).sample)


@pytest.mark.parametrize("value", [None, "x", [], ["x"], [3, 4], {}, -1, 0, 1.5, True])
def test_no_value_of_any_setting_is_a_fault_of_ours(value):
    """Whatever a file holds, it is read or refused by name, with one error."""
    for key in UNET_DEFAULTS:
        try:
            read_unet({**SMALL, key: value}, "c.json")
        except DdimxError as error:
            assert key in str(error)  # noqa: PT017 - some values are right
    for key in SCHEDULER_DEFAULTS | OF_DDIM:
        try:
            tree = {**plain().model_dump(), **parts(read_scheduler({**DDIM, key: value}, "s"))}
            validate(tree, "s")
        except DdimxError:
            pass


def parts(scheduler):
    return {"diffusion": scheduler.diffusion, "sampling": scheduler.sampling}


def test_written_settings_are_read_as_the_same():
    config = plain(model={"dropout": 0.2, "norm_groups": 16})
    written = write_unet(config, "m")
    architecture, other = read_unet(written, "c.json")
    assert (architecture.ch, architecture.ch_mult, architecture.attention) == (32, (1, 2), {1})
    changed = {"norm_groups": 16, "dropout": 0.2}
    assert other == {**read_unet(SMALL, "c.json")[1], **changed}
    assert {k: v for k, v in written.items() if k in NEEDED} == NEEDED


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"mid_norm_groups": 0}}, "no model.mid_norm_groups 0"),
        (
            {"model": {"ch_mult": [1, 1, 1], "attn_resolutions": [8, 4], "resblock_down": [0]}},
            r"no model.resblock_down \(0,\)",
        ),
        ({"model": {"patch_size": 2, "attn_resolutions": [2]}}, "no model.patch_size 2"),
        ({"model": {"resamp_with_conv": False}}, "no model.resamp_with_conv False"),
        ({"model": {"ch_mult": [2, 2]}}, r"no model.ch_mult \(2, 2\)"),
        ({"data": {"rescaled": False}}, "no data.rescaled False"),
    ],
)
def test_what_diffusers_is_not_is_refused_by_name(sections, named):
    with pytest.raises(UsageError, match=f"m: diffusers' UNet2DModel has {named}"):
        write_unet(plain(**sections), "m")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (DDIMScheduler, "linear"),
        (DDIMScheduler, "scaled_linear"),
        (DDIMScheduler, "squaredcos_cap_v2"),
        (DDPMScheduler, "linear"),
        (DDPMScheduler, "sigmoid"),
        (DDPMScheduler, "laplace"),
        (diffusers.HeunDiscreteScheduler, "exp"),
    ],
)
def test_noise_schedules_are_the_same_numbers(kind, name):
    theirs = kind(num_train_timesteps=500, beta_start=2e-4, beta_end=0.03, beta_schedule=name)
    settings = {**theirs.config, "_class_name": kind.__name__}
    tree = {**plain().model_dump(), "diffusion": read_scheduler(settings, "s").diffusion}
    ours = Schedule.from_config(validate(tree, "x").diffusion).betas
    # Theirs are float32, computed in it: a few roundings of 6e-8, in units of the largest beta.
    np.testing.assert_allclose(theirs.betas.numpy(), ours, rtol=1e-6, atol=3e-7 * ours.max())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "LCMScheduler"}, "_class_name is 'LCMScheduler'; .* distilled"),
        ({"_class_name": "FlowMatchLCMScheduler"}, "it is of flow matching"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, "v_prediction"),
        ({"_class_name": "VQDiffusionScheduler"}, "known are DDIMScheduler, DDIMParallel"),
        ({"_class_name": "DEISMultistepScheduler", "use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 numbers, for 1000 timesteps"),
        ({"trained_betas": "x"}, "trained_betas is 'x'; a list of numbers"),
        ({"beta_schedule": "lapl"}, "beta_schedule is 'lapl'"),
        ({"prediction_type": "flow"}, "prediction_type is 'flow'"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
            "use_dynamic_shifting is True; False is needed",
        ),
        ({"variance_type": "huge"}, "variance_type is 'huge'"),
    ],
)
def test_a_schedule_that_cannot_be_represented_is_refused_by_name(changes, named):
    with pytest.raises(DdimxError, match=rf"s\.json: .*\n?.*{named}"):
        read_scheduler({**DDIM, **changes}, "s.json")


@pytest.mark.parametrize(
    ("changes", "sampling", "noted"),
    [
        ({}, {"spacing": "leading"}, None),
        ({"clip_sample": True}, {"spacing": "leading", "clip": 1.0}, "clips x0 to 1"),
        ({"timestep_spacing": "trailing"}, {"spacing": "trailing"}, None),
        (
            {"steps_offset": 1},
            {"spacing": "leading", "steps_offset": 1},
            "moves timesteps by 1 (steps_offset)",
        ),
        (
            {"set_alpha_to_one": False},
            {"spacing": "leading", "end_at_zero": True},
            "set_alpha_to_one=False",
        ),
        (
            {"thresholding": True, "clip_sample": True, "sample_max_value": 1.5},
            {"spacing": "leading", "dynamic_threshold": [0.995, 1.5]},
            "thresholding=True, share 0.995, at most 1.5",
        ),
    ],
)
def test_how_the_scheduler_samples_becomes_a_default_or_a_note(changes, sampling, noted):
    read = read_scheduler({**DDIM, **changes}, "s")
    assert read.sampling == sampling
    assert [noted in note for note in read.notes] == ([True] if noted else [])


def test_prediction_types():
    there = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
    for theirs, ours in there.items():
        assert read_scheduler({**DDIM, "prediction_type": theirs}, "s").diffusion["prediction"] == (
            ours
        )
        written = write_scheduler(plain(diffusion={"prediction": ours}), "m")
        assert written["prediction_type"] == theirs


def test_a_written_scheduler_is_the_papers():
    written = write_scheduler(plain(), "m")
    assert {key: written[key] for key in PAPER} == PAPER
    clipped = write_scheduler(plain(sampling={"clip": 2.0, "spacing": "trailing"}), "m")
    assert (clipped["clip_sample"], clipped["clip_sample_range"]) == (True, 2.0)
    assert clipped["timestep_spacing"] == "trailing"


@pytest.mark.parametrize("spacing", ["ddim", "quad"])
def test_a_spacing_that_diffusers_lacks_is_kept_beside_the_nearest_one(spacing):
    written = write_scheduler(plain(sampling={"spacing": spacing}), "m")
    assert written["timestep_spacing"] == "leading"
    assert read_scheduler(written, "m").sampling["spacing"] == spacing
    changed = {**written, "timestep_spacing": "trailing"}  # by somebody else, since
    assert read_scheduler(changed, "m").sampling["spacing"] == "trailing"
    strange = {**written, OWN_SPACING: "x"}
    assert read_scheduler(strange, "m").sampling["spacing"] == "leading"


@pytest.mark.parametrize("name", ["const", "jsd", "sigmoid"])
def test_a_schedule_that_ddimscheduler_lacks_is_refused(name):
    with pytest.raises(UsageError, match=f"no diffusion.beta_schedule {name}"):
        write_scheduler(plain(diffusion={"beta_schedule": name}), "m")
