"""Random rows of a plan with every subset of features, and the same row in NumPy float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from hypothesis import strategies as st

from ddimx.kernels.update import Extras, update
from ddimx.kernels.update.columns import SCALARS
from ddimx.noise import Noise, Stream

STEP, KNOWN = int(Stream.STEP), int(Stream.KNOWN)
COEFFICIENT = st.floats(-3, 3, allow_subnormal=False)
FEATURES = ("network", "guidance", "clip", "history_is_x0", "step", "z", "known", "y_is_x")
SHAPES = [(1,), (3,), (2, 3), (1, 2, 5)]
EPSILON = 2.0**-24  # float32's rounding error


def signed(seed):
    """Return the bits of a 64-bit seed as the int64 that a tensor can hold."""
    return torch.tensor(seed - 2**64 if seed >= 2**63 else seed)


@dataclasses.dataclass
class Case:
    """One drawn problem: which features are on, the table, and every array that may be needed."""

    on: frozenset
    depth: int
    row: int
    calls: int
    table: np.ndarray
    seed: int
    samples: list
    shape: tuple
    arrays: dict
    clip: float
    guidance: float

    @property
    def has(self):
        return {name: name in self.on for name in FEATURES}

    def tensor(self, name):
        return torch.from_numpy(self.arrays[name])

    def history(self, dtype=torch.float64):
        """Return the ring in which m_j lies in slot (calls - j) mod (depth - 1)."""
        if self.depth == 1:
            return None
        ring = torch.empty(self.depth - 1, *self.arrays["x"].shape, dtype=dtype)
        for j in range(1, self.depth):
            ring[(self.calls - j) % (self.depth - 1)] = self.tensor(f"m{j}")
        return ring

    def extras(self):
        has, values = self.has, {"history_is_x0": "history_is_x0" in self.on}
        if has["clip"]:
            values["clip"] = self.clip
        if has["guidance"] and has["network"]:
            weight = torch.tensor(self.guidance, dtype=torch.float64)
            values |= {"uncond": self.tensor("uncond"), "guidance": weight}
        if has["step"] or has["known"]:
            values |= {"seed": signed(self.seed), "samples": torch.tensor(self.samples)}
        if has["step"]:
            values["step_stream"] = STEP
        if has["z"]:
            values["z"] = self.tensor("z")
        if has["known"]:
            values |= {"known": self.tensor("known"), "mask": self.tensor("mask")}
            values["known_stream"] = KNOWN
        return Extras(**values)

    def arguments(self, dtype=torch.float64):
        """Return the arguments of ``update``, the state in ``dtype``."""
        table = np.insert(self.table, len(SCALARS), self.calls, axis=1)
        x = self.tensor("x").to(dtype)
        return [
            torch.from_numpy(table).to(dtype),
            torch.tensor(self.row),
            x,
            x if self.has["y_is_x"] else self.tensor("y").to(dtype),
            self.tensor("out") if self.has["network"] else None,
            self.history(dtype),
            self.extras(),
        ]

    def update(self, dtype=torch.float64, **options):
        """Return x', y', x0 and the history afterwards."""
        arguments = self.arguments(dtype)
        return [*update(*arguments, **options), arguments[5]]

    def drawn(self, stream):
        noise = Noise(self.seed).normal(self.samples, self.shape, row=self.row, stream=stream)
        return noise.numpy().astype(np.float64)

    def in_numpy(self):
        """Evaluate the row as the plan's module writes it; return x', y', x0 and the history."""
        has, at = self.has, self.arrays
        y = at["x"] if has["y_is_x"] else at["y"]
        k = dict(zip(SCALARS, self.table[self.row], strict=False))
        b, q = self.table[self.row, len(SCALARS) :].reshape(2, self.depth)
        moved, predictions, x0 = k["a"] * at["x"], [], None
        if has["network"]:
            out = at["out"]
            if has["guidance"]:
                out = at["uncond"] + self.weight(k["g"]) * (out - at["uncond"])
            x0 = k["r"] * y + k["s"] * out
            if has["clip"]:
                x0 = np.where(np.abs(x0) > self.clip, np.sign(x0) * self.clip, x0)
            m0 = x0 if has["history_is_x0"] else k["u"] * y + k["v"] * out
            predictions = [m0, *(at[f"m{j}"] for j in range(1, self.depth))]
            moved = moved + k["w"] * x0 + sum(w * m for w, m in zip(b, predictions, strict=True))
        if has["z"] or has["step"]:
            moved = moved + k["c"] * (at["z"] if has["z"] else self.drawn(Stream.STEP))
        if has["known"]:
            noisy = k["known_signal"] * at["known"] + k["known_sigma"] * self.drawn(Stream.KNOWN)
            moved = noisy * at["mask"] + moved * (1 - at["mask"])
        point = k["p"] * moved + sum(w * m for w, m in zip(q, predictions, strict=False))
        return moved, point, x0, self._history_after(predictions)

    def weight(self, g):
        return g * self.guidance + (1 - g)

    def _history_after(self, predictions):
        ring = self.history()
        if ring is not None and predictions:
            ring[self.calls % (self.depth - 1)] = torch.from_numpy(predictions[0])
        return None if ring is None else ring.numpy()

    def rounding(self):
        """Return how far float32 may be from ``in_numpy``: a bound, and so many of them.

        Every intermediate value is at most what the same formulas give for absolute values
        (without the clip, which only reduces), and is rounded at most 18 + 2 depth times. Keyed
        normals are within 1e-5 of the reference's on any backend; the largest is below 6.8.
        """
        sizes = {name: np.abs(value) for name, value in self.arrays.items()}
        sizes["uncond"] = -sizes["uncond"]  # so that u + weight (o - u) adds up
        large = dataclasses.replace(
            self,
            arrays=sizes,
            table=np.abs(self.table),
            on=self.on - {"clip"},
            guidance=abs(self.guidance),
        )
        floor = 2.0**-120  # a device may flush subnormals, and products of them, to zero
        noise = np.abs(self.table).max() ** 2 * 2e-5 if self.on & {"step", "known"} else 0.0
        steps = (18 + 2 * self.depth) * EPSILON
        bounds = []
        for value in Loud(**vars(large)).in_numpy():
            bounds.append(None if value is None else steps * np.abs(value) + noise + floor)
        return bounds


