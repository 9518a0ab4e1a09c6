"""One living writer for a folder or a file; a dead one locks nothing."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.runs.lock import is_lock, lock_file, lock_folder, lock_name
from tests.conftest import cli_environment

HOLDER = """
import sys
from pathlib import Path
from ddimx.runs.lock import lock_file, lock_folder
with {take}:
    print("held", flush=True)
    sys.stdin.readline()
"""


def holder(folder: Path, take: str) -> subprocess.Popen[str]:
    """Start a process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(take=take)],
        cwd=folder,
        env=cli_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("take", "other", "left"),
    [
        ('lock_folder(Path("a"))', lambda: lock_folder(Path("a")), "a/.ddimx.lock"),
        ('lock_file(Path("a.bin"))', lambda: lock_file(Path("a.bin")), ".a.bin.lock"),
        (
            'lock_folder(Path("a"), "shard-2")',
            lambda: lock_folder(Path("a"), "shard-2"),
            "a/.ddimx-shard-2.lock",
        ),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_the_second_writer_is_refused_until_the_first_is_gone(
    tmp_path, monkeypatch, take, other, left, killed
):
    monkeypatch.chdir(tmp_path)
    process = holder(tmp_path, take)
    try:
        with pytest.raises(UsageError, match="another process is writing a"), other():
            raise AssertionError("both hold the lock")
        if killed:
            process.send_signal(signal.SIGKILL)
    finally:
        process.communicate("go\n", timeout=60)
    assert Path(left).exists() == killed  # left behind, it locks nothing
    with other():
        assert Path(left).exists()
    assert not Path(left).exists()


def test_parts_of_a_folder_have_writers_of_their_own(tmp_path):
    with ExitStack() as stack:
        for key in ("", "shard-0", "shard-1"):
            stack.enter_context(lock_folder(tmp_path, key))
            assert is_lock(lock_name(key))
        assert names(tmp_path) == sorted(lock_name(k) for k in ("", "shard-0", "shard-1"))
    assert names(tmp_path) == []


def test_a_folder_is_made_and_goes_again_if_it_stays_empty(tmp_path):
    with lock_folder(tmp_path / "deep" / "new"):
        assert names(tmp_path / "deep" / "new") == [".ddimx.lock"]
    assert not (tmp_path / "deep" / "new").exists()
    with lock_folder(tmp_path / "new"):
        (tmp_path / "new" / "a").write_text("")
    assert names(tmp_path / "new") == ["a"]
    (tmp_path / "old").mkdir()
    with lock_folder(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()  # it was there before


def test_an_error_ends_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), lock_folder(tmp_path):
        raise ZeroDivisionError
    with lock_folder(tmp_path):
        pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DdimxError, match="cannot create"), lock_folder(tmp_path / "file" / "run"):
        pass
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(DdimxError, match="cannot write to"), lock_folder(tmp_path):
            pass
        tmp_path.chmod(0o700)


def test_a_lock_file_that_its_owner_removed_meanwhile_is_made_again(tmp_path, monkeypatch):
    """Whoever opened it before and locks it afterwards holds a file that nobody else sees."""
    opened = os.open
    removed = []

    def racing(path, *args, **kwargs):
        handle = opened(path, *args, **kwargs)
        if not removed and str(path).endswith(".ddimx.lock"):
            removed.append(path)
            os.unlink(path)
        return handle

    monkeypatch.setattr(os, "open", racing)
    with lock_folder(tmp_path):
        assert removed
        assert names(tmp_path) == [".ddimx.lock"]
