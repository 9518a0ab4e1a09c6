"""The Gaussian process: its loss against the formulas, and draws that belong to the example."""

import numpy as np
import pytest
import torch
from torch import nn

from ddimx.config_file import override
from ddimx.models.gaussian import GaussianProcess
from ddimx.models.process import Draws, Given
from ddimx.noise import Noise, Stream
from ddimx.options import Options
from ddimx.solvers.continuous import EdmSchedule, FlowSchedule
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.schedule import Schedule

SHAPE = (3, 4, 4)
BETAS = np.linspace(1e-4, 0.02, 1000)


def process(**changes):
    options = {"schedule": Schedule(BETAS), "prediction": "epsilon", "shape": SHAPE}
    return GaussianProcess(**{**options, **changes})


def draws(first=0, last=8, *, step=3, seed=0, batch_size=8):
    return Draws(Noise(seed), torch.arange(first, last), step, batch_size)


def images(count=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *SHAPE, generator=generator).clamp(-1, 1)


class Spy(nn.Module):
    """A network that keeps what it is given and answers with a fixed function of it."""

    def forward(self, x, t, labels=None):
        self.x, self.t, self.labels = x, t, labels
        return torch.sin(3 * x) + t.view(-1, 1, 1, 1) / 1000


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_loss_is_the_formula(prediction):
    model, spy, x0, at = process(prediction=prediction), Spy(), images(), draws()
    losses = model.loss(spy, {"x": x0}, at)
    t = model.timesteps(at)
    signal = np.sqrt(np.cumprod(1 - BETAS))[t.numpy()].reshape(-1, 1, 1, 1)
    sigma = np.sqrt(1 - signal**2)
    data = x0.double().numpy()
    noise = at.noise.normal(at.positions, SHAPE, row=at.step, stream=Stream.TRAIN_NOISE)
    noise = noise.double().numpy()
    noisy = signal * data + sigma * noise
    target = {"epsilon": noise, "x0": data, "v": signal * noise - sigma * data}[prediction]
    out = np.sin(3 * noisy) + t.numpy().reshape(-1, 1, 1, 1) / 1000
    assert torch.equal(spy.t, t.float())
    assert spy.labels is None
    assert np.allclose(spy.x.numpy(), noisy, rtol=0.0, atol=1e-5)
    assert losses.dtype == torch.float32
    assert np.allclose(losses.numpy(), ((out - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-4)


@pytest.mark.parametrize(
    ("prediction", "bounds"),
    [("epsilon", (0.0, 5.0)), ("x0", (0.0, 5.0)), ("v", (0.0, 5.0)), ("x0", (1.0, 3.0))],
)
def test_a_clipped_snr_weighs_the_error_of_x0(prediction, bounds):
    model, x0, at = process(prediction=prediction, snr_clip=bounds), images(), draws(0, 64)
    x0 = x0.repeat(8, 1, 1, 1)
    alpha_bar = np.cumprod(1 - BETAS)[model.timesteps(at).numpy()]
    snr = alpha_bar / (1 - alpha_bar)
    assert snr.max() > 5
    assert snr.min() < 1
    a = torch.from_numpy(alpha_bar).view(-1, 1, 1, 1)
    spy = Spy()
    losses = model.loss(spy, {"x": x0}, at)
    y = spy.x.double()
    out = spy(y, model.timesteps(at))
    of_x0 = {
        "epsilon": (y - (1 - a).sqrt() * out) / a.sqrt(),
        "x0": out,
        "v": a.sqrt() * y - (1 - a).sqrt() * out,
    }[prediction]
    error = (of_x0 - x0).square().mean(dim=(1, 2, 3)).numpy()
    assert np.allclose(losses.numpy(), snr.clip(*bounds) * error, rtol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_right_answer_has_no_loss(prediction):
    """With one known image the network can tell the noise from what it sees."""
    x0 = images(1).expand(8, *SHAPE)
    alpha_bar = torch.from_numpy(np.cumprod(1 - BETAS))

    def oracle(x, t, labels):
        a = alpha_bar[t.long()].view(-1, 1, 1, 1)
        noise = (x.double() - a.sqrt() * x0) / (1 - a).sqrt()
        answers = {"epsilon": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}
        return answers[prediction]

    losses = process(prediction=prediction).loss(oracle, {"x": x0}, draws())
    assert losses.max() < 1e-6


@pytest.mark.parametrize("toward_data", [False, True])
def test_a_flows_loss_is_that_of_its_own_states(toward_data):
    schedule = FlowSchedule.of(50, 2.0, toward_data=toward_data)
    model, spy, x0, at = process(schedule=schedule, prediction="flow"), Spy(), images(), draws()
    losses = model.loss(spy, {"x": x0}, at)
    u = (model.timesteps(at).double().numpy() + 1) / 50
    tau = (2 * u / (1 + u)).reshape(-1, 1, 1, 1)
    noise = at.noise.normal(at.positions, SHAPE, row=at.step, stream=Stream.TRAIN_NOISE).double()
    times = 1000 * (1 - tau if toward_data else tau).reshape(-1)
    assert np.allclose(spy.t.numpy(), times, rtol=1e-5)
    assert np.allclose(spy.x.numpy(), (1 - tau) * x0.numpy() + tau * noise.numpy(), atol=1e-5)
    target = (x0 - noise if toward_data else noise - x0).numpy()
    out = np.sin(3 * spy.x.numpy()) + spy.t.numpy().reshape(-1, 1, 1, 1) / 1000
    assert np.allclose(losses.numpy(), ((out - target) ** 2).mean(axis=(1, 2, 3)), rtol=1e-4)


def test_edms_loss_is_that_of_its_own_states():
    """lambda(sigma) = 1 / c_out^2 makes EDM's loss the plain squared error of F."""
    schedule = EdmSchedule.of(500, sigma_data=0.7)
    model, spy, x0, at = process(schedule=schedule, prediction="edm"), Spy(), images(), draws()
    losses = model.loss(spy, {"x": x0}, at)
    sigma = np.exp(4 * spy.t.double().numpy()).reshape(-1, 1, 1, 1)
    noise = at.noise.normal(at.positions, SHAPE, row=at.step, stream=Stream.TRAIN_NOISE).double()
    z, data = x0.double().numpy() + sigma * noise.numpy(), x0.double().numpy()
    assert np.allclose(spy.x.numpy(), z / np.hypot(sigma, 0.7), atol=1e-5)
    c_skip, c_out = 0.49 / (sigma**2 + 0.49), 0.7 * sigma / np.hypot(sigma, 0.7)
    out = np.sin(3 * spy.x.double().numpy()) + spy.t.double().numpy().reshape(-1, 1, 1, 1) / 1000
    error = (c_skip * z + c_out * out - data) / c_out
    assert np.allclose(losses.numpy(), (error**2).mean(axis=(1, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize(
    ("schedule", "mean", "deviation"),
    [
        (EdmSchedule.of(1000), -1.2, 1.2),
        (EdmSchedule.of(1000, p_mean=0.0, p_std=0.5), 0.0, 0.5),
        (FlowSchedule.of(1000, p_mean=0.5, p_std=1.0), 0.5, 1.0),
    ],
)
def test_training_noise_is_log_normal(schedule, mean, deviation):
    alpha_bar = schedule.alpha_bar(schedule.training_times(np.arange(1000)))
    log_sigma = 0.5 * np.log((1 - alpha_bar) / alpha_bar)  # at the middles of 1,000 equal shares
    assert log_sigma.mean() == pytest.approx(mean, abs=1e-3)
    assert log_sigma.std() == pytest.approx(deviation, rel=5e-3)


def test_low_precision_output_is_compared_in_float32():
    class Half(Spy):
        def forward(self, x, t, labels=None):
            return super().forward(x, t).to(torch.bfloat16)

    exact = process().loss(Spy(), {"x": images()}, draws())
    half = process().loss(Half(), {"x": images()}, draws())
    assert half.dtype == torch.float32
    assert torch.allclose(half, exact, rtol=0.02)


def test_gradients_reach_the_network():
    layer = nn.Conv2d(3, 3, 1)
    losses = process().loss(lambda x, t, labels: layer(x), {"x": images()}, draws())
    losses.mean().backward()
    assert layer.weight.grad.abs().min() > 0


# --- draws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_an_examples_loss_does_not_depend_on_its_company(prediction):
    model = process(prediction=prediction, num_classes=5, class_dropout=0.5)
    x0, labels = images(), torch.arange(8) % 5
    spies = Spy(), Spy()
    whole = model.loss(spies[0], {"x": x0, "label": labels}, draws())
    for part in (slice(0, 3), slice(3, 8), slice(5, 6)):
        at = Draws(Noise(0), torch.arange(8)[part], 3, 8)
        alone = model.loss(spies[1], {"x": x0[part], "label": labels[part]}, at)
        assert torch.allclose(alone, whole[part], rtol=1e-6)
        assert torch.equal(spies[1].x, spies[0].x[part])
        assert torch.equal(spies[1].t, spies[0].t[part])
        assert torch.equal(spies[1].labels, spies[0].labels[part])


def test_seed_step_and_position_change_the_draws():
    base = Spy()
    process().loss(base, {"x": images()}, draws())
    for other in (draws(seed=1), draws(step=4), draws(8, 16)):
        spy = Spy()
        process().loss(spy, {"x": images()}, other)
        assert not torch.equal(spy.t, base.t)
        assert not torch.equal(spy.x, base.x)


@pytest.mark.parametrize("first", [0, 8, 800])
def test_antithetic_pairs(first):
    t = process().timesteps(draws(first, first + 8))
    assert t.dtype == torch.int64
    assert torch.equal(t[:4] + t[4:], torch.full((4,), 999))
    assert len(set(t.tolist())) == 8


def test_antithetic_pairs_over_ranks():
    whole = process().timesteps(draws(16, 24))
    ranks = [process().timesteps(Draws(Noise(0), torch.arange(16, 24)[r::4], 3, 8)) for r in (0, 1)]
    assert torch.equal(ranks[0], whole[0::4])
    assert torch.equal(ranks[1], whole[1::4])
    halves = [process().timesteps(draws(a, a + 4)) for a in (16, 20)]
    assert torch.equal(torch.cat(halves), whole)
    assert torch.equal(halves[0] + halves[1], torch.full((4,), 999))


def test_an_odd_batch_has_one_without_a_partner():
    t = process().timesteps(draws(0, 7, batch_size=7))
    assert torch.equal(t[:3] + t[4:], torch.full((3,), 999))


@pytest.mark.parametrize("antithetic", [True, False])
def test_timesteps_are_uniform(antithetic):
    model = process(schedule=Schedule(np.full(10, 0.1)), antithetic=antithetic)
    t = torch.cat([model.timesteps(draws(0, 1000, step=s, batch_size=1000)) for s in range(10)])
    counts = torch.bincount(t, minlength=10)
    assert len(counts) == 10
    assert (counts - 1000).abs().max() < 150  # standard deviation 30, 42 in pairs
    if antithetic:
        assert torch.equal(counts, counts.flip(0))
    else:
        assert not torch.equal(counts, counts.flip(0))


def labels_seen(*, class_dropout, step=0, count=1000):
    model = process(num_classes=2, class_dropout=class_dropout, shape=(1, 1, 1))
    spy = Spy()
    at = draws(0, count, step=step, batch_size=count)
    model.loss(spy, {"x": torch.zeros(count, 1, 1, 1), "label": torch.arange(count) % 2}, at)
    return spy.labels


def test_classes_are_dropped_at_their_rate():
    given = torch.arange(1000) % 2
    assert torch.equal(labels_seen(class_dropout=0.0), given)
    seen = labels_seen(class_dropout=0.3)
    dropped = seen == 2
    assert abs(dropped.float().mean() - 0.3) < 0.06  # four standard deviations
    assert torch.equal(seen[~dropped], given[~dropped])
    assert not torch.equal(seen, labels_seen(class_dropout=0.3, step=1))
    assert torch.equal(seen, labels_seen(class_dropout=0.3))
    assert (labels_seen(class_dropout=1.0) == 2).all()


def test_an_unconditional_model_is_given_no_label():
    spy = Spy()
    process().loss(spy, {"x": images(), "label": torch.arange(8)}, draws())
    assert spy.labels is None


# --- from the configuration; sampling -------------------------------------------------------------


def test_from_config(tiny_config):
    items = ["training.class_dropout=0.25", "training.antithetic=false"]
    model = GaussianProcess.from_config(override(tiny_config, items))
    assert model.prediction == "v"
    assert model.shape == (3, 8, 8)
    assert model.num_classes == 2
    assert model.class_dropout == 0.25
    assert model.antithetic is False
    assert model.schedule.num_timesteps == 1000
    linear = override(tiny_config, ["diffusion.beta_schedule=linear", "model.classes=[]"])
    model = GaussianProcess.from_config(linear)
    assert np.allclose(model.schedule.betas, BETAS)
    assert model.num_classes == 0


class Still(nn.Module):
    """A network that answers 0."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, y, t, labels=None):
        return torch.zeros_like(y)


def test_the_start_belongs_to_the_sample_and_may_be_given():
    plan = make_plan(SolverChoice("ddim"), Schedule(BETAS), np.array([999.0]), "x0")
    seen = []
    network = Still()
    network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    list(process(prediction="x0").run(network, plan, torch.tensor([5, 9]), Noise(1)))
    assert torch.equal(seen[0], Noise(1).normal([5, 9], SHAPE, stream=Stream.INIT))
    mine = torch.rand(2, *SHAPE)
    list(
        process(prediction="x0").run(
            network, plan, torch.tensor([5, 9]), Noise(1), given=Given(mine)
        )
    )
    assert torch.equal(seen[1], mine)


class Classes(nn.Module):
    """A network whose answer is a different function of y for every label."""

    def __init__(self, guidance=None):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.guidance = guidance

    def answer(self, y, labels):
        return torch.cos(y * (1 + labels.view(-1, 1, 1, 1)))

    def forward(self, y, t, labels=None):
        if self.guidance is None:
            return self.answer(y, labels)
        uncond = self.answer(y, torch.full((len(y),), 3))
        return uncond + self.guidance * (self.answer(y, torch.arange(len(y))) - uncond)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guidance_is_the_extrapolation_from_no_class(guidance):
    conditional, plain = process(num_classes=3), process()
    plan = conditional.plan(Options(solver="ddim", eta=0.5, steps=5))
    index = torch.arange(2)
    given = Given(Noise(0).normal([0, 1], SHAPE).double())
    *_, guided = conditional.run(
        Classes(), plan, index, Noise(0), labels=index, guidance=guidance, given=given
    )
    *_, expected = plain.run(Classes(guidance), plan, index, Noise(0), given=given)
    assert torch.allclose(guided.y, expected.y, rtol=0.0, atol=1e-8)
    *_, other = plain.run(Classes(guidance + 0.1), plan, index, Noise(0), given=given)
    assert not torch.allclose(other.y, expected.y, rtol=0.0, atol=1e-3)
