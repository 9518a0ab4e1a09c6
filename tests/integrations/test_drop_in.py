"""Our scheduler in the place of diffusers': any settings, any time, any use, saved and loaded."""

import copy
import inspect
import json
import pickle
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ddimx.errors import UsageError
from ddimx.integrations.diffusers import DDIMScheduler, attach
from ddimx.integrations.diffusers.scheduler import SchedulerError
from ddimx.weights.formats.diffusers.scheduler import CLASSES
from tests.conftest import examples
from tests.integrations import STABLE_DIFFUSION
from tests.integrations.schedulers import SHAPE, exact, random

STEPS = 40  # of the forward process
CLOSE = {"rtol": 1e-10, "atol": 1e-10}

SETTINGS = st.fixed_dictionaries(
    {
        "num_train_timesteps": st.just(STEPS),
        "beta_start": st.sampled_from([1e-3, 0.01]),
        "beta_end": st.sampled_from([0.1, 0.2]),
        "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
        "trained_betas": st.sampled_from([None, None, np.linspace(2e-3, 0.3, STEPS).tolist()]),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.sampled_from([0.5, 1.0, 2.0]),
        "set_alpha_to_one": st.booleans(),
        "steps_offset": st.sampled_from([0, 1]),
        "prediction_type": st.sampled_from(["epsilon", "sample", "v_prediction"]),
        "thresholding": st.booleans(),
        "dynamic_thresholding_ratio": st.sampled_from([0.5, 0.9, 0.995]),
        "sample_max_value": st.sampled_from([0.5, 1.0, 1.5]),
        "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
        "rescale_betas_zero_snr": st.booleans(),
    }
)


