"""Which tables and peers a suite's time goes to; the peers are made up, and so is the clock."""

import signal

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import comparison, machine, sample
from benchmarks.runner import Absent, Budget, Contender, Job, Later, add_peer, compare
from benchmarks.sample import pipelines
from benchmarks.turns import interrupts, measure_all

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that the peers set, and return the function that moves it."""
    now = [0.0]
    monkeypatch.setattr("benchmarks.runner.time.perf_counter", lambda: now[0])

    def move(seconds):
        now[0] += seconds
        return now[0]

    return move


def suite(clock, budget, titles, compiling=26.0, call=0.1, worth=0):
    """Return jobs of an eager baseline and a graph, to which a compiled peer can be added."""

    def job(title):
        baseline = Contender("eager", lambda: clock(call))
        quick = Contender("graph", lambda: clock(call / 2))

        def table():
            rows = [baseline, Absent("compiled", "its turn did not come"), quick]
            return compare(title, rows, 5, budget=budget)

        def add(table):
            clock(compiling)
            peer = Contender("compiled", lambda: clock(call / 4))
            add_peer(table, baseline, peer, 5, budget=budget)

        later = Later("compiled", lambda: budget.refusal(compiling), add, worth)
        return Job(title, table, later=lambda: [later])

    return [job(title) for title in titles]


def test_every_table_is_measured_before_anything_is_compiled(clock):
    budget, record, saved = Budget(), {}, []

    def done():
        rows = [table["rows"][1] for table in record["tables"]]
        saved.append(["verdict" in row for row in rows])

    measure_all(suite(clock, budget, "abc"), record, budget, 75.0, done=done)
    # Each result is told of at once; of three compilations two fit, and the third is not begun.
    assert saved == [
        [False],
        [False] * 2,
        [False] * 3,
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]
    assert "left_out" not in record
    assert clock(0.0) < 75
    for table in record["tables"]:
        eager, _, graph = table["rows"]
        assert (eager["rounds"], graph["verdict"]) == (5, "2x [2, 2]")
    first, _, last = (table["rows"][1] for table in record["tables"])
    assert first["verdict"] == "4x [4, 4]"
    assert first["baseline_rounds_ms"] == [100.0] * 5
    assert last["absent"].startswith("compiling takes about 26 s, and 1")


def test_the_more_telling_peers_are_added_first_and_without_a_limit_all(clock):
    budget, record = Budget(), {}
    jobs = suite(clock, budget, "a", worth=1) + suite(clock, budget, "b")
    measure_all(jobs, record, budget, 50.0)
    assert ["verdict" in table["rows"][1] for table in record["tables"]] == [False, True]
    measure_all(suite(clock, Budget(), "abc"), record, Budget(), float("inf"))
    assert all("verdict" in table["rows"][1] for table in record["tables"])


def test_what_a_table_leaves_is_the_next_ones_and_a_short_share_borrows_its_rounds(clock):
    budget, record, granted = Budget(), {}, []

    def job(title, preparing, call):
        def table():
            granted.append(budget.left())
            clock(preparing)
            return compare(title, [Contender("eager", lambda: clock(call))], 9, budget=budget)

        return Job(title, table)

    jobs = [job("a", 0.0, 0.1), job("b", 6.0, 0.5), job("c", 0.0, 9.0), job("d", 0.0, 0.1)]
    measure_all(jobs, record, budget, 12.0)
    assert granted[0] == 3.0
    assert granted[1] == pytest.approx((12 - 11 * 0.1) / 3)  # two warm-ups and nine rounds
    rounds = {table["title"]: table["rows"][0]["rounds"] for table in record["tables"]}
    # Getting "b" ready took more than its share; the fewest rounds are measured nevertheless.
    assert rounds == {"a": 9, "b": 3}
    assert [reason[:1] for reason in record["left_out"]] == ["c", "d"]


def test_the_first_to_be_compared_may_borrow_more_than_the_others(clock):
    budget = Budget()
    budget.grant(4.0, 30.0)
    clock(5.0)  # the table's time is over, the suite's is not
    peers = [Contender(name, lambda: clock(1.0), warm=True) for name in "abc"]
    rows = compare("t", peers, 9, budget=budget)["rows"]
    assert [row.get("rounds") for row in rows] == [3, 3, None]


def test_the_time_of_compiling_goes_by_layers_and_by_what_was_seen():
    times = pipelines.CompileTimes(torch.device("cuda"))
    assert times.estimate(164) == pytest.approx(26)
    assert times.estimate(225) == pytest.approx(26 * 225 / 164)
    assert times.estimate(164, pipelines.AUTOTUNE) == pytest.approx(130)
    times.note(13.0, 164)
    assert times.estimate(82) == pytest.approx(6.5)
    times.note(39.0, 164)
    times.note(26.0, 164)
    assert times.estimate(164) == pytest.approx(39)


def test_the_sample_suite_adds_what_is_compiled(tiny_model, monkeypatch):
    """Its own peers, with a "compiled" one that runs eagerly and a network that takes no time."""
    draw = sample.ddimx.sample

    def eager(model, *, engine, **options):
        return draw(model, engine="eager", **options)

    monkeypatch.setattr(sample.ddimx, "sample", eager)
    budget, record = Budget(), {}
    budget.grant(1e6)
    options = {"model": str(tiny_model), "steps": 2, "batches": (2,), "budget": budget}
    jobs = sample.jobs(CPU, 3, **options)
    measure_all(jobs, record, budget, 1e6)
    rows = {row["name"]: row for row in record["tables"][0]["rows"]}
    assert list(rows) == ["eager loop fp32", *(v.name for v in sample.variants(CPU))]
    assert all("absent" not in row for row in rows.values())
    late = [name for name, row in rows.items() if "baseline_rounds_ms" in row]
    assert late == [name for name in rows if name.endswith("engine compile")]
    assert rows[late[0]]["network_calls"] == 2
    assert rows[late[0]]["ms_per_call"] == rows[late[0]]["median_ms"] / 2
    (job,) = sample.jobs(CPU, 3, **options)
    budget.grant(60.0)  # a compilation of so small a network would fit, but for the draws
    job()
    (later,) = job.later()
    budget.grant(0.0)
    assert later.refusal().startswith("compiling takes about")


def test_a_row_that_was_added_is_compared_with_its_own_rounds_of_the_baseline():
    row = {"name": "ddimx x", "rounds": 3, "rounds_ms": [5.0] * 3, "times_as_fast": {}}
    row |= {"baseline_rounds_ms": [10.0] * 3}
    eager = {"name": "eager", "rounds": 3, "rounds_ms": [20.0] * 3}
    table = {"title": "t", "baseline": "eager", "rows": [eager, row]}
    other = {**row, "rounds_ms": [20.0] * 3, "baseline_rounds_ms": [40.0] * 3}
    (change,) = comparison.changes(table, {**table, "rows": [eager, other]})
    assert (change.before, change.now, change.slower) == (2.0, 2.0, False)
    assert np.all(comparison._ratios(table)["eager"] == 1.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_a_signal_saves_what_is_there(number, clock, tmp_path, monkeypatch, capsys):
    def interrupt():
        signal.raise_signal(number)
        pytest.fail("nothing stopped it")

    def jobs(device, rounds, *, budget, **_):
        return [*suite(clock, budget, "a"), Job("b", interrupt), Job("c", interrupt)]

    monkeypatch.setitem(command.SHAPED, "update", jobs)
    about = {"device": "Big GPU", "cpu": "A CPU", "versions": {"torch": "2"}, "load_average": []}
    monkeypatch.setattr(machine, "describe", lambda device, words: dict(about))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    words = ["update", "--device", "cpu", "--quick", "--save", "--results", str(tmp_path)]
    assert command.main(words) == 128 + number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    record = comparison.read_records(tmp_path / "big-gpu.json")["update"]
    assert [table["title"] for table in record["tables"]] == ["a"]
    assert record["left_out"] == [f"{t}: interrupted before it was over" for t in "bc"]
    assert "interrupted; what was measured" in capsys.readouterr().err


def test_a_second_signal_does_not_keep_it_from_being_saved():
    record, saved = {}, []

    def stop():
        signal.raise_signal(signal.SIGINT)

    def done():
        stop()
        saved.append(record["interrupted"])

    with interrupts():
        measure_all([Job("a", stop)], record, Budget(), 9.0, done=done)
    assert saved == [signal.SIGINT]
