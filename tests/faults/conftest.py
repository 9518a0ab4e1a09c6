"""The process that forks, and what the commands read."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ddimx.weights.formats.native import Header, save
from tests.conftest import cli_environment
from tests.faults.compare import tree
from tests.faults.verbs import VERBS, write_inputs
from tests.weights import plain, weights


@dataclass(frozen=True)
class Ended:
    """How a command ended: its code (minus the signal that killed it), words, and changes.

    ``moments`` is the number of its calls, where they were counted.
    """

    code: int
    said: str
    calls: list[str]
    moments: int = 0


class Server:
    """Runs commands in forks of one process; see :mod:`tests.faults.server`."""

    def __init__(self, inputs: Path, scratch: Path) -> None:
        self.inputs, self._scratch = inputs, scratch
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.server"],
            env=cli_environment() | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(
        self,
        verb: str,
        cwd: Path,
        kind: str | None = None,
        at: int = 0,
        outputs: str | None = None,
    ) -> Ended:
        """Run a verb's command in a folder, with a fault at its ``at``-th change.

        ``outputs`` are "closed", have a reader that is "gone", or are "full".
        """
        argv = [word.replace("{in}", str(self.inputs)) for word in VERBS[verb]]
        return self.command(argv, cwd, kind, at, outputs=outputs)

    def command(
        self,
        argv: list[str],
        cwd: Path,
        kind: str | None = None,
        at: int = 0,
        *,
        within: str = "",
        outputs: str | None = None,
        every: int | None = None,
        ranks: int = 1,
    ) -> Ended:
        """Run any command so; ``every`` and ``ranks`` as :mod:`tests.faults.server` says."""
        cwd.mkdir(exist_ok=True)
        said, calls = self._scratch / "said", self._scratch / "calls"
        calls.write_text("[[], 0]")
        said.write_text("")
        job = {"argv": argv, "cwd": str(cwd), "kind": kind, "at": at, "outputs": outputs}
        job |= {"err": str(said), "calls": str(calls), "within": within}
        job |= {"every": every, "ranks": ranks}
        if ranks > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                job["port"] = free.getsockname()[1]
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, said.read_text(), *json.loads(calls.read_text()))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


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


@pytest.fixture(scope="session")
def server(tiny_config, tiny_model, tmp_path_factory):
    if not (hasattr(os, "fork") and Path("/proc/self/fd").is_dir()):
        pytest.skip("needs fork and /proc")
    inputs = tmp_path_factory.mktemp("inputs")

    def write_plain(path: Path) -> None:
        config = plain()
        save(path, weights(config), Header("model", config, {"weights": "ema"}))

    write_inputs(inputs, tiny_config, tiny_model, write_plain)
    server = Server(inputs, tmp_path_factory.mktemp("scratch"))
    yield server
    server.close()
