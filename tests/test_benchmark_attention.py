"""The benchmark of attention: what it counts, what it checks, and one small run."""

import json

import pytest
import torch

from benchmarks import attention as bench

CPU = torch.device("cpu")


def test_share_of_the_unet():
    """Six blocks of 256 channels, five at 16x16 and the middle one at 4x4, of 12.44 GFLOP."""
    blocks = 5 * 4 * 256**2 * 256 + 4 * 16**2 * 256
    assert bench.unet_share() == pytest.approx(blocks / 12.4437e9, rel=1e-4)
    assert bench.unet_share() < 0.03


def test_operations():
    """4 B N^2 D forward; the gradients are five products more, of 2 B N^2 D each."""
    forward, both = (bench.problem(CPU, (2, 3, 5), backward) for backward in (False, True))
    assert forward.operations == 4 * 2 * 9 * 5
    assert both.operations == (4 + 10) * 2 * 9 * 5
    assert torch.equal(forward.q, both.q)


def test_the_check_sees_a_wrong_peer():
    for backward in (False, True):
        check = bench.Checker(given := bench.problem(CPU, (3, 16, 8), backward))
        assert check("ours", given.run(bench.attention)) < 1e-5
        with pytest.raises(RuntimeError, match=r"scaled errs by .* allowed is"):
            check("scaled", given.run(lambda q, k, v: bench.attention(q, k, v, scale=0.3)))
    results = given.run(bench.attention)
    with pytest.raises(RuntimeError, match="no d_q errs"):
        check("no d_q", (results[0], torch.zeros_like(results[1]), *results[2:]))
    with pytest.raises(RuntimeError, match="errs by nan"):
        check("nan", (results[0] * float("nan"), *results[1:]))


def test_a_small_run():
    tables = [job() for job in bench.jobs(CPU, 2, shapes=[(2, 16, 8)], compiled=False)]
    assert json.loads(json.dumps(tables, allow_nan=False)) == tables
    assert [t["title"] for t in tables] == [
        "attention, 2x16x8 float32, forward",
        "attention, 2x16x8 float32, forward and backward",
    ]
    for table in tables:
        rows = {row["name"]: row for row in table["rows"]}
        assert table["baseline"] == "SDPA"
        assert {"SDPA", "materialised", "SDPA math", "ddimx auto", "matmul"} <= rows.keys()
        backward = table is tables[1]
        operations = 4 * 2 * 16**2 * 8 * (3.5 if backward else 1)
        for name in ("SDPA", "materialised", "SDPA math", "ddimx auto"):
            row = rows[name]
            assert row["tflop_per_s"] == pytest.approx(operations / row["median_ms"] / 1e9)
            assert 0 < row["max_error"] < 1e-5
        assert rows["matmul"]["share_of_matmul"] == 1.0
        assert rows["SDPA cuDNN"]["absent"]
        assert any("2.7% of the FLOPs" in note for note in table["notes"])
        ours = "ddimx triton, backward triton" if backward else "ddimx triton"
        assert ours in rows
