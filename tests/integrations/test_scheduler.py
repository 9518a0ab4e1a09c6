"""Our scheduler beside diffusers': the same numbers where diffusers is right, others where not.

What remains beside a table in float64 (``exact``) is float64's rounding: of some ten operations,
enlarged by at most 1/sqrt(alpha_bar_T), 157 for the linear schedule and 1e3 within the times tested
of the rescaled ones; 1e-10 is a thousand times as much.
"""

import diffusers
import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.integrations.diffusers import DDIMScheduler, scheduler
from ddimx.noise import Noise, Stream
from tests.integrations import STABLE_DIFFUSION
from tests.integrations.schedulers import SHAPE, exact, random

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LATENT_ZSNR = {
    **STABLE_DIFFUSION,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
}
CONFIGS = {
    "defaults": {},
    "paper": {"clip_sample": False},
    "stable-diffusion": STABLE_DIFFUSION,
    "stable-diffusion-2": {**STABLE_DIFFUSION, "prediction_type": "v_prediction"},
    "zero-terminal-snr": LATENT_ZSNR,
    "zero-terminal-snr, x0": {**LATENT_ZSNR, "prediction_type": "sample"},
    "x0": {"prediction_type": "sample", "clip_sample_range": 0.5},
    # Thresholding takes the place of the clip.
    "thresholding": {"thresholding": True, "sample_max_value": 1.5, "clip_sample_range": 0.3},
    "trailing": {"timestep_spacing": "trailing", "clip_sample": False},
    "given betas": {"trained_betas": np.linspace(1e-4, 0.03, 1000).tolist(), "clip_sample": False},
}


def both(steps, **settings):
    theirs, ours = exact(**settings), DDIMScheduler(**settings)
    for one in (theirs, ours):
        one.set_timesteps(steps)
    return theirs, ours


@pytest.mark.parametrize("rederived", [False, True])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_step_is_diffusers_where_diffusers_is_right(name, eta, rederived):
    theirs, ours = both(10, **CONFIGS[name])
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    for i, t in enumerate(ours.timesteps):
        x, out, z = random(3 * i), random(3 * i + 1), random(3 * i + 2)
        options = {"eta": eta, "use_clipped_model_output": rederived}
        if eta:
            options["variance_noise"] = z
        expected, found = theirs.step(out, t, x, **options), ours.step(out, t, x, **options)
        torch.testing.assert_close(found.prev_sample, expected.prev_sample, **CLOSE)
        torch.testing.assert_close(
            found.pred_original_sample, expected.pred_original_sample, **CLOSE
        )


def test_a_whole_run_is_diffusers_own_in_float32():
    """Unmodified: float32 tables differ by 2e-7 relative; the state is of size 1, over 50 steps."""
    settings = {**STABLE_DIFFUSION, "prediction_type": "v_prediction"}
    theirs, ours = diffusers.DDIMScheduler(**settings), DDIMScheduler(**settings)
    x = y = random(0).float()
    for one in (theirs, ours):
        one.set_timesteps(50)
    for i, t in enumerate(ours.timesteps):
        x = theirs.step(torch.tanh(x) + random(i).float(), t, x).prev_sample
        y = ours.step(torch.tanh(y) + random(i).float(), t, y, return_dict=False)[0]
    assert (x - y).abs().max() < 50 * 2e-6


def leads(one, t, to, x, out):
    """Whether a step goes from t to the noise level of ``to`` (-1: clean), by equation 12."""
    table = torch.cat([torch.ones(1).double(), exact(clip_sample=False).alphas_cumprod])
    now, then = table[t + 1], table[to + 1]
    x0 = (x - (1 - now).sqrt() * out) / now.sqrt()
    expected = then.sqrt() * x0 + (1 - then).sqrt() * out
    return torch.allclose(one.step(out, t, x).prev_sample, expected, **CLOSE)


@pytest.mark.parametrize(
    ("spacing", "steps", "t", "next_t", "arithmetic"),
    [
        ("linspace", 10, 999, 888, 899),
        ("linspace", 10, 111, 0, 11),
        ("trailing", 7, 856, 713, 714),
        ("trailing", 7, 142, -1, 0),
        ("linspace", 1, 999, -1, -1),
        ("trailing", 10, 99, -1, -1),
    ],
)
def test_steps_lead_to_the_next_time_of_the_list_unlike_in_diffusers(
    spacing, steps, t, next_t, arithmetic
):
    theirs, ours = both(steps, timestep_spacing=spacing, clip_sample=False)
    if (spacing, steps) == ("linspace", 1):  # theirs is 0 alone, where hardly any noise is left
        assert theirs.timesteps.tolist() == [0]
        theirs.timesteps = ours.timesteps
    assert t in ours.timesteps.tolist()
    x, out = random(1), random(2)
    assert leads(ours, t, next_t, x, out)
    assert leads(theirs, t, arithmetic, x, out)
    assert leads(theirs, t, next_t, x, out) == (next_t == arithmetic)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace", "ddim", "quad"])
