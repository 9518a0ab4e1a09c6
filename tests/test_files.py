"""Files are whole or absent, also when the writer fails, is killed or is overtaken."""

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from ddimx import files
from ddimx.files import (
    append_line,
    final_path,
    folders_synced_once,
    is_unfinished,
    sha256_file,
    sweep,
    visible_files,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
)
from ddimx.runs.lock import lock_file
from tests.conftest import cli_environment


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_visible_files_are_listed_by_path_whatever_the_case_of_their_suffix(tmp_path):
    for name in ("b.NPZ", "a/c.npy", ".hidden.npz", ".cache/d.npz", "a/.x/e.npz", "f.txt", "g"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.npz").mkdir()
    listed = visible_files(tmp_path, (".npz", ".npy"))
    assert [p.relative_to(tmp_path).as_posix() for p in listed] == ["a/c.npy", "b.NPZ"]
    assert visible_files(tmp_path, (".npz", ".npy"), recursive=False) == [tmp_path / "b.NPZ"]
    # The folder's own path may hold what is hidden, as a cache's does.
    assert visible_files(tmp_path / "a" / ".x", [".npz"]) == [tmp_path / "a" / ".x" / "e.npz"]


def test_names_that_are_no_utf8_are_written_and_read(tmp_path):
    name = "\udcb5\udcff.png"
    write_json(tmp_path / "a.json", {"name": name, "é": "☃"})
    append_line(tmp_path / "a.jsonl", json.dumps(name, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"name": name, "é": "☃"}
    assert json.loads((tmp_path / "a.jsonl").read_bytes()) == name
    assert "☃".encode() in (tmp_path / "a.json").read_bytes()


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "a.bin"
    with whole_file(path) as part:
        part.write_bytes(b"half")
        assert part.parent == path.parent  # one file system, so that the rename is atomic
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_leaves_no_trace(tmp_path, error, old):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)

    def fail():
        with whole_file(path) as part:
            part.write_bytes(b"ha")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ([] if old is None else ["a.bin"])
    assert old is None or path.read_bytes() == old


KILLED = """
import os, sys
from contextlib import suppress
from pathlib import Path
from ddimx.files import whole_file
with whole_file(Path(sys.argv[1])) as part:
    part.write_bytes(b"ha")
    os._exit(9)
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_killed_writer_leaves_no_half_file(tmp_path, old):
    path = tmp_path / "a.bin"
    if old is not None:
        path.write_bytes(old)
    command = [sys.executable, "-c", KILLED, path]
    done = subprocess.run(command, env=cli_environment(), check=False)
    assert done.returncode == 9
    assert path.exists() == (old is not None)
    assert old is None or path.read_bytes() == old
    # What is left bears a name that no reader looks for and git ignores; the next write works.
    left = set(names(tmp_path)) - {"a.bin"}
    assert all(n.startswith(".a.bin.") and n.endswith(".part") for n in left)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_overwriting_replaces_the_file_and_does_not_write_into_it(tmp_path):
    path, link = tmp_path / "a.bin", tmp_path / "link.bin"
    write_bytes(path, b"old")
    os.link(path, link)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert link.read_bytes() == b"old"


def test_two_writers_at_once_do_not_mix(tmp_path):
    path = tmp_path / "a.bin"
    with whole_file(path) as first, whole_file(path) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert path.read_bytes() == b"first"  # the outer one ended last
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a.bin", b"x")
        (tmp_path / "ordinary").touch()
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    modes = {stat.S_IMODE((tmp_path / n).stat().st_mode) for n in ("a.bin", "ordinary")}
    assert modes == {0o666 & ~mask}


def test_the_part_is_synced_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    path, events = tmp_path / "a.bin", []
    monkeypatch.setattr(os, "fsync", lambda _: events.append(path.exists()))
    write_bytes(path, b"x")
    assert events == [False, True]


def test_of_many_files_each_is_synced_and_their_folder_once_at_the_end(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    events = []

    def sync(path):
        events.append((path == tmp_path, [other.name for other in paths if other.exists()]))

    monkeypatch.setattr(files, "sync", sync)
    with suppress(KeyError), folders_synced_once():
        for path in paths[:2]:
            write_bytes(path, b"1")
        raise KeyError  # what is there is synced whatever happens
    write_bytes(paths[2], b"1")
    one, two, every = ["a"], ["a", "b"], ["a", "b", "c"]
    assert events == [(False, []), (False, one), (True, two), (False, two), (True, every)]


def test_json(tmp_path):
    path = tmp_path / "a.json"
    value = {"name": "Ä", "list": [1, 2.5, None]}
    write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert "Ä" in path.read_text(encoding="utf-8")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"x": bad})
    assert json.loads(path.read_text(encoding="utf-8")) == value
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**20 + 1])
def test_sha256(tmp_path, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "a.bin").write_bytes(data)
    assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(data).hexdigest()


def test_a_folder_is_whole_or_absent(tmp_path):
    target = tmp_path / "folder"
    with pytest.raises(FileNotFoundError), whole_folder(target) as part:
        (part / "absent" / "a").write_text("half")
    assert list(tmp_path.iterdir()) == []
    with whole_folder(target) as part:
        (part / "inner").mkdir()
        (part / "inner" / "a").write_text("new")
        assert not target.exists()
    assert (target / "inner" / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_is_replaced_stays_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError, match="on the way"), whole_folder(target):
        raise RuntimeError("on the way")
    assert (target / "old").read_text() == "old"
    with whole_folder(target) as part:
        (part / "new").write_text("new")
        assert (target / "old").exists()
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_take_its_place_gives_it_back(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("old")
    replace = Path.replace

    def refuse(self, other):
        if self.suffix == ".tree":
            raise OSError("no")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no"), whole_folder(target) as part:
        (part / "new").write_text("new")
    assert (target / "old").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


# --- what a killed process leaves, and what a living one is writing -------------------------------

FOLDER_KILLED = """
import os, sys
from contextlib import suppress
from pathlib import Path
from ddimx.files import whole_folder
replace = Path.replace
def killed(self, other):
    if self.suffix == sys.argv[2]:
        os._exit(9)
    return replace(self, other)
Path.replace = killed
with whole_folder(Path(sys.argv[1])) as tree:
    (tree / "inner").mkdir()
    (tree / "inner" / "a").write_text("new")
    if sys.argv[2] == "writing":
        os._exit(9)
"""


def killed(code, *args):
    done = subprocess.run([sys.executable, "-c", code, *args], env=cli_environment(), check=False)
    assert done.returncode == 9


def test_what_a_killed_writer_left_is_swept(tmp_path):
    killed(KILLED, tmp_path / "a.bin")
    killed(KILLED, tmp_path / "b.bin")
    others = {".gitignore", ".a.bin.part", "a.bin.abcdefgh.part", ".tmpAbC123", "c.bin"}
    for name in others:
        (tmp_path / name).touch()
    left = set(names(tmp_path)) - others
    assert len(left) == 2
    sweep(tmp_path, "a.bin", "c.bin")
    assert {n.partition(".bin.")[0] for n in set(names(tmp_path)) - others} == {".b"}
    sweep(tmp_path)  # ours alone, where safetensors' own name is known too
    assert set(names(tmp_path)) == others - {".tmpAbC123"}
    sweep(tmp_path / "absent")
    sweep(tmp_path / "c.bin")


@pytest.mark.parametrize("moment", ["writing", ".tree"])
@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_writer_of_a_folder_left_is_swept(tmp_path, moment, there):
    target = tmp_path / "folder"
    if there:
        target.mkdir()
        (target / "old").touch()
    killed(FOLDER_KILLED, target, moment)
    assert len(names(tmp_path)) > there
    sweep(tmp_path, "folder")
    # Killed between the two renames, the folder that had been set aside is back.
    assert names(tmp_path) == (["folder"] if there else [])
    assert not there or names(target) == ["old"]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there anyway")
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_a_living_writer_is_left_alone(tmp_path, whole):
    code = "import sys; from pathlib import Path; from ddimx.files import sweep; sweep(Path('.'))"
    with whole(tmp_path / "a") as part:
        here = part if whole is whole_file else part / "inner"
        here.write_bytes(b"half")
        sweep(tmp_path)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=cli_environment(), check=True
        )
        assert done.returncode == 0
        assert here.read_bytes() == b"half"
    assert names(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there anyway")
def test_lock_files_go_unless_they_are_held(tmp_path):
    (tmp_path / ".b.lock").touch()
    with lock_file(tmp_path / "a"):
        sweep(tmp_path, "a", "b")
        assert names(tmp_path) == [".a.lock"]
    assert names(tmp_path) == []


def test_the_folders_of_version_0_1_are_swept(tmp_path):
    (tmp_path / ".a.0123abc_.part" / "inner").mkdir(parents=True)
    (tmp_path / ".a.0123abc_.old").mkdir()
    (tmp_path / ".b.bin.0123abc_.part").touch()
    sweep(tmp_path, "a", "b.bin")
    assert names(tmp_path) == ["a"]


def test_a_temporary_file_that_cannot_be_removed_is_no_failure(tmp_path, monkeypatch):
    unlink = Path.unlink

    def refuse(self, missing_ok=False):
        if self.suffix == ".part":
            raise OSError("no")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    write_bytes(tmp_path / "a.bin", b"x")
    assert (tmp_path / "a.bin").read_bytes() == b"x"


def test_what_is_unfinished_is_told_by_its_name(tmp_path):
    seen = []
    with whole_file(tmp_path / "a.b"):
        seen += names(tmp_path)
    with whole_folder(tmp_path / "folder"):
        seen += [name for name in names(tmp_path) if name != "a.b"]
    assert len(seen) == 3
    assert all(map(is_unfinished, [*seen, ".a.abcdefgh.old", ".tmpAb3xYz"]))
    others = ("a.b", ".a.b", "a.abcdefgh.part", ".abcdefgh.part", ".a.ABCDEFGH.part", ".tmpfile")
    assert not any(map(is_unfinished, (*others, "manifest.json", ".a.abcdefg.part")))


# --- lines, and names that a user can read --------------------------------------------------------


def test_a_line_that_does_not_fit_is_not_there(tmp_path, monkeypatch):
    path = tmp_path / "log"
    append_line(path, "one")
    append_line(path, "zwei")
    assert path.read_text() == "one\nzwei\n"

    class Full(io.FileIO):
        def write(self, data):
            return super().write(data[:3])  # a disk that takes so much and no more

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode, buffering: Full(self, "ab"))
        with pytest.raises(OSError, match="No space left"):
            append_line(path, "three")
    assert path.read_text() == "one\nzwei\n"


def test_the_name_that_a_temporary_path_stands_for(tmp_path):
    with whole_file(tmp_path / "a.bin") as part:
        part.touch()
        assert final_path(part) == tmp_path / "a.bin"
    with whole_folder(tmp_path / "b") as part:
        assert final_path(part / "unet" / "w") == tmp_path / "b" / "unet" / "w"
    for other in ("a.bin", ".gitignore", ".a.part"):
        assert final_path(tmp_path / other) == tmp_path / other
