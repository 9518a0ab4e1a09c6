"""Sets of indices as ranges: what Python's own sets answer."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from ddimx.runs.indices import Indices

small = st.integers(0, 40)
ranges = st.builds(lambda a, n: range(a, a + n), small, st.integers(0, 9))


@given(st.lists(small), st.lists(ranges), small)
def test_the_same_as_a_set(numbers, blocks, other):
    found = Indices(iter(numbers), blocks)
    expected = {*numbers, *(i for block in blocks for i in block)}
    assert found == expected
    assert expected == found
    assert len(found) == len(expected)
    assert [*found] == sorted(expected)
    assert (other in found) == (other in expected)
    assert found | {other} == expected | {other}


def test_many_numbers_in_a_row_take_next_to_nothing():
    tracemalloc.start()
    found = Indices(range(200_000))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000
    assert 199_999 in found
    assert 200_000 not in found
