"""All figures together, on sets whose answers are known."""

import json

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.evaluation.shapes import distances
from ddimx.evaluation.shapes.metrics import minimum_matching
from ddimx.evaluation.shapes.points import Side, clouds
from ddimx.evaluation.shapes.quality import Protocol, quality
from ddimx.octree.tree import from_leaves
from tests.evaluation.shapes import block, blocks

FEW = Protocol(points=64)
CORNER, OTHER = (0, 0, 0), (8, 8, 8)


def value(record, *path):
    for name in path:
        record = record[name]
    return record["value"]


def test_a_generator_that_repeats_the_reference_is_seen_through():
    """Copies: 1-NNA 0, COV 1, MMD at the floor, and each is its own training shape."""
    shapes = blocks(8, seed=0)
    found = quality(shapes, shapes, shapes, Protocol(points=512))
    assert value(found, "chamfer", "1-NNA") == 0.0
    assert value(found, "chamfer", "COV") == 1.0
    floor = found["floor"]["same_shapes"]["chamfer"]
    # Both are the mean over 8 shapes of one distance of two draws of 512 points, 1/512 each way.
    assert value(found, "chamfer", "MMD") == pytest.approx(floor, rel=0.2)
    assert floor > 0
    assert found["novelty"]["copies"] == {"samples": 8, "moved": 8, "reference": 8}
    assert value(found, "novelty", "samples", "mean") == 1.0
    assert value(found, "novelty", "share_below_reference_median") == 0.0


def test_shapes_in_opposite_corners_are_told_apart():
    found = quality(blocks(6, 0, CORNER), blocks(6, 1, OTHER), blocks(6, 2, OTHER), FEW)
    assert value(found, "chamfer", "1-NNA") == 1.0
    # At least a corner's diagonal of one cell apart, so both ways at least twice its square.
    assert value(found, "chamfer", "MMD") > 2 * 3 / 16**2
    assert value(found, "novelty", "samples", "mean") == 0.0
    assert value(found, "novelty", "moved", "mean") == 0.0  # they also lie at another height
    assert value(found, "floor", "train_as_generator", "chamfer", "1-NNA") < 1.0


def test_validity_and_connectivity_are_counted():
    """Three shapes: one block; two parts of 8 and 2 cells; two that touch at a corner only."""
    whole, eight, two = block((0, 0, 0), (2, 2, 2)), block((0, 0, 0), (2, 2, 2)), (9, 9, 9)
    apart = from_leaves(np.concatenate([eight.leaves, block(two, (1, 1, 2)).leaves]), 4)
    corner = from_leaves(np.concatenate([eight.leaves, block((2, 2, 2), (1, 1, 1)).leaves]), 4)
    protocol = Protocol(distances=False)
    found = quality([whole, apart, corner], [whole], protocol=protocol, invalid=1)
    assert value(found, "validity") == 0.75
    assert value(found, "connectivity", "samples", "one_component") == pytest.approx(2 / 3)
    assert value(found, "connectivity", "samples", "largest_share") == pytest.approx(2.8 / 3)
    assert value(found, "connectivity", "reference", "one_component") == 1.0
    assert found["counts"] == {"samples": 3, "reference": 1, "train": 0, "invalid": 1}
    assert not {"chamfer", "floor", "compared", "novelty"} & found.keys()
    assert any("1 samples are not valid octrees" in note for note in found["notes"])


def test_neither_order_nor_threads_nor_company_change_a_figure():
    samples, reference, train = blocks(9, 0), blocks(6, 1), blocks(7, 2)
    protocol = Protocol(points=32, emd_points=8, repeats=2, workers=1)
    expected = quality(samples, reference, train, protocol)
    moved = Protocol(points=32, emd_points=8, repeats=2, workers=4)
    found = quality(samples[::-1], reference[3:] + reference[:3], train[::-1], moved)
    nearest = [
        [record["novelty"].pop(name) for name in ("nearest", "iou")] for record in (found, expected)
    ]
    assert nearest[0][0] == [6 - index for index in nearest[1][0]][::-1]
    assert nearest[0][1] == nearest[1][1][::-1]
    assert_close(found, expected)
    assert found["compared"] == 6
    assert any("6 of 9 were drawn" in note for note in found["notes"])
    alone = quality(samples, reference, None, Protocol(points=32, repeats=2))
    assert_close(alone["chamfer"], expected["chamfer"])