def leads_elsewhere(theirs, time):
    """Whether the list's next time is not the one that diffusers goes to."""
    times = theirs.timesteps.tolist()
    if time not in times:
        return False
    following = [*times[1:], -1][times.index(time)]
    return max(following, -1) != max(time - STEPS // theirs.num_inference_steps, -1)


@examples(60)
@given(
    settings=SETTINGS,
    steps=st.sampled_from([1, 3, 5, 8, 20, 39]),
    time=st.integers(0, STEPS - 1),
    eta=st.sampled_from([0.0, 0.3, 1.0]),
    rederived=st.booleans(),
    noise=st.sampled_from(["given", "one generator", "one each"]),
)
def test_a_step_at_any_time_and_its_gradients_are_diffusers(
    settings, steps, time, eta, rederived, noise
):
    """Rounding of float64 is enlarged by 1 / sqrt(alpha_bar); within a step by some ten."""
    theirs, ours = exact(**settings), DDIMScheduler(**settings)
    theirs.set_timesteps(steps)
    level = theirs.alphas_cumprod[time].item()
    assume(level > 0 or (settings["prediction_type"] != "epsilon" and eta < 1))
    starts_elsewhere = settings["timestep_spacing"] == "linspace" and steps == 1
    first = STEPS - 1 if starts_elsewhere else theirs.timesteps[0].item()
    has_no_signal = first < STEPS and settings["prediction_type"] == "epsilon"
    has_no_signal = has_no_signal and theirs.alphas_cumprod[first] == 0
    if first >= STEPS or has_no_signal:
        with pytest.raises(SchedulerError, match=r"steps_offset 1 moves|alpha_bar = 0"):
            ours.set_timesteps(steps)
        return
    ours.set_timesteps(steps)
    assert ours.num_inference_steps == theirs.num_inference_steps == steps
    if not starts_elsewhere:
        assert torch.equal(ours.timesteps, theirs.timesteps)
        assume(not leads_elsewhere(theirs, time))

    def stepped(scheduler, with_gradients):
        x, out, z = (random(seed).requires_grad_(with_gradients) for seed in (1, 2, 3))
        options = {"variance_noise": z}
        if noise != "given":
            generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
            options = {"generator": generators if noise == "one each" else generators[0]}
        with torch.set_grad_enabled(with_gradients):
            result = scheduler.step(out, time, x, eta, rederived, **options)
        if not with_gradients:
            return [result.prev_sample, result.pred_original_sample]
        weighted = [
            (tensor * random(seed)).sum()
            for seed, tensor in ((6, result.prev_sample), (7, result.pred_original_sample))
        ]
        gradients = [
            torch.autograd.grad(value, [x, out, z], retain_graph=True, allow_unused=True)
            for value in weighted
        ]
        filled = [torch.zeros(SHAPE) if g is None else g for pair in gradients for g in pair]
        return [result.prev_sample, result.pred_original_sample, *filled]

    bound = 1e-11 * max(level, 1e-6) ** -0.5
    for with_gradients in (False, True):
        results = stepped(ours, with_gradients), stepped(theirs, with_gradients)
        for result, expected in zip(*results, strict=True):
            torch.testing.assert_close(
                result, expected.to(result.dtype), rtol=1e-10, atol=bound, check_dtype=False
            )


@pytest.mark.parametrize("dtypes", [("float16", "float32"), ("float32", "bfloat16"), ("half",) * 2])
@pytest.mark.parametrize("kind", ["epsilon", "sample"])
def test_results_have_the_dtypes_of_diffusers(dtypes, kind):
    of_sample, of_output = (getattr(torch, name) for name in dtypes)
    x, out, z = random(1).to(of_sample), random(2).to(of_output), random(3).float()
    for options in ({}, {"eta": 1.0, "variance_noise": z}, {"eta": 1.0}):
        results = []
        for scheduler in (diffusers.DDIMScheduler, DDIMScheduler):
            one = scheduler(prediction_type=kind)
            one.set_timesteps(4)
            results.append(one.step(out, 250, x, **options))
        expected, result = results
        assert result.prev_sample.dtype == expected.prev_sample.dtype
        assert result.pred_original_sample.dtype == expected.pred_original_sample.dtype


@pytest.mark.parametrize("shapes", [((1, 3, 4, 4), SHAPE), (SHAPE, (1, 1, 4, 4)), ((5,), (5,))])
def test_shapes_broadcast_as_in_diffusers(shapes):
    x, out = random(1, shapes[0]), random(2, shapes[1])
    theirs, ours = exact(), DDIMScheduler()
    for one in (theirs, ours):
        one.set_timesteps(4)
    for eta in (0.0, 1.0):
        expected, result = (
            one.step(out, 250, x, eta, generator=torch.Generator().manual_seed(1))
            for one in (theirs, ours)
        )
        for name in ("prev_sample", "pred_original_sample"):
            torch.testing.assert_close(result[name], expected[name], **CLOSE)


def test_the_other_ways_to_differentiate_and_to_batch():
    """Gradients of gradients, forward mode and vmap, beside the plain step and its derivative.

    The step is linear where x0 is not clipped, and clipping hides no second derivative here: the
    square of the result has one.
    """
    ours = DDIMScheduler(clip_sample=False)
    ours.set_timesteps(4)
    x, out, tangent = random(1), random(2), random(3)

    def step(x):
        return ours.step(out, 250, x, return_dict=False)[0]

    moved = step(x + tangent) - step(x)
    torch.testing.assert_close(torch.func.jvp(step, (x,), (tangent,))[1], moved, **CLOSE)
    with torch.autograd.forward_ad.dual_level():
        dual = step(torch.autograd.forward_ad.make_dual(x, tangent))
        torch.testing.assert_close(
            torch.autograd.forward_ad.unpack_dual(dual).tangent, moved, **CLOSE
        )
    torch.testing.assert_close(torch.func.vmap(step)(x[None].expand(3, *SHAPE))[2], step(x))
    factor = (moved / tangent).mean()
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(step(leaf).square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * tangent).sum(), leaf)
    torch.testing.assert_close(second, 2 * factor**2 * tangent, **CLOSE)


