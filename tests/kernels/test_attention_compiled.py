"""What attention costs on cards that are not here: compiled ahead of time, never run.

The counts lie in ``attention_counts.json``. Spilled bytes and shared memory may fall, not rise.
After a change that has to move them: ``DDIMX_FULL=1 DDIMX_RECORD=1 pytest tests/kernels/...``.
"""

from pathlib import Path

import pytest
import torch

from ddimx.kernels.attention import launch
from tests.kernels.compiled import SHARED, TARGETS, against_record, job, meta, report

RECORDED = Path(__file__).with_name("attention_counts.json")
BATCH = 16
NAMES = ("registers", "spills", "shared")
# (tokens, columns, dtype, layout of the feature map), the UNet's shapes first.
GATE = {
    "256 x 512": (256, 512, torch.bfloat16, "NHWC"),
    "1024 x 512": (1024, 512, torch.bfloat16, "NHWC"),
}
MORE = {
    "256 x 256": (256, 256, torch.bfloat16, "NHWC"),
    "256 x 512, NCHW": (256, 512, torch.bfloat16, "NCHW"),
    "1024 x 512, NCHW": (1024, 512, torch.bfloat16, "NCHW"),
    "64 x 256": (64, 256, torch.bfloat16, "NHWC"),
    "1024 x 256": (1024, 256, torch.bfloat16, "NHWC"),
    "256 x 256, fp32": (256, 256, torch.float32, "NHWC"),
    "1024 x 512, fp32": (1024, 512, torch.float32, "NHWC"),
    "49 x 120": (49, 120, torch.bfloat16, "NHWC"),
    "1000 x 300": (1000, 300, torch.bfloat16, "NHWC"),
}


def launches(n, d, dtype, layout, arch, backward):
    """The launches that the operator would make for self-attention on such a feature map."""
    x = meta(BATCH, n, d, dtype=dtype)
    if layout == "NCHW":
        x = meta(BATCH, d, n, dtype=dtype).transpose(1, 2)
    out, lse = meta(BATCH, n, d, dtype=dtype), meta(BATCH, n)
    if not backward:
        return [launch.forward(x, x, x, out, lse, 0.1, arch)]
    return launch.backward(out, x, x, x, lse, lse, (out, out, out), 0.1, arch)


def counts(cases, backward):
    """Compile every case for every target; counts by "case | kernel | target"."""
    keys, jobs = [], []
    for case, about in cases.items():
        for target in TARGETS:
            for step in launches(*about, target, backward):
                kind = step.kernel + (" of keys" if step.constants.get("FOR_KEYS") else "")
                keys.append((case, kind, target))
                jobs.append(
                    job(
                        f"ddimx.kernels.attention.kernel:{step.kernel}",
                        step.arguments,
                        step.constants,
                        target,
                        num_warps=step.warps,
                        num_stages=step.stages,
                    )
                )
    return dict(zip(keys, report(jobs), strict=True))


def check(found):
    """Hold the counts to the cards' limits and to the record."""
    for (case, kind, target), count in found.items():
        assert count["shared"] <= SHARED[target], (case, kind, target)
        if target in ("sm_90", "sm_100") and "fp32" not in case and "49" not in case:
            assert count["wgmma"], (case, kind, target)
    ours, recorded = against_record(RECORDED, found, NAMES, merge=True)
    for key, count in ours.items():
        before = recorded[key]
        assert sum(count["spills"]) <= sum(before["spills"]), (key, count, before)
        assert count["shared"] <= before["shared"], (key, count, before)


def spilling(found):
    return {key for key, count in found.items() if any(count["spills"])}


def test_the_unets_shapes_forward():
    pytest.importorskip("triton")
    found = counts(GATE, backward=False)
    check(found)
    assert not spilling(found)


@pytest.mark.full
def test_the_unets_shapes_backward():
    pytest.importorskip("triton")
    found = counts(GATE, backward=True)
    check(found)
    assert not spilling(found)


@pytest.mark.full
@pytest.mark.parametrize("backward", [False, True])
def test_the_other_shapes(backward):
    pytest.importorskip("triton")
    check(counts(MORE, backward))
