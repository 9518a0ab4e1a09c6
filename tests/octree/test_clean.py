"""Cleaning against shapes drawn by hand: what is a crumb or a hole, and what is neither."""

import itertools

import numpy as np
import pytest
from hypothesis import given

from ddimx.octree.clean import CleanedOctree, cleaned, holes
from ddimx.octree.errors import OctreeError
from ddimx.octree.file import Shape, read_shape, write_shape
from ddimx.octree.keys import cells_of, keys_of
from ddimx.octree.tree import from_leaves

from .shapes import trees

DEPTH = 4


def sheet(axis=1, at=5, size=12, without=()):
    """A flat sheet of cells across an axis, as a set, without some (u, v) of it."""
    cells = set()
    for u in range(size):
        for v in range(size):
            if (u, v) not in without:
                cell = [u, v]
                cell.insert(axis, at)
                cells.add(tuple(cell))
    return cells


def tree_of(cells):
    return from_leaves(keys_of(np.array(sorted(cells))), DEPTH, (1.0, 2.0, 3.0), 4.0)


def cells_in(tree):
    return {tuple(cell) for cell in cells_of(tree.leaves).tolist()}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 5, 15])
def test_a_hole_of_one_cell_in_a_flat_sheet_is_filled(axis, at):
    result = cleaned(tree_of(sheet(axis, at, without={(4, 6)})))
    assert cells_in(result) == sheet(axis, at)
    assert (result.removed, result.added) == (0, 1)
    assert (result.lower, result.edge) == ((1.0, 2.0, 3.0), 4.0)


GROOVE = {(4, v) for v in range(2, 9)}
OPEN = {
    "a groove": sheet(without=GROOVE),
    "two cells side by side": sheet(without={(4, 6), (4, 7)}),
    "two cells corner to corner": sheet(without={(4, 6), (5, 7)}),
    "a grille": sheet(without={(u, v) for u in (3, 5, 7) for v in (3, 5, 7)}),
    "a pair of holes two cells apart": sheet(without={(4, 6), (4, 8)}),
    "a notch in the rim": sheet(without={(0, 6)}),
    "a dent, closed behind": sheet(without={(4, 6)}) | sheet(at=6),
    "a cavity": sheet(without={(4, 6)}) | sheet(at=4) | sheet(at=6),
    "a tube": {c for c in sheet(size=3, at=0) | sheet(size=3, at=1) if (c[0], c[2]) != (1, 1)},
}


@pytest.mark.parametrize("name", OPEN)
def test_these_stay_open(name):
    tree = tree_of(OPEN[name])
    assert len(holes(tree.leaves, DEPTH)) == 0
    assert cells_in(cleaned(tree)) == OPEN[name]


def test_holes_far_enough_apart_are_both_filled():
    result = cleaned(tree_of(sheet(without={(4, 6), (4, 9)})))
    assert (cells_in(result), result.added) == (sheet(), 2)


def test_a_crumb_goes_and_a_part_of_the_shape_stays():
    plate = sheet()  # 144 cells
    crumb = {(3, 9, 3), (4, 10, 3)}  # joined by an edge
    corner = {(12, 6, 12)}  # touches the plate's corner (11, 5, 11)
    half = {(u, 12, v) for u in range(3) for v in range(4)}  # 12 of 159 cells: more than 5%
    result = cleaned(tree_of(plate | crumb | corner | half))
    assert cells_in(result) == plate | corner | half
    assert (result.removed, result.added) == (2, 0)


def test_of_equal_pieces_one_stays_and_a_single_cell_too():
    assert len(cleaned(from_leaves(np.array([0]), 1)).leaves) == 1
    scattered = keys_of(4 * np.array(list(itertools.product(range(3), repeat=3))))
    assert cleaned(from_leaves(scattered, DEPTH)).leaves.tolist() == [0]


@given(tree=trees())
def test_counts_are_those_of_the_difference_and_again_changes_no_crumb(tree):
    result = cleaned(tree)
    before, after = set(tree.leaves.tolist()), set(result.leaves.tolist())
    assert result.removed == len(before - after)
    assert result.added == len(after - before)
    assert len(before) + result.added - result.removed == len(after)


def test_a_file_keeps_how_many(tmp_path):
    path = tmp_path / "0.npz"
    write_shape(path, Shape(cleaned(tree_of(sheet(without={(4, 6)}) | {(3, 9, 3)})), "plate"))
    tree = read_shape(path).tree
    assert isinstance(tree, CleanedOctree)
    assert (tree.removed, tree.added, tree.lower) == (1, 1, (1.0, 2.0, 3.0))
    write_shape(path, Shape(tree_of(sheet())))
    assert not isinstance(read_shape(path).tree, CleanedOctree)
    np.savez(path, tokens=np.array([1, 1]), cleaned=np.array([1, -1]))
    with pytest.raises(OctreeError, match="cleaned is not two whole numbers"):
        read_shape(path)
