"""What the update of tokens costs on cards that are not here: compiled, never run.

The counts lie in ``discrete_update_counts.json``. A change of the kernel or of Triton that moves
them fails here; look at why, and then write them anew: ``DDIMX_RECORD=1 pytest tests/kernels/...``.
"""

import os
from pathlib import Path

import pytest
import torch

from ddimx.kernels.discrete_update import TokenState, UpdateOptions, launch
from ddimx.noise import Stream
from tests.kernels.compiled import TARGETS, against_record, job, meta, report

RECORDED = Path(__file__).with_name("discrete_update_counts.json")
COUNT = 9_000_000  # tokens, of which the last lie past 2^31 logits
CASES = {
    "absorbing": {"want_x0": False},
    "everything, float32": {"transition": "uniform", "guided": True, "dtype": torch.float32},
}
if os.environ.get("DDIMX_FULL") == "1" or os.environ.get("DDIMX_RECORD") == "1":
    CASES |= {  # parts of the above: half a minute that the gate need not spend
        "uniform, x0": {"transition": "uniform"},
        "confidence, guidance": {"route": False, "guided": True},
    }


def prepared(transition="absorbing", route=True, want_x0=True, guided=False, dtype=torch.bfloat16):
    """Return the launch of a row on meta tensors."""
    logits, index = meta(COUNT, 256, dtype=dtype), meta(COUNT, dtype=torch.int64)
    return launch.prepare(
        meta(50, 4),
        meta(dtype=torch.int64),
        logits,
        TokenState(meta(COUNT, dtype=torch.uint8), index, index),
        meta(dtype=torch.int64),
        logits if guided else None,
        meta() if guided else None,
        UpdateOptions(transition, int(Stream.TOKEN), route, want_x0),
    )


@pytest.fixture(scope="module")
def reports():
    """Compile every case for every target, once."""
    pytest.importorskip("triton")
    keys = [(case, target) for case in CASES for target in TARGETS]
    jobs = []
    for case, target in keys:
        ready = prepared(**CASES[case])
        jobs.append(
            job(
                "ddimx.kernels.discrete_update.kernel:discrete_update_kernel",
                ready.arguments,
                ready.constants,
                target,
                free=("rows", "count"),
                num_warps=ready.warps,
            )
        )
    return dict(zip(keys, report(jobs), strict=True))


def test_no_registers_are_spilled_anywhere(reports):
    assert {tuple(found["spills"]) for found in reports.values()} == {(0, 0)}


def test_columns_are_summed_within_a_warp(reports):
    """Shared memory passes a few words of each token on, but no tile of 256 columns."""
    assert max(found["shared"] for found in reports.values()) <= 8 * launch.BLOCK


def test_logits_are_read_128_bits_at_a_time(reports):
    for (case, target), found in reports.items():
        # A thread has 16 columns (on AMD a warp is twice as wide: 8), 8 of bfloat16 a load.
        columns, wide = (8 if target == "gfx942" else 16), (4 if "float32" in case else 8)
        tensors = 1 + ("guidance" in case or "everything" in case)
        assert found["loads_128"] >= tensors * columns // wide, (case, target)


def test_offsets_of_the_logits_are_64_bit(reports):
    for key, found in reports.items():
        products = [line for line in found["ttir"].splitlines() if "arith.muli" in line]
        assert any("xi64" in line for line in products), (key, products)


def test_counts_are_those_on_record(reports):
    """Registers, integer operations and all instructions per thread, by case and target."""
    names = ("registers", "spills", "shared", "integer", "instructions", "loads_128")
    ours, recorded = against_record(RECORDED, reports, names, merge=False)
    assert ours == {key: recorded[key] for key in ours}
