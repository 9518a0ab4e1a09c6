"""What is shown of a work that takes a while, on a terminal and in a log."""

import io

import pytest
from rich.console import Console

from ddimx.progress import PORTION, Progress


class Told(Progress):
    """Notes what is shown, without showing it."""

    def __init__(self):
        super().__init__(quiet=True)
        self.calls = []

    def start(self, what, total, done=0):
        self.calls.append(("start", what, total, done))

    def advance(self, count=1, note=""):
        self.calls.append(("advance", count))

    def stop(self):
        self.calls.append("stop")


@pytest.mark.parametrize(("patience", "shown"), [(0.0, True), (1e9, False)])
def test_items_are_counted_once_that_takes_a_while(monkeypatch, patience, shown):
    monkeypatch.setattr("ddimx.progress.PATIENCE", patience)
    progress, count = Told(), 2 * PORTION + 3
    assert list(progress.counted(range(count), "reading", count)) == list(range(count))
    start = ("start", "reading", count, PORTION)
    assert progress.calls == ([start, ("advance", PORTION), "stop"] if shown else [])


def test_a_log_gets_a_line_now_and_then_also_where_nobody_knows_the_total(monkeypatch, capsys):
    monkeypatch.setattr("ddimx.progress.SECONDS_BETWEEN_LINES", 0.0)
    progress = Progress()
    progress.start("looking", None)
    progress.advance(3)
    progress.start("reading", 4)
    progress.advance(3)
    looking, reading = capsys.readouterr().err.splitlines()
    assert looking.startswith("looking 3  ")
    assert reading.startswith("reading 3/4  ")
    assert reading.endswith(" s left")


def test_time_apart_is_not_of_the_speed(monkeypatch, capsys):
    seconds = iter([0.0, 1.0, 91.0, 92.0])
    monkeypatch.setattr("ddimx.progress.time.monotonic", lambda: next(seconds))
    progress = Progress()
    progress.start("reading", 4)
    with progress.apart():
        pass
    progress.advance(2)
    assert capsys.readouterr().err == "reading 2/4  1.00 it/s  2 s left\n"


def test_messages_are_plain_with_and_without_a_console(capsys):
    text = "a [b] :smile: 1\t2\a"
    Progress().say(text)
    stream = io.StringIO()
    Progress(console=Console(file=stream, width=20)).say(text)
    assert capsys.readouterr().err == stream.getvalue() == "a [b] :smile: 1 2\n"
    Progress(quiet=True).say(text)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar():
    stream = io.StringIO()
    with Progress(console=Console(file=stream, force_terminal=True, width=60)) as progress:
        progress.start("looking", None)
        progress.advance(2)
        progress.start("reading", 4)
        progress.advance(2)
    assert "looking" in stream.getvalue()
    assert "2/4" in stream.getvalue()
