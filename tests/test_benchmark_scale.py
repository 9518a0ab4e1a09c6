"""The measurement of many processes in miniature; a run of 200 shards with failures."""

import io
import json
import sys

import pytest

from benchmarks import __main__ as command
from benchmarks import show
from benchmarks.scale import failures, processes, simulated, worker
from ddimx.errors import DdimxError
from ddimx.runs.shards import SHARDS, Shard
from tests.conftest import FULL
from tests.sampling import names_in

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")


@pytest.fixture(autouse=True)
def _disk_that_waits_for_nothing(monkeypatch):
    """A killed process loses nothing of what the system has taken; only a power cut would."""
    monkeypatch.setattr("ddimx.files.sync", lambda _: None)


def test_no_shard_is_lost_or_made_twice_whatever_is_killed(tmp_path):
    run = failures.simulate(200, tmp_path / "run", chance=0.25)
    assert run.killed.keys() == set(simulated.STAGES)
    assert run.counts.lost.sum() > 0
    assert (run.counts.drawn == 1 + run.counts.lost).all()
    of = {name[-10:-5] for name in names_in(tmp_path / "run" / SHARDS)}
    assert of == {"00200", "00060", "00008"}


@pytest.mark.parametrize("number", range(1, simulated.OPERATIONS[0] + 1))
def test_a_process_can_be_killed_before_each_of_its_operations(tmp_path, number):
    run = simulated.Run(tmp_path / "run", 4)
    assert run.dying("first", Shard(1, 1), simulated.Death(0, number))
    assert not run.counts.drawn.any()
    assert run.process("again", Shard(1, 1)) == "complete"
    failures.check(run)


def test_many_that_start_at_the_same_moment(tmp_path):
    run = failures.at_once(16, tmp_path / "run")
    assert len(run.costs["16 shards, started at once"]) == 16


def test_the_check_sees_what_the_contract_forbids(tmp_path):
    run = failures.simulate(5, tmp_path / "run")
    for array, text in (
        (run.counts.drawn, "1 samples were drawn again though nothing was lost"),
        (run.counts.there, "1 samples are not there"),
    ):
        array[3] += 1
        with pytest.raises(DdimxError, match=text):
            failures.check(run)
        array[3] -= 1
    (tmp_path / "run" / SHARDS / "00001-of-00009.claim").touch()
    with pytest.raises(DdimxError, match="left over: 1 files"):
        failures.check(run)
    (tmp_path / "run" / SHARDS / "00001-of-00009.claim").unlink()
    next((tmp_path / "run" / SHARDS).glob("*.json")).unlink()
    with pytest.raises(DdimxError, match="do not say of every sample once"):
        failures.check(run)


def test_a_contract_without_claims_is_seen(tmp_path, monkeypatch):
    """A killed shard that left no claim would not look for its files."""
    monkeypatch.setattr("ddimx.runs.shard_filling.claim_shard", lambda *_: None)
    with pytest.raises(DdimxError, match="drawn again though nothing was lost"):
        failures.simulate(30, tmp_path / "run", chance=0.5)


def test_a_fork_that_fails_says_why(tmp_path, monkeypatch, capfd):
    def fail(*_):
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr(simulated.Run, "_shard", fail)
    with pytest.raises(DdimxError, match="failed with status"):
        failures.at_once(2, tmp_path / "run")
    assert "ZeroDivisionError: of ours" in capfd.readouterr().err


def test_the_simulation_alone(tmp_path, capsys):
    words = ["scale", "--shards", "12", "--at-once", "3", "--folder", str(tmp_path), "--json"]
    assert command.main([*words, "--save", "--results", str(tmp_path / "results")]) == 0
    record = json.loads(capsys.readouterr().out)
    (table,) = record["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert rows["3 shards, started at once"]["processes"] == 3
    row = rows["12 shards, started"]
    assert row["percent_of_work"] == pytest.approx(row["p95_ms"] / 600)  # of 60 s
    assert row["median_ms"] <= row["p95_ms"] <= row["largest_ms"]
    assert "12 shards" in table["title"]
    (saved,) = (tmp_path / "results").glob("*.json")
    assert json.loads(saved.read_text())["scale"]["tables"] == [table]
    assert "| processes | p95 ms |" in show.section(tmp_path / "results")
    assert names_in(tmp_path) == ["results"]


def test_words_that_are_refused(capsys):
    for words in (["--only", "speed"], ["--shards", "0"]):
        with pytest.raises(SystemExit):
            command.main(["scale", *words])
    assert "'speed' is none of sampling, training" in capsys.readouterr().err


def test_a_worker_makes_shards_on_order(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["worker", str(tiny_model)])
    orders = [
        {"out": str(tmp_path / "run"), "shard": f"{k}/2", "count": 3, "batch_size": 2}
        for k in (1, 2)
    ]
    answers = io.StringIO()
    worker.main(io.StringIO("".join(json.dumps(o) + "\n" for o in orders)), answers)
    first, *told = answers.getvalue().splitlines()
    assert first == "ready"
    assert [{"coordinating_ms", "peak_mb"} == json.loads(line).keys() for line in told] == [
        True
    ] * 2
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "complete"


def test_the_order_of_a_late_epoch_is_a_row():
    table = processes.epochs(2, 100)
    assert [row["name"] for row in table["rows"]] == [
        *("before epoch 2", "before epoch 1,000", "before epoch 1,000,000")
    ]


@pytest.mark.skipif(not FULL, reason="runs in .ci/full (DDIMX_FULL=1)")
def test_real_processes():
    table = processes.memory((4, 8))
    assert [row["name"] for row in table["rows"]] == ["-n 4", "-n 8"]
    assert all(row["peak_mb"] > 50 for row in table["rows"])
    table = processes.sampling(1, 2)
    assert [row["name"] for row in table["rows"]] == ["1 process", "2 processes"]
    assert all(row["peak_mb"] > 50 for row in table["rows"])
    table = processes.start(1, 20)
    assert len(table["rows"]) == 3
