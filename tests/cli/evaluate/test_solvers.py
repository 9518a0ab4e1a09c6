"""``ddimx evaluate solvers``: what it writes, what it says, what it refuses."""

import csv
import json
import signal
import sys

import pytest
from PIL import Image

from ddimx.evaluation.solvers import compare as solvers
from tests.sampling import invoke, names_in

SMALL = ("--reference", 20, "--count", 2, "--batch-size", 2, "--device", "cpu")


def evaluate(model, *args):
    return invoke("evaluate", "solvers", "-m", model, *SMALL, *args)


@pytest.fixture(scope="module")
def searched(tiny_model, tmp_path_factory):
    """The folder and the output of one run with a search."""
    folder = tmp_path_factory.mktemp("solvers") / "out"
    solvers = ("--solver", "ddim", "--solver", "pfdiff", "--spacing", "trailing")
    options = ("--nfe", "3,2", "--search", "--search-count", 3, "--trials", 8, "--guidance", 1.5)
    return folder, evaluate(tiny_model, *solvers, *options, "--out", folder)


def test_table_record_and_plot_hold_the_same_results(searched):
    folder, done = searched
    assert done.code == 0, done.err
    record = json.loads((folder / "solvers.json").read_text())
    with (folder / "solvers.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    names = [
        (2, "ddim"),
        (2, "pfdiff"),
        (3, "ddim"),
        (3, "pfdiff"),
        (2, "searched"),
        (3, "searched"),
    ]
    assert [(int(row["nfe"]), row["solver"]) for row in rows] == names
    for row, result in zip(rows, record["results"], strict=True):
        assert float(row["rmse"]) == pytest.approx(result["rmse"], rel=1e-5)
    assert (record["guidance"], record["count"], record["seed"]) == (1.5, 2, 0)
    assert (record["search_seed"], record["search_count"]) == (1, 3)
    assert record["reference_error"] > 0
    assert Image.open(folder / "solvers.png").size == (900, 560)
    for nfe in (2, 3):
        best = min((r for r in rows if int(r["nfe"]) == nfe), key=lambda r: float(r["rmse"]))
        assert record["best"][str(nfe)]["solver"] == best["solver"]
        assert f"{float(best['rmse']):.4f}*" in done.out


def test_it_says_what_auto_would_take(searched):
    _, done = searched
    lines = [line for line in done.err.splitlines() if "--solver auto takes" in line]
    assert [line.split(" ")[0] for line in lines] == ["2", "3"]
    assert "reference: 20 evaluations" in done.err


def test_a_searched_plan_samples(searched, tiny_model, tmp_path):
    folder, _ = searched
    out = tmp_path / "images"
    sample = (
        "sample",
        "-m",
        tiny_model,
        "--device",
        "cpu",
        "-n",
        2,
        "--plan",
        folder / "plan-3.json",
    )
    done = invoke(*sample, "--out", out)
    assert done.code == 0, done.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["plan"]["label"] == "searched, 3 evaluations"
    assert (manifest["nfe"], manifest["network_calls"]) == (3, 3)
    assert invoke(*sample[:-2], "--resume", out).code == 0  # it remembers its plan
    found = json.loads((folder / "plan-3.json").read_text())["found"]
    assert (found["guidance"], found["nfe"]) == (1.5, 3)
    assert set(found["rmse"]) == {"ddim trailing", "pfdiff trailing", "searched own"}


def test_results_are_not_replaced_unasked(searched, tiny_model):
    folder, _ = searched
    done = evaluate(tiny_model, "--nfe", 2, "--out", folder)
    assert (done.code, done.out) == (2, "")
    assert "the results there are of another study (guidance, search_seed" in done.err