def test_torch_compile_follows_a_step_that_has_not_run_before():
    """In one graph for all times, of one run and of the next: no number is frozen into it."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    ours = DDIMScheduler(clip_sample=False)
    ours.set_timesteps(4)

    def step(out, t, x):
        return ours.step(out, t, x, return_dict=False)[0]

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    x, out = random(1), random(2)
    for steps in (4, 5):
        ours.set_timesteps(steps)
        for t in ours.timesteps:
            torch.testing.assert_close(compiled(out, t, x), step(out, t, x), **CLOSE)
    assert len(graphs) <= 2  # the number of steps is one of Python's
    before = len(graphs)
    for t in (750, 500, 250, 0, 3):
        torch.testing.assert_close(compiled(out, t, x), step(out, t, x), **CLOSE)
    assert len(graphs) - before <= 2  # the first time, and then any


@pytest.mark.full  # PyTorch takes seconds to follow Philox
def test_torch_compile_follows_thresholding_and_the_noise_of_a_seed():
    ours = DDIMScheduler(thresholding=True)
    ours.set_timesteps(4)
    ours.use_seed(5, [8, 9])

    def step(out, x):
        return ours.step(out, 250, x, 0.5, return_dict=False)[0]

    x, out = random(1).float(), random(2).float()
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    # Compiled alike: float32's rounding, of numbers up to 5, enlarged by 1 / sqrt(alpha_bar) = 1.4.
    torch.testing.assert_close(compiled(out, x), step(out, x), rtol=0, atol=8 * 5 * 1.4 * 2**-24)


def test_noise_of_a_seed_at_a_time_outside_the_list_is_that_of_a_row_of_its_own():
    ours = DDIMScheduler(clip_sample=False)
    ours.set_timesteps(4)
    ours.use_seed(5, [8, 9])
    x, out = random(1).float(), random(2).float()
    drawn = {t: ours.step(out, t, x, 1.0).prev_sample for t in (750, 300, 301)}
    still = {t: ours.step(out, t, x, 1.0, variance_noise=x * 0).prev_sample for t in drawn}
    noises = [(drawn[t] - still[t]) / (drawn[t] - still[t]).std() for t in drawn]
    for first in range(3):
        for second in range(first):
            assert (noises[first] - noises[second]).abs().max() > 0.1
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(ours.step(out, 300, leaf, 1.0).prev_sample, drawn[300])


def test_noise_levels_that_were_replaced_are_followed():
    """As scripts do that correct a schedule: alphas_cumprod and final_alpha_cumprod by hand."""
    theirs, ours = exact(clip_sample=False), DDIMScheduler(clip_sample=False)
    for one in (theirs, ours):
        one.alphas_cumprod = torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)
        one.final_alpha_cumprod = torch.tensor(0.995, dtype=torch.float64)
        one.set_timesteps(4)
    x, out = random(1), random(2)
    for t in (750, 0, 77):
        expected, result = (one.step(out, t, x).prev_sample for one in (theirs, ours))
        torch.testing.assert_close(result, expected, **CLOSE)
    with pytest.raises(UsageError, match=r"final_alpha_cumprod is 0.995"):
        ours.plan()
    moved = DDIMScheduler()
    moved.alphas_cumprod = moved.alphas_cumprod.clone()  # as add_noise does for another device
    for one in (moved, ours := DDIMScheduler()):
        one.set_timesteps(4)
    assert torch.equal(moved.step(out, 500, x).prev_sample, ours.step(out, 500, x).prev_sample)


def test_the_number_of_steps_set_by_hand_is_followed_outside_the_list():
    theirs, ours = exact(clip_sample=False), DDIMScheduler(clip_sample=False)
    x, out = random(1), random(2)
    for one in (theirs, ours):
        one.set_timesteps(4)
        one.num_inference_steps = 100
    expected, result = (one.step(out, 501, x).prev_sample for one in (theirs, ours))
    torch.testing.assert_close(result, expected, **CLOSE)


def test_betas_beyond_1_are_refused_only_where_no_step_can_be_taken():
    """diffusers has no such check; a step there gives NaN. Time 0 is in order."""
    settings = {"beta_start": 0.1, "beta_end": 2.0}
    theirs, ours = diffusers.DDIMScheduler(**settings), DDIMScheduler(**settings)
    for one in (theirs, ours):
        one.set_timesteps(50)
    x, out = random(1).float(), random(2).float()
    torch.testing.assert_close(ours.step(out, 0, x).prev_sample, theirs.step(out, 0, x).prev_sample)
    assert theirs.step(out, 500, x).prev_sample.isnan().any()
    with pytest.raises(SchedulerError, match="no step leads from timestep 500"):
        ours.step(out, 500, x)
    short = DDIMScheduler(trained_betas=[0.1, 0.3])
    with pytest.raises(SchedulerError, match="trained_betas has 2 entries"):
        short.set_timesteps(50)


def test_what_looks_at_the_class_sees_diffusers_own():
    theirs, ours = diffusers.DDIMScheduler, DDIMScheduler
    assert inspect.signature(ours.__init__) == inspect.signature(theirs.__init__)
    for name in ("step", "set_timesteps", "add_noise", "scale_model_input"):
        parameters = [list(inspect.signature(getattr(c, name)).parameters) for c in (theirs, ours)]
        assert parameters[1][: len(parameters[0])] == parameters[0]
    for steps in (0, -1, 1001):
        with pytest.raises(ValueError, match=rf"steps must lie in 1..1000 .*got {steps}"):
            ours().set_timesteps(steps)
    one = ours(timestep_spacing="quad")
    one.set_timesteps(5)
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(other) is ours
        result = other.step(random(1), 0, random(2)).prev_sample
        assert torch.equal(result, one.step(random(1), 0, random(2)).prev_sample)


def test_eta_0_ignores_two_kinds_of_noise_as_diffusers_does():
    ours = DDIMScheduler()
    ours.set_timesteps(4)
    x = random(1)
    both_given = ours.step(x, 250, x, generator=torch.Generator(), variance_noise=x).prev_sample
    assert torch.equal(both_given, ours.step(x, 250, x).prev_sample)


def test_a_pipeline_that_was_given_ours_is_saved_as_one_of_diffusers(pipe, tmp_path):
    """In the usual way, without attach: names of ours would not be found, even beside ddimx."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="quad")
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    settings = json.loads((tmp_path / "saved" / "scheduler" / "scheduler_config.json").read_text())
    assert settings["_class_name"] == "DDIMScheduler"
    assert settings["timestep_spacing"] == "leading"  # the nearest that diffusers has

    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    assert type(again.scheduler) is diffusers.DDIMScheduler
    again.scheduler.set_timesteps(10)
    again.save_pretrained(tmp_path / "by diffusers")
    again = diffusers.DiffusionPipeline.from_pretrained(
        tmp_path / "by diffusers", safety_checker=None
    )
    for key, value in STABLE_DIFFUSION.items():
        if key != "clip_sample":  # which PNDM does not have, so that from_config takes DDIM's own
            assert again.scheduler.config[key] == value
    assert attach(again).config.timestep_spacing == "quad"


