"""What decoding octrees costs on cards that are not here: compiled ahead of time, never run.

The counts lie in ``octree_decode_counts.json``. A change of the kernels or of Triton that moves
them fails here; look at why, and then write them anew: ``DDIMX_RECORD=1 pytest tests/kernels/...``.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from ddimx.kernels.octree_decode import launch
from tests.kernels.compiled import TARGETS, job, report

RECORDED = Path(__file__).with_name("octree_decode_counts.json")
MODULE = "ddimx.kernels.octree_decode.kernel"
FREE = ("length", "trees", "leaves", "steps", "depth", "count")
TREES, TOKENS, LEAVES = 1000, 9_000_000, 7_000_000


def prepared(cube):
    """Return the launches for a thousand trees of depth 6 on meta tensors."""

    def meta(*shape, dtype=torch.float32):
        return torch.empty(shape, dtype=dtype, device="meta")

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
    counts = {
        f"{case} | {target}": {name: found[name] for name in names if name in found}
        for (case, target), found in reports.items()
    }
    import triton

    found = {"triton": triton.__version__, "counts": counts}
    if os.environ.get("DDIMX_RECORD") == "1":
        lines = [f'  "{name}": {json.dumps(count)}' for name, count in sorted(counts.items())]
        head = f'{{\n "triton": "{triton.__version__}",\n "counts": {{\n'
        RECORDED.write_text(head + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    if recorded["triton"] != triton.__version__:
        pytest.skip(f"recorded with Triton {recorded['triton']}, this is {triton.__version__}")
    assert found["counts"] == recorded["counts"]
