"""Pictures in block characters: every view by hand, and shapes of every size."""

import numpy as np
from hypothesis import given

from ddimx.octree.keys import keys_of
from ddimx.octree.picture import BLOCKS, HEIGHT, PLAIN, WIDTH, picture
from ddimx.octree.tree import from_leaves

from .shapes import trees


def views(lines):
    """Split the lines below the titles into the three views."""
    starts = [0, WIDTH + 3, 2 * (WIDTH + 3)]
    return [[line.ljust(80)[a : a + WIDTH] for line in lines[1:]] for a in starts]


def test_each_view_by_hand():
    # In a grid of 2: a bar along x at the bottom in front, and a cell on the left, behind, above.
    cells = np.array([(0, 0, 1), (1, 0, 1), (0, 1, 0)])
    lines = picture(from_leaves(keys_of(cells), 1), blocks=" abcd")
    front, side, top = views(lines)
    near, far, none = "d" * 12, "b" * 12, " " * 12
    assert front == [far + none] * 6 + [near + near] * 6
    # From +x: the bar's end is near and on the left, where z is large; the cell behind is far.
    assert side == [none + far] * 6 + [near + none] * 6
    # From +y: the cell above is near and at the top of the picture, where z is small.
    assert top == [near + none] * 6 + [far + far] * 6
    assert [lines[0].index(title) for title in ("front", "side", "top")] == [9, 37, 64]


def test_one_cell_fills_every_view_and_a_thin_bar_keeps_its_proportions():
    for view in views(picture(from_leaves(np.array([7]), 3))):
        assert view == ["█" * WIDTH] * HEIGHT
    bar = from_leaves(keys_of(np.array([(x, 5, 3) for x in range(8)])), 3)
    front, side, top = views(picture(bar))
    for view in (front, top):  # an eighth of 12 lines is one or two
        assert [line for line in view if line.strip()] in (["█" * WIDTH], ["█" * WIDTH] * 2)
    assert {line.strip() for line in side} == {"", "█" * 3}


def test_depth_is_shown_in_four_shades():
    stairs = np.array([(x, x, 3 - x) for x in range(4)])
    front, _, top = views(picture(from_leaves(keys_of(stairs), 2), PLAIN))
    assert [front[3 * i + 1].strip() for i in range(4)] == ["." * 6, ":" * 6, "+" * 6, "#" * 6]
    assert [top[3 * i + 1].strip() for i in range(4)] == ["#" * 6, "+" * 6, ":" * 6, "." * 6]


@given(trees(most_depth=10))
def test_any_shape_is_drawn_within_78_columns(tree):
    lines = picture(tree)
    assert len(lines) == 1 + HEIGHT
    assert max(map(len, lines)) <= 78
    assert set("".join(lines[1:])) <= set(BLOCKS)
    for view in views(lines):
        assert any(line.strip() for line in view)
