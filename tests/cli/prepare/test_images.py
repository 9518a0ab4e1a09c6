"""``ddimx prepare images``: files, messages, exit codes, and a process that is killed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from ddimx.data.recognize import recognize
from tests.conftest import cli_environment
from tests.data.images.official import celeba, encoded, lsun, smooth
from tests.sampling import invoke


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder, count=20):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:04d}.png").write_bytes(encoded(smooth(i, 12, 16)))


def test_the_file_and_the_next_command(here):
    pictures(here / "pictures")
    done = invoke("prepare", "images", "pictures", "p.npy", "--size", 8)
    assert done.code == 0
    assert "p.npy: 20 images" in done.err
    assert "next: ddimx train --data p.npy\n" in done.err
    assert np.load(here / "p.npy").shape == (20, 8, 8, 3)
    again = invoke("prepare", "images", "pictures", "p.npy", "--size", 8, "--json", "-q")
    assert again.code == 0
    summary = json.loads(again.out)
    assert (summary["images"], summary["found"], summary["bad"]) == (20, 20, [])


def test_classes_other_channels_and_sides(here):
    """A zip of a folder per class, gray, on black, upright."""
    import zipfile

    pixels = np.full((6, 8, 4), 255, dtype=np.uint8)
    pixels[:, :4, 3] = 0
    with zipfile.ZipFile("p.zip", "w") as archive:
        for i in range(30):
            archive.writestr(f"all/{'ba'[i % 2]}/{i:02d}.png", encoded(pixels))
        archive.writestr("__MACOSX/all/._00.png", b"")
    form = ("--size", "4x3", "--channels", 1, "--background", "black", "--json")
    done = invoke("prepare", "images", "p.zip", "p.npy", *form)
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (summary["size"], summary["channels"]) == ("4x3", 1)
    assert summary["classes"] == ["a", "b"]
    assert "sorted by name (those held out last)" in done.err
    assert "next: ddimx train --data p.npy\n" in done.err
    data = recognize("p.npy")
    assert (data.data["image_size"], data.channels, data.classes) == ([3, 4], 1, ("a", "b"))
    assert "p.zip: 1 hidden files: __MACOSX/all/._00.png\n" in done.err
    images = np.load(here / "p.npy")
    assert images.shape == (30, 3, 4, 1)
    assert (images[:, :, 0] == 0).all()
    assert (images[:, :, 3] == 255).all()
    index = json.loads((here / "p.npy.json").read_text())
    cut = index["held_out_from"]
    assert index["labels"] == [*sorted(index["labels"][:cut]), *sorted(index["labels"][cut:])]
    assert sorted(index["labels"]) == [0] * 15 + [1] * 15
    other = invoke("prepare", "images", "p.zip", "p.npy", "--size", "4x3", "--channels", 1)
    assert "made from something else" in other.err


def test_bad_files_are_listed_and_make_the_exit_code_1(here):
    pictures(here / "pictures")
    (here / "pictures" / "0007.png").write_bytes(b"broken")
    for _ in range(2):  # the second time the file is there, and still without the bad one
        done = invoke("prepare", "images", "pictures", "p.npy", "--size", 8)
        assert done.code == 1
        assert "1 images are left out:\n  pictures/0007.png: cannot be decoded (" in done.err
        assert len(np.load(here / "p.npy")) == 19
    quiet = invoke("prepare", "images", "pictures", "p.npy", "--size", 8, "-q")
    assert quiet.code == 1
    assert quiet.err.startswith("error: 1 images are left out:\n  pictures/0007.png: cannot be")
    (here / "pictures" / "0007.png").write_bytes(encoded(smooth(7, 12, 16)))
    assert invoke("prepare", "images", "pictures", "p.npy", "--size", 8, "--overwrite").code == 0
    assert len(np.load(here / "p.npy")) == 20


def test_long_lists_are_cut_on_the_screen_only(here):
    pictures(here / "pictures", 60)
    for i in range(0, 50, 2):
        (here / "pictures" / f"{i:04d}.png").write_bytes(b"broken")
    done = invoke("prepare", "images", "pictures", "p.npy", "--size", 8, "--json")
    assert done.code == 1
    assert done.err.count("cannot be decoded") == 20
    assert "and 5 more (--json lists all)" in done.err
    assert len(json.loads(done.out)["bad"]) == 25


def test_the_other_data_sets_keep_their_own_crops(here):
    celeba(here / "celeba")
    command = ("prepare", "images", "celeba", "c.npy", "--size", 128, "--dataset", "celeba")
    assert invoke(*command).code == 0
    packed = np.load(here / "c.npy")
    assert packed.shape == (4, 128, 128, 3)  # 2 for training, 2 of the test split
    for image, number in zip(packed, (0, 3, 2, 5), strict=True):
        crop = smooth(number, 218, 178)[57:185, 25:153]
        assert np.abs(image.astype(int) - crop).mean() < 3  # JPEG's loss
    lsun(here / "lsun", count=2)
    done = invoke(
        *("prepare", "images", "lsun", "l.npy", "--size", 32, "--dataset", "LSUN"),
        *("--category", "bedroom"),
    )
    assert done.code == 0
    assert np.load(here / "l.npy").shape == (4, 32, 32, 3)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("absent", "p.npy", "--size", 8), 1, "no image folder absent"),
        (("pictures", "p.npy", "--size", 8, "--dataset", "LSUN"), 2, "data.category must name"),
        (("pictures", "p.npy", "--size", 8, "--dataset", "CELBA"), 2, "did you mean 'CELEBA'?"),
        (("pictures", "p.npy", "--size", 8, "--channels", 2), 2, "data.channels is 2; images"),
        (("pictures", "p.npy", "--size", 8, "--white", 0), 2, "--white 0.0: Input should be gre"),
        (("pictures", "p.npy", "--size", 8, "--background", "x"), 2, "--background x: "),
        (("pictures", "p.npy", "--size", 5000), 2, "--size 5000x5000: at most 4096 pixels"),
        (("pictures", "pictures", "--size", 8), 2, "exists and is not a plain file"),
        (("pictures", "other.npy", "--size", 8), 2, "made from something else"),
        (("pictures", "other.npy/p.npy", "--size", 8), 1, "cannot create other.npy/p.npy"),
    ],
)
def test_a_wrong_command_is_one_clear_message(here, args, code, message):
    pictures(here / "pictures", 3)
    (here / "other.npy").write_text("notes")
    done = invoke("prepare", "images", *args)
    assert (done.code, done.err.count("error:")) == (code, 1)
    assert message in done.err
    assert "Traceback" not in done.err


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_killed_goes_on(here, number):
    """At moments that the process itself chooses: the test waits for a chunk to be recorded."""
    pictures(here / "pictures", 2000)
    command = [sys.executable, "-m", "ddimx", "prepare", "images", "pictures", "p.npy"]
    process = subprocess.Popen([*command, "--size", "8"], env=cli_environment())
    while not (here / "p.npy.unfinished" / "state.json").exists() and process.poll() is None:
        os.sched_yield()
    process.send_signal(number)
    ended = process.wait(timeout=60)
    finished = (here / "p.npy").exists()
    assert ended == (0 if finished else {signal.SIGKILL: -9, signal.SIGINT: 130}[number])
    done = invoke("prepare", "images", "pictures", "p.npy", "--size", 8, "--json", "-q")
    assert done.code == 0
    assert json.loads(done.out)["found"] >= 256
    assert invoke("prepare", "images", "pictures", "q.npy", "--size", 8).code == 0
    assert (here / "p.npy").read_bytes() == (here / "q.npy").read_bytes()
