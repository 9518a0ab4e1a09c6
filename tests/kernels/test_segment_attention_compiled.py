"""What segment attention costs on cards that are not here: compiled ahead of time, never run.

The counts lie in ``segment_attention_counts.json``. Spilled bytes and shared memory may fall, not
rise. After a change that has to move them:
``DDIMX_FULL=1 DDIMX_RECORD=1 pytest tests/kernels/test_segment_attention_compiled.py``.
"""

from pathlib import Path

import pytest
import torch

from ddimx.kernels.segment_attention import launch
from ddimx.kernels.segment_attention.blocks import Tables, tables
from tests.kernels.compiled import SHARED, TARGETS, against_record, job, meta, report

RECORDED = Path(__file__).with_name("segment_attention_counts.json")
NAMES = ("registers", "spills", "shared")
TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
OCTREE = (32, "bf16")  # the octree network's heads
OTHERS = [(c, t) for c in (16, 32, 64, 128) for t in TYPES if (c, t) != OCTREE]


def launches(columns, dtype, backward):
    """The launches that the operator would make: views of one projection [N, 3, H, D]."""

    q, k, v = meta(200, 3, 6, columns, dtype=dtype).unbind(1)
    out, lse = meta(200, 6, columns, dtype=dtype), meta(6, 200)
    made = Tables(*(t.to("meta") for t in tables([[0, 100, 0, 100, 0, 9], [100, 200, 0, 9, 0, 0]])))
    if not backward:
        return [launch.forward(q, k, v, k, v, out, lse, made, 0.1)]
    return launch.backward(out, q, k, v, k, v, lse, lse, (out,) * 5, made, 0.1)[:2]


def counts(cases, backward):
    """Compile every case for the targets; counts by "columns, dtype | kernel | target"."""
    keys, jobs = [], []
    for columns, dtype in cases:
        for step in launches(columns, TYPES[dtype], backward):
            for target in TARGETS:
                keys.append((f"{columns}, {dtype}", step.kernel, target))
                function = f"ddimx.kernels.segment_attention.kernel:{step.kernel}"
                options = {"num_warps": step.warps, "num_stages": step.stages}
                jobs.append(job(function, step.arguments, step.constants, target, **options))
    return dict(zip(keys, report(jobs), strict=True))


def check(found):
    """Hold the counts to the cards' limits and to the record."""
    for key, count in found.items():
        assert count["shared"] <= SHARED[key[2]], key
    ours, recorded = against_record(RECORDED, found, NAMES, merge=True)
    for key, count in ours.items():
        before = recorded[key]
        assert sum(count["spills"]) <= sum(before["spills"]), (key, count, before)
        assert count["shared"] <= before["shared"], (key, count, before)


def check_best(found):
    """What holds for the octree's heads: matrix units are used, nothing is spilled to memory."""
    for key, count in found.items():
        # On AMD the second number is of scalar registers, which are spilled into vector ones.
        assert count["spills"][0] == 0, (key, count["spills"])
        if key[2] in ("sm_90", "sm_100"):
            assert count["wgmma"], key


def test_the_octrees_heads_forward():
    pytest.importorskip("triton")
    found = counts([OCTREE], backward=False)
    check(found)
    check_best(found)


@pytest.mark.full
@pytest.mark.parametrize("backward", [False, True])
def test_the_octrees_heads_everywhere(backward):
    pytest.importorskip("triton")
    found = counts([OCTREE], backward)
    check(found)
    check_best(found)


@pytest.mark.full
@pytest.mark.parametrize("backward", [False, True])
def test_the_other_heads(backward):
    pytest.importorskip("triton")
    check(counts(OTHERS, backward))
