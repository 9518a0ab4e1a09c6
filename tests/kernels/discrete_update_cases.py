"""Random rows of a token plan, and what NumPy in float64 says about their results."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from hypothesis import strategies as st

from ddimx.kernels.discrete_update import TokenState, UpdateOptions, discrete_update
from ddimx.kernels.philox import philox_words
from ddimx.noise import Stream

TOKEN = int(Stream.TOKEN)
ROWS = 3
EPSILON = 2.0**-24  # float32's rounding error
UNIT = 2.0**-23  # the resolution of the CDF, relative to its largest weight
LEAST = 2.0**-24  # weights below half a unit are 0


@dataclasses.dataclass
class Case:
    """One call: the options and every array."""

    options: UpdateOptions
    row: int
    table: np.ndarray
    logits: np.ndarray
    uncond: np.ndarray | None
    guidance: float
    ids: np.ndarray
    keys: np.ndarray
    samples: np.ndarray
    seed: int

    def call(self, dtype=torch.float32, device="cpu", **options):
        """Update on a device; return ids, x0 and confidence on the host."""

        def tensor(value, dtype=None):
            return torch.from_numpy(value).to(device, dtype)

        guided = {}
        if self.uncond is not None:
            weight = torch.tensor(self.guidance, dtype=torch.float32, device=device)
            guided = {"uncond": tensor(self.uncond, dtype), "guidance": weight}
        drawn = discrete_update(
            tensor(self.table, torch.float32),
            torch.tensor(self.row, device=device),
            tensor(self.logits, dtype),
            TokenState(tensor(self.ids), tensor(self.keys), tensor(self.samples)),
            torch.tensor(self.seed, device=device),
            self.options,
            **guided,
            **options,
        )
        return tuple(None if value is None else value.cpu().numpy() for value in drawn)

    def words(self):
        index = [torch.from_numpy(v) for v in (self.keys, self.samples)]
        return [w.numpy() for w in philox_words(self.seed, *index, self.row, TOKEN)]

    @property
    def coefficients(self):
        """keep, noise, inverse temperature and gumbel, as float32 holds them."""
        return (float(v) for v in self.table[self.row].astype(np.float32))

    def mixed(self):
        """Return z [N, 256] and a bound of its float32 rounding."""
        z = self.logits
        bound = np.zeros_like(z)
        if self.uncond is not None:
            g = float(np.float32(self.guidance))
            with np.errstate(invalid="ignore"):  # what both exclude
                z = self.uncond + g * (self.logits - self.uncond)
            z = np.where(self.logits == -np.inf, -np.inf, z)
            size = np.abs(self.uncond) + (abs(g) + 1) * (np.abs(self.logits) + np.abs(self.uncond))
            bound = np.where(np.isfinite(size), 3 * EPSILON * size, 0.0)
        z = z.copy()
        z[:, 0], bound[:, 0] = -np.inf, 0.0
        return z, bound

    def check(self, ids, x0, confidence):
        """Assert that the results are those of the definition, but for float32's rounding."""
        masked = self.ids == 0
        if self.options.transition == "absorbing":
            assert (x0[~masked] == self.ids[~masked]).all()
            assert (confidence[~masked] == 0).all()
        else:
            masked = np.ones_like(masked)
        self._check_draws(x0, confidence, masked)
        expected = self._noise_ids()
        if self.options.route:
            kept, noised = self._routes()
            expected = np.where(kept, self.ids, np.where(noised, expected, x0))
        assert (ids == expected).all()

    def _check_draws(self, x0, confidence, drawn):
        *_, inverse_temperature, gumbel = self.coefficients
        words = self.words()
        z, rounding = self.mixed()
        shifted = z - z.max(axis=1, keepdims=True)
        moved = rounding + rounding.max(axis=1, keepdims=True)
        argument = shifted * inverse_temperature
        e = np.exp(argument)
        size = np.where(np.isfinite(argument), np.abs(argument), 0.0)
        # The exponent's rounding, four units in the last place of exp, half a unit of the CDF.
        error = e * (np.expm1(moved * inverse_temperature) + (2 * size + 4) * 2 * EPSILON)
        band = 2 * (error + UNIT / 2).sum(axis=1) / e.sum(axis=1)
        edges = e.cumsum(axis=1) / e.sum(axis=1, keepdims=True)
        u, place, at = words[0] / 2.0**32, np.arange(len(x0)), x0.astype(int)
        assert (x0[drawn] > 0).all()
        assert ((edges[place, at - 1] - band <= u) | ~drawn).all()
        assert ((u < edges[place, at] + band) | ~drawn).all()
        assert ((e[place, at] + error[place, at] >= LEAST) | ~drawn).all()
        exact = shifted[place, at] - np.log(np.exp(shifted).sum(axis=1))
        exact = exact + gumbel * gumbel_of(words[3])
        # A log of a sum of 255 terms; normals of Gumbel's tail lose relative accuracy (see below).
        slack = 4 * moved.max(axis=1) + 300 * EPSILON + 4 * EPSILON * np.abs(shifted[place, at])
        slack = slack + abs(gumbel) * 1e-5
        assert ((np.abs(confidence - exact) <= slack) | ~drawn).all()

    def _noise_ids(self):
        if self.options.transition == "absorbing":
            return np.zeros_like(self.ids)
        return 1 + (self.words()[2] * 255 >> 32)

    def _routes(self):
        keep, noise, *_ = self.coefficients
        u = uniform_of(self.words()[1])
        kept = u <= np.float32(keep)
        return kept, ~kept & (u > np.float32(1) - np.float32(noise))


