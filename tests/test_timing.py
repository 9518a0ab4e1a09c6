"""The clock that adds up the seconds of a run's parts."""

from contextlib import suppress

import pytest

from ddimx import timing
from ddimx.timing import OTHER, Clock, timed


@pytest.fixture
def at(monkeypatch):
    """A function that sets the time."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def set_time(seconds):
        now[0] = seconds

    return set_time


def test_of_parts_within_parts_only_the_inner_one_counts(at):
    at(1)
    with Clock() as clock:
        at(3)
        with timed("files"):
            at(4)
            with timed("syncing"):
                at(9)
            at(10)
        at(12)
        with timed("files"):
            at(20)
        at(21)
    assert clock.seconds == {OTHER: 2 + 2 + 1, "files": 1 + 1 + 8, "syncing": 5}
    assert sum(clock.seconds.values()) == 21 - 1
    assert clock.calls == {OTHER: 1, "files": 2, "syncing": 1}
    assert clock.first == {"files": 2, "syncing": 5}


def test_a_part_that_fails_ends_and_is_counted(at):
    with Clock() as clock:
        with suppress(ValueError), timed("network"):
            at(2)
            raise ValueError
        at(5)
    assert clock.seconds == {OTHER: 3, "network": 2}


def test_nothing_is_counted_outside(at):
    with Clock() as clock:
        assert timing.current() is clock
    assert timing.current() is None
    with timed("network"):
        at(7)
    assert clock.seconds == {OTHER: 0}


def test_the_clock_waits_where_the_part_changes(at):
    class Device(Clock):
        def wait(self):
            at(timing.time.perf_counter() + work.pop() if work else timing.time.perf_counter())

    work = [0.0]  # what is still to be done when one waits
    with Device() as clock:
        with timed("network"):
            work.append(6.0)
        with timed("update"):
            pass
    assert clock.seconds == {OTHER: 0, "network": 6, "update": 0}
