"""What the update costs on cards that are not here: compiled ahead of time, never run.

The counts lie in ``update_counts.json``. A change of the kernel or of Triton that moves them fails
here; look at why, and then write them anew: ``DDIMX_RECORD=1 pytest tests/kernels/...``.
"""

from pathlib import Path

import pytest
import torch

from ddimx.kernels.update import Extras, launch
from ddimx.kernels.update.columns import TABLE as COLUMNS
from tests.kernels.compiled import TARGETS, against_record, job, meta, report
from tests.kernels.update_cases import KNOWN, STEP

RECORDED = Path(__file__).with_name("update_counts.json")
SHAPE = (352, 3, 256, 256)  # 69 M elements
PER_THREAD = 8
CASES = {
    "DDIM": {},
    "DDIM, NHWC output": {"nhwc": True},
    "with noise": {"noise": True},
    "with noise, NHWC output": {"noise": True, "nhwc": True},
    "guidance, three predictions": {"guided": True, "depth": 3},
    "everything": {"noise": True, "guided": True, "known": True, "depth": 4, "nhwc": True},
}


def prepared(nhwc=False, noise=False, guided=False, known=False, depth=1):
    """Return the launch of a row on meta tensors, the network's output in bfloat16."""
    layout = torch.channels_last if nhwc else torch.contiguous_format
    x, out = meta(*SHAPE), meta(*SHAPE, dtype=torch.bfloat16).to(memory_format=layout)
    extras = {"same_point": depth == 1, "want_x0": depth > 3}
    if noise or known:
        extras |= {"seed": meta(dtype=torch.int64), "samples": meta(SHAPE[0], dtype=torch.int64)}
    if noise:
        extras["step_stream"] = STEP
    if guided:
        extras |= {"uncond": out, "guidance": meta()}
    if known:
        extras |= {"known": x, "mask": meta(1, 1, *SHAPE[2:]), "known_stream": KNOWN}
    history = meta(depth - 1, *SHAPE) if depth > 1 else None
    table, row = meta(50, len(COLUMNS) + 2 * depth), meta(dtype=torch.int64)
    return launch.prepare(table, row, x, x, out, history, Extras(**extras))


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
                "ddimx.kernels.update.kernel:update_kernel",
                ready.arguments,
                ready.constants,
                target,
                free=("rows", "blocks"),
                num_warps=ready.warps,
            )
        )
    return dict(zip(keys, report(jobs), strict=True))


def test_no_registers_are_spilled_anywhere(reports):
    assert {tuple(found["spills"]) for found in reports.values()} == {(0, 0)}


def test_the_state_is_read_128_bits_at_a_time(reports):
    for (case, target), found in reports.items():
        # Groups of four float32 for each thread (on AMD a warp is twice as wide) and tensor: the
        # state itself and the earlier predictions.
        groups = 1 if target == "gfx942" else 2
        tensors = CASES[case].get("depth", 1)
        assert found["loads_128"] >= groups * tensors, (case, target)


@pytest.mark.parametrize("target", [name for name in TARGETS if name.startswith("sm_")])
@pytest.mark.parametrize("case", ["with noise", "with noise, NHWC output"])
def test_noise_costs_at_most_38_integer_operations_per_element(reports, case, target):
    """What fits under the time that memory needs on an H200 (430 G elements/s)."""
    assert reports[case, target]["integer"] / PER_THREAD <= 38


def test_the_usual_rows_leave_room_for_1024_threads(reports):
    """A multiprocessor has 65,536 registers."""
    usual = [found for (case, _), found in reports.items() if case != "everything"]
    assert max(found["registers"] for found in usual) <= 64


def test_offsets_of_a_batch_are_64_bit(reports):
    """The product that can exceed 2^31 is computed as int64."""
    for key, found in reports.items():
        products = [line for line in found["ttir"].splitlines() if "arith.muli" in line]
        assert any(": i64 loc" in line and "batch" in line for line in products), (key, products)


def test_counts_are_those_on_record(reports):
    """Registers, integer operations and all instructions per thread, by case and target."""
    names = ("registers", "spills", "shared", "integer", "instructions", "loads_128")
    ours, recorded = against_record(RECORDED, reports, names, merge=False)
    assert ours == recorded
