"""Whether something became slower: two records, each held to its own baseline.

Two runs at different times share no rounds: the machine may have been colder, or its neighbor
louder, in one of them. What carries over is how a row stands to the baseline of its table, which
was measured in the same rounds: drift moves both. So the ratio "times as fast as the baseline" is
formed within each run, round by round, and the two medians are divided. The interval is the
bootstrap's, with the rounds of both runs drawn anew, each run by itself, for the uncertainty of
either enters. It is fair as long as the baseline is the same program: PyTorch's own operations or
another project's pipeline, which a change of this project does not touch. Another version of
PyTorch may move it, and is therefore named.

Rows whose names begin with "ddimx" are ours and can fail; peers are shown and cannot. The same
ratio on two processors may differ for good reasons, so that another machine's record is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ddimx.errors import DdimxError, UsageError
from ddimx.untrusted.text import read_object

from .runner import RESAMPLES, SEED, Array, Ratio

LIMIT = 0.9  # a row is slower where its interval lies below
OURS = "ddimx"


@dataclass(frozen=True)
class Change:
    """One row then and now.

    Attributes:
        before, now: how many times as fast as the baseline, medians.
        change: ``now`` by ``before``, with its interval: below 1 is slower.
    """

    table: str
    row: str
    before: float
    now: float
    change: Ratio

    @property
    def slower(self) -> bool:
        """Whether a row of ours became slower beyond doubt."""
        return self.row.startswith(OURS) and self.change.high < LIMIT

    def __str__(self) -> str:
        """Return a line for people."""
        ratio = self.change
        return (
            f"{'SLOWER' if self.slower else 'ok    '} {self.table}: {self.row}: "
            f"{self.before:.3g}x then, {self.now:.3g}x now, "
            f"{ratio.median:.3g} [{ratio.low:.3g}, {ratio.high:.3g}]"
        )


def read_records(path: Path) -> dict[str, Any]:
    """Return the records of a results file, suite -> record.

    Raises:
        DdimxError: no such file, or one that ``--save`` did not write.
    """
    try:
        records = read_object(path)
    except (OSError, ValueError) as error:
        raise DdimxError(f"cannot read {path}: {error}") from None
    whole = all(
        isinstance(record, dict) and {"machine", "tables"} <= record.keys()
        for record in records.values()
    )
    if not whole or not records:
        raise DdimxError(f"{path} holds no records of 'python -m benchmarks SUITE --save'")
    for suite, record in records.items():
        rows = [row for table in record["tables"] for row in table["rows"]]
        if any("median_ms" in row and "rounds_ms" not in row for row in rows):
            raise DdimxError(
                f"{path}: the record of {suite} lacks the seconds of its rounds, as an earlier "
                "version wrote it; measure it again with --save"
            )
    return records


def refuse_other_machine(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Refuse a record of another processor than this one.

    Args:
        old, new: the records' descriptions of their machines.

    Raises:
        UsageError: the device or the CPU has another name.
    """
    for key in ("device", "cpu"):
        if old.get(key) != new.get(key):
            raise UsageError(
                f"{path} was measured on another machine: its {key} is '{old.get(key)}', here it "
                f"is '{new.get(key)}'; compare there, or with --any-machine"
            )


def other_versions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the libraries whose versions differ, which may have moved the baselines."""
    names = [name for name in new["versions"] if name != "ddimx"]
    return [
        f"{name} {old['versions'].get(name)} then, {new['versions'][name]} now"
        for name in names
        if old["versions"].get(name) != new["versions"][name]
    ]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Return every row that two tables of one title share, except yardsticks and the baseline.

    Raises:
        DdimxError: the tables have different baselines.
    """
    title, baseline = new["title"], new["baseline"]
    if old["baseline"] != baseline:
        raise DdimxError(f"{title}: the baseline was '{old['baseline']}' and is '{baseline}'")
    before, now = _ratios(old), _ratios(new)
    compared = [
        row["name"] for row in new["rows"] if "times_as_fast" in row and row["name"] in before
    ]
    rows = []
    for name in compared:
        then, today = before[name], now[name]
        rows.append(
            Change(title, name, _median(then), _median(today), ratio_of_ratios(then, today))
        )
    return rows


def ratio_of_ratios(before: Array, now: Array) -> Ratio:
    """Return the median of ``now`` by that of ``before``, from the paired ratios of two runs.

    The interval is the percentile bootstrap's; the runs need not have the same number of rounds.
    """
    draws = np.random.default_rng(SEED)
    medians = [
        np.median(run[draws.integers(len(run), size=(RESAMPLES, len(run)))], axis=1)
        for run in (before, now)
    ]
    low, high = np.quantile(medians[1] / medians[0], [0.025, 0.975])
    return Ratio(_median(now) / _median(before), float(low), float(high))


def missing(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what was measured then and not now: tables, and rows of ours, by their names."""
    rows = {table["title"]: _rounds(table) for table in new}
    gone = [table["title"] for table in old if table["title"] not in rows]
    return gone + [
        f"{table['title']}: {name}"
        for table in old
        if table["title"] in rows
        for name in _rounds(table)
        if name.startswith(OURS) and name not in rows[table["title"]]
    ]


def _rounds(table: Mapping[str, Any]) -> dict[str, Array]:
    return {row["name"]: np.array(row["rounds_ms"]) for row in table["rows"] if "rounds_ms" in row}


def _ratios(table: Mapping[str, Any]) -> dict[str, Array]:
    """Return how many times as fast as the baseline each row was, round by round.

    A row that was added to its table later has its own rounds of the baseline.
    """
    rounds = _rounds(table)
    baselines = {row["name"]: row.get("baseline_rounds_ms") for row in table["rows"]}
    return {
        name: np.array(baselines[name] or rounds[table["baseline"]]) / values
        for name, values in rounds.items()
    }


def _median(values: Array) -> float:
    return float(np.median(values))
