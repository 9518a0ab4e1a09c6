"""Posteriors against enumeration: every id, every step, by Bayes' rule on small matrices."""

import numpy as np
import pytest
import torch

from ddimx.discrete.posterior import (
    log_softmax,
    marginal,
    markov_posterior,
    one_hot,
    posterior,
    softmax,
)
from ddimx.errors import UsageError

CLASSES = [3, 4, 5]
STEPS = [(0.3, 0.55), (0.0, 0.4), (0.0, 1.0), (0.7, 1.0), (0.2, 0.2)]


def forward(a, classes, transition):
    """Return the matrix q(to | from) over ids 0..K when a share of a stays."""
    noise = np.zeros(classes + 1)
    if transition == "absorbing":
        noise[0] = 1.0
    else:
        noise[1:] = 1 / classes
    matrix = a * np.eye(classes + 1) + (1 - a) * noise[None, :]
    matrix[0] = noise if transition == "uniform" else np.eye(classes + 1)[0]
    return matrix


def bayes(a_t, a_s, classes, transition):
    """Return q(x_s | x_t, x_0) of the Markov chain as [x_t, x_0, x_s], NaN where x_t cannot be."""
    first = forward(a_s, classes, transition)  # x_0 -> x_s
    second = forward(a_t / a_s if a_s else 1.0, classes, transition)  # x_s -> x_t
    joint = np.einsum("os,st->tos", first, second)
    total = joint.sum(axis=2, keepdims=True)
    return np.divide(joint, total, out=np.full_like(joint, np.nan), where=total > 0)


def every(classes, masks):
    """Return all pairs x_t, x_0 of ids: int64 [P] each."""
    x_t = torch.arange(0 if masks else 1, classes + 1)
    pairs = torch.cartesian_prod(x_t, torch.arange(1, classes + 1))
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("a_t", "a_s"), STEPS)
def test_the_uniform_chains_posterior_is_bayes_rule(classes, a_t, a_s):
    x_t, x_0 = every(classes, masks=False)
    found = markov_posterior(x_t, one_hot(x_0, classes + 1), a_t, a_s)
    exact = bayes(a_t, a_s, classes, "uniform")[x_t, x_0]
    assert np.allclose(found.numpy(), exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("a_t", "a_s"), STEPS)
def test_the_absorbing_chains_posterior_is_eta_0(classes, a_t, a_s):
    x_t, x_0 = every(classes, masks=True)
    found = posterior(x_t, one_hot(x_0, classes + 1), a_t, a_s, "absorbing", 0.0).numpy()
    exact = bayes(a_t, a_s, classes, "absorbing")[x_t, x_0]
    possible = (x_t == 0) | ((x_t == x_0) & (a_t > 0))
    assert possible.sum() == classes * (2 if a_t else 1)
    assert np.allclose(found[possible], exact[possible], rtol=0, atol=1e-14)


def test_the_chain_is_no_member_of_the_family():
    """Off the diagonal its weight depends on whether x_t is x_0; the family's is one number."""
    x_t = torch.tensor([1, 1])
    x_0 = one_hot(torch.tensor([1, 2]), 9)
    found = markov_posterior(x_t, x_0, 0.3, 0.55)
    both_noise = (1 - 0.3 / 0.55) / 8 * 0.45 / 8  # x_t came from noise, and so did x_s
    assert found[0, 3].item() == pytest.approx(both_noise / (0.3 + 0.7 / 8), rel=1e-12)
    assert found[1, 3].item() == pytest.approx(both_noise / (0.7 / 8), rel=1e-12)
    family = posterior(x_t, x_0, 0.3, 0.55, "uniform", 0.4)
    assert family[0, 3] == family[1, 3]


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("a_t", "a_s"), STEPS)
def test_every_eta_keeps_the_marginals(transition, eta, a_t, a_s):
    """Sum over x_t of q(x_t | x_0) q(x_s | x_t, x_0) is q(x_s | x_0), by enumeration."""
    classes = 4
    x_t = torch.arange(classes + 1)
    for x_0 in range(1, classes + 1):
        truth = one_hot(torch.tensor([x_0]), classes + 1)
        at_t = marginal(truth, a_t, transition)
        step = posterior(x_t, truth.expand(classes + 1, -1), a_t, a_s, transition, eta)
        assert torch.allclose(step.sum(dim=1), torch.ones(classes + 1, dtype=torch.float64))
        exact = forward(a_s, classes, transition)[x_0]
        assert np.allclose((at_t @ step).numpy()[0], exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_the_family_is_the_appendixs_formula(eta):
    a_t, a_s, classes = 0.3, 0.55, 5
    x_t, x_0 = every(classes, masks=False)
    sigma = (1 - eta) * (1 - a_s) / (1 - a_t)
    eye = np.eye(classes + 1)
    uniform = np.append(0.0, np.full(classes, 1 / classes))
    exact = sigma * eye[x_t] + (a_s - sigma * a_t) * eye[x_0]
    exact += ((1 - a_s) - (1 - a_t) * sigma) * uniform
    found = posterior(x_t, one_hot(x_0, classes + 1), a_t, a_s, "uniform", eta)
    assert np.allclose(found.numpy(), exact, rtol=0, atol=1e-15)


@pytest.mark.parametrize("classes", CLASSES)
def test_a_perfect_denoiser_gives_the_true_reverse_step(classes):
    """p(x_s | x_t) of data with a known distribution, by Bayes' rule on the whole joint."""
    random = np.random.default_rng(classes)
    data = np.append(0.0, random.dirichlet(np.ones(classes)))
    a_t, a_s = 0.35, 0.6
    x_t = torch.arange(1, classes + 1)
    at_t, at_s = forward(a_t, classes, "uniform"), forward(a_s, classes, "uniform")
    denoised = data * at_t[:, 1:].T  # [x_t, x_0]
    denoised = torch.from_numpy(denoised / denoised.sum(axis=1, keepdims=True))
    joint = (data @ at_s)[None, :] * forward(a_t / a_s, classes, "uniform")[:, 1:].T
    exact = joint / joint.sum(axis=1, keepdims=True)
    found = markov_posterior(x_t, denoised, a_t, a_s)
    assert np.allclose(found.numpy(), exact, rtol=0, atol=1e-14)


def test_alphas_of_each_token():
    x_t, x_0 = every(4, masks=False)
    truth = one_hot(x_0, 5)
    a_t = torch.linspace(0, 0.5, len(x_t), dtype=torch.float64)
    for step in (
        lambda i: markov_posterior(x_t[i], truth[i], a_t[i], a_t[i] + 0.3),
        lambda i: posterior(x_t[i], truth[i], a_t[i], a_t[i] + 0.3, "uniform", 0.2),
        lambda i: marginal(truth[i], a_t[i], "absorbing"),
    ):
        whole = step(slice(None))
        parts = [step(slice(i, i + 1)) for i in range(len(x_t))]
        assert torch.equal(whole, torch.cat(parts))


def test_softmax_leaves_nothing_for_the_mask():
    logits = torch.tensor([[torch.nan, 0.0, np.log(3.0)], [1e9, 1.0, 1.0]])
    assert torch.allclose(softmax(logits), torch.tensor([[0, 0.25, 0.75], [0, 0.5, 0.5]]).double())
    assert (log_softmax(logits)[:, 0] == -torch.inf).all()


def test_no_step_of_the_chain_starts_from_clean_data():
    with pytest.raises(UsageError, match="alpha 1"):
        markov_posterior(torch.tensor([1]), one_hot(torch.tensor([1]), 4), 1.0, 1.0)
