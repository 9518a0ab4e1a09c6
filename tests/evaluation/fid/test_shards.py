"""``ddimx evaluate fid`` by several processes: --shard, torchrun and SLURM, at once and in turn."""

import json
import os
import re
import socket
import time

import numpy as np
import pytest

from ddimx.evaluation.fid import compare, features, parts, result, shards
from ddimx.evaluation.fid.frechet import read_statistics
from ddimx.evaluation.fid.shards import Shards
from ddimx.launch import Launch
from ddimx.progress import Progress
from tests.evaluation.fid.tiny_features import MeanColors
from tests.sampling import invoke

COUNTS = {"samples": 23, "reference": 12}  # 5 and 3 parts


@pytest.fixture
def networks(monkeypatch):
    """The feature networks that the commands loaded, one each."""
    loaded = []

    def load(*_, **__):
        loaded.append(MeanColors())
        return loaded[-1]

    monkeypatch.setattr(features, "inception", load)
    return loaded


@pytest.fixture
def sets(tmp_path, monkeypatch, networks):
    """A folder of images, in which the commands run; parts of at most 5, in a cache of its own."""
    monkeypatch.setattr(parts, "MOST", 5)
    monkeypatch.setenv("DDIMX_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name, count in COUNTS.items():
        np.save(tmp_path / f"{name}.npy", random.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*args, reference="reference.npy"):
    where = ("--samples", "samples.npy", "--reference", reference)
    return invoke("evaluate", "fid", *where, "--device", "cpu", *args)


def left(sets):
    """What is in the folders of parts."""
    return sorted(path.name for path in (sets / "cache" / "fid").rglob("*") if path.is_file())


def seen(networks):
    return [sum(network.batches) for network in networks]


@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_the_last_of_any_number_of_shards_prints_what_one_process_prints(sets, networks, number):
    alone = evaluate("--json", "-q")
    assert alone.code == 0, alone.err
    assert left(sets) == []
    networks.clear()
    done = [evaluate("--json", "--shard", f"{k}/{number}") for k in range(1, number + 1)]
    assert [one.code for one in done] == [0] * number
    assert [one.out for one in done] == [""] * (number - 1) + [alone.out]
    assert sum(seen(networks)) == 35
    assert max(seen(networks)) <= -(-8 // number) * 5
    if number > 1:
        assert left(sets) == ["result.json"]
    if number == 2:
        said = done[0].err
        assert "shard 1/2: its 4 of 8 parts are there; 4 are missing, of the shards 2/2" in said
        again = "ddimx evaluate fid --samples samples.npy --reference reference.npy --device cpu"
        assert f"begin it again: {again} --json --shard 2/2 (or --shard 1/1 " in said


def test_fewer_parts_than_processes(sets, networks):
    """Of 9 shards of 8 parts the first has none: it has nothing to compute, and says so."""
    done = evaluate("--shard", "1/9")
    assert (done.code, done.out, seen(networks)) == (0, "", [0])
    assert (
        "shard 1/9: its 0 of 8 parts are there; 8 are missing, of the shards 2/9, 3/9" in done.err
    )
    assert left(sets) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "1"},
            {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": "1"},
        ),
    ],
    ids=["torchrun", "SLURM"],
)
def test_processes_of_a_launcher(sets, monkeypatch, first, second):
    alone = evaluate("-q")
    printed = []
    for variables in (second, first):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = evaluate("-q")
        assert (done.code, done.err) == (0, "")
        printed.append(done.out)
    assert printed == ["", alone.out]


def test_another_number_of_processes_finishes_what_was_begun(sets, networks):
    alone = evaluate("-q").out
    networks.clear()
    assert evaluate("--shard", "2/4").code == 0
    assert evaluate("--shard", "3/3").code == 0
    done = evaluate("-q", "--shard", "1/1")
    assert done.out == alone
    first, second, rest = seen(networks)
    assert first > 0
    assert rest == 35 - first - second
    assert "samples-00001-of-00005.npz" not in left(sets)


def test_an_interrupted_process_goes_on_alone(sets, networks, monkeypatch):
    alone = evaluate("-q").out
    networks.clear()
    call = MeanColors.__call__

    def interrupted(self, pixels):
        if sum(self.batches) >= 12:
            raise KeyboardInterrupt
        return call(self, pixels)

    monkeypatch.setattr(MeanColors, "__call__", interrupted)
    codes = [evaluate("-q").code for _ in range(3)]
    assert codes == [130, 130, 0]
    assert seen(networks) == [12, 13, 10]  # first the reference's parts of 4, then 4, 5, 4, 5, 5
    monkeypatch.setattr(MeanColors, "__call__", call)
    assert evaluate("-q").out == alone
    assert left(sets) == []


