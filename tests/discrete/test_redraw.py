"""Levels that are drawn again: how often shapes then hang together, and what stays as it was."""

import itertools

import numpy as np
import pytest
import torch

from ddimx.discrete.cells import children, octrees, part, piece_counts, root
from ddimx.discrete.executor import TokenRaw, execute, sample_levels
from ddimx.discrete.solvers import make_token_plan
from ddimx.errors import UsageError
from ddimx.noise import Noise
from ddimx.octree.geometry import components
from ddimx.solvers.schedule import Schedule, betas

from .test_executor import mixing

LINEAR = Schedule(betas("jsd", 0, 0, 1000))
FIRST, LAST = 0b00000001, 0b10000000  # the cell nearest to the cube's minimum, and its opposite


def apart(cells, ids, t, coarser):
    """Cells at two opposite corners of the cube, which touch where each token is the other's side.

    The first must be LAST and the second FIRST, each of which is drawn half of the time.
    """
    logits = torch.full((len(ids), 256), -torch.inf)
    if cells.level == 0:
        logits[:, FIRST | LAST] = 0.0
    else:
        logits[:, [FIRST, LAST]] = 0.0
    return TokenRaw(logits)


def shares(trees):
    return [len(components(tree)[1]) == 1 for tree in trees]


@pytest.mark.parametrize(("redraw", "attempts"), [(0, 1), (1, 4), (2, 9)])
def test_the_share_in_one_piece_is_that_of_so_many_attempts(redraw, attempts):
    """Each attempt succeeds with 1/4: a level has 1 + K of them, and so has each of K more laps."""
    plan = make_token_plan(LINEAR, 2, steps=1, redraw=redraw)
    steps = execute(plan, apart, range(400), Noise(5))
    share = np.mean(shares(octrees(sample_levels(steps))))
    expected = 1 - 0.75**attempts
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


@pytest.mark.parametrize("options", [{}, {"transition": "uniform", "routing": "confidence"}])
def test_whole_samples_stay_and_others_are_the_same_in_any_batch(options):
    plans = [make_token_plan(LINEAR, 3, steps=2, redraw=redraw, **options) for redraw in (0, 2)]

    def trees(plan, samples):
        # A network with weights on few ids, so that most shapes are sparse and break.
        def sparse(*arguments):
            raw = mixing(*arguments)
            return TokenRaw(torch.where(torch.arange(256) % 51 < 3, raw.logits, -torch.inf))

        steps = list(execute(plan, sparse, samples, Noise(3)))
        assert [step.row for step in steps] == list(range(len(plan)))
        levels = steps[-1].levels
        for above, below in itertools.pairwise(levels):
            assert torch.equal(children(above).keys, below.cells.keys)
            assert children(above).sizes == below.cells.sizes
        return octrees(levels)

    plain, redrawn = (trees(plan, range(12)) for plan in plans)
    pieces = [[len(components(tree)[1]) for tree in side] for side in (plain, redrawn)]
    assert sum(pieces[1]) < sum(pieces[0])
    for one, other, count in zip(plain, redrawn, pieces[0], strict=True):
        assert count > 1 or all(map(np.array_equal, one.masks, other.masks))
    for chosen in ([7], [11, 2, 5]):
        for index, tree in zip(chosen, trees(plans[1], chosen), strict=True):
            assert all(map(np.array_equal, tree.masks, redrawn[index].masks))


def test_the_network_for_a_part_is_asked_by_the_samples_positions():
    positions = []

    def of_part(places):
        positions.append(places.tolist())
        return apart, None

    plan = make_token_plan(LINEAR, 2, steps=1, redraw=1)
    list(execute(plan, apart, range(100, 140), Noise(5), of_part=of_part))
    plain = make_token_plan(LINEAR, 2, steps=1)
    whole = shares(octrees(sample_levels(execute(plain, apart, range(100, 140), Noise(5)))))
    assert positions[0] == [i for i, one in enumerate(whole) if not one]
    # The level again, then root, level, and level again; what goes on has caches of all samples.
    assert positions.pop() == [*range(40)]
    assert [len(places) for places in positions] == sorted(map(len, positions), reverse=True)
    assert positions[1] == positions[2]
    assert all(set(b) <= set(a) for a, b in itertools.pairwise(positions[:4]))


def test_parts_of_a_batch_and_their_pieces_by_hand():
    level = root(3)
    far = torch.tensor([FIRST | LAST, 0b11, FIRST], dtype=torch.uint8)
    cells = children((level, far))
    own, mask = part(cells, torch.tensor([0, 2]))
    assert own.keys.tolist() == [0, 7, 0]
    assert own.sample.tolist() == [0, 0, 1]
    assert (own.offsets.tolist(), own.sizes) == ([0, 2, 3], (2, 1))
    assert mask.tolist() == [True, True, False, False, True]
    assert piece_counts(cells) == [1, 1, 1]
    leaves = children((own, torch.tensor([FIRST, LAST, 0b11], dtype=torch.uint8)))
    assert piece_counts(leaves) == [2, 1]


def test_plans_say_how_often():
    plan = make_token_plan(LINEAR, 2, redraw=3)
    assert plan.label.endswith("eta 0, at most 3 redraws of a level")
    assert plan.identity()["redraw"] == plan.to_json()["redraw"] == 3
    none = make_token_plan(LINEAR, 2)
    assert "redraw" not in none.identity() | none.to_json()
    with pytest.raises(UsageError, match=r"redraw must lie in 0\.\.64, got 65"):
        make_token_plan(LINEAR, 2, redraw=65)