class Loud(Case):
    """A case whose noise is as large as it can be."""

    def weight(self, g):
        return 2 + (g * self.guidance + 1 + g)  # 2 makes up for -u

    def drawn(self, stream):
        return np.full((len(self.samples), *self.shape), 6.8)


@st.composite
def cases(draw, shapes=SHAPES):
    depth, rows = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    shape = draw(st.sampled_from(shapes))
    count = draw(st.integers(1, 3))
    size = rows * (len(SCALARS) + 2 * depth)
    table = np.array(draw(st.lists(COEFFICIENT, min_size=size, max_size=size)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = ("x", "y", "out", "uncond", "z", "known", *(f"m{j}" for j in range(1, depth)))
    # Values that float32 holds exactly, so that only the arithmetic can differ.
    arrays = {n: rng.normal(size=(count, *shape)).astype(np.float32).astype(float) for n in names}
    # A mask of one sample and channel broadcasts; values between 0 and 1 feather the border.
    mask_shape = draw(st.sampled_from([(count, *shape), (1,) * (1 + len(shape))]))
    arrays["mask"] = rng.choice([0.0, 1.0, 0.25], size=mask_shape)
    return Case(
        on=frozenset(draw(st.sets(st.sampled_from(FEATURES)))),
        depth=depth,
        row=draw(st.integers(0, rows - 1)),
        calls=draw(st.integers(0, 7)),
        table=table.reshape(rows, -1).astype(np.float32).astype(float),
        seed=draw(st.integers(0, 2**64 - 1)),
        samples=draw(st.lists(st.integers(0, 2**32 - 1), min_size=count, max_size=count)),
        shape=shape,
        arrays=arrays,
        clip=float(np.float32(draw(st.floats(0.01, 3)))),
        guidance=float(np.float32(draw(st.floats(-2, 8)))),
    )
