"""Run folders: numbers are never shared and the newest one is found again."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from ddimx.errors import DdimxError
from ddimx.runs.folder import fresh_run, last_run
from tests.conftest import cli_environment


def test_numbers_go_up_over_all_verbs(tmp_path):
    root = tmp_path / "deep" / "runs"
    made = [fresh_run(verb, "emoji", root).name for verb in ("train", "sample", "train")]
    assert made == ["0001-train-emoji", "0002-sample-emoji", "0003-train-emoji"]
    assert sorted(p.name for p in root.iterdir()) == sorted(made)


def test_numbers_follow_the_highest_one_and_ignore_other_things(tmp_path):
    for name in ("0007-sample-x", "notes", "12-train-x", "0030-train"):
        (tmp_path / name).mkdir()
    (tmp_path / "0099-train-x").write_text("a file, not a run")
    assert fresh_run("train", "x", tmp_path).name == "0031-train-x"
    (tmp_path / "9999-train-x").mkdir()
    assert fresh_run("train", "x", tmp_path).name == "10000-train-x"
    assert last_run("train", tmp_path).name == "10000-train-x"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("emoji", "emoji"),
        ("my model/v2", "my-model-v2"),
        ("../../etc", "etc"),
        ("...", "run"),
        ("", "run"),
        ("猫", "run"),
    ],
)
def test_labels_become_safe_names(tmp_path, label, name):
    folder = fresh_run("train", label, tmp_path)
    assert folder == tmp_path / f"0001-train-{name}"
    assert last_run("train", tmp_path) == folder


def test_the_last_run_is_the_last_of_its_verb(tmp_path):
    made = {verb: fresh_run(verb, "x", tmp_path) for verb in ("train", "train", "sample")}
    assert last_run("train", tmp_path) == made["train"]
    assert last_run("sample", tmp_path) == made["sample"]
    with pytest.raises(DdimxError, match="no 'inpaint' run in"):
        last_run("inpaint", tmp_path)
    with pytest.raises(DdimxError, match="no 'train' run in"):
        last_run("train", tmp_path / "absent")


def test_threads_never_share_a_number(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda i: fresh_run("train", f"m{i % 3}", tmp_path), range(64)))
    assert sorted(int(p.name[:4]) for p in made) == list(range(1, 65))


PROCESS = """
import sys
from pathlib import Path
from ddimx.runs.folder import fresh_run
sys.stdin.readline()
for _ in range(20):
    print(fresh_run("train", sys.argv[1], Path(".")))
"""


def test_processes_never_share_a_number(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, label],
            cwd=tmp_path,
            env=cli_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for label in ("a", "b", "b")
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [line for p in processes for line in p.communicate(timeout=60)[0].split()]
    assert len(names) == 60
    assert sorted(int(n[:4]) for n in names) == list(range(1, 61))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "runs").write_text("a file is in the way")
    with pytest.raises(DdimxError, match="cannot create a run folder in"):
        fresh_run("train", "x", tmp_path / "runs")
