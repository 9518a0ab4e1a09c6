"""The suites of GroupNorm and ragged attention in miniature: peers agree, a wrong one is seen."""

import json

import pytest
import torch

from benchmarks import group_norm, segments

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def nothing_is_repeated(monkeypatch):
    monkeypatch.setattr("benchmarks.runner.SHORTEST", 0.0)
    monkeypatch.setattr(
        "benchmarks.runner.measure.__kwdefaults__", {"wait": None, "shortest": 0.0, "budget": None}
    )


def test_group_norm():
    tables = [job() for job in group_norm.jobs(CPU, 2, shapes=[(3, 32, 4, 4)], compiled=False)]
    assert json.loads(json.dumps(tables, allow_nan=False)) == tables
    for backward, table in enumerate(tables):
        rows = {row["name"]: row for row in table["rows"]}
        assert table["baseline"] == "PyTorch NHWC"
        assert {"PyTorch NCHW", "ddimx auto", "copy"} <= rows.keys()
        assert rows["torch.compile NHWC"]["absent"] == "--no-compile"
        moved = (5 if backward else 2) * 3 * 32 * 16 * (2 if "bfloat16" in table["title"] else 4)
        row = rows["ddimx auto"]
        assert row["gb_per_s"] == pytest.approx(moved / row["median_ms"] / 1e6)
        assert row["share_of_copy"] == pytest.approx(row["gb_per_s"] / rows["copy"]["gb_per_s"])
        assert 0 <= row["max_error"] < 0.02


@pytest.mark.parametrize("backward", [False, True])
def test_a_wrong_norm_is_seen(backward, monkeypatch):
    monkeypatch.setattr(group_norm, "ours", lambda *a, **_: group_norm.aten(*a) * 1.1)
    job = group_norm.jobs(CPU, 2, shapes=[(2, 32, 4, 4)], compiled=False)[backward]
    with pytest.raises(RuntimeError, match=r"ddimx auto errs by .* allowed is"):
        job()


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(segments, "PROBLEMS", {"cpu": ((3, 4, 16, 2, 8),)})


def test_segments(few):
    (job,) = segments.jobs(CPU, 2, compiled=False)
    table = job()
    assert table["title"] == job.title
    assert "3 shapes of 4 to 16 tokens, 2 heads of 8" in table["title"]
    rows = {row["name"]: row for row in table["rows"]}
    operations = 4 * 2 * 8 * (4**2 + 8**2 + 16**2)
    for name in ("padded SDPA", "SDPA per shape", "ddimx auto", "ddimx loop"):
        assert rows[name]["tflop_per_s"] == pytest.approx(
            operations / rows[name]["median_ms"] / 1e9
        )
        assert rows[name]["max_error"] < 1e-5
    assert rows["varlen FlashAttention"]["absent"]
    assert rows["compiled FlexAttention"]["absent"] == "--no-compile"
    assert "28 tokens; padding would hold them at 58%" in table["notes"][0]


def test_wrong_ragged_attention_is_seen(few, monkeypatch):
    monkeypatch.setattr(segments, "ours", lambda batch, impl="": lambda: batch.tensors[2])
    with pytest.raises(RuntimeError, match=r"ddimx auto errs by .* allowed is"):
        segments.jobs(CPU, 2, compiled=False)[0]()


def test_the_padded_form_and_the_shapes_one_by_one_are_the_same_for_all_shapes(few):
    """The check looks at the first shape only; here all of them are compared."""
    batch = segments.Ragged.of(CPU, segments.PROBLEMS["cpu"][0])
    expected = segments.per_shape(batch)()
    for call in (segments.padded(batch), segments.ours(batch), segments.ours(batch, "loop")):
        torch.testing.assert_close(call(), expected)
