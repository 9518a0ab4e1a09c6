"""Hostile files: every reader refuses them with an error of ours, soon and within memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT, cli_environment

from .runner import all_targets

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are read from /proc")

TARGETS = sorted(all_targets())
IN_GATE, IN_FULL = 100, 10_000  # inputs, of all targets together
BATCH = 50


@pytest.fixture(scope="module")
def findings():
    """Return a function that asks for inputs of a target, from one process that forks for each."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.runner", "--serve"],
        cwd=ROOT,
        env=cli_environment() | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:

        def ask(name: str, first: int, count: int) -> list[str]:
            server.stdin.write(json.dumps([name, first, count]) + "\n")
            server.stdin.flush()
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


def share(inputs: int) -> int:
    return -(-inputs // len(TARGETS))


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files(findings, name):
    assert findings(name, 0, share(IN_GATE)) == []


@pytest.mark.full
@pytest.mark.parametrize("name", TARGETS)
def test_many_hostile_files(findings, name):
    first, end = share(IN_GATE), share(IN_FULL)
    found = [f for i in range(first, end, BATCH) for f in findings(name, i, min(BATCH, end - i))]
    assert found == []
