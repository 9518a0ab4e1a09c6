"""The bound in nats, against likelihoods that are known."""

import numpy as np
import pytest
import torch

from ddimx.discrete.elbo import elbo_terms, grid, stratified
from ddimx.discrete.posterior import marginal, one_hot
from ddimx.errors import UsageError
from ddimx.noise import Noise
from ddimx.solvers.schedule import Schedule, betas

LINEAR = Schedule(betas("jsd", 0, 0, 1000))  # alpha falls linearly to 0
COSINE = Schedule(betas("cosine", 0, 0, 100))
STOPS_SHORT = Schedule(betas("linear", 1e-3, 0.02, 100))  # alpha ends at 0.35
DATA = torch.tensor([0.0, 0.5, 0.3, 0.15, 0.05], dtype=torch.float64)  # ids 1..4


def expected_terms(x_0, step, transition, eta=None):
    """Return E over x_t of one token's term, for the network that knows DATA: a number."""
    columns = len(DATA)
    _, a_t, a_s = step
    truth = one_hot(torch.tensor([x_0]), columns)
    at_t = marginal(truth, a_t, transition)[0]
    x_t = torch.arange(columns)
    # q(x_t | x_0) for every x_0: [x_t, x_0]; Bayes' rule gives the network's logits.
    likelihood = marginal(torch.eye(columns, dtype=torch.float64), a_t, transition).T
    logits = (DATA * likelihood).log()
    logits[:, 0] = torch.nan  # of no meaning
    possible = at_t > 0
    terms = elbo_terms(
        logits[possible],
        torch.full_like(x_t, x_0)[possible],
        x_t[possible],
        a_t,
        a_s,
        transition,
        eta=eta,
    )
    assert terms.dtype == torch.float64
    return float(terms @ at_t[possible])


def bound(x_0, steps, transition, eta=None):
    return sum(expected_terms(x_0, s, transition, eta) for s in zip(*steps, strict=True))


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, STOPS_SHORT])
@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_perfect_network_of_one_token_reaches_the_likelihood(schedule, transition, n):
    """The reverse chain is then the true one, so the bound is -log p(x), for every x."""
    for x_0 in range(1, 5):
        found = bound(x_0, grid(schedule, n), transition)
        assert found == pytest.approx(-np.log(DATA[x_0].item()), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddims_process_has_a_bound_that_is_not_tight(eta):
    steps = grid(LINEAR, 6)
    mean = sum(DATA[i].item() * bound(i, steps, "uniform", eta) for i in range(1, 5))
    entropy = -(DATA[1:] * DATA[1:].log()).sum().item()
    assert mean > 1.01 * entropy


def test_absorbing_with_eta_0_is_the_chain():
    steps = grid(COSINE, 5)
    for step in zip(*steps, strict=True):
        ours = expected_terms(2, step, "absorbing", 0.0)
        assert ours == expected_terms(2, step, "absorbing")


def test_remasking_costs_likelihood():
    steps = grid(LINEAR, 6)
    assert bound(2, steps, "absorbing", 0.5) > 1.01 * -np.log(0.3)


def test_absorbing_terms_have_mdlms_weight():
    """1/t at linear alpha = 1 - t as the steps become fine (arXiv 2406.07524, eq. 10)."""
    logits = torch.randn(3, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids, noisy = torch.tensor([5, 6, 7]), torch.tensor([0, 6, 0])
    log_p = logits[:, 1:].log_softmax(dim=1)
    steps = grid(LINEAR)
    assert len(steps.t) == 1000
    i = 400
    t = 1 - steps.alpha_from[i]
    found = elbo_terms(logits, ids, noisy, steps.alpha_from[i], steps.alpha_to[i], "absorbing")
    exact = [-log_p[0, 4].item() / t, 0.0, -log_p[2, 6].item() / t]
    assert (1000 * found).tolist() == pytest.approx(exact, rel=1e-9)


def test_terms_of_each_tokens_own_step():
    steps = grid(LINEAR, 4)
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    ids, noisy = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 5, 3, 2])
    a_t, a_s = (torch.from_numpy(a) for a in steps[1:])
    for transition, state in (("uniform", noisy), ("absorbing", torch.zeros_like(noisy))):
        whole = elbo_terms(logits, ids, state, a_t, a_s, transition)
        for i in range(4):
            at = slice(i, i + 1)
            one = elbo_terms(logits[at], ids[at], state[at], a_t[i].item(), a_s[i], transition)
            assert torch.allclose(whole[at], one, rtol=1e-13)


def test_a_grid_goes_from_noise_to_data():
    for schedule in (LINEAR, COSINE, STOPS_SHORT):
        steps = grid(schedule, 5)
        assert steps.alpha_from[0] == 0
        assert steps.alpha_to[-1] == 1
        assert (steps.alpha_from[1:] == steps.alpha_to[:-1]).all()
        assert steps.t[0] == schedule.num_timesteps - 1
    with pytest.raises(UsageError, match="at least 1 step"):
        grid(LINEAR, 0)


def test_stratified_steps_lie_in_their_strata_and_cover_all():
    draws, n = 4, 10
    found = torch.stack([stratified(Noise(3), range(2000), n, r, draws) for r in range(draws)])
    for r in range(draws):
        low, high = int(r * n / draws), -(-(r + 1) * n // draws) - 1
        assert (int(found[r].min()), int(found[r].max())) == (low, high)
    share = torch.bincount(found.flatten(), minlength=n).double() / found.numel()
    # Every step is equally likely; a share varies by at most a binomial's deviation.
    assert ((share - 1 / n).abs() <= 6 * (0.09 / found.numel()) ** 0.5).all()
    assert torch.equal(found[1][5:9], stratified(Noise(3), range(5, 9), n, 1, draws))
