"""The first signal asks, the second Ctrl-C insists, and handlers are put back."""

import signal
import threading

import pytest

from ddimx.signals import (
    HANGUP,
    Interrupted,
    Stop,
    begin_worker,
    exit_on_interrupt,
    polite_stop,
)

SIGNALS = tuple(s for s in (signal.SIGINT, signal.SIGTERM, HANGUP) if s is not None)


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stop_begins_unset():
    stop = Stop()
    assert not stop
    assert (stop.signal, stop.exit_code) == (None, 0)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks(number, code):
    with polite_stop() as stop:
        signal.raise_signal(number)
        assert stop
        assert (stop.signal, stop.exit_code) == (number, code)


def test_the_first_signal_is_answered_where_it_is_not_seen_for_long():
    said = []
    with polite_stop() as stop:
        with stop.answering(lambda: said.append("later")):
            signal.raise_signal(signal.SIGINT)
            assert said == ["later"]
            with pytest.raises(Interrupted):
                signal.raise_signal(signal.SIGINT)
        assert said == ["later"]
        assert stop


@pytest.mark.skipif(HANGUP is None, reason="Windows has no SIGHUP")
def test_a_terminal_that_is_closed_asks_unless_nohup_ignores_it():
    signal.signal(HANGUP, signal.SIG_DFL)
    with polite_stop() as stop:
        signal.raise_signal(HANGUP)
        assert (stop.signal, stop.exit_code) == (HANGUP, 129)
    assert signal.getsignal(HANGUP) == signal.SIG_DFL
    signal.signal(HANGUP, signal.SIG_IGN)
    with polite_stop() as stop:
        signal.raise_signal(HANGUP)
        assert not stop
    assert signal.getsignal(HANGUP) == signal.SIG_IGN


def test_a_worker_leaves_what_a_terminal_sends_to_its_parent():
    begin_worker()
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.raise_signal(number)
            assert signal.getsignal(number) == signal.SIG_IGN


def test_the_second_ctrl_c_insists():
    with polite_stop() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as caught:
            signal.raise_signal(signal.SIGINT)
    assert caught.value.code == 130
    assert stop.exit_code == 130


def test_ctrl_c_insists_after_sigterm_too_but_sigterm_only_asks():
    with polite_stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.exit_code == 143
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("error", [None, RuntimeError, Interrupted])
def test_the_handlers_are_restored(error):
    def mine(_number, _frame):
        raise AssertionError

    for number in SIGNALS:
        signal.signal(number, mine)
    raised = None
    try:
        with polite_stop():
            assert all(signal.getsignal(number) is not mine for number in SIGNALS)
            if error is not None:
                raise error
    except (RuntimeError, Interrupted) as caught:
        raised = type(caught)
    assert raised is error
    assert all(signal.getsignal(number) is mine for number in SIGNALS)


def test_off_the_main_thread_nothing_is_installed():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def work():
        with polite_stop() as stop:
            seen.append((bool(stop), [signal.getsignal(number) for number in SIGNALS]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_where_nothing_needs_finishing_ctrl_c_ends_the_process():
    exit_on_interrupt()
    cleaned = []

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            cleaned.append(True)

    with pytest.raises(SystemExit) as caught:
        work()
    assert caught.value.code == 130
    assert cleaned == [True]
    with polite_stop() as stop:  # and within, it asks first
        signal.raise_signal(signal.SIGINT)
    assert stop.exit_code == 130
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)