def test_a_spacing_of_ours_comes_back_unless_another_was_chosen(tmp_path):
    DDIMScheduler(timestep_spacing="ddim").save_pretrained(tmp_path)
    again = DDIMScheduler.from_pretrained(tmp_path)
    assert again.config.timestep_spacing == "ddim"
    assert "ddim" in repr(again)
    changed = DDIMScheduler.from_pretrained(tmp_path, timestep_spacing="leading")
    assert changed.config.timestep_spacing == "leading"
    changed.save_pretrained(tmp_path)
    assert DDIMScheduler.from_pretrained(tmp_path).config.timestep_spacing == "leading"
    DDIMScheduler(timestep_spacing="quad").save_pretrained(tmp_path)
    theirs = diffusers.DDIMScheduler.from_pretrained(tmp_path, timestep_spacing="trailing")
    assert DDIMScheduler.from_config(theirs.config).config.timestep_spacing == "trailing"


@pytest.mark.parametrize("name", CLASSES)
def test_attach_takes_the_defaults_of_the_scheduler_that_it_replaces(name):
    """Its forward process, and no clip that it does not have itself."""
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    theirs = getattr(diffusers, name)()
    ours = attach(SimpleNamespace(scheduler=theirs))
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-6, atol=0)
    assert ours.config.clip_sample == theirs.config.get("clip_sample", False)
    for key in inspect.signature(diffusers.DDIMScheduler.__init__).parameters:
        if key in theirs.config:
            assert ours.config[key] == theirs.config[key]


def test_attach_refuses_models_of_flow_matching():
    pipe = SimpleNamespace()
    for settings in ({"use_flow_sigmas": True}, {"prediction_type": "flow_prediction"}):
        pipe.scheduler = diffusers.DPMSolverMultistepScheduler(**settings)
        with pytest.raises(UsageError, match="DPMSolverMultistepScheduler is set for flow match"):
            attach(pipe)
    pipe.scheduler = diffusers.DDIMScheduler(prediction_type="noise")
    with pytest.raises(UsageError, match="prediction_type 'noise' is not known"):
        attach(pipe)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_gradients_and_follows_compiled_times():
    """float32 beside float64: 4 roundings of values up to 5, enlarged by at most 157."""
    ours = DDIMScheduler(clip_sample=False)
    ours.set_timesteps(10, device="cuda")
    x, out, weight = (random(seed).clamp(-5, 5) for seed in (1, 2, 3))
    results = []
    for move in (lambda tensor: tensor, lambda tensor: tensor.float().cuda()):
        leaves = [move(tensor).requires_grad_() for tensor in (x, out)]
        moved = ours.step(leaves[1], 500, leaves[0]).prev_sample
        results.append(torch.autograd.grad((moved * move(weight)).sum(), leaves))
    for expected, result in zip(*results, strict=True):
        assert (result.double().cpu() - expected).abs().max() < 4 * 5 * 157 * 2**-24

    def step(out, t, x):
        return ours.step(out, t, x, return_dict=False)[0]

    compiled = torch.compile(step, fullgraph=True)
    arguments = out.float().cuda(), x.float().cuda()
    for t in ours.timesteps:
        result = compiled(arguments[0], t, arguments[1])
        expected = step(arguments[0], t, arguments[1])
        assert (result - expected).abs().max() < 4 * 5 * 157 * 2**-24
