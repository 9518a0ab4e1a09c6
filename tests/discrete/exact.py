"""A distribution over tiny trees that is known exactly, and its perfect network.

Depth 2. The root's mask has one or two children; the children's masks depend on it and on each
other. The network gives the true p(x_0 | x_t) of every token. What a plan makes of it can be
enumerated: a token is one of K ids, or one of all the others, which noise makes alike.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ddimx.discrete.executor import TokenRaw

ROOTS = (0b00000011, 0b10000001, 0b00010000)  # two children, two children, one child
KIDS = (1, 77, 255)
K = len(KIDS)
PRIOR = np.array([0.5, 0.3, 0.2])
PAIRS = np.array(
    [
        [[0.45, 0.02, 0.03], [0.02, 0.25, 0.03], [0.1, 0.0, 0.1]],
        [[0.0, 0.3, 0.0], [0.05, 0.0, 0.25], [0.3, 0.1, 0.0]],
    ]
)
SINGLE = np.array([0.2, 0.7, 0.1])
OTHER = K  # in enumeration: [MASK] when absorbing, any of the other ids when uniform


def likelihood(alpha, transition):
    """Return q(x_t | x_0) for x_t in the K ids and OTHER: [K + 1, K]."""
    if transition == "absorbing":
        return np.vstack([alpha * np.eye(K), np.full((1, K), 1 - alpha)])
    noise = (1 - alpha) / 255
    return np.vstack([alpha * np.eye(K) + noise, np.full((1, K), (255 - K) * noise)])


def normalised(weights):
    """Return each row divided by its sum; a state that cannot be has any distribution."""
    total = weights.sum(axis=-1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), 1 / K)


def perfect(joint, alpha, transition):
    """Return p(x_0 | x_t) of each token of a pair for every x_t: two [K + 1, K + 1, K]."""
    q = likelihood(alpha, transition)
    weights = np.einsum("ab,ia,jb->ijab", joint, q, q)
    return normalised(weights.sum(axis=3)), normalised(weights.sum(axis=2))


class Network:
    """The perfect network as an evaluate function; it counts its calls."""

    def __init__(self, schedule, transition):
        self.schedule, self.transition = schedule, transition
        self.calls = []

    def __call__(self, cells, ids, t, coarser):
        self.calls.append((cells.level, t))
        alpha = float(self.schedule.alpha_bar(t))
        allowed = ROOTS if cells.level == 0 else KIDS
        states = np.full(256, OTHER)
        states[list(allowed)] = np.arange(K)
        at = states[ids.numpy()]
        if cells.level == 0:
            p = normalised(PRIOR * likelihood(alpha, self.transition))[at]
        else:
            p = self._children(cells, at, alpha, coarser[0].ids.numpy())
        logits = np.full((len(ids), 256), -np.inf)
        with np.errstate(divide="ignore"):
            logits[:, allowed] = np.log(p)
        return TokenRaw(torch.from_numpy(logits))

    def _children(self, cells, at, alpha, roots):
        sample, p = cells.sample.numpy(), np.empty((len(at), K))
        first = cells.offsets.numpy()[:-1][sample]
        place = np.arange(len(at)) - first
        for r, mask in enumerate(ROOTS):
            mine = roots[sample] == mask
            if r == 2:
                p[mine] = normalised(SINGLE * likelihood(alpha, self.transition))[at[mine]]
                continue
            both = perfect(PAIRS[r], alpha, self.transition)
            left, right = first[mine], first[mine] + 1
            p[mine] = np.where(
                (place[mine] == 0)[:, None],
                both[0][at[left], at[right]],
                both[1][at[left], at[right]],
            )
        return p


def sampled_pairs(plan, joint, schedule):
    """Return the distribution of pairs that random routing makes, by enumeration: [K, K].

    The state holds the tokens when the network was last called and the tokens now, for the rows
    that reuse logits.
    """
    absorbing = plan.transition == "absorbing"
    noise = np.append(np.zeros(K), 1.0) if absorbing else np.append(np.full(K, 1.0), 255 - K) / 255
    pure = np.outer(noise, noise)
    now = np.einsum("ij,ijkl->ijkl", pure, np.eye((K + 1) ** 2).reshape((K + 1,) * 4))
    for row in plan.rows_of(1):
        if plan.calls[row]:
            tokens = now.sum(axis=(0, 1))
            now = np.einsum("kl,klij->klij", tokens, np.eye((K + 1) ** 2).reshape((K + 1,) * 4))
            p = perfect(joint, float(schedule.alpha_bar(plan.t[row])), plan.transition)
        now = _moved(plan, row, now, p, noise, absorbing)
    return now.sum(axis=(0, 1))[:K, :K]


def _moved(plan, row, now, p, noise, absorbing):
    """Apply a row to the joint of (tokens at the call, tokens now)."""
    result = np.zeros_like(now)
    for i, j in itertools.product(range(K + 1), repeat=2):
        steps = []
        for guess in (p[0][i, j], p[1][i, j]):
            x0 = np.tile(np.append(guess, 0.0), (K + 1, 1))
            if absorbing:  # an unmasked token is its own estimate
                x0[:K] = np.eye(K + 1)[:K]
            step = plan.keep[row] * np.eye(K + 1) + plan.clean[row] * x0 + plan.noise[row] * noise
            steps.append(step)
        result[i, j] = steps[0].T @ now[i, j] @ steps[1]
    return result
