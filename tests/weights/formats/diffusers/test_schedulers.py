"""Folders with any scheduler of betas: sampled as diffusers' own DDIM does with these settings."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

import ddimx
from ddimx.config_file import override
from ddimx.errors import UsageError
from ddimx.options import Options
from ddimx.solvers.executor import thresholded
from ddimx.solvers.registry import all_names
from ddimx.weights.formats.diffusers.folder import write_folder
from ddimx.weights.formats.diffusers.scheduler import CLASSES, write_scheduler
from ddimx.weights.locate.source import Source, read_source
from ddimx.weights.model import load_model
from tests.weights import plain, weights
from tests.weights.formats.diffusers.test_settings_parity import THEIRS

STEPS, COUNT = 4, 2
ZERO_SNR = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
CASES = {
    "DDPM as by default": ("DDPMScheduler", {}, {}),
    "classes": ("DDPMScheduler", {}, {"num_class_embeds": 10}),
    "not square": ("DDPMScheduler", {}, {"sample_size": (8, 12)}),
    "a variance": ("DDPMScheduler", {"variance_type": "learned_range"}, {"out_channels": 6}),
    "an x0-prediction": ("DDIMScheduler", {"prediction_type": "sample"}, {}),
    "zero terminal SNR without clip": ("DDIMScheduler", {**ZERO_SNR, "clip_sample": False}, {}),
    "the end at time 0": (
        "DDIMScheduler",
        {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False},
        {},
    ),
    "thresholding": (
        "DDIMScheduler",
        {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 3.0},
        {},
    ),
    "trained betas": (
        "DDIMScheduler",
        {"trained_betas": np.linspace(0.001, 0.02, 100).tolist(), "num_train_timesteps": 100},
        {},
    ),
    **{
        name: (name, {"timestep_spacing": "leading"} if "spacing" in str(defaults) else {}, {})
        for name, (defaults, _) in CLASSES.items()
        if name.removesuffix("Scheduler")
        in ("DDIMParallel", "DPMSolverMultistep", "PNDM", "EulerDiscrete", "HeunDiscrete")
    },
}


@pytest.mark.parametrize(("name", "changes", "of_unet"), CASES.values(), ids=CASES)
def test_the_states_are_those_of_diffusers_ddim(tmp_path, name, changes, of_unet):
    torch.manual_seed(0)
    unet = UNet2DModel(**{**THEIRS, **of_unet}).eval()
    theirs = getattr(diffusers, name)(**changes)
    DDPMPipeline(unet, theirs).save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu", dtype="fp32")
    draw = torch.Generator().manual_seed(3)
    start = torch.randn(COUNT, *model.config.sample_shape, generator=draw)
    labels = torch.tensor([3, 7]) if model.classes else None
    options = {"category": ["3", "7"]} if model.classes else {}

    settings = {k: v for k, v in theirs.config.items() if k != "_use_default_values"}
    scheduler = DDIMScheduler.from_config({"clip_sample": False, **settings})
    scheduler.set_timesteps(STEPS)
    expected = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            out = unet(expected, t, labels).sample[:, :3]
            expected = scheduler.step(out, t, expected).prev_sample
    assert expected.isfinite().all()
    got = ddimx.sample(model, start=start, count=COUNT, steps=STEPS, **options)
    # float32, in which theirs keeps its table, and up to 70 where nothing is clipped.
    bound = 1e-4 if model.config.sampling.clip else 1e-4 * max(1.0, float(expected.abs().max()))
    assert (got - expected).abs().max() < bound


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"])
def test_flows_and_edm_go_diffusers_own_euler_steps(tmp_path, name):
    """For a constant prediction, Euler's step along their line is DDIM's."""
    torch.manual_seed(0)
    unet = UNet2DModel(**THEIRS).eval()
    theirs = getattr(diffusers, name)()
    DDPMPipeline(unet, theirs).save_pretrained(tmp_path / "m")
    model = load_model(tmp_path / "m", device="cpu", dtype="fp32")
    draw = torch.Generator().manual_seed(3)
    start = torch.randn(COUNT, 3, 8, 8, generator=draw)
    flow = name.startswith("Flow")
    # Theirs over our times: both have the same, but for a whole number of them here.
    theirs.set_timesteps(STEPS)
    times = np.round(theirs.timesteps.numpy() - 1) if flow else np.linspace(999, 0, STEPS).round()
    if flow:
        theirs.set_timesteps(sigmas=((times + 1) / 1000).tolist())
    x = start * 1.0 if flow else start * (80.0**2 + 0.5**2) ** 0.5
    with torch.no_grad():
        for t in theirs.timesteps:
            scaled = x if flow else theirs.scale_model_input(x, t)
            x = theirs.step(unet(scaled, t.float()).sample, t, x).prev_sample
    got = ddimx.sample(model, start=start, count=COUNT, timesteps=times.tolist())
    assert (got - x).abs().max() < 1e-4 * x.abs().max()


def test_what_is_taken_over_is_written_back(tmp_path):
    settings = {
        **ZERO_SNR,
        "trained_betas": np.linspace(0.001, 0.02, 20).tolist(),
        "num_train_timesteps": 20,
        "steps_offset": 2,
        "set_alpha_to_one": False,
        "thresholding": True,
        "sample_max_value": 2.0,
        "clip_sample": False,
    }
    DDPMPipeline(UNet2DModel(**THEIRS), DDIMScheduler(**settings)).save_pretrained(tmp_path / "m")
    config = read_source(Source(str(tmp_path / "m")))[1]
    written = write_scheduler(config, "m")
    assert {key: written[key] for key in settings} == settings
    write_folder(tmp_path / "again", weights(config), config, {}, "raw")
    assert read_source(Source(str(tmp_path / "again")))[1] == config
    other = override(config, ["diffusion.trained_betas=null", "diffusion.zero_terminal_snr=false"])
    with pytest.raises(UsageError, match=r"trained_betas is None, the file has \(0\.001, 0\.002"):
        read_source(Source(str(tmp_path / "m"), config=other))


def test_every_solver_starts_at_zero_snr_or_says_why(tmp_path):
    """Where nothing of x0 is left a network of v can begin, one of epsilon cannot."""
    for prediction, reason in {"v": None, "epsilon": "cannot start at alpha_bar = 0"}.items():
        diffusion = {"prediction": prediction, "zero_terminal_snr": True}
        config = plain(diffusion=diffusion, sampling={"spacing": "trailing"})
        write_folder(tmp_path / prediction, weights(config), config, {}, "raw")
        process = load_model(tmp_path / prediction, device="cpu", dtype="fp32").process
        for solver in all_names():
            try:
                plan = process.plan(Options(solver=solver, steps=6))
            except UsageError as error:
                assert reason is None or reason in str(error)  # noqa: PT017
                assert "alpha_bar" in str(error)  # noqa: PT017
                continue
            assert reason is None
            assert np.isfinite(plan.table()).all()


def test_dynamic_thresholding_by_hand():
    x0 = torch.tensor([[-4.0, -2.0, 0.0, 1.0, 2.0], [0.5, -0.5, 0.1, 0.2, 0.0]])
    half = thresholded(x0, 0.5, 10.0)  # absolute values 0, 1, 2, 2, 4: half of them below 2
    assert half.tolist()[0] == [-1.0, -1.0, 0.0, 0.5, 1.0]
    assert torch.equal(half[1], x0[1])  # the bound is at least 1
    assert thresholded(x0, 1.0, 1.5)[0, 0] == -1.0  # and at most that
    assert thresholded(x0, 1.0, 1.5)[0, 3] == 1.0 / 1.5


def test_an_offset_beyond_the_last_time_is_refused(tmp_path):
    config = plain(sampling={"spacing": "leading", "steps_offset": 30})
    write_folder(tmp_path / "m", weights(config), config, {}, "raw")
    process = load_model(tmp_path / "m", device="cpu", dtype="fp32").process
    assert process.plan(Options(steps=10)).t.tolist()[:2] == [930.0, 830.0]
    with pytest.raises(UsageError, match="steps_offset 30 moves the first of 100 timesteps"):
        process.plan(Options(steps=100))
    assert process.plan(Options(steps=100, spacing="ddim")).t[0] == 990.0