def test_a_perfect_model_is_followed_to_its_image_through_the_right_noise_levels(spacing):
    """With epsilon exact, x_t = sqrt(ab) x0 + sqrt(1 - ab) eps must hold at every time."""
    ours = DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
    ours.set_timesteps(7)
    table = exact().alphas_cumprod
    image, epsilon = random(1).clamp(-1, 1), random(2)
    first = ours.timesteps[0]
    x = table[first].sqrt() * image + (1 - table[first]).sqrt() * epsilon
    for t in ours.timesteps:
        level = table[t]
        expected = level.sqrt() * image + (1 - level).sqrt() * epsilon
        torch.testing.assert_close(x, expected, **CLOSE)
        x = ours.step(epsilon, t, x).prev_sample
    torch.testing.assert_close(x, image, **CLOSE)


def test_an_explicit_list_of_timesteps():
    ours = DDIMScheduler(clip_sample=False)
    ours.set_timesteps(timesteps=[900, 37, 5])
    assert ours.timesteps.tolist() == [900, 37, 5]
    assert ours.num_inference_steps == 3
    x, out = random(1), random(2)
    for t, following in ((900, 37), (37, 5), (5, -1)):
        assert leads(ours, t, following, x, out)


def test_set_alpha_to_one_false_ends_at_time_0():
    ours = DDIMScheduler(clip_sample=False, set_alpha_to_one=False)
    ours.set_timesteps(timesteps=[500, 100])
    assert leads(ours, 100, 0, random(1), random(2))


def test_eta_and_the_clip_may_change_from_step_to_step():
    theirs, ours = both(10)
    x, out, z = random(1), random(2), random(3)
    for eta in (1.0, 0.0, 0.5):
        for rederived in (False, True):
            options = {"eta": eta, "variance_noise": z, "use_clipped_model_output": rederived}
            expected = theirs.step(out, 500, x, **options).prev_sample
            found = ours.step(out, 500, x, **options).prev_sample
            torch.testing.assert_close(found, expected, **CLOSE)


def test_half_precision_is_computed_in_float32():
    settings = STABLE_DIFFUSION
    ours, reference = DDIMScheduler(**settings), DDIMScheduler(**settings)
    for one in (ours, reference):
        one.set_timesteps(10)
    x, out = random(1).half(), random(2).half()
    found = ours.step(out, 901, x)
    expected = reference.step(out.double(), 901, x.double())
    assert found.prev_sample.dtype == found.pred_original_sample.dtype == torch.float16
    # One rounding to float16, half of 2^-10 relative, and float32's own, which is far smaller.
    torch.testing.assert_close(
        found.prev_sample.double(), expected.prev_sample, rtol=2**-11 + 1e-5, atol=1e-6
    )


def test_the_fused_update_runs(monkeypatch):
    calls = []
    real = scheduler.update
    monkeypatch.setattr(scheduler, "update", lambda *a: calls.append(a) or real(*a))
    ours = DDIMScheduler()
    ours.set_timesteps(3)
    for t in ours.timesteps:
        ours.step(random(1), t, random(2))
    assert [int(call[1]) for call in calls] == [0, 1, 2]


def test_noise_from_a_seed_belongs_to_the_sample_and_the_row():
    ours = DDIMScheduler(clip_sample=False)
    ours.set_timesteps(10)
    x, out = random(1).float(), random(2).float()
    ours.use_seed(7, [4, 2])
    found = ours.step(out, 500, x, eta=1.0, generator=torch.Generator()).prev_sample
    z = Noise(7).normal([4, 2], SHAPE[1:], row=4, stream=Stream.STEP)
    ours.use_seed(None)
    assert torch.equal(found, ours.step(out, 500, x, eta=1.0, variance_noise=z).prev_sample)
    ours.use_seed(7, [2])
    alone = ours.step(out[1:], 500, x[1:], eta=1.0).prev_sample
    assert torch.equal(alone, found[1:])
    ours.use_seed(7)
    first = ours.step(out, 500, x, eta=1.0).prev_sample
    ours.use_seed(7, [0, 1])
    assert torch.equal(first, ours.step(out, 500, x, eta=1.0).prev_sample)
    assert not torch.equal(first, found)