def assert_close(found, expected):
    """The same but for the order in which numbers are summed."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_close(found[name], expected[name])
    elif isinstance(expected, list):
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12)
    else:
        assert found == expected


def test_what_a_perfect_generator_has_is_told():
    shapes = blocks(3, 0), blocks(3, 1)
    names = ["chair", "chair", "lamp"], ["chair", "chair", "sofa"]
    found = quality(*shapes, protocol=FEW, categories=names)
    # Chairs: 1 of 3 neighbors, 4 times; lamp and sofa have none and meet 2 of all 5.
    expected = {"all": 2 / 5, "by_category": (4 / 3 + 2 * 2 / 5) / 6}
    assert found["perfect_1-NNA"] == pytest.approx(expected, rel=1e-14)
    # Of a larger side only the shapes that are compared count.
    more = quality(blocks(9, 0), shapes[1], protocol=FEW, categories=(["lamp"] * 9, ["lamp"] * 3))
    assert more["perfect_1-NNA"] == pytest.approx({"all": 2 / 5, "by_category": 2 / 5})
    assert quality(*shapes, protocol=FEW)["perfect_1-NNA"] == {"all": 2 / 5}


def test_point_seeds_are_averaged_and_kept():
    samples, reference = blocks(5, 0), blocks(5, 1)
    found = quality(samples, reference, protocol=Protocol(points=16, repeats=3))
    mmd = found["chamfer"]["MMD"]
    assert len(set(mmd["seeds"])) == 3
    assert mmd["value"] == pytest.approx(np.mean(mmd["seeds"]), rel=1e-12)
    drawn, known = (
        clouds(trees, 16, 0, side, repeat=1)
        for trees, side in ((samples, Side.SAMPLES), (reference, Side.REFERENCE))
    )
    second = distances.matrices({"": drawn}, known, distances.chamfer())[""]
    assert mmd["seeds"][1] == minimum_matching(second).value
    alone = quality(samples, reference, protocol=Protocol(points=16))
    assert alone["chamfer"]["MMD"]["value"] == mmd["seeds"][0]
    other = quality(samples, reference, protocol=Protocol(points=16, seed=1))
    assert other["chamfer"]["MMD"]["value"] not in mmd["seeds"]


def test_more_points_bring_the_floor_down():
    """In a solid the squared distance to the nearest of N points falls as N^(-2/3): 16^(2/3)."""
    shapes = [block((0, 0, 0), (8, 8, 8)), block((0, 0, 0), (7, 8, 8))]
    floors = [
        quality(shapes, shapes, protocol=Protocol(points=n))["floor"]["same_shapes"]["chamfer"]
        for n in (128, 2048)
    ]
    assert floors[0] / floors[1] == pytest.approx(16 ** (2 / 3), rel=0.25)


def test_the_finer_side_is_cut_and_said():
    fine = [block((0, 0, 0), (n, 8, 8), depth=5) for n in (4, 8)]
    coarse = [tree.coarser(4) for tree in fine]
    found = quality(fine, coarse, [*fine, *coarse], FEW)
    assert found["depth"] == 4
    assert found["novelty"]["copies"]["samples"] == 2
    cut = [note for note in found["notes"] if "cut at depth 4" in note]
    assert [note.partition(":")[0] for note in cut] == ["samples", "train"]


def test_the_record_is_json_and_states_the_protocol():
    found = quality(blocks(3, 0), blocks(2, 1), protocol=Protocol(points=16, emd_points=4, seed=5))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    said = found["protocol"]
    assert (said["points"], said["seed"], said["emd_points"], said["repeats"]) == (16, 5, 4, 1)
    assert "16 per shape" in said["in_words"]["points"]
    assert "seed 5" in said["in_words"]["points"]
    assert "first 4 of the points" in said["in_words"]["emd"]


@pytest.mark.parametrize(
    ("n", "says"), [(10, "11.2 points, which makes it meaningless"), (30, "6.5 points; small")]
)
def test_few_shapes_are_warned_of(n, says):
    protocol = Protocol(points=4, floors=False)
    found = quality(blocks(n, 0), blocks(n, 1), protocol=protocol)
    assert any(says in note for note in found["notes"])


def test_many_shapes_are_not_warned_of():
    found = quality(blocks(100, 0), blocks(100, 1), protocol=Protocol(points=2, floors=False))
    assert found["notes"] == []


def test_too_few_shapes_are_refused():
    one, two = blocks(1, 0), blocks(2, 0)
    with pytest.raises(UsageError, match="samples: 1 shapes, at least 2 are needed"):
        quality(one, two)
    with pytest.raises(UsageError, match="reference: 1 shapes, at least 2"):
        quality(two, one)
    with pytest.raises(UsageError, match="samples: 0 shapes, at least 1"):
        quality([], two, protocol=Protocol(distances=False))


def test_a_training_set_that_is_too_small_is_no_generator():
    found = quality(blocks(3, 0), blocks(3, 1), blocks(2, 2), FEW)
    assert found["floor"].keys() == {"same_shapes"}
    assert any("2 training shapes are too few" in note for note in found["notes"])


@pytest.mark.parametrize(
    "wrong", [{"points": 0}, {"repeats": 0}, {"repeats": 1025}, {"points": 8, "emd_points": 9}]
)
def test_numbers_that_make_no_protocol_are_refused(wrong):
    with pytest.raises(UsageError, match=r"needed|lower"):
        Protocol(**wrong)
