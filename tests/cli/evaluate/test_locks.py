"""Two evaluations with one result: the second one is refused, before it measures for hours."""

import os

import pytest

from ddimx.runs.lock import lock_file, lock_folder


@pytest.mark.parametrize(
    "words",
    [
        ["fid", "--samples", "here", "--reference", "there", "--out", "result"],
        *(
            pytest.param(words, marks=pytest.mark.full)
            for words in (
                ["fid", "--reference", "there", "--save-stats", "result"],
                ["shapes", "--samples", "here", "--reference", "there", "--out", "result"],
                ["neighbors", "--model", "MODEL", "--out", "result"],
            )
        ),
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_a_result_that_another_process_is_writing(words, tiny_model, run_cli, tmp_path):
    words = [tiny_model if word == "MODEL" else word for word in words]
    with lock_file(tmp_path / "result"):
        done = run_cli("evaluate", *words)
        assert done.returncode == 2
        assert "another process is writing result" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_folder_of_likelihoods_that_another_process_is_writing(tiny_model, run_cli, tmp_path):
    with lock_folder(tmp_path / "out"):
        done = run_cli("evaluate", "nll", "--model", tiny_model, "--count", 1, "--out", "out")
    assert done.returncode == 2
    assert "another process is writing out" in done.stderr
    assert os.listdir(tmp_path) == []