def test_the_second_process_of_a_shard_says_who_is_at_work(sets, networks, monkeypatch):
    held = []
    make = Shards.make

    def made(self, of):
        held.append(evaluate("--shard", "1/2") if not held else None)
        return make(self, of)

    monkeypatch.setattr(Shards, "make", made)
    done = evaluate("--shard", "1/2")
    assert done.code == 0
    assert (held[0].code, held[0].out) == (2, "")
    assert f"shard 1/2 of this measurement is at work already, as process {os.getpid()} on " in (
        held[0].err
    )
    assert seen(networks) == [18, 0]
    held.clear()
    monkeypatch.setattr(Shards, "make", make)
    assert evaluate("--shard", "2/2").out  # the first one has let go


def test_who_comes_late_has_nothing_to_do(sets, networks, monkeypatch):
    """Of the same launch: it began before another process had put the result together."""
    began = time.time()
    for k in (2, 1):
        assert evaluate("--shard", f"{k}/2", "--out", "fid.json").code == 0
    written = (sets / "fid.json").read_bytes()
    networks.clear()
    monkeypatch.setattr(time, "time", lambda: began)
    late = evaluate("--shard", "2/2", "--out", "fid.json")
    assert (late.code, late.out, sum(seen(networks))) == (0, "", 0)
    assert f"shard 2/2: nothing to do; process {os.getpid()} on " in late.err
    monkeypatch.undo()
    monkeypatch.setenv("DDIMX_CACHE", str(sets / "cache"))
    monkeypatch.chdir(sets)
    again = evaluate("--shard", "2/2", "--out", "fid.json")  # a launch of its own
    assert (again.code, again.out) == (2, "")
    assert "fid.json exists" in again.err
    assert (sets / "fid.json").read_bytes() == written


@pytest.mark.parametrize(
    ("variables", "is_late"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, True),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}, False),
        ({"SLURM_JOB_ID": "8", "SLURM_STEP_ID": "0"}, False),
    ],
)
def test_a_task_that_begins_when_the_others_of_its_step_have_ended(
    sets, networks, monkeypatch, variables, is_late
):
    step = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    for rank in ("0", "1"):
        monkeypatch.setenv("SLURM_PROCID", rank)
        assert evaluate().code == 0
    networks.clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    late = evaluate()
    assert (late.code, late.out, sum(seen(networks)) == 0) == (0, "", is_late)
    assert ("nothing to do" in late.err) == is_late


def test_of_two_that_find_all_parts_there_one_prints(sets, monkeypatch):
    assert evaluate("--shard", "1/2").code == 0
    make, others = Shards.make, []

    def made(self, of):
        are_there = make(self, of)
        if not others:
            others.append(None)
            others[0] = evaluate("--shard", "1/2")
        return are_there

    monkeypatch.setattr(Shards, "make", made)
    done = evaluate("--shard", "2/2")
    assert (done.code, done.out) == (0, "")
    assert "has the result; the figures are in " in done.err
    assert others[0].out.startswith("FID ")
    assert left(sets) == ["result.json"]


def test_what_killed_processes_left_is_removed(sets):
    assert evaluate("--shard", "1/2").code == 0
    (folder,) = (sets / "cache" / "fid").iterdir()
    for name in ("3-of-4.json", ".ddimx-3-of-4.lock", ".samples-00005-of-00005.npz.abcd1234.part"):
        (folder / name).write_text("{}")
    assert evaluate("--shard", "2/2").code == 0
    assert left(sets) == ["result.json"]


def test_while_one_puts_the_result_together_another_one_ends(sets, monkeypatch):
    assert evaluate("--shard", "1/2").code == 0
    others, real = [], compare.compare

    def compared(*args):
        others.append(evaluate("--shard", "1/2"))
        return real(*args)

    monkeypatch.setattr(compare, "compare", compared)
    done = evaluate("--shard", "2/2")
    assert done.out.startswith("FID ")
    (other,) = others
    assert (other.code, other.out) == (0, "")
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert f"shard 1/2: nothing to do; {who}" in other.err
    assert "puts the result together" in other.err


