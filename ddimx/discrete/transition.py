"""The forward process of tokens, and the three weights of a reverse step.

Source: DDIM (arXiv 2010.02502), appendix A, with sigma = (1 - eta)(1 - a_s)/(1 - a_t). Its noise
weight is then eta (1 - a_s): none at eta = 0, where what remains random is which tokens move and
what x_0 is drawn; at eta = 1 a token forgets x_t. The absorbing process with these weights is
ReMDM (arXiv 2503.00307) with the remasking rate eta (1 - a_s).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.discrete_update import MASK, Transition
from ..kernels.philox import uniform_from_words
from ..noise import Noise, Stream
from .draws import token_words, uniform_ids

__all__ = ["Transition", "corrupt", "route"]

Array = npt.NDArray[np.float64]


def route(
    alpha_from: npt.ArrayLike, alpha_to: npt.ArrayLike, eta: float
) -> tuple[Array, Array, Array]:
    """Return the weights keep, clean and noise of a step, float64 of the arguments' shape.

    Args:
        alpha_from: a_t, where the state is.
        alpha_to: a_s >= a_t, where it goes.
        eta: in [0, 1].

    They are not negative and sum to 1. From clean data (a_t = 1, so a_s = 1) the weights are those
    of any step that stays where it is: 1 - eta, eta and 0.

    Raises:
        UsageError: eta outside [0, 1], or not 0 <= alpha_from <= alpha_to <= 1.
    """
    a_t, a_s = np.broadcast_arrays(
        np.asarray(alpha_from, dtype=np.float64), np.asarray(alpha_to, dtype=np.float64)
    )
    if not 0 <= eta <= 1:
        raise UsageError(f"eta must lie in [0, 1], got {eta}")
    if not ((a_t >= 0) & (a_t <= a_s) & (a_s <= 1)).all():
        raise UsageError("a step needs 0 <= alpha_from <= alpha_to <= 1")
    noisy = np.where(a_t < 1, 1 - a_t, 1.0)
    keep = (1 - eta) * np.where(a_t < 1, (1 - a_s) / noisy, 1.0)
    noise = eta * (1 - a_s)
    # (a_s - a_t)/(1 - a_t) + eta a_t (1 - a_s)/(1 - a_t), which has no cancellation.
    clean = np.where(a_t < 1, ((a_s - a_t) + eta * a_t * (1 - a_s)) / noisy, eta)
    return keep, clean, noise


def corrupt(
    ids: Tensor,
    alpha: float | Tensor,
    transition: Transition,
    noise: Noise,
    samples: Tensor,
    keys: Tensor,
    *,
    row: int | Tensor = 0,
    stream: int = Stream.TRAIN_NOISE,
) -> Tensor:
    """Draw x_t from q(x_t | x_0): each token stays with probability alpha.

    Args:
        ids: uint8 [N], clean tokens 1..255.
        alpha: the share that stays, a float or a tensor broadcastable to [N].
        transition: what the others become, [MASK] or a uniform id (which may be the same one).
        noise: the seed.
        samples: int64 [N], the sample or example index of each token.
        keys: int64 [N], the Morton keys. Two tokens of one sample with one key, row and stream
            get the same draws: where several levels share a row, pass
            :func:`ddimx.discrete.draws.location_codes`.
        row: the training step, or int64 [N].
        stream: where the draws come from.

    Returns:
        uint8 [N].
    """
    _, chance, word, _ = token_words(noise, keys, samples, row, stream)
    stays = uniform_from_words(chance) <= alpha
    other = torch.full_like(ids, MASK) if transition == "absorbing" else uniform_ids(word)
    return torch.where(stays, ids, other)
