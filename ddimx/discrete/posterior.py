"""The distributions of the discrete process, written out: what sampling draws and the bound needs.

A distribution over ids is a row of K + 1 columns, column = id, column 0 being [MASK]; K = 255 for
octrees and small in tests. ``x0`` may be one-hot (the truth) or a network's softmax. All float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.discrete_update import MASK, Transition
from .transition import route


def one_hot(ids: Tensor, columns: int) -> Tensor:
    """Return ids, uint8 or int64 [N], as distributions, float64 [N, columns]."""
    return torch.nn.functional.one_hot(ids.to(torch.int64), columns).to(torch.float64)


def softmax(logits: Tensor) -> Tensor:
    """Return softmax of logits [N, K + 1] over 1..K: float64 [N, K + 1] with nothing on [MASK]."""
    return log_softmax(logits).exp()


def log_softmax(logits: Tensor) -> Tensor:
    """Return log softmax of logits [N, K + 1], float64, -inf for [MASK] whatever column 0 holds."""
    column = torch.arange(logits.shape[1], device=logits.device)
    return torch.where(column == MASK, -torch.inf, logits.to(torch.float64)).log_softmax(dim=1)


def noise_like(x0: Tensor, transition: Transition) -> Tensor:
    """Return the distribution of noise, float64 [K + 1] for x0 [N, K + 1].

    All of it lies on [MASK], or it is uniform over 1..K.
    """
    columns = x0.shape[1]
    noise = torch.zeros(columns, dtype=torch.float64, device=x0.device)
    if transition == "absorbing":
        noise[MASK] = 1.0
    else:
        noise[1:] = 1.0 / (columns - 1)
    return noise


def marginal(x0: Tensor, alpha: float | Tensor, transition: Transition) -> Tensor:
    """Return q(x_t | x_0), float64 [N, K + 1] as ``x0``; alpha is a number or float64 [N]."""
    a = _column(alpha, x0)
    return a * x0 + (1 - a) * noise_like(x0, transition)


def posterior(
    x_t: Tensor,
    x0: Tensor,
    alpha_from: float | Tensor,
    alpha_to: float | Tensor,
    transition: Transition,
    eta: float,
) -> Tensor:
    """Return q(x_s | x_t, x_0) of DDIM's appendix A, which is what a row of a plan draws.

    With the absorbing transition a token that is not [MASK] is its own x_0, and eta = 0 is the
    posterior of the absorbing Markov chain.

    Args:
        x_t: ids, uint8 or int64 [N].
        x0: float64 [N, K + 1].
        alpha_from, alpha_to: a_t and a_s, numbers or float64 [N].

    Returns:
        float64 [N, K + 1].
    """
    token = one_hot(x_t, x0.shape[1])
    if transition == "absorbing":
        x0 = torch.where((x_t == MASK)[:, None], x0, token)
    a_t, a_s = (_column(a, x0).cpu().numpy() for a in (alpha_from, alpha_to))
    keep, clean, noise = (torch.from_numpy(w).to(x0.device) for w in route(a_t, a_s, eta))
    return keep * token + clean * x0 + noise * noise_like(x0, transition)


def markov_posterior(
    x_t: Tensor, x0: Tensor, alpha_from: float | Tensor, alpha_to: float | Tensor
) -> Tensor:
    """Return q(x_s | x_t, x_0) of the uniform Markov chain (D3PM, arXiv 2107.03006, eq. 3).

    Arguments and result, float64 [N, K + 1], as of :func:`posterior`.

    It depends on whether x_t is x_0, so no weights of the three routes give it: the chain is
    not a member of the family of :func:`posterior`, though its marginals are the same. For a
    distribution x0 it is the mean of the posteriors, which is the true reverse step where x0 is
    the true p(x_0 | x_t).

    Raises:
        UsageError: alpha_from = 1; no step ends in clean data.
    """
    a_t, a_s = _column(alpha_from, x0), _column(alpha_to, x0)
    if bool((a_t >= 1).any()):
        raise UsageError("no step of the uniform chain starts from clean data (alpha 1)")
    classes = x0.shape[1] - 1
    token = one_hot(x_t, x0.shape[1])
    stays = torch.where(a_s > 0, a_t / torch.where(a_s > 0, a_s, 1.0), 1.0)
    arrives = stays * token + (1 - stays) / classes  # q(x_t | x_s) for every x_s
    ratio = x0 / (a_t * token + (1 - a_t) / classes)  # x_0's weight over q(x_t | x_0)
    weights = arrives * (a_s * ratio + (1 - a_s) / classes * ratio.sum(dim=1, keepdim=True))
    weights[:, MASK] = 0.0
    return weights


def _column(alpha: float | Tensor, like: Tensor) -> Tensor:
    """Return alphas as float64 [1, 1] or [N, 1] on the device of ``like``."""
    return torch.as_tensor(alpha, dtype=torch.float64, device=like.device).reshape(-1, 1)
