"""Morton keys against arithmetic on bits, and their order against a traversal's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.octree import reference
from ddimx.octree.keys import MAX_DEPTH, cells_of, keys_of

from .shapes import trees

COORDINATE = st.integers(0, 2**MAX_DEPTH - 1)


def interleaved(x, y, z):
    """The key, by the words of its definition."""
    key = 0
    for level in range(MAX_DEPTH - 1, -1, -1):
        key = key << 3 | (x >> level & 1) << 2 | (y >> level & 1) << 1 | (z >> level & 1)
    return key


@given(st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE), min_size=1))
def test_a_key_interleaves_the_bits_and_gives_them_back(cells):
    keys = keys_of(np.array(cells))
    assert keys.dtype == np.int64
    assert keys.tolist() == [interleaved(*cell) for cell in cells]
    np.testing.assert_array_equal(cells_of(keys), cells)


def test_known_keys():
    cells = np.array([(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (3, 3, 3), (2, 1, 0)])
    assert keys_of(cells).tolist() == [0, 1, 2, 4, 63, 0o42]
    top = 2**MAX_DEPTH - 1
    assert keys_of(np.array([(top, top, top)])).tolist() == [8**MAX_DEPTH - 1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64])
def test_cells_may_be_of_any_integer_type(dtype):
    cells = np.array([(127, 3, 64)], dtype=dtype)
    assert keys_of(cells).tolist() == [interleaved(127, 3, 64)]


@given(trees())
def test_a_traversal_meets_the_cells_of_a_level_in_ascending_order_of_their_keys(tree):
    for level in range(1, tree.depth + 1):
        cut = tree.coarser(level)
        visited = reference.decode(cut.tokens().tolist(), level)
        keys = keys_of(np.array(visited))
        assert (np.diff(keys) > 0).all()
        np.testing.assert_array_equal(keys, cut.leaves)
