"""Confidence routing against a sort in NumPy, sample by sample."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.discrete.cells import Cells
from ddimx.discrete.confidence import Revealed, fractions, ranks, reveal, start
from ddimx.kernels.discrete_update import Drawn


def ragged(counts):
    sample = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    offsets = torch.tensor([0, *np.cumsum(counts)])
    return Cells(2, torch.arange(len(sample)), sample, offsets)


@st.composite
def problems(draw):
    counts = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = sum(counts)
    state = Revealed(
        torch.from_numpy(random.integers(1, 256, n).astype(np.uint8)),
        torch.from_numpy(random.random(n) < draw(st.sampled_from([0.0, 0.5, 1.0]))),
        torch.from_numpy(random.integers(-3, 0, n).astype(np.float32)),  # many are equal
    )
    drawn = Drawn(
        torch.zeros(n, dtype=torch.uint8),
        torch.from_numpy(random.integers(1, 256, n).astype(np.uint8)),
        torch.from_numpy(random.integers(-3, 0, n).astype(np.float32)),
    )
    share = st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0])
    return ragged(counts), state, drawn, draw(share), draw(share)


def by_hand(cells, state, drawn, reveal_to, remask):
    """Return the new ids and flags, one sample after the other with a stable sort."""
    ids, clean = state.ids.clone(), state.clean.clone()
    for b in range(len(cells.counts)):
        mine = range(int(cells.offsets[b]), int(cells.offsets[b + 1]))
        old = [i for i in mine if state.clean[i]]
        new = [i for i in mine if not state.clean[i]]
        wanted = math.ceil(reveal_to * len(mine) - 1e-6)
        given_up = min(math.floor(remask * len(old) + 1e-6), len(mine) - wanted)
        old.sort(key=lambda i: -state.confidence[i].item())
        new.sort(key=lambda i: -drawn.confidence[i].item())
        stay = len(old) - given_up
        for i in old[stay:]:
            ids[i], clean[i] = drawn.ids[i], False
        for i in new[: max(wanted - stay, 0)]:
            ids[i], clean[i] = drawn.x0[i], True
    return ids, clean


@given(problem=problems())
def test_the_surest_are_revealed_and_the_least_sure_given_up(problem):
    cells, state, drawn, reveal_to, remask = problem
    shares = torch.tensor([reveal_to, remask], dtype=torch.float64)
    rounded = fractions(shares[0]), fractions(shares[1], up=True)
    found = reveal(state, drawn, cells, *rounded)
    ids, clean = by_hand(*problem)
    assert torch.equal(found.clean, clean)
    assert torch.equal(found.ids, ids)
    kept = torch.where(state.clean, state.confidence, drawn.confidence)
    assert torch.equal(found.confidence, torch.where(clean, kept, 0.0))


@given(problem=problems())
def test_ranks_are_places_in_a_stable_sort(problem):
    cells, state, drawn, *_ = problem
    found = ranks(drawn.confidence, state.clean, cells)
    for b in range(len(cells.counts)):
        for group in (False, True):
            mine = torch.nonzero((cells.sample == b) & (state.clean == group))[:, 0].tolist()
            order = sorted(mine, key=lambda i: -drawn.confidence[i].item())
            assert found[order].tolist() == list(range(len(mine)))


@pytest.mark.parametrize("n", [1, 3, 7, 10, 1000])
def test_counts_are_the_ceilings_of_the_fractions(n):
    """A fraction k/n means k tokens, although k/n times n may round to more than k."""
    for k in range(0, n + 1, max(n // 10, 1)):
        back = fractions(torch.tensor(k / n, dtype=torch.float64), up=True)
        cells, sure = ragged([n]), torch.rand(n)
        drawn = Drawn(torch.zeros(n, dtype=torch.uint8), torch.full((n,), 7).to(torch.uint8), sure)
        share = fractions(torch.tensor(k / n, dtype=torch.float64))
        found = reveal(start(drawn.ids), drawn, cells, share, torch.tensor(0))
        assert int(found.clean.sum()) == k
        assert int((found.ids == 7).sum()) == k
        every = found._replace(clean=torch.ones_like(found.clean))
        nothing = torch.tensor(0)
        assert int(reveal(every, drawn, cells, nothing, back).clean.sum()) == n - k
    assert fractions(torch.tensor([0.0, 1.0])).tolist() == [0, 2**30]


def test_a_draw_that_is_not_a_number_is_revealed_where_it_will_be_noticed():
    drawn = Drawn(
        torch.zeros(3, dtype=torch.uint8),
        torch.tensor([5, 0, 6], dtype=torch.uint8),
        torch.tensor([-1.0, torch.nan, -0.5]),
    )
    third = fractions(torch.tensor(1 / 3, dtype=torch.float64))
    found = reveal(start(drawn.ids), drawn, ragged([3]), third, torch.tensor(0))
    assert found.clean.tolist() == [False, True, False]
    assert found.ids.tolist() == [0, 0, 0]
