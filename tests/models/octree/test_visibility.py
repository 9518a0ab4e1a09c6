"""Which tokens see which, against the words of the rule, token by token."""

import numpy as np
import pytest

from ddimx.models.octree.visibility import visible

COUNTS = np.array([[1, 1, 1], [1, 8, 37], [1, 2, 5]])


def seen(segments, queries, own, context):
    """Who sees whom, bool [queries, own] and [queries, context]; every query in one row."""
    mine, others = np.zeros((queries, own), bool), np.zeros((queries, context), bool)
    rows = np.zeros(queries, int)
    for q0, q1, k0, k1, c0, c1 in segments.rows.tolist():
        mine[q0:q1, k0:k1] = True
        others[q0:q1, c0:c1] = True
        rows[q0:q1] += 1
    assert (rows == 1).all()
    return mine, others


def tokens_in(counts, first=0):
    """(shape, level, place within the level) of every token of a flat batch."""
    return [
        (shape, first + column, place)
        for shape, row in enumerate(counts.tolist())
        for column, n in enumerate(row)
        for place in range(n)
    ]


def rule(query, key, window):
    """Whether a token sees one of its own stream's level: near ones along the curve."""
    (shape, level, place), (other, its, at) = query, key
    begin = place // window * window
    near = begin - window // 2 <= at < begin + window + window // 2
    return shape == other and level == its and near


@pytest.mark.parametrize("window", [2, 5, 8, 128])
@pytest.mark.parametrize(("first", "levels"), [(0, 3), (0, 1), (1, 1), (2, 1), (1, 2)])
def test_own_level_near_by_and_all_clean_coarser_levels_of_the_same_shape(first, levels, window):
    counts = COUNTS[:, first : first + levels]
    coarser = COUNTS[:, : first + levels - 1]
    queries, context = tokens_in(counts, first), tokens_in(coarser)
    mine, others = seen(
        visible(counts, first, coarser, window), len(queries), len(queries), len(context)
    )
    expected = [[rule(q, k, window) for k in queries] for q in queries]
    assert np.array_equal(mine, np.array(expected))
    expected = [[k[0] == q[0] and k[1] < q[1] for k in context] for q in queries]
    assert np.array_equal(others, np.array(expected, bool).reshape(others.shape))


def test_a_context_with_finer_levels_than_wanted_shows_only_the_coarser_ones():
    queries, context = tokens_in(COUNTS), tokens_in(COUNTS)
    _, others = seen(visible(COUNTS, 0, COUNTS, 8), len(queries), len(queries), len(context))
    expected = [[k[0] == q[0] and k[1] < q[1] for k in context] for q in queries]
    assert np.array_equal(others, np.array(expected))


def test_what_a_shape_sees_does_not_depend_on_its_company():
    alone = visible(COUNTS[1:2], 0, COUNTS[1:2, :2], 8).rows
    among = visible(COUNTS, 0, COUNTS[:, :2], 8).rows
    own, context = COUNTS[0].sum(), COUNTS[0, :2].sum()
    shifted = alone + np.array([own] * 4 + [context] * 2)
    assert all(any(np.array_equal(row, other) for other in among) for row in shifted)
