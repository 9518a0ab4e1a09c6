"""The benchmarks' statistics on known answers, and one small run of each suite."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import device, sample, show, update
from benchmarks.__main__ import main, save
from benchmarks.machine import cpu_kind, slug
from benchmarks.runner import (
    Absent,
    Budget,
    Contender,
    Ratio,
    TooLong,
    compare,
    measure,
    paired_ratio,
    summary,
    unsteady,
)
from ddimx.errors import DdimxError
from tests.conftest import ROOT, cli_environment

CPU = torch.device("cpu")


def test_summary_of_known_numbers():
    # Between the sorted values 1..5 the 20th and 80th percentile lie 0.8 and 3.2 steps from 1.
    found = summary(np.array([5.0, 1.0, 4.0, 2.0, 3.0]))
    assert (found.median, found.rounds) == (3.0, 5)
    assert found.p20 == pytest.approx(1.8)
    assert found.p80 == pytest.approx(4.2)


def test_ratio_that_is_exactly_two():
    seconds = np.array([1.0, 8.0, 2.0, 4.0, 0.5])  # the machine drifts, the ratio does not
    assert paired_ratio(2 * seconds, seconds) == Ratio(2.0, 2.0, 2.0)
    assert paired_ratio(seconds, 2 * seconds) == Ratio(0.5, 0.5, 0.5)
    assert str(paired_ratio(2 * seconds, seconds)) == "2x [2, 2]"


def test_identical_samples_are_no_difference():
    seconds = np.linspace(1.0, 2.0, 20)
    ratio = paired_ratio(seconds, seconds)
    assert not ratio.decided
    assert str(ratio) == "no difference"


def test_interval_covers_the_true_ratio():
    """A 95% interval misses in about one of twenty experiments, and is no wider than it must be."""
    rng = np.random.default_rng(1)
    missed, widths = 0, []
    for _ in range(200):
        other = rng.lognormal(0.0, 0.1, 40)
        ratio = paired_ratio(1.5 * rng.lognormal(0.0, 0.1, 40), other)
        missed += not ratio.low <= 1.5 <= ratio.high
        widths.append(ratio.high - ratio.low)
    assert 1 <= missed <= 24
    # The standard error of a median of 40 is 1.25 sd / sqrt(40); the interval spans 3.92 of them.
    assert np.mean(widths) == pytest.approx(3.92 * 1.25 * 1.5 * 0.1 * 2**0.5 / 40**0.5, rel=0.25)


def test_pairs_need_the_same_rounds():
    with pytest.raises(ValueError, match="3 rounds of the baseline for 2"):
        paired_ratio(np.ones(3), np.ones(2))


def test_every_round_calls_every_peer_in_changing_order():
    calls = []
    peers = [Contender(name, lambda name=name: calls.append(name)) for name in "abc"]
    found = measure(peers, 8, shortest=0.0)
    rounds = ["".join(calls[i : i + 3]) for i in range(6, len(calls), 3)]  # after two warm-ups
    assert len(rounds) == 8
    assert {"".join(sorted(r)) for r in rounds} == {"abc"}
    assert len(set(rounds)) > 2
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 8, "b": 8, "c": 8}


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that the peers set, and return the function that moves it."""
    now = [0.0]
    monkeypatch.setattr("benchmarks.runner.time.perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


def test_a_short_call_is_repeated_and_divided(clock):
    calls = []
    peer = Contender("a", lambda: (calls.append(1), clock(0.25)))
    assert measure([peer], 1, shortest=1.0)["a"].tolist() == [0.25]
    assert len(calls) == 2 + 4  # two warm-ups, then as many as fill the second


def test_a_short_time_means_fewer_rounds_and_none_when_three_do_not_fit(clock):
    peers = [Contender("a", lambda: clock(1.0)), Contender("b", lambda: clock(3.0), warm=True)]
    budget = Budget()
    budget.grant(4 + 1 + 4 * 4)  # the first calls are 1 + 1 and 3 seconds, a round is 4
    assert len(measure(peers, 9, budget=budget)["a"]) == 4
    # A round less: without the second, whose single call told how long a round would be.
    budget.grant(4 + 1 + 3 * 4 - 1.0)
    assert {name: len(found) for name, found in measure(peers, 9, budget=budget).items()} == {
        "a": 9
    }
    budget.grant(4 + 1 + 3 * 4 - 1.0)
    table = compare("t", peers, 9, budget=budget)
    assert table["rows"][1]["absent"] == "3 rounds with it do not fit into the table's time"
    yardstick = Contender("b", lambda: clock(3.0), warm=True, yardstick=True)
    budget.grant(4 + 1 + 3 * 4 - 1.0)
    with pytest.raises(TooLong, match=r"3 rounds of at least 4 s do not fit into the 11 s"):
        measure([peers[0], yardstick], 9, budget=budget)
    budget.grant(0)
    with pytest.raises(TooLong, match="its time was over"):
        budget.check()
    assert Budget().refusal(1e9) is None
    budget.grant(10)
    assert budget.refusal(8.5) is None
    assert budget.refusal(9) == "compiling takes about 9 s, and 10 s are left for the table"


def test_a_table(clock):
    peers = [
        Contender("slow", lambda: clock(1.0), useful_bytes=10**9),
        Contender("fast", lambda: clock(0.25), useful_bytes=10**9, facts={"compile_s": 3.0}),
        Absent("away", "no such device"),
        Contender("copy", lambda: clock(0.5), useful_bytes=2 * 10**9, yardstick=True),
    ]
    table = compare("a table", peers, 3, notes=["a note"])
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    slow, fast, copy = (
        {"rounds": 3, "median_ms": ms, "p20_ms": ms, "p80_ms": ms, "rounds_ms": [ms] * 3}
        for ms in (1000.0, 250.0, 500.0)
    )
    four = {"median": 4.0, "low": 4.0, "high": 4.0}
    assert table == {
        "title": "a table",
        "baseline": "slow",
        "notes": ["a note"],
        "rows": [
            {"name": "slow", **slow, "gb_per_s": 1.0},
            {"name": "fast", **fast, "times_as_fast": four, "verdict": "4x [4, 4]"}
            | {"gb_per_s": 4.0, "compile_s": 3.0},
            {"name": "away", "absent": "no such device"},
            {"name": "copy", **copy, "gb_per_s": 4.0},
        ],
    }


def record(p80_ms=10.0, rounds=10, title="t"):
    row = {"name": "eager", "rounds": rounds, "median_ms": 10.0, "p20_ms": 10.0, "p80_ms": p80_ms}
    table = {"title": title, "baseline": "eager", "notes": [], "rows": [row]}
    return {"schema": 1, "machine": {"device": "Big GPU (SXM)"}, "tables": [table]}


def test_unsteady_baseline():
    assert unsteady(record(13.0)["tables"][0]) is None
    assert "is 1.31, above 1.3" in unsteady(record(13.1)["tables"][0])


def test_save_keeps_the_other_suites(tmp_path):
    path = save({"update": record(title="old"), "sample": record()}, tmp_path)
    assert path == tmp_path / "big-gpu-sxm.json"
    save({"update": record(title="new")}, tmp_path)
    assert json.loads(path.read_text()) == {"update": record(title="new"), "sample": record()}


@pytest.mark.parametrize("bad", [record(20.0), record(rounds=9)])
def test_save_refuses_figures_that_mean_nothing(bad, tmp_path):
    with pytest.raises(DdimxError, match="not saved"):
        save({"update": record(), "sample": bad}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_page_shows_what_is_recorded():
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    section = show.section(ROOT / "benchmarks" / "results")
    assert section in text, "run python -m benchmarks figures"
    assert show.with_section(text, section) == text


def test_a_record_as_markdown():
    shown = {"update": record()}
    shown["update"]["machine"] |= {
        "command": "python -m benchmarks update",
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "abc",
        "versions": {"torch": "2"},
    }
    shown["update"]["tables"][0]["rows"] += [
        {"name": "ours", "median_ms": 5.0, "verdict": "2x [1.9, 2.1]", "launches": 1},
        {"name": "away", "absent": "no such device"},
    ]
    assert show.markdown(shown).splitlines() == [
        "`python -m benchmarks update` on Big GPU (SXM), 2026-01-02, commit abc, torch 2:",
        "",
        "| t | median ms | times as fast | launches |",
        "|---|---:|---:|---:|",
        "| eager | 10 | baseline |  |",
        "| ours | 5 | 2x [1.9, 2.1] | 1 |",
        "",
        "Cannot run there: away.",
    ]


def test_the_section_is_replaced_and_the_rest_left_alone():
    old = f"a\n{show.BEGIN}\nold\n{show.END}\nz\n"
    new = f"{show.BEGIN}\nnew\n{show.END}\n"
    assert show.with_section(old, new) == f"a\n{new}z\n"
    with pytest.raises(ValueError, match="the page lacks the lines"):
        show.with_section("no markers", new)


def test_slug():
    assert slug("AMD EPYC 9654, 2 threads") == "amd-epyc-9654-2-threads"


def test_kinds_of_cpu_of_one_name_are_told_apart():
    about = (
        "processor : 0\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\nflags\t\t: {}\n\n"
    )
    assert cpu_kind(about.format(1, "fpu avx2")) == "AMD EPYC 25-1 AVX2"
    assert cpu_kind(about.format(17, "avx2 avx512f avx512_bf16")) == "AMD EPYC 25-17 AVX512_BF16"
    assert cpu_kind("processor : 0\nCPU part : 0xd40\n") == ""  # as Arm's


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_both_update_steps_agree(eta):
    """With the same noise they are the same function; ``check`` sees one that is not."""
    levels = update.Levels(eta)
    x, out, z = torch.randn(3, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    update.check(levels, x, out)
    quiet = update.Levels(0.0).direction, levels.direction
    expected = update.eager_step(update.Levels(0.0))(x, out)
    expected = expected + (quiet[1] - quiet[0]) * out + levels.sigma * z
    torch.testing.assert_close(update.our_step(levels, x, z)(x, out), expected)


def test_check_sees_a_wrong_step(monkeypatch):
    monkeypatch.setattr(update, "eager_step", lambda levels: lambda x, out: x)
    x, out = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="differ without noise"):
        update.check(update.Levels(0.0), x, out)


def test_sample_suite(tiny_model):
    path = str(tiny_model)
    (job,) = sample.jobs(CPU, 2, model=path, steps=3, batches=(2,), compiled=False)
    table = job()
    assert table["title"] == job.title == "sample, tiny, batch 2, 3 steps of DDIM"
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == ["eager loop fp32", *(v.name for v in sample.variants(CPU))]
    for name, row in rows.items():
        if "compile" in name or "auto" in name:
            assert row["absent"] == "--no-compile"
            continue
        assert row["network_calls"] == 3
        assert row["ms_per_call"] == pytest.approx(row["median_ms"] / 3)
        assert row["images_per_s"] == pytest.approx(2000 / row["median_ms"])
        assert row["rms_difference"] < (1e-5 if "fp32" in name else 0.1)


@pytest.mark.full
def test_diffusers_draws_the_same_images(monkeypatch):
    """Its pipeline is the baseline; ours starts from the same x_T with the same weights."""
    pytest.importorskip("diffusers")
    small = ["model.ch=32", "model.ch_mult=[1,2]", "model.num_res_blocks=1", "data.image_size=8"]
    small += ["model.attn_resolutions=[]"]
    load = sample.load_config
    monkeypatch.setattr(sample, "load_config", lambda name, more: load(name, [*more, *small]))
    monkeypatch.setattr(sample, "CASES", {"cpu": (sample.Case("celeba", 1, 2, 2),)})
    (job,) = sample.jobs(CPU, 2, compiled=False)
    sample.random_model.cache_clear()
    sample.loaded.cache_clear()
    table = job()
    sample.random_model.cache_clear()
    sample.loaded.cache_clear()
    rows = {row["name"]: row for row in table["rows"]}
    assert table["baseline"] == "diffusers fp32"
    assert rows["diffusers fp32"]["network_calls"] == 2
    ours = rows["ddimx fp32, engine eager"]
    assert ours["network_calls"] == 2
    assert ours["rms_difference"] < 1e-4
    # Once in the network, as everything is, and with the sampler's own operators beside it.
    assert 50 < ours["operators_per_call"] < 500
    assert "/" not in table["notes"][0].removeprefix("configs/")


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_eager_loop_is_ddim(prediction):
    """From each parametrisation the same x0 and epsilon."""
    x0, epsilon = torch.randn(2, 4, 3, dtype=torch.float64)
    signal, sigma = 0.8, 0.6
    x = signal * x0 + sigma * epsilon
    outs = {"epsilon": epsilon, "x0": x0, "v": signal * epsilon - sigma * x0}
    found = getattr(sample.loop, f"_from_{prediction}")(x, outs[prediction], signal, sigma)
    for ours, exact in zip(found, (x0, epsilon), strict=True):
        torch.testing.assert_close(ours, exact)


def test_operators_of_a_call_are_counted_without_those_that_they_call():
    x = torch.ones(2, 3)
    weight = torch.ones(4, 3)
    # linear calls addmm or matmul inside, relu clamps: two operators, three times, in two calls.
    found = device.per_call(lambda: [(x @ weight.t()).relu() for _ in range(4)], 2, CPU)
    assert found == {"operators_per_call": 4 * 3 / 2}


@pytest.mark.gpu
def test_kernels_and_launches_of_a_call_are_counted():
    card = torch.device("cuda")
    x = torch.ones(64, device=card)

    def call():
        return x.add_(1), x.mul_(2), x.sub_(3)

    assert device.per_call(call, 1, card) == {"kernels_per_call": 3, "launches_per_call": 3}
    replay = device.graphed(call, card)
    assert device.per_call(replay, 1, card) == {"kernels_per_call": 3, "launches_per_call": 1}
    assert device.launches(call, card) == {"launches": 3}


def run_benchmarks(*words):
    environment = cli_environment()
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_command(tmp_path):
    words = ["update", "--device", "cpu", "--rounds", "2", "--shape", "2,3,8,8", "--no-compile"]
    words += ["--json", "--save", "--results", os.fspath(tmp_path)]
    done = run_benchmarks(*words)
    records = json.loads(done.stdout)
    about = records["update"]["machine"]
    assert about["command"] == " ".join(["python -m benchmarks", *words[:-2]])
    assert about["versions"]["torch"] == torch.__version__
    assert len(records["update"]["tables"]) == 2  # without and with noise
    assert all(len(row["rounds_ms"]) == 2 for row in records["update"]["tables"][0]["rows"][::2])
    assert "ddimx update" in done.stderr
    # Two rounds prove nothing, so that they are shown but not recorded.
    assert done.returncode == 1
    assert "2 rounds, 10 are needed" in done.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_use_of_the_command(capsys):
    assert main(["update", "--device", "abacus"]) == 2
    assert "unknown device 'abacus'" in capsys.readouterr().err
    wrong = ["update", "--rounds", "0"], ["all", "--shape", "2,3,8,8"], ["sing"], ["--quick"]
    for words in wrong:
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
