"""The watch over addresses sees what leaves a tensor, and nothing else."""

import pytest
import torch

from tests.kernels.inside import REASON, only_inside

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason=REASON)


@triton.jit
def copy(source, target, read, written):
    lane = tl.arange(0, 8)
    values = tl.load(source + 2 * lane, mask=lane < read, other=0.0)
    tl.store(target + lane, values, mask=lane < written)


def run(read, written):
    wide = torch.arange(32.0)
    source, target = wide[:10:2], torch.zeros(12)[4:9]  # five elements each, in larger storage
    with only_inside([source, target, 7]):
        copy[(1,)](source, target, read, written)
    return target.tolist()


def test_lanes_within_are_let_through():
    assert run(5, 5) == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert run(0, 0) == [0.0] * 5


@pytest.mark.parametrize(("read", "written", "kind"), [(6, 5, "load of 1"), (5, 8, "store of 3")])
def test_a_lane_outside_fails_though_no_result_shows_it(read, written, kind):
    with pytest.raises(AssertionError, match=f"{kind} elements outside"):
        run(read, written)


@triton.jit
def last_program(target, shared: tl.constexpr):
    program = tl.program_id(0)
    tl.store(target + (0 if shared else program), program)
    tl.store(target + 4 + program, program)
    tl.store(target + 4 + program, program + 1)  # again, by the same program


def test_two_programs_may_not_write_one_element():
    target = torch.zeros(8, dtype=torch.int32)
    with only_inside([target]):
        last_program[(3,)](target, False)
    with (
        pytest.raises(AssertionError, match="1 elements of several programs"),
        only_inside([target]),
    ):
        last_program[(3,)](target, True)
