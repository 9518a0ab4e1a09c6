"""What group normalization costs on cards that are not here: compiled ahead of time, never run.

The counts lie in ``group_norm_silu_counts.json``. After a change that has to move them:
``DDIMX_FULL=1 DDIMX_RECORD=1 pytest tests/kernels/test_group_norm_silu_compiled.py``.
"""

from pathlib import Path

import pytest
import torch

from ddimx.kernels.group_norm_silu import launch
from tests.kernels.compiled import SHARED, TARGETS, against_record, job, meta, report

RECORDED = Path(__file__).with_name("group_norm_silu_counts.json")
BATCH, GROUPS = 16, 32
NAMES = ("registers", "spills", "shared", "loads_128", "instructions")
BF16, FP32 = torch.bfloat16, torch.float32
# Channels, side and dtype of the UNets' feature maps: all pixels on chip, in a loop, in parts.
GATE = {"128 x 32 x 32": (128, 32, BF16)}
MORE = {
    "256 x 32 x 32": (256, 32, BF16),
    "384 x 32 x 32": (384, 32, BF16),
    "256 x 16 x 16": (256, 16, BF16),
    "768 x 16 x 16": (768, 16, BF16),
    "256 x 8 x 8": (256, 8, BF16),
    "512 x 4 x 4": (512, 4, BF16),
    "128 x 64 x 64": (128, 64, BF16),
    "128 x 256 x 256": (128, 256, BF16),
    "128 x 32 x 32, fp32": (128, 32, FP32),
    "384 x 32 x 32, fp32": (384, 32, FP32),
    "256 x 16 x 16, fp32": (256, 16, FP32),
    "512 x 4 x 4, fp32": (512, 4, FP32),
    "128 x 256 x 256, fp32": (128, 256, FP32),
    "48 x 7 x 7": (48, 7, BF16),
}


def launches(channels, side, dtype, arch):
    """The launches, forward and backward, of such feature maps with an embedded time and SiLU."""
    x = meta(BATCH, channels, side, side, dtype=dtype).to(memory_format=torch.channels_last)
    weight, add = meta(channels, dtype=dtype), meta(BATCH, channels, dtype=dtype)
    kept = meta(BATCH, GROUPS if channels % GROUPS == 0 else 4)
    groups = kept.shape[1]
    steps = launch.forward(x, weight, weight, groups, 1e-6, True, add, arch).steps
    kept = kept, kept, arch
    steps += launch.backward(x, x, weight, weight, groups, True, add, *kept).steps
    return {step.kernel: step for step in steps}.values()  # each kernel once, whatever the batch


def counts(cases):
    """Compile every case for every target; counts by (case, kernel, target)."""
    keys, jobs = [], []
    for case, about in cases.items():
        for target in TARGETS:
            for step in launches(*about, target):
                keys.append((case, step.kernel, target))
                name = f"{step.module}:{step.kernel}"
                jobs.append(job(name, step.arguments, step.constants, target, **step.options))
    return dict(zip(keys, report(jobs), strict=True))


def check(found, cases):
    """No spills, wide loads, the cards' limits, and the record."""
    for key, count in found.items():
        assert not any(count["spills"]), (key, count)
        assert count["shared"] <= SHARED[key[2]], (key, count)
        channels = cases[key[0]][0]
        # Each tile is loaded 128 bits at a time: x, backward also the gradient. What is left are
        # means, deviations and, of groups that leave lanes empty, weights and embeddings.
        if "loads" in count and channels % 16 == 0:
            assert count["loads"] - count["loads_128"] <= 6, (key, count)
        assert count["loads_128"] >= (2 if "backward" in key[1] else 1), (key, count)
    for (case, kernel, target), count in found.items():
        products = [line for line in count["ttir"].splitlines() if "arith.muli" in line]
        assert any(": i64 loc" in line for line in products), (case, kernel, target)
    ours, recorded = against_record(RECORDED, found, NAMES, merge=True)
    for key, count in ours.items():
        assert count["registers"] <= recorded[key]["registers"], (key, count, recorded[key])
        assert count["shared"] <= recorded[key]["shared"], (key, count, recorded[key])
        assert count["loads_128"] == recorded[key]["loads_128"], (key, count, recorded[key])


def test_the_most_frequent_shape():
    pytest.importorskip("triton")
    check(counts(GATE), GATE)


@pytest.mark.full
def test_the_other_shapes():
    pytest.importorskip("triton")
    check(counts(MORE), MORE)
