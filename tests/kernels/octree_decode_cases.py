"""Batches of octrees for the tests of their decoding, and what NumPy's trees say of them."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from ddimx.octree.tree import Octree, from_leaves


@dataclass(frozen=True)
class Batch:
    """Trees of one depth: their streams one after the other, and what they decode to."""

    trees: list[Octree]
    cube: bool = False  # whether the trees' cubes are handed over

    @property
    def depth(self):
        return self.trees[0].depth

    @property
    def leaves(self):
        return sum(len(tree.leaves) for tree in self.trees)

    def tokens(self):
        return torch.from_numpy(np.concatenate([tree.tokens() for tree in self.trees]))

    def offsets(self):
        return torch.tensor([0, *np.cumsum([sum(tree.counts) for tree in self.trees])])

    def cubes(self):
        """Return lower and edge, or None and None."""
        if not self.cube:
            return None, None
        lower = torch.tensor([tree.lower for tree in self.trees], dtype=torch.float32)
        return lower, torch.tensor([tree.edge for tree in self.trees], dtype=torch.float32)

    def check(self, found):
        """Assert that a decoding is that of the trees: integers exactly, centers to rounding."""
        keys = np.concatenate([tree.leaves for tree in self.trees])
        owner = np.repeat(np.arange(len(self.trees)), [len(tree.leaves) for tree in self.trees])
        assert (found.keys.dtype, found.tree.dtype) == (torch.int64, torch.int32)
        np.testing.assert_array_equal(found.keys.cpu(), keys)
        np.testing.assert_array_equal(found.tree.cpu(), owner)
        centers = np.concatenate([tree.centers() for tree in self.trees])
        # One product and one sum in float32, of numbers no larger than the corner and the edge;
        # in the unit cube both are exact up to a depth of 22.
        edges = np.array([tree.edge for tree in self.trees])
        size = np.abs([tree.lower for tree in self.trees]).max(axis=1) + edges
        bound = 2**-23 * size[owner, None] if self.cube else 0.0
        assert found.centers.dtype == torch.float32
        assert (np.abs(found.centers.cpu().double().numpy() - centers) <= bound).all()
        half = edges * 0.5 ** (self.depth + 1)
        np.testing.assert_array_equal(found.half.cpu(), half.astype(np.float32))
        assert found.valid.dtype == torch.bool
        assert found.valid.tolist() == [True] * len(self.trees)


def random_tree(rng, depth, most, cube=False):
    """A tree with up to ``most`` leaves, and a cube whose numbers float32 holds."""
    keys = rng.integers(0, 8**depth, rng.integers(1, most + 1))
    if not cube:
        return from_leaves(keys, depth)
    numbers = rng.integers(-1000, 1000, 3) / 8
    return from_leaves(keys, depth, tuple(numbers.tolist()), float(rng.integers(1, 99) / 4))


def random_batch(seed, depth, count, most, cube=False):
    rng = np.random.default_rng(seed)
    return Batch([random_tree(rng, depth, most, cube) for _ in range(count)], cube)


@st.composite
def batches(draw):
    """A random batch, from one tree of a few cells to many tiny ones."""
    count = draw(st.integers(1, 40))
    depth = draw(st.integers(1, 8))
    most = draw(st.integers(1, 400)) if count < 5 else draw(st.integers(1, 20))
    return random_batch(draw(st.integers(0, 2**32 - 1)), depth, count, most, draw(st.booleans()))


# A batch of two trees, [3, 1, 1] and [1, 1], of which the first or the second is broken, and which
# flags must fall whatever else does.
BROKEN = {
    "an inner zero": ([1, 0, 1, 1, 1, 1], [0, 3, 6], 2, 2, [0]),
    "a root of zero": ([0, 1, 1, 1], [0, 2, 4], 1, 2, [0]),
    "a leaf of 2": ([3, 1, 2, 1, 1], [0, 3, 5], 1, 3, [0]),
    "a zero leaf": ([3, 1, 0, 1, 1], [0, 3, 5], 1, 3, [0]),
    "a short stream": ([255, 1, 1, 1, 1], [0, 3, 5], 1, 3, [0]),
    "a long stream": ([3, 1, 1, 1, 1, 1], [0, 4, 6], 1, 3, [0]),
    "a root alone": ([1, 1, 1], [0, 1, 3], 1, 2, [0]),
    "no tokens": ([1, 1], [0, 0, 2], 1, 1, [0]),
    "deeper": ([1, 1, 1, 1, 1, 1], [0, 3, 6], 1, 2, [0, 1]),
    "shallower": ([1, 1, 1, 1], [0, 2, 4], 3, 2, [0, 1]),
    "one too deep": ([1, 1, 1, 1, 1], [0, 2, 5], 1, 2, [1]),
    "too many leaves said": ([1, 1, 1, 1], [0, 2, 4], 1, 3, [0, 1]),
    "too few leaves said": ([3, 1, 1, 1, 1], [0, 3, 5], 1, 2, [0, 1]),
    "random bytes": ([7, 200, 91, 14, 3, 3, 255, 128, 1, 1], [0, 5, 10], 3, 4, [0]),
}


def broken(name):
    """Return tokens, offsets, depth, leaves, and the trees that must be called invalid."""
    tokens, offsets, depth, leaves, wrong = BROKEN[name]
    return torch.tensor(tokens, dtype=torch.uint8), torch.tensor(offsets), depth, leaves, wrong
