"""Killed, or refused by the disk, at any write: the same command again ends as if undisturbed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from tests.faults.inject import KILL, KINDS
from tests.faults.verbs import VERBS

# What tells when, how long, and how often a run was interrupted.
TIMES = {"seconds", "network_calls", "images_per_second", "data_wait_seconds", "data_wait_share"}
TIMES |= {"resumed", "hours", "found"}


def content(path: Path):
    """What a file says, without the times that its documentation says it holds."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return timeless(json.loads(data))
    if path.suffix == ".jsonl":  # a note says that something could not be written
        lines = [json.loads(line) for line in data.splitlines() if line]
        return [timeless(line) for line in lines if "note" not in line]
    if path.suffix == ".safetensors":
        length = 8 + struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8:length])
        metadata = header["__metadata__"]
        if "ddimx.info" in metadata:
            metadata["ddimx.info"] = timeless(json.loads(metadata["ddimx.info"]))
        return header, data[length:]
    return data


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def tree(folder: Path) -> dict[str, object]:
    """All files below a folder; TensorBoard names its own by the time, one for every start."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "tensorboard/" not in name:
            found[name] = None if path.is_dir() else content(path)
    return found


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    lacking = [f"no {name}" for name in expected if name not in found]
    more = [f"left: {name}" for name in found if name not in expected]
    both = [name for name in expected if name in found]
    return lacking + more + [f"differs: {n}" for n in both if expected[n] != found[n]]


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
    again = server.run(verb, folder)
    if again.code != 0 and not (again.code == 2 and "exist" in again.said and not wrong):
        wrong.append(f"again: code {again.code}: {again.said.strip()[-300:]}")
    return wrong + differences(expected, tree(folder))


@pytest.fixture(scope="session")
def undisturbed(server, tmp_path_factory):
    """Return a function that gives a verb's changes and files, run once without a fault."""
    known = {}

    def of(verb):
        if verb not in known:
            folder = tmp_path_factory.mktemp("undisturbed") / "cwd"
            ended = server.run(verb, folder)
            assert ended.code == 0, ended.said
            known[verb] = (ended.calls, tree(folder))
        return known[verb]

    return of


@pytest.mark.parametrize("verb", VERBS)
def test_a_few_faults(server, undisturbed, verb, tmp_path):
    calls, expected = undisturbed(verb)
    wrong = []
    for i, kind in enumerate(KINDS):
        # Spread over the run, and over its phases from verb to verb: golden ratio, no generator.
        share = (0.618034 * (1 + i * len(VERBS) + list(VERBS).index(verb))) % 1.0
        at = 1 + int(share * len(calls))
        found = faults_of(server, verb, kind, at, tmp_path / kind, expected)
        wrong += [f"{kind} at {at} of {len(calls)}, {calls[at - 1]}: {it}" for it in found]
    assert not wrong, "\n".join(wrong)


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
