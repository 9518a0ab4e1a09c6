"""What decoding octrees costs on cards that are not here: compiled ahead of time, never run.

The counts lie in ``octree_decode_counts.json``. A change of the kernels or of Triton that moves
them fails here; look at why, and then write them anew: ``DDIMX_RECORD=1 pytest tests/kernels/...``.
"""

from pathlib import Path

import pytest
import torch

from ddimx.kernels.octree_decode import launch
from tests.kernels.compiled import TARGETS, against_record, job, meta, report

RECORDED = Path(__file__).with_name("octree_decode_counts.json")
MODULE = "ddimx.kernels.octree_decode.kernel"
FREE = ("length", "trees", "leaves", "steps", "depth", "count")
TREES, TOKENS, LEAVES = 1000, 9_000_000, 7_000_000


def prepared(cube):
    """Return the launches for a thousand trees of depth 6 on meta tensors."""

    tokens, offsets = meta(TOKENS, dtype=torch.uint8), meta(TREES + 1, dtype=torch.int64)
    given = (meta(TREES, 3), meta(TREES)) if cube else (None, None)
    return launch.prepare(tokens, offsets, 6, launch.empty(tokens, TREES, LEAVES), *given)


@pytest.fixture(scope="module")
def reports():
    """Compile every kernel for every target, once; the last with and without cubes."""
    pytest.importorskip("triton")
    cases = {each.name: each for each in prepared(cube=False)}
    cases["decode_leaves, cubes"] = prepared(cube=True)[-1]
    keys = [(case, target) for case in cases for target in TARGETS]
    jobs = [
        job(
            f"{MODULE}:{cases[case].name}",
            cases[case].arguments,
            cases[case].constants,
            target,
            free=FREE,
            num_warps=cases[case].warps,
        )
        for case, target in keys
    ]
    return dict(zip(keys, report(jobs), strict=True))


def test_no_registers_are_spilled_anywhere(reports):
    assert {tuple(found["spills"]) for found in reports.values()} == {(0, 0)}


def test_there_is_room_for_threads_to_hide_the_waiting(reports):
    """A multiprocessor has 65,536 registers: 768 threads of 80, 2,048 of 32."""
    for (case, target), found in reports.items():
        most = 32 if case.startswith(("sum", "decode")) else 80
        assert found["registers"] <= most, (case, target)


def test_counts_are_those_on_record(reports):
    """Registers, integer operations and all instructions per thread, by kernel and target."""
    names = ("registers", "spills", "shared", "integer", "instructions", "loads")
    ours, recorded = against_record(RECORDED, reports, names, merge=False)
    assert ours == recorded