def test_noise_from_generators_is_diffusers_own():
    theirs, ours = both(10, clip_sample=False)
    x, out = random(1), random(2)

    def generators(one_each):
        made = [torch.Generator().manual_seed(s) for s in (5, 6)]
        return made if one_each else made[0]

    for each in (True, False):
        options = [{"eta": 1.0, "generator": generators(each)} for _ in range(2)]
        expected = theirs.step(out, 500, x, **options[0]).prev_sample
        found = ours.step(out, 500, x, **options[1]).prev_sample
        torch.testing.assert_close(found, expected, **CLOSE)
    alone = ours.step(out[1:], 500, x[1:], eta=1.0, generator=[generators(True)[1]]).prev_sample
    together = ours.step(out, 500, x, eta=1.0, generator=generators(True)).prev_sample
    assert torch.equal(alone, together[1:])
    torch.manual_seed(1)
    expected = theirs.step(out, 500, x, eta=1.0).prev_sample
    torch.manual_seed(1)
    torch.testing.assert_close(ours.step(out, 500, x, eta=1.0).prev_sample, expected, **CLOSE)


def test_what_pipelines_use_besides_the_step():
    theirs, ours = diffusers.DDIMScheduler(**LATENT_ZSNR), DDIMScheduler(**LATENT_ZSNR)
    again = DDIMScheduler.from_config(ours.config)
    assert dict(again.config) == dict(ours.config)
    assert isinstance(ours, diffusers.DDIMScheduler)
    assert (ours.order, ours.init_noise_sigma, len(ours)) == (1, 1.0, 1000)
    x, z, t = random(1).float(), random(2).float(), torch.tensor([10, 999])
    assert ours.scale_model_input(x, 10) is x
    assert torch.equal(ours.add_noise(x, z, t), theirs.add_noise(x, z, t))
    assert torch.equal(ours.get_velocity(x, z, t), theirs.get_velocity(x, z, t))
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)


@pytest.mark.parametrize(
    ("settings", "asked", "message"),
    [
        ({}, {}, "either num_inference_steps or timesteps"),
        ({}, {"num_inference_steps": 5, "timesteps": [1]}, "either num_inference_steps or"),
        ({}, {"num_inference_steps": 1001}, "steps must lie in 1..1000"),
        ({}, {"timesteps": [5, 1000]}, "timestep 1000 lies outside 0..999"),
        ({}, {"timesteps": [5, 5]}, "without repeats"),
        ({}, {"timesteps": [7.5]}, "whole numbers"),
        ({"steps_offset": 1}, {"num_inference_steps": 1000}, "moves the first of 1000 timesteps"),
        ({"timestep_spacing": "trailling"}, {"num_inference_steps": 5}, "mean 'trailing'"),
        ({"prediction_type": "noise"}, {"num_inference_steps": 5}, "unknown prediction_type"),
        (
            {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
            {"num_inference_steps": 5},
            "cannot start at alpha_bar = 0",
        ),
    ],
)
def test_what_cannot_be_sampled_is_refused(settings, asked, message):
    with pytest.raises(UsageError, match=message):
        DDIMScheduler(**settings).set_timesteps(**asked)


def test_steps_that_cannot_be_taken_are_refused():
    ours = DDIMScheduler()
    x = random(1)
    with pytest.raises(ValueError, match="call set_timesteps"):
        ours.step(x, 10, x)
    ours.set_timesteps(10)
    for time in (-1, 1000):
        with pytest.raises(ValueError, match=rf"timestep {time} lies outside 0..999"):
            ours.step(x, time, x)
    with pytest.raises(ValueError, match="not both"):
        ours.step(x, 900, x, eta=1.0, generator=torch.Generator(), variance_noise=x)
    with pytest.raises(UsageError, match=r"eta must lie in \[0, 1\], got 1.5"):
        ours.step(x, 900, x, eta=1.5)
    with pytest.raises(ValueError, match="sample, model_output and noise have shapes that"):
        ours.step(torch.cat([x, x], dim=1), 900, x)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", ["defaults", "stable-diffusion", "zero-terminal-snr", "thresholding"]
)
def test_a_gpu_takes_the_same_steps(name):
    """float32 beside float64: 4 roundings of values up to 5, enlarged by at most 157."""
    ours = DDIMScheduler(**CONFIGS[name])
    ours.set_timesteps(10, device="cuda")
    ours.use_seed(3, [8, 9])
    for i, t in enumerate(ours.timesteps):
        x, out = random(2 * i).clamp(-5, 5), random(2 * i + 1).clamp(-5, 5)
        expected = ours.step(out, int(t), x, eta=0.5).prev_sample
        found = ours.step(out.float().cuda(), t, x.float().cuda(), eta=0.5).prev_sample
        assert (found.double().cpu() - expected).abs().max() < 4 * 5 * 157 * 2**-24
