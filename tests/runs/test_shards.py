"""Runs that many processes fill: who owns what, and what the folder says of it."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError, UsageError
from ddimx.files import write_bytes
from ddimx.progress import Progress
from ddimx.runs import shard_filling
from ddimx.runs.record import NAME, read_record
from ddimx.runs.run import RunSpec, begin
from ddimx.runs.shard_filling import ShardFilling, begin_shard
from ddimx.runs.shards import SHARDS, Listing, Shard, read_shard, remove_shards
from ddimx.signals import Stop
from tests.conftest import examples

COUNT = 23


class Files:
    """A sink of one small file for each sample, which knows how often each was written."""

    one_file = False

    def __init__(self, folder: Path, unit: int = 1) -> None:
        self.folder, self.unit, self.looked = folder, unit, 0

    def done(self):
        self.looked += 1
        return {int(p.stem) for p in self.folder.glob("[0-9]*.txt")}

    def write(self, index):
        path = self.folder / f"{index}.txt"
        before = path.read_bytes() if path.exists() else b""
        write_bytes(path, before + b"x")

    def finish(self, indices, *, whole=False):
        return [f"{i}.txt" for i in indices]

    def tidy(self):
        pass


class Killed(BaseException):
    """What ends a process here: nothing catches it, and nothing is done afterwards."""


def spec_of(folder, count=COUNT, overwrite=False, identity=None, version="1"):
    return RunSpec(
        verb="sample",
        label="x",
        out=folder,
        overwrite=overwrite,
        identity=identity or {"seed": 0},
        count=count,
        read=lambda place: read_record(place, "run", 2),
        translate=lambda record: record["identity"],
        clear=lambda place, _: remove_shards(place),
        versions={"ddimx": version},
    )


def launch(folder, shard, *, dies_after=None, unit=1, gather=False, stop=None, **changes):
    """Do what one process of a run does, or what it does until it is killed."""
    spec = spec_of(folder, **changes)
    shard = Shard.parsed(shard) if isinstance(shard, str) else shard
    with begin_shard(spec, shard, gather=gather) as (place, before):
        sink = Files(place, unit)
        record = {
            "status": "running",
            "count": spec.count,
            "identity": spec.identity,
            "batch_size": 2,
            "network_calls": 0,
            "versions": dict(spec.versions),
        }
        filling = ShardFilling(
            place, before, record, sink, range(spec.count), shard=shard, spec=spec, gather=gather
        )
        made = []

        def draw(batch):
            for index in batch:
                if dies_after is not None and len(made) == dies_after:
                    raise Killed
                sink.write(index)
                made.append(index)
            record["network_calls"] += 1

        def finish():
            write_bytes(place / "sheet.txt", b"sheet")
            return {"files": ["sheet.txt"]}

        with filling.held():
            result = filling.fill(
                draw, finish, stop or Stop(), Progress(quiet=True), title="making", rows=1
            )
    return result, made


def dies(folder, shard, after, **changes):
    with pytest.raises(Killed):
        launch(folder, shard, dies_after=after, **changes)


def manifest(folder):
    return json.loads((folder / NAME).read_text())


def contents(folder):
    return {int(p.stem): p.read_text() for p in folder.glob("[0-9]*.txt")}


@given(st.integers(0, 2000), st.integers(1, 300), st.integers(1, 50), st.integers(0, 1000))
def test_the_shards_of_one_number_own_every_sample_once(count, of, unit, first):
    indices = range(first, first + count)
    blocks = [Shard(of, k).owns(indices, unit) for k in range(1, of + 1)]
    assert [i for block in blocks for i in block] == list(indices)
    assert all((block.start - first) % unit == 0 for block in blocks if len(block))
    sizes = [-(-len(block) // unit) for block in blocks]
    assert max(sizes) - min(sizes) <= 1


def test_names_sort_as_numbers_do():
    assert Shard.parsed("17/64").name == "00017-of-00064"
    assert str(Shard(64, 17)) == "17/64"
    with pytest.raises(UsageError, match="0/4"):
        Shard.parsed("0/4")


def test_every_shard_makes_its_part_and_the_last_one_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    first, made = launch(folder, "2/3")
    assert (first["status"], first["made"], first["done"]) == ("partial", 8, 8)
    assert made == [*range(7, 15)]
    assert manifest(folder)["status"] == "running"
    assert not (folder / "sheet.txt").exists()
    assert launch(folder, "1/3")[0]["status"] == "partial"
    last, made = launch(folder, "3/3")
    assert (last["status"], made) == ("complete", [*range(15, 23)])
    assert contents(folder) == dict.fromkeys(range(COUNT), "x")
    assert sorted(p.name for p in folder.iterdir() if not p.name[0].isdigit()) == [
        *(NAME, "shards", "sheet.txt")
    ]
    assert sorted(p.name for p in (folder / SHARDS).iterdir()) == [
        f"0000{k}-of-00003.json" for k in (1, 2, 3)
    ]
    whole = manifest(folder)
    assert (whole["shards"], whole["network_calls"]) == (3, 4 + 4 + 4)
    assert whole["files"] == [*(f"{i}.txt" for i in range(COUNT)), "sheet.txt"]
    # Whoever comes now has nothing to do, and says so.
    assert launch(folder, "2/3") == (whole, [])
    assert launch(folder, "1/7") == (whole, [])


def test_a_record_says_what_the_shard_has_made(tmp_path):
    launch(tmp_path / "run", "2/3")
    record = read_shard(tmp_path / "run", Shard(3, 2), range(COUNT))
    assert record["made"] == [range(7, 15)]
    assert (record["shard"], record["of"], record["network_calls"]) == (2, 3, 4)


def test_a_killed_shard_makes_only_what_is_missing(tmp_path):
    folder = tmp_path / "run"
    dies(folder, "2/3", 5)
    assert launch(folder, "2/3")[1] == [12, 13, 14]
    assert contents(folder) == dict.fromkeys(range(7, 15), "x")


def test_nobody_looks_for_files_where_none_can_be(tmp_path):
    """A look at a folder of a million files is for shards that were begun before."""
    folder = tmp_path / "run"
    sinks = []
    original = Files.done

    def counted(self):
        sinks.append(self.looked)
        return original(self)

    Files.done = counted
    try:
        launch(folder, "1/3")
        dies(folder, "2/3", 2)
        assert sinks == []
        launch(folder, "3/3")
        assert sinks == []
        launch(folder, "2/3")
        assert len(sinks) == 2  # for what was left, and to gather
    finally:
        Files.done = original


def test_a_run_begun_with_many_shards_is_finished_with_few(tmp_path):
    folder = tmp_path / "run"
    for k in (1, 4, 5, 8):
        launch(folder, f"{k}/8")
    dies(folder, "7/8", 1)
    made = [launch(folder, f"{k}/3")[1] for k in (1, 2, 3)]
    assert contents(folder) == dict.fromkeys(range(COUNT), "x")
    assert sum(map(len, made)) == COUNT - 2 - 3 - 3 - 3 - 1
    assert manifest(folder)["status"] == "complete"
    assert not [p for p in (folder / SHARDS).iterdir() if p.suffix != ".json"]


@examples(15)
@given(st.data())
def test_nothing_is_lost_or_made_twice_whatever_is_started_and_killed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any") / "run"
    unit = data.draw(st.integers(1, 4))
    for _ in range(data.draw(st.integers(0, 6))):
        of = data.draw(st.integers(1, 9))
        shard = Shard(of, data.draw(st.integers(1, of)))
        after = data.draw(st.none() | st.integers(0, 8))
        with suppress(Killed):
            launch(folder, shard, dies_after=after, unit=unit)
    of = data.draw(st.integers(1, 9))
    for k in data.draw(st.permutations(range(1, of + 1))):
        launch(folder, Shard(of, k), unit=unit)
    assert contents(folder) == dict.fromkeys(range(COUNT), "x")
    assert manifest(folder)["status"] == "complete"


def test_more_shards_than_samples(tmp_path):
    folder = tmp_path / "run"
    for k in range(1, 6):
        result, _ = launch(folder, f"{k}/5", count=2)
    assert result["status"] == "complete"
    assert contents(folder) == {0: "x", 1: "x"}


def test_gathering_says_what_is_missing_and_who_is_at_it(tmp_path):
    folder = tmp_path / "run"
    launch(folder, "2/3")
    with pytest.raises(DdimxError) as error:
        launch(folder, "1/1", gather=True)
    for text in ("15 of 23 samples are missing", "0 to 6, 15 to 22", "--shard 1/3, 3/3"):
        assert text in str(error.value)
    with living(folder, "3/3"):
        with pytest.raises(DdimxError) as error:
            launch(folder, "1/1", gather=True)
        assert f"shard 3/3 is being made by process {os.getpid()} on" in str(error.value)
        assert "--shard 1/3;" in str(error.value)


def test_a_whole_run_whose_end_was_not_reached_is_gathered(tmp_path):
    folder = tmp_path / "run"
    launch(folder, "1/2")
    launch(folder, "2/2")
    told = manifest(folder)
    (folder / "sheet.txt").unlink()
    (folder / NAME).write_text(json.dumps(told | {"status": "running"}))
    assert launch(folder, "1/1", gather=True)[0]["status"] == "complete"
    assert (folder / "sheet.txt").exists()


def test_files_that_were_made_and_are_gone_are_told_with_their_shards(tmp_path):
    folder = tmp_path / "run"
    launch(folder, "1/3")
    (folder / "3.txt").unlink()
    launch(folder, "2/3")
    with pytest.raises(DdimxError, match=r"1 samples .* is 3; remove shards/00001-of-00003.json,"):
        launch(folder, "3/3")
    (folder / SHARDS / "00001-of-00003.json").unlink()
    assert launch(folder, "1/3")[1] == [*range(7)]  # it was finished, so all of it is made again
    assert manifest(folder)["status"] == "complete"


def test_two_processes_with_the_same_shard(tmp_path):
    folder = tmp_path / "run"
    with living(folder, "2/3"):
        before = contents(folder)
        with pytest.raises(UsageError, match=r"shard 2/3 is being made by process \d+ on .+ since"):
            launch(folder, "2/3")
        assert contents(folder) == before
        assert launch(folder, "1/3")[1] == [*range(7)]  # the others go on
    # The process is dead, and its lock with it.
    assert launch(folder, "2/3")[1] == [*range(7, 15)]


def test_living_shards_that_overlap_are_refused(tmp_path):
    folder = tmp_path / "run"
    with living(folder, "2/3"):
        with pytest.raises(UsageError, match=r"shard 1/2 overlaps with 2/3, which"):
            launch(folder, "1/2")
        assert launch(folder, "1/4")[1] == [*range(5)]  # this one does not
    assert launch(folder, "1/2")[1] == [*range(5, 11)]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"identity": {"seed": 1}}, "seed: 0 -> 1"),
        ({"count": 24}, "a run of 23 samples in shards, and 24 were asked for"),
        ({"count": 22}, "22 were asked for"),
        ({"version": "2"}, "was begun with ddimx 1, and this is 2"),
    ],
)
def test_another_configuration_or_version_is_refused_and_nothing_is_lost(tmp_path, changes, named):
    folder = tmp_path / "run"
    launch(folder, "1/3")
    before = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match=named.replace("(", r"\(")):
        launch(folder, "2/3", **changes)
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_finished_shard_makes_what_it_left_to_a_record_that_is_gone(tmp_path):
    folder = tmp_path / "run"
    launch(folder, "1/2")  # 0 to 10
    launch(folder, "2/3")  # of 7 to 14 only 11 to 14
    (folder / SHARDS / "00001-of-00002.json").unlink()
    for i in range(7, 11):
        (folder / f"{i}.txt").unlink()
    launch(folder, "1/3")
    with pytest.raises(DdimxError, match=r"4 of 23 samples are missing\n.*\n.*--shard 2/3;"):
        launch(folder, "3/3")
    assert launch(folder, "2/3")[1] == [*range(7, 11)]
    assert read_shard(folder, Shard(3, 2), range(COUNT))["made"] == [range(11, 15), range(7, 11)]
    assert manifest(folder)["status"] == "complete"


def test_who_comes_second_at_the_same_moment_is_refused_too(tmp_path, monkeypatch):
    """Between a shard's look for a manifest and its own, another process makes one."""
    folder = tmp_path / "run"
    launch(folder, "1/3")
    manifest_then = (folder / NAME).read_bytes()
    (folder / NAME).unlink()
    real = shard_filling.create_record

    def late(place, record):
        write_bytes(place / NAME, manifest_then)
        return real(place, record)

    monkeypatch.setattr(shard_filling, "create_record", late)
    with pytest.raises(UsageError, match="seed: 0 -> 1"):
        launch(folder, "2/3", identity={"seed": 1})
    assert (folder / NAME).read_bytes() == manifest_then


