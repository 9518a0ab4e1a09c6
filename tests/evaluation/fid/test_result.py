"""When ``evaluate fid`` of several processes has nothing to do, and when it measures again."""

import json
from contextlib import ExitStack

import numpy as np
import pytest

from ddimx.evaluation.fid import result
from ddimx.evaluation.fid.result import Result
from ddimx.launch import Launch
from tests.evaluation.fid.test_shards import evaluate, networks, seen, sets

__all__ = ["networks", "sets"]  # fixtures


@pytest.fixture
def step(sets, monkeypatch):
    """Return a function that measures as both tasks of one and the same SLURM step, in turn."""
    for name, value in {"NTASKS": "2", "JOB_ID": "7", "STEP_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)

    def measured(*args):
        done = []
        for rank in ("0", "1"):
            monkeypatch.setenv("SLURM_PROCID", rank)
            done.append(evaluate(*args))
        assert [one.code for one in done] == [0, 0], [one.err for one in done]
        return done

    return measured


def record(sets):
    (path,) = (sets / "cache" / "fid").glob("*/result.json")
    return path, json.loads(path.read_text())


def test_samples_that_were_drawn_anew_are_measured(sets, networks, step):
    first = step("-q")[1].out
    images = np.random.default_rng(1).integers(0, 256, (23, 2, 2, 3), dtype=np.uint8)
    np.save(sets / "samples.npy", images)
    networks.clear()
    second = step("-q")[1].out
    assert second.startswith("FID ")
    assert second != first
    assert sum(seen(networks)) == 35


@pytest.mark.parametrize(
    "args", [("--out", "b.json"), ("--save-stats", "s.npz"), ("--json",), ("--strict",)]
)
def test_other_files_or_options_are_measured(sets, networks, step, args):
    step("--out", "a.json")
    networks.clear()
    assert step(*args)[1].out
    assert sum(seen(networks)) == 35
    assert all((sets / name).exists() for name in args if "." in name)


@pytest.mark.parametrize("change", ["none", "removed", "replaced"])
def test_the_file_has_to_be_there_as_it_was_written(sets, networks, step, change):
    args = ("--out", "fid.json", "--overwrite")
    step(*args)
    written = (sets / "fid.json").read_bytes()
    if change == "removed":
        (sets / "fid.json").unlink()
    elif change == "replaced":
        (sets / "fid.json").write_text("{}")
    networks.clear()
    late = step(*args)
    assert (sum(seen(networks)) == 0) == (change == "none")
    assert (sets / "fid.json").read_bytes() == written
    path, held = record(sets)
    assert held["figures"] == json.loads(written)
    if change == "none":
        for one in late:
            assert "nothing to do; process " in one.err
            assert f" has the result in fid.json; the figures are in {path}" in one.err


def test_a_clock_of_another_machine_does_not_count(sets, networks):
    """A launch that is known by nothing measures again, however late the other's clock is."""
    for k in (1, 2):
        assert evaluate("--shard", f"{k}/2").code == 0
    path, held = record(sets)
    path.write_text(json.dumps(held | {"host": "elsewhere", "time": held["time"] + 1e6}))
    networks.clear()
    assert [evaluate("--shard", f"{k}/2").out[:4] for k in (1, 2)] == ["", "FID "]
    assert sum(seen(networks)) == 35


def test_a_result_of_other_images_is_waited_for_and_not_taken(tmp_path, monkeypatch):
    other, ours, same = (
        Result(tmp_path, Launch(0, 2, source="--shard"), 0.0, {}, {"images": name})
        for name in ("old", "new", "old")
    )
    said = []
    with ExitStack() as stack:
        assert stack.enter_context(other.begun("", said.append))
        assert (same.is_over(), ours.is_over()) == (True, False)
        with same.begun("", said.append) as is_ours:
            assert not is_ours
        waited = iter(range(result.LOOKS))
        monkeypatch.setattr(
            result.time, "sleep", lambda _: next(waited) == result.LOOKS - 1 and stack.close()
        )
        with ours.begun("waits", said.append) as is_ours:
            assert is_ours
    assert said == ["waits"]
