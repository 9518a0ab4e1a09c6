"""``ddimx prepare emoji``: files, messages and exit codes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddimx.errors import DdimxError
from ddimx.recipes.emoji.dataset import find_emoji_test, find_font
from tests.conftest import cli_environment
from tests.recipes.emoji.test_font import save_tiny_font
from tests.recipes.emoji.test_names import EMOJI_TEST

HINT = "next: ddimx train --config emoji"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def sources(tmp_path_factory) -> list[object]:
    """The options that name a font of six pictures and a list of its emoji."""
    pytest.importorskip("fontTools")
    folder = tmp_path_factory.mktemp("sources")
    listing = folder / "emoji-test.txt"
    listing.write_text(EMOJI_TEST, encoding="utf-8")
    return ["--font", save_tiny_font(folder), "--emoji-test", listing]


@pytest.fixture
def prepare(run_cli, sources):
    """Return a function that runs ``ddimx prepare emoji`` with the small font."""
    return lambda *args: run_cli("prepare", "emoji", *sources, *args)


# --- help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["prepare"], ["prepare", "emoji"]])
def test_help_shows_an_example_and_loads_no_numeric_library(words: list[str]) -> None:
    code = (
        "import sys; from ddimx.cli.app import app; app(standalone_mode=False, args=sys.argv[1:]); "
        "print('LOADED', *{'torch', 'numpy', 'PIL', 'fontTools'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--help"],
        env=cli_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ddimx prepare emoji && ddimx train --config emoji" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_prepare_is_listed_and_without_a_verb_shows_its_own(run_cli) -> None:
    assert "prepare" in run_cli("--help").stdout
    shown = run_cli("prepare")
    assert shown.returncode == 2
    assert "emoji" in shown.stdout + shown.stderr


# --- what is written ----------------------------------------------------------------------------


def test_the_file_its_counts_and_the_next_command(prepare, tmp_path: Path) -> None:
    done = prepare()
    written = tmp_path / "data" / "emoji.npz"
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "data/emoji.npz: 5 images in 4 families, 4 images held out, "
        f"sha256 {sha256(written)}; {HINT}"
    ]
    assert names_in(written.parent) == ["emoji.npz"]
    with np.load(written, allow_pickle=False) as data:
        assert data["images"].shape == (5, 48, 48, 3)


def test_json_on_stdout_says_what_the_file_holds(prepare, tmp_path: Path) -> None:
    done = prepare("--out", "set.npz", "--size", 8, "--preview", "set.png", "--json", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["path"] == "set.npz"
    assert told["preview"] == "set.png"
    assert told["written"] == ["set.npz", "set.png"]
    assert told["sha256"] == sha256(tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as data:
        assert told["images"] == len(data["images"])
        assert told["size"] == data["images"].shape[1] == 8
        assert told["families"] == len(set(data["families"]))
        assert told["held_out"] == data["held_out"].sum()
        assert told["held_out_families"] == len(set(data["families"][data["held_out"]]))
        groups = [str(data["groups"][label]).partition("/")[0] for label in data["labels"]]
        assert told["groups"] == {name: groups.count(name) for name in told["groups"]}
        assert sum(told["groups"].values()) == len(groups)
        assert told["source"] == json.loads(str(data["source"]))
    with Image.open(tmp_path / "set.png") as sheet:
        assert sheet.format == "PNG"


def test_the_next_command_names_what_the_configuration_does_not(prepare) -> None:
    done = prepare("--out", "my set.npz", "--size", 16)
    assert f"{HINT} --set 'data.root=my set.npz' --set data.image_size=16\n" in done.stderr


def test_quiet_is_silent(prepare) -> None:
    done = prepare("--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- files that are there already ---------------------------------------------------------------


def test_a_second_run_makes_the_same_bytes_and_leaves_the_file_alone(
    prepare, tmp_path: Path
) -> None:
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    for path in (one, two):
        assert prepare("--out", path).returncode == 0
    assert sha256(one) == sha256(two)
    before = one.stat()
    again = prepare("--out", one, "--overwrite", "--json")
    assert again.returncode == 0
    assert f"{one} is up to date: 5 images" in again.stderr
    assert json.loads(again.stdout)["written"] == []
    assert (one.stat().st_mtime_ns, one.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("option", ["--out", "--preview"])
def test_a_file_with_other_bytes_is_kept_unless_told_otherwise(
    prepare, tmp_path: Path, option: str
) -> None:
    path = tmp_path / ("mine.npz" if option == "--out" else "mine.png")
    path.write_bytes(b"my own")
    refused = prepare(option, path)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {path} exists and differs")
    assert "--overwrite" in refused.stderr
    assert path.read_bytes() == b"my own"
    assert names_in(tmp_path) == [path.name]  # nothing else was written either
    assert prepare(option, path, "--overwrite").returncode == 0
    assert path.read_bytes() != b"my own"


# --- what can go wrong --------------------------------------------------------------------------


def test_a_missing_font_names_the_package_and_the_option(prepare) -> None:
    done = prepare("--font", "gone.ttf")
    assert (done.returncode, done.stdout) == (1, "")
    for part in ("error: ", "gone.ttf", "fonts-noto-color-emoji", "--font FILE"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_list_names_the_package_and_the_option(prepare) -> None:
    done = prepare("--emoji-test", "gone.txt")
    assert done.returncode == 1
    for part in ("error: ", "gone.txt", "unicode-data", "--emoji-test FILE"):
        assert part in done.stderr


def test_a_file_that_is_no_font_is_named(prepare, tmp_path: Path) -> None:
    (tmp_path / "letter.ttf").write_text("Dear reader,")
    done = prepare("--font", "letter.ttf")
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot read the font letter.ttf: ")
    assert names_in(tmp_path) == ["letter.ttf"]


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("file/set.npz", "file is not a folder"),
        ("file/deeper/set.npz", "file/deeper is not a folder"),
        (f"new/{'x' * 300}", "name too long"),
    ],
)
def test_an_output_that_cannot_be_written(prepare, tmp_path: Path, out: str, reason: str) -> None:
    (tmp_path / "file").touch()
    done = prepare("--out", out)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot ")
    assert out in done.stderr
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--out", "."], "is not a plain file"),
        (["--out", "/dev/null", "--overwrite"], "is not a plain file"),
        (["--preview", "."], "is not a plain file"),
        (["--preview", "sheet.jpg"], "is a PNG"),
        (["--preview", "a.png", "--out", "./a.png"], "the same file"),
        (["--size", "0"], "--size"),
        (["--size", "257"], "--size"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(
    prepare, tmp_path: Path, args: list[str], message: str
) -> None:
    done = prepare(*args)
    assert done.returncode == 2
    assert message in done.stderr
    assert names_in(tmp_path) == []


INTERRUPTED = """
import os, signal, sys
import {module} as module
real = module.{name}
def hit(*args):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*args)
module.{name} = hit
from ddimx.cli.app import run
run()
"""


@pytest.mark.parametrize(
    ("module", "name"), [("ddimx.recipes.emoji.dataset", "draw"), ("ddimx.files", "sync")]
)
def test_ctrl_c_leaves_no_half_file(sources, tmp_path: Path, module: str, name: str) -> None:
    """Interrupted while it draws, and while the file is being written."""
    code = INTERRUPTED.format(module=module, name=name)
    words = ["prepare", "emoji", *map(str, sources), "--out", "set.npz"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        env=cli_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert names_in(tmp_path) == []


# --- the real font, where it is installed -------------------------------------------------------


def noto_is_installed() -> bool:
    try:
        find_font(None), find_emoji_test(None)
    except DdimxError:
        return False
    return True


@pytest.mark.skipif(not noto_is_installed(), reason="needs Noto Color Emoji and emoji-test.txt")
@pytest.mark.full
def test_noto_without_any_option(run_cli, tmp_path: Path) -> None:
    pytest.importorskip("fontTools")
    done = run_cli("prepare", "emoji", "--json", "--preview", "sheet.png")
    assert done.returncode == 0
    assert done.stderr.endswith(f"; {HINT}\n")
    told = json.loads(done.stdout)
    assert told["sha256"] == sha256(tmp_path / "data" / "emoji.npz")
    assert 3500 < told["images"] < 5000
    assert min(told["groups"].values()) > 50
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (72 + 12 * (3 * 32 + 6), 6 + 9 * (3 * 32 + 6))