def test_the_folder_is_made_between_a_shards_look_and_its_lock(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    real = shard_filling.lock_folder

    @contextmanager
    def late(place, key=""):
        with real(place, key):
            if not (place / SHARDS).exists():
                (place / SHARDS).mkdir()
            yield

    monkeypatch.setattr(shard_filling, "lock_folder", late)
    assert launch(folder, "1/2")[1] == [*range(11)]


def test_shards_that_start_at_the_same_moment(tmp_path):
    """Whoever finds the folder locked waits, and takes nobody's beginning for something else."""
    folder = tmp_path / "run"
    with ThreadPoolExecutor(16) as pool:
        results = [*pool.map(lambda k: launch(folder, Shard(16, k)), range(1, 17))]
    assert sorted(i for _, made in results for i in made) == [*range(COUNT)]
    assert manifest(folder)["status"] == "complete"


def test_a_file_system_without_exclusive_create(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(DdimxError, match="cannot create a file exclusively") as error:
        launch(tmp_path / "run", "1/2")
    assert "one process" in str(error.value)
    assert not (tmp_path / "run" / NAME).exists()
    assert contents(tmp_path / "run") == {}


def test_one_process_and_shards_exclude_each_other_while_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr("ddimx.runs.shards.WAIT", 0.2)
    folder = tmp_path / "run"
    with begin(spec_of(folder)):
        (folder / "x").touch()
        with pytest.raises(UsageError, match="another process is writing"):
            launch(folder, "1/2")
    assert not (folder / SHARDS).exists()


def test_one_process_that_comes_a_moment_late_is_refused(tmp_path):
    """Its look found no shards; by the time of its lock there are some."""
    launch(tmp_path / "run", "1/3")
    with pytest.raises(UsageError, match="was begun in shards"), begin(spec_of(tmp_path / "run")):
        pass


def complete_by_one_process(folder):
    launch(folder, "1/1")
    told = manifest(folder)
    del told["sharded"], told["shards"]
    remove_shards(folder)
    (folder / NAME).write_text(json.dumps(told))
    return told


@pytest.mark.parametrize("gather", [True, False])
def test_a_run_that_is_complete_stays_as_it_is(tmp_path, gather):
    """Of one process, and of shards whose records were removed, as docs/scale.md allows it."""
    told = complete_by_one_process(tmp_path / "alone")
    launch(tmp_path / "many", "1/1")
    remove_shards(tmp_path / "many")
    for name in ("alone", "many"):
        before = contents(tmp_path / name)
        result, made = launch(tmp_path / name, "1/1" if gather else "1/2", gather=gather)
        assert (result["status"], made) == ("complete", [])
        assert contents(tmp_path / name) == before
        assert not (tmp_path / name / SHARDS).exists()
    assert manifest(tmp_path / "alone") == told


def test_a_file_that_a_complete_run_has_lost_is_made_again(tmp_path):
    folder = tmp_path / "run"
    complete_by_one_process(folder)
    for index in (9, 10, 20):
        (folder / f"{index}.txt").unlink()
    with pytest.raises(DdimxError, match=r"3 of 23 samples are missing\n  samples 9 to 10, 20 to"):
        launch(folder, "1/1", gather=True)
    assert not (folder / SHARDS).exists()
    assert launch(folder, "1/1")[1] == [9, 10, 20]
    assert manifest(folder)["status"] == "complete"


def test_a_refused_command_leaves_the_folder_as_it_is(tmp_path):
    folder = tmp_path / "run"
    told = complete_by_one_process(folder)
    (folder / NAME).write_text(json.dumps(told | {"status": "interrupted"}))
    for changes in ({"count": 24}, {"version": "2"}, {"identity": {"seed": 1}}):
        with pytest.raises(UsageError):
            launch(folder, "1/2", **changes)
    assert not (folder / SHARDS).exists()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_keeps_nobody_from_going_on(tmp_path, monkeypatch, number):
    folder = tmp_path / "run"
    dies(folder, "2/3", 5)
    lock = folder / SHARDS / ".00002-of-00003.lock"
    lock.touch()  # as a killed process leaves it

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert launch(folder, "2/3")[1] == [12, 13, 14]
    assert launch(folder, "1/2")[1] == [*range(7)]
    assert launch(folder, "2/2")[1] == [*range(15, 23)]
    assert contents(folder) == dict.fromkeys(range(COUNT), "x")


def test_what_one_process_has_made_is_not_made_again(tmp_path):
    folder = tmp_path / "run"
    launch(folder, "1/1")
    told = manifest(folder)
    del told["sharded"]  # as a run of its own leaves it that was interrupted
    remove_shards(folder)
    (folder / NAME).write_text(json.dumps(told | {"status": "interrupted"}))
    (folder / "9.txt").unlink()
    assert launch(folder, "1/2")[1] == [9]
    assert launch(folder, "2/2")[1] == []
    assert contents(folder) == dict.fromkeys(range(COUNT), "x")


def test_a_shard_that_is_interrupted_goes_on(tmp_path):
    folder, stop = tmp_path / "run", Stop()
    stop.signal = 15
    result, made = launch(folder, "1/2", stop=stop)
    assert (result["status"], made) == ("interrupted", [])
    assert not Listing.of(folder).records
    assert launch(folder, "1/2")[1] == [*range(11)]


def test_what_needs_one_process(tmp_path):
    with pytest.raises(UsageError, match="--out"):
        launch(None, "1/2")
    with pytest.raises(UsageError, match="--overwrite"):
        launch(tmp_path / "run", "1/2", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        launch(tmp_path / "file", "1/2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds no run"):
        launch(tmp_path / "full", "1/2")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["notes.txt"]


def test_shards_that_lead_elsewhere_are_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / SHARDS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DdimxError, match="symbolic link"):
        launch(tmp_path / "run", "1/2")
    assert not [*(tmp_path / "elsewhere").iterdir()]


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"schema": 1, "shard": 1, "of": 3, "made": [[0, 99]]}', "[1]", '{"made": [["a"]]}'],
)
def test_a_damaged_record_is_named(tmp_path, text):
    folder = tmp_path / "run"
    launch(folder, "1/3")
    launch(folder, "2/3")
    (folder / SHARDS / "00001-of-00003.json").write_text(text)
    with pytest.raises(DdimxError, match=r"00001-of-00003\.json: not the record of a shard"):
        launch(folder, "3/3")
    (folder / SHARDS / "00001-of-00003.json").unlink()
    launch(folder, "1/3")
    assert manifest(folder)["status"] == "complete"


def test_overwriting_waits_for_living_shards_and_removes_the_dead(tmp_path):
    folder = tmp_path / "run"
    dies(folder, "1/3", 2)
    with living(folder, "2/3"), pytest.raises(UsageError, match="2/3 is being made by"):
        remove_shards(folder)
    remove_shards(folder)
    assert not (folder / SHARDS).exists()


@contextmanager
def living(folder, shard):
    """A shard that is being made meanwhile; its lock is the system's, also within one process."""
    shard, spec = Shard.parsed(shard), spec_of(folder)
    with begin_shard(spec, shard) as (place, before):
        record = {"status": "running", "count": COUNT, "identity": spec.identity}
        record |= {"versions": dict(spec.versions)}
        filling = ShardFilling(
            place, before, record, Files(place), range(COUNT), shard=shard, spec=spec
        )
        with filling.held():
            yield