def uniform_of(words):
    """Return float32(w) 2^-32 + 2^-33, rounded to float32, as the definition of uniforms says."""
    return (words.astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)).astype(np.float32)


def gumbel_of(words):
    """Return -ln(-ln u) in float64 of the float32 uniforms."""
    with np.errstate(divide="ignore"):
        return -np.log(np.maximum(-np.log(uniform_of(words).astype(np.float64)), 2.0**-25))


def make(
    n,
    options=None,
    row=1,
    *,
    seed=0,
    scale=3.0,
    guided=False,
    weights=(0.3, 0.2),
    temperature=1.0,
    gumbel=0.5,
    holes=False,
):
    """Return a case of n tokens in samples of about seven, half of them masked."""
    random = np.random.default_rng(seed)

    def normal():
        return (scale * random.standard_normal((n, 256))).astype(np.float16).astype(np.float64)

    table = random.random((ROWS, 4))
    table[row] = [*weights, 1 / temperature, gumbel]
    logits, uncond = normal(), normal() if guided else None
    if holes:  # ids that are excluded, but never all of them
        excluded = random.random((n, 256)) < 0.5
        excluded[np.arange(n), random.integers(1, 256, n)] = False
        logits[excluded] = -np.inf
        if guided:
            uncond[excluded & (random.random((n, 256)) < 0.5)] = -np.inf
    return Case(
        options=options or UpdateOptions("absorbing", TOKEN),
        row=row,
        table=table,
        logits=logits,
        uncond=uncond,
        guidance=1.75,
        ids=np.where(random.random(n) < 0.5, 0, random.integers(1, 256, n)).astype(np.uint8),
        keys=np.sort(random.integers(0, 2**32, n)),
        samples=np.arange(n) // 7 + 2**32 - 3,
        seed=int(random.integers(-(2**63), 2**63)),
    )


@st.composite
def cases(draw, most):
    """Draw a case of up to ``most`` tokens with any subset of features."""
    transition = draw(st.sampled_from(["absorbing", "uniform"]))
    keep = draw(st.sampled_from([0.0, 0.25, 1.0]))
    return make(
        draw(st.integers(1, most)),
        UpdateOptions(transition, TOKEN, draw(st.booleans()), True),
        draw(st.integers(0, ROWS - 1)),
        seed=draw(st.integers(0, 2**32)),
        scale=draw(st.sampled_from([0.0, 1.0, 10.0])),
        guided=draw(st.booleans()),
        weights=(keep, draw(st.sampled_from([0.0, 1 - keep, 0.5 * (1 - keep)]))),
        temperature=draw(st.sampled_from([0.5, 1.0, 2.0])),
        gumbel=draw(st.sampled_from([0.0, 1.0])),
    )