def test_a_study_that_was_stopped_goes_on(tiny_model, tmp_path, monkeypatch):
    """Ctrl-C after the second of four solvers, then in the search; nothing is measured twice."""
    options = ("--nfe", "2,3", "--spacing", "trailing", "--solver", "ddim", "--solver", "unipc")
    options += ("--search", "--search-count", 2, "--trials", 3)
    whole = evaluate(tiny_model, *options, "--out", tmp_path / "whole")
    assert whole.code == 0, whole.err
    real, measured = solvers.run_plan, []

    def run_plan(model, settings, plan, after_row):
        measured.append(plan.label)
        if len(measured) in (3, 6):
            signal.raise_signal(signal.SIGINT)
        return real(model, settings, plan, after_row)

    monkeypatch.setattr(solvers, "run_plan", run_plan)
    out, counts = tmp_path / "out", []
    for code in (130, 130, 0):
        done = evaluate(tiny_model, *options, "--out", out)
        assert done.code == code, done.err
        record = json.loads((out / "solvers.json").read_text())
        assert record["status"] == ("complete" if code == 0 else "running")
        counts.append(len(record["results"]))
        if code:
            assert f"the same command with --out {out} goes on" in done.err
            assert list(out.glob("*.png")) == []
    assert counts == [2, 4, 6]
    assert measured[-1] == "searched, 3 evaluations"
    names = ["plan-2.json", "plan-3.json", "solvers.csv", "solvers.json", "solvers.png"]
    assert names_in(out) == names
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    calls = len(measured)
    done = evaluate(tiny_model, *options, "--out", out)
    assert (done.code, len(measured)) == (0, calls)
    assert "4 of 4 solvers are measured already" in done.err


def test_what_is_no_study_of_this_version_is_left_alone(tiny_model, tmp_path):
    for content, words in (
        ('{"ddimx": "0.1.0", "results": []}', "holds results already, of version 0.1.0"),
        ("[]", "is not a record of a study"),
        ('{"status": "running"}', "is not a record of a study"),
    ):
        (tmp_path / "solvers.json").write_text(content)
        done = evaluate(tiny_model, "--nfe", 2, "--out", tmp_path)
        assert done.code == 2
        assert words in done.err
        assert (tmp_path / "solvers.json").read_text() == content
    (tmp_path / "solvers.json").unlink()
    (tmp_path / "mine.txt").write_text("mine")
    options = ("--nfe", 2, "--solver", "ddim", "--spacing", "trailing")
    assert evaluate(tiny_model, *options, "--out", tmp_path).code == 0
    assert evaluate(tiny_model, *options, "--out", tmp_path, "--overwrite").code == 0
    assert names_in(tmp_path) == ["mine.txt", "solvers.csv", "solvers.json", "solvers.png"]


def test_json_and_a_folder_of_its_own(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("--nfe", 2, "--solver", "unipc", "--spacing", "linspace", "--json", "-q")
    done = evaluate(tiny_model, *args)
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert record["folder"] == "runs/0001-solvers-tiny"
    assert [r["solver"] for r in record["results"]] == ["unipc"]
    assert not list((tmp_path / record["folder"]).glob("plan-*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--nfe", "5,x"), "write positive whole numbers with commas"),
        (("--nfe", "0"), "write positive whole numbers"),
        (("--nfe", ","), "write positive whole numbers"),
        (("--solver", "ddpm"), "ddpm adds noise"),
        (("--solver", "uni"), "unknown solver 'uni'; did you mean 'unipc'"),
        (("--spacing", "quat"), "unknown spacing 'quat'; did you mean 'quad'"),
        (("--trials", 0), "counts and trials at least 1"),
        (("--reference", 5), "--reference must be at least 20"),
    ],
)
def test_wrong_options(tiny_model, tmp_path, args, message):
    done = evaluate(tiny_model, *args, "--out", tmp_path / "out")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_numbers_of_evaluations_that_no_solver_needs(tiny_model, run_cli):
    """range(0, 1000, 1000 // 3) has four times, so that nothing fits three evaluations."""
    words = ["--nfe", "3", "--solver", "ddim", "--spacing", "ddim", "-n", "1"]
    done = run_cli("evaluate", "solvers", "-m", tiny_model, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --nfe 3: there is nothing to measure: ")
    assert done.stderr.count("\n") == 1


def test_without_matplotlib_all_but_the_chart_is_there(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ("--nfe", "2", "--solver", "ddim", "--spacing", "trailing", "--out", tmp_path / "out")
    done = evaluate(tiny_model, *options)
    assert done.code == 0, done.err
    assert names_in(tmp_path / "out") == ["solvers.csv", "solvers.json"]
    assert "ddim    trailing" in done.out
    (line,) = (line for line in done.err.splitlines() if "omitted" in line)
    assert line.startswith("solvers.png is omitted: matplotlib, which charts need, is not in")
    assert done.err.splitlines()[-1].endswith("out: solvers.csv, solvers.json")
