"""Outputs that are closed, whose reader is gone, or whose disk is full, end no work."""

from __future__ import annotations

import os

import pytest

from tests.faults.compare import differences, tree
from tests.faults.verbs import VERBS

OUTPUTS = ["closed", "gone", "full"]
LONG = ("train", "sample")  # in the gate; the others run the same code


def verbs():
    marks = [pytest.mark.full]
    return [verb if verb in LONG else pytest.param(verb, marks=marks) for verb in VERBS]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux' /dev/full")
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("verb", verbs())
def test_the_work_is_done_whoever_listens(server, undisturbed, verb, outputs, tmp_path):
    _, expected = undisturbed(verb)
    ended = server.run(verb, tmp_path / "cwd", outputs=outputs)
    # Results that were asked for on stdout, and are nowhere, are no success.
    lost = outputs == "full" and verb.startswith("evaluate")
    assert ended.code == int(lost)
    assert differences(expected, tree(tmp_path / "cwd")) == []


def test_the_log_says_that_messages_were_lost(server, tmp_path):
    server.run("train", tmp_path, outputs="gone")
    log = (tmp_path / "run" / "log.jsonl").read_text()
    (note,) = [line for line in log.splitlines() if "note" in line]
    assert "cannot write messages: Broken pipe; training goes on" in note