@pytest.mark.parametrize("launcher", [{}, {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}])
def test_a_result_that_was_interrupted_is_put_together_again(sets, networks, monkeypatch, launcher):
    """By any process of the launch, also where the launcher is the same one that began it."""
    monkeypatch.setattr(result, "launcher_of", lambda _: " ".join(launcher) or None)
    alone = evaluate("-q").out
    assert evaluate("--shard", "1/2").code == 0
    real = compare.compare

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "compare", interrupted)
    assert evaluate("--shard", "2/2").code == 130
    monkeypatch.setattr(compare, "compare", real)
    networks.clear()
    done = evaluate("--shard", "1/2", "-q")
    assert (done.out, seen(networks)) == (alone, [0])
    assert left(sets) == ["result.json"]


def test_statistics_of_the_reference_are_read_by_the_first_and_by_whoever_needs_them(
    sets, monkeypatch
):
    done = [
        invoke("evaluate", "fid", "--reference", "reference.npy", "--save-stats", "s.npz",
               "--device", "cpu", "--shard", f"{k}/2")
        for k in (1, 2)
    ]  # fmt: skip
    assert [(one.code, one.out) for one in done] == [(0, ""), (0, "")]
    saved = read_statistics(sets / "s.npz")
    assert (saved.count, saved.about["parts"]) == (12, 3)
    reads = []
    real = compare.read_statistics
    monkeypatch.setattr(compare, "read_statistics", lambda path: reads.append(path) or real(path))
    alone = evaluate("-q", reference="s.npz").out
    reads.clear()
    counts, printed = [], []
    for k in (2, 3, 1):
        printed.append(evaluate("--shard", f"{k}/3", "-q", reference="s.npz").out)
        counts.append(len(reads))
    assert counts == [0, 0, 1]
    assert printed == ["", "", alone]


def test_a_file_that_is_there_is_refused_before_anything_is_computed(sets, networks):
    (sets / "fid.json").write_text("mine")
    done = evaluate("--shard", "1/2", "--out", "fid.json")
    assert (done.code, done.out, networks) == (2, "", [])
    assert (sets / "fid.json").read_text() == "mine"
    for k in (1, 2):
        done = evaluate("--shard", f"{k}/2", "--out", "fid.json", "--overwrite")
        assert done.code == 0
    assert json.loads((sets / "fid.json").read_text())["samples"]["count"] == 23


def test_another_command_has_parts_of_its_own(sets, networks):
    assert evaluate("--shard", "1/2").code == 0
    networks.clear()
    done = evaluate("-q", reference="samples.npy")
    assert done.out.startswith("FID 0.0000")
    assert seen(networks) == [46]
    assert left(sets) == [f"samples-0000{k}-of-00005.npz" for k in range(1, 5)]


@pytest.mark.parametrize("shard", ["0/2", "3/2", "a", "1/0"])
def test_shards_that_there_are_not(sets, networks, shard):
    done = evaluate("--shard", shard)
    assert (done.code, done.out, networks) == (2, "", [])
    assert f"--shard {shard}: " in done.err


def test_a_cache_that_cannot_be_written(sets, networks):
    """Alone it is a note; of several processes all would wait for each other's parts in vain."""
    (sets / "cache").write_text("a file")
    alone = evaluate()
    assert alone.code == 0
    assert re.search("note: .*cache.*; if this is interrupted, it begins again", alone.err)
    done = evaluate("--shard", "1/2")
    assert (done.code, done.out) == (1, "")
    assert "DDIMX_CACHE names another folder, the same for all processes" in done.err


def test_old_parts_are_removed(sets, monkeypatch):
    assert evaluate("--shard", "1/2").code == 0
    (folder,) = (sets / "cache" / "fid").iterdir()
    mine = sets / "cache" / "fid" / "mine"
    mine.mkdir()
    for days, is_there in ((shards.DAYS - 1, True), (shards.DAYS + 1, False)):
        before = time.time() - days * 86400
        for path in (mine, *folder.iterdir(), folder):
            os.utime(path, (before, before))
        assert evaluate(reference="samples.npy").code == 0
        assert folder.exists() == is_there
    assert mine.exists()


def test_options_of_the_shard_are_not_repeated(tmp_path):
    for words in (["--shard", "1/2", "-q"], ["--shard=1/2", "-q"]):
        made = Shards({}, Launch(0, 2), 0.0, ["ddimx", *words], Progress(quiet=True))
        assert made._command == ["ddimx", "-q"]
