"""The evidence lower bound of a token network in nats, token by token.

A shape's bound is a sum over its tokens on all levels (each level given the true ones above it) and
over the n steps of a grid from noise (alpha 0) to clean data (alpha 1):

    -log p(x) <= prior + sum_i E_{x_t ~ q(x_t | x)} KL(q(x_s | x_t, x) || p(x_s | x_t))

The last step ends at clean data, where its KL is the reconstruction term -log p(x_0 | x_1). The sum
is exact over all steps of :func:`grid`, with x_t drawn by :func:`ddimx.discrete.transition.corrupt`
at ``alpha_from``; or n times one step's terms at a step from :func:`stratified`, averaged over
draws, is an unbiased estimate of it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.discrete_update import MASK, Transition
from ..noise import Noise, Samples, Stream
from ..solvers.schedule import Schedule
from .plan import Array
from .posterior import log_softmax, markov_posterior, one_hot, posterior
from .solvers import grid_times
from .transition import route


class Grid(NamedTuple):
    """The steps of a bound, float64 [n] each, from noise to clean data.

    Attributes:
        t: the time that the network is given.
        alpha_from, alpha_to: the share of clean tokens before and after.
    """

    t: Array
    alpha_from: Array
    alpha_to: Array


def grid(schedule: Schedule, steps: int | None = None) -> Grid:
    """Return n steps that are even in time, by default all T of the schedule.

    The first one starts at alpha 0, whatever the schedule ends at, as sampling does: so the prior
    term is 0 and the bound is that of the sampler's own starting point.

    Raises:
        UsageError: less than one step.
    """
    n = schedule.num_timesteps if steps is None else steps
    if n < 1:
        raise UsageError(f"a bound needs at least 1 step, got {n}")
    t, alpha = grid_times(schedule, n, "linear")
    return Grid(t[:-1], alpha[:-1], alpha[1:])


def stratified(noise: Noise, samples: Samples, steps: int, draw: int, draws: int) -> Tensor:
    """Return for each sample the step of its ``draw``-th of ``draws`` estimates, int64 [B].

    Over the draws together every step of 0..steps-1 is equally likely; each draw is uniform within
    its own share of them, which takes most of the estimate's variance away.
    """
    u = noise.uniform(samples, (1,), row=draw, stream=Stream.EVALUATE, dtype=torch.float64)[:, 0]
    # u lies in (0, 1], so that 1 - u in [0, 1) reaches no step past the last.
    return ((draw + 1 - u) * steps / draws).floor().to(torch.int64).clamp(0, steps - 1)


def elbo_terms(
    logits: Tensor,
    ids: Tensor,
    noisy: Tensor,
    alpha_from: float | Tensor,
    alpha_to: float | Tensor,
    transition: Transition,
    *,
    eta: float | None = None,
) -> Tensor:
    """Return each token's KL(q(x_s | x_t, x_0) || p(x_s | x_t)) in nats, float64 [N], at least 0.

    Absorbing: (a_s - a_t)/(1 - a_t) times -log p(x_0) where x_t is [MASK] and 0 elsewhere, which is
    MDLM's weight (arXiv 2406.07524) in discrete time. Uniform: the chain of D3PM. With a number
    for eta, the process of DDIM's appendix instead, whose bound is not tight even for a perfect
    network: it conditions on x_0 what a Markov chain would have forgotten.

    Args:
        logits: [N, K + 1] of the network at x_t, any floating dtype.
        ids: uint8 or int64 [N], the clean tokens.
        noisy: uint8 or int64 [N], x_t drawn at ``alpha_from``.
        alpha_from, alpha_to: a_t < 1 and a_s, numbers or float64 [N].
    """
    log_p = log_softmax(logits)
    if transition == "absorbing" and not eta:
        a_t, a_s = (torch.as_tensor(a, dtype=torch.float64).cpu() for a in (alpha_from, alpha_to))
        clean = torch.from_numpy(route(a_t.numpy(), a_s.numpy(), 0.0)[1]).to(log_p.device)
        log_p_truth = log_p.gather(1, ids.to(torch.int64)[:, None])[:, 0]
        return torch.where(noisy == MASK, -clean * log_p_truth, 0.0)
    truth, guess = one_hot(ids, logits.shape[1]), log_p.exp()
    if eta is None:
        q, p = (markov_posterior(noisy, x0, alpha_from, alpha_to) for x0 in (truth, guess))
    else:
        q, p = (
            posterior(noisy, x0, alpha_from, alpha_to, transition, eta) for x0 in (truth, guess)
        )
    return _kl(q, p)


def _kl(q: Tensor, p: Tensor) -> Tensor:
    """Return KL(q || p) of each row in nats: float64 [N, K + 1] twice -> [N]."""
    terms = torch.where(q > 0, q * (q / p).log(), 0.0)
    # A sum of rounded terms may fall below 0 by as much as it rounds.
    return terms.sum(dim=1).clamp(min=0.0)
