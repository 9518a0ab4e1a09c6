"""Killed, or refused by the disk, at any write: the same command again ends as if undisturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.compare import differences, tree
from tests.faults.inject import KILL, KINDS
from tests.faults.verbs import VERBS


def _hidden(name: str) -> bool:
    """Temporary files and locks, which may be left where they could not be removed."""
    return Path(name).name.startswith(".")


def faults_of(server, verb, kind, at, folder, expected) -> list[str]:
    """Inject one fault, give the command again, and return what is wrong."""
    first = server.run(verb, folder, kind, at)
    wrong = []
    if kind == KILL:
        if first.code != -9:
            wrong.append(f"not killed but code {first.code}: {first.said}")
    else:
        if first.code not in (0, 1):
            wrong.append(f"code {first.code}")
        if first.code == 1 and "error:" not in first.said:
            wrong.append("no reason was given")
        if "Traceback" in first.said or "fault of ddimx" in first.said:
            wrong.append(f"not an error of ours: {first.said.strip()[-300:]}")
        if first.code == 0 and verb != "train":  # where previews and the log may be missing
            found = {n: c for n, c in tree(folder).items() if not _hidden(n) or n in expected}
            wrong += [f"code 0, but {it}" for it in differences(expected, found)]
    # Measurements are not made again to see whether they are the same: they are there already.
    visible = {n: c for n, c in tree(folder).items() if not _hidden(n) or n in expected}
    complete = verb.startswith("evaluate") and not differences(expected, visible)
    again = server.run(verb, folder)
    if again.code != 0 and not (complete and again.code == 2 and "--overwrite" in again.said):
        wrong.append(f"again: code {again.code}: {again.said.strip()[-300:]}")
    left = differences(expected, tree(folder))
    if verb == "train" and first.code == 0:  # pictures and the log may fail without an end
        left = [it for it in left if not any(name in it for name in ("/samples", "/log.jsonl"))]
    return wrong + left


# Verbs whose every fault .ci/full has, and of which the gate has a sibling.
LATER = [verb for verb in VERBS if "--shard" in verb and verb != "sample --shard"]


@pytest.mark.parametrize(
    "verb", [pytest.param(v, marks=pytest.mark.full) if v in LATER else v for v in VERBS]
)
def test_a_few_faults(server, undisturbed, verb, tmp_path):
    """One kind of fault, in turn from verb to verb; .ci/full has all, at every write."""
    calls, expected = undisturbed(verb)
    number = list(VERBS).index(verb)
    # Spread over the run, and over its phases from verb to verb: golden ratio, no generator.
    at = 1 + int(0.618034 * (1 + number) % 1.0 * len(calls))
    wrong = faults_of(server, verb, KINDS[number % len(KINDS)], at, tmp_path / "run", expected)
    assert not wrong, "\n".join([f"at {at} of {len(calls)}, {calls[at - 1]}", *wrong])


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_fault(server, undisturbed, verb, kind, tmp_path):
    calls, expected = undisturbed(verb)
    wrong, bad = [], 0
    for at in range(1, len(calls) + 1):
        found = faults_of(server, verb, kind, at, tmp_path / str(at), expected)
        bad += bool(found)
        wrong += [f"{kind} at {at}, {calls[at - 1]}: {it}" for it in found]
    assert not wrong, "\n".join([f"{bad} of {len(calls)} faults", *wrong])
