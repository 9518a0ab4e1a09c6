"""What counts as slower, on records that were made up; nothing here is timed."""

import json

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import comparison, machine
from benchmarks.runner import Job, Ratio
from ddimx.errors import DdimxError, UsageError

SPREAD = np.array([0.97, 1.0, 1.02, 0.99, 1.03, 0.98, 1.01])


def table(title="t", baseline="eager", **rows):
    """Return a table of rows with these milliseconds; the eager one takes 10."""
    found = []
    for name, ms in {"eager": 10.0 * SPREAD, **rows}.items():
        row = {"name": name, "rounds": len(ms), "median_ms": float(np.median(ms))}
        row["rounds_ms"] = [float(value) for value in ms]
        if name not in (baseline, "copy"):
            row["times_as_fast"] = {}
        found.append(row)
    return {"title": title, "baseline": baseline, "notes": [], "rows": found}


def record(*tables, command="python -m benchmarks update --rounds 7", **about):
    about = {"device": "Big GPU", "cpu": "A CPU", "versions": {"torch": "2"}} | about
    return {"schema": 2, "machine": {"command": command, **about}, "tables": list(tables)}


def test_the_ratio_of_ratios_is_exact_where_nothing_varies():
    found = comparison.ratio_of_ratios(np.full(5, 2.0), np.full(9, 3.0))
    assert found == Ratio(1.5, 1.5, 1.5)


def test_drift_of_the_whole_machine_is_no_change():
    """All of it twice as slow, and wandering: the ratios within rounds stay what they were."""
    drift = np.linspace(1.0, 3.0, 7)
    then = table(**{"ddimx x": 5.0 * SPREAD})
    now = table(**{"ddimx x": 10.0 * SPREAD * drift})
    now["rows"][0]["rounds_ms"] = list(20.0 * SPREAD * drift)
    (change,) = comparison.changes(then, now)
    assert change.change == Ratio(1.0, 1.0, 1.0)
    assert (change.before, change.now, change.slower) == (2.0, 2.0, False)


@pytest.mark.parametrize(
    ("milliseconds", "slower"),
    [(5.0, False), (5.4, False), (5.7, True), (2.0, False)],
    ids=["the same", "0.93 of it", "0.88 of it", "faster"],
)
def test_slower_is_an_interval_below_nine_tenths(milliseconds, slower):
    then, now = (table(**{"ddimx x": ms * SPREAD}) for ms in (5.0, milliseconds))
    (change,) = comparison.changes(then, now)
    assert change.slower is slower
    assert str(change).startswith("SLOWER" if slower else "ok")


def test_an_interval_that_reaches_nine_tenths_is_no_proof():
    noisy = 5.7 * np.array([0.6, 1.5, 1.0, 0.7, 1.4, 1.0, 0.8])
    then, now = table(**{"ddimx x": 5.0 * SPREAD}), table(**{"ddimx x": noisy})
    (change,) = comparison.changes(then, now)
    assert change.change.median < 0.9 < change.change.high
    assert not change.slower


def test_peers_are_shown_and_cannot_fail_and_yardsticks_are_no_rows():
    rows = {"copy": 1.0 * SPREAD, "ddimx x": 5.0 * SPREAD}
    then = table(**rows, **{"torch.compile": 1.0 * SPREAD})
    now = table(**rows, **{"torch.compile": 9.0 * SPREAD})
    found = {change.row: change for change in comparison.changes(then, now)}
    assert list(found) == ["ddimx x", "torch.compile"]
    assert found["torch.compile"].change.high < 0.2
    assert not found["torch.compile"].slower


def test_another_baseline_is_refused():
    with pytest.raises(DdimxError, match="the baseline was 'eager' and is 'copy'"):
        comparison.changes(table(), table(baseline="copy", copy=SPREAD))


def test_what_is_no_longer_measured_is_named():
    then = [table("a"), table("b", **{"ddimx x": SPREAD, "peer": SPREAD})]
    assert comparison.missing(then, [table("b", peer=SPREAD)]) == ["a", "b: ddimx x"]
    assert comparison.missing(then, then) == []


@pytest.mark.parametrize("key", ["device", "cpu"])
def test_another_machine_is_refused(key, tmp_path):
    old = record()["machine"]
    comparison.refuse_other_machine(tmp_path, old, dict(old))
    with pytest.raises(UsageError, match=f"its {key} is '{old[key]}', here it is 'other'"):
        comparison.refuse_other_machine(tmp_path, old, old | {key: "other"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no records"),
        ('{"update": {"tables": []}}', "holds no records"),
        ("[1]", "cannot read"),
        ("{", "cannot read"),
    ],
)
def test_a_file_that_is_none_is_refused(text, message, tmp_path):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(DdimxError, match=message):
        comparison.read_records(path)


def test_an_earlier_file_without_rounds_is_refused(tmp_path):
    old = record(table())
    del old["tables"][0]["rows"][0]["rounds_ms"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"update": old}))
    with pytest.raises(DdimxError, match="the record of update lacks the seconds of its rounds"):
        comparison.read_records(path)


@pytest.fixture
def measured(monkeypatch):
    """Let the update suite return tables that a test puts into a list, one per measurement."""
    tables = []

    def jobs(device, rounds, **_):
        assert rounds == 7  # as the recorded command says
        return [Job("t", lambda: tables.pop(0)), Job("other", lambda: pytest.fail("not in OLD"))]

    monkeypatch.setitem(command.SHAPED, "update", jobs)
    about = record()["machine"]
    monkeypatch.setattr(machine, "describe", lambda device, words: dict(about))
    return tables


def compared(old, tmp_path, *words):
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"update": old}))
    return command.main(["--compare", str(path), *words])


def test_the_command_fails_where_a_row_is_slower_twice(measured, tmp_path, capsys):
    fast, slow = (table(**{"ddimx x": ms * SPREAD}) for ms in (5.0, 9.0))
    measured += [fast]
    assert compared(record(fast), tmp_path) == 0
    # A neighbor that was loud during one of two measurements is no change of the code.
    measured += [slow, fast]
    assert compared(record(fast), tmp_path) == 0
    measured += [slow, slow]
    capsys.readouterr()
    assert compared(record(fast), tmp_path) == 1
    assert "SLOWER t: ddimx x: 2x then, 1.11x now, 0.556 [" in capsys.readouterr().out
    measured += [table()]
    assert compared(record(fast), tmp_path) == 1
    assert "GONE   t: ddimx x" in capsys.readouterr().out


def test_the_command_asks_for_the_same_machine(measured, tmp_path, capsys):
    fast = table(**{"ddimx x": 5.0 * SPREAD})
    old = record(fast, device="Small GPU", versions={"torch": "1"})
    assert compared(old, tmp_path) == 2
    assert "was measured on another machine: its device is 'Small GPU'" in capsys.readouterr().err
    measured += [fast]
    assert compared(old, tmp_path, "--any-machine") == 0
    assert "torch 1 then, 2 now: the baselines may have moved" in capsys.readouterr().out
    assert compared(old, tmp_path, "update") == 2
    assert command.main(["sample", "--compare", str(tmp_path / "old.json")]) == 1
    assert "holds update, not sample" in capsys.readouterr().err
