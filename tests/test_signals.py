"""Stopping: the first signal asks, the second Ctrl-C insists, handlers come back."""

import os
import signal
import threading

import pytest

from ddimx.signals import Interrupted, exit_on_interrupt, polite_stop


@pytest.fixture(autouse=True)
def handlers():
    """Put the test runner's own handlers back afterwards."""
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_only_asks(number, code):
    with polite_stop() as stop:
        assert not stop
        send(number)
        assert stop
        assert stop.exit_code == code


def test_the_second_ctrl_c_ends_it():
    with polite_stop():
        send(signal.SIGINT)
        with pytest.raises(Interrupted) as end:
            send(signal.SIGINT)
    assert end.value.code == 130


def test_a_second_sigterm_is_as_patient_as_the_first():
    with polite_stop() as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert stop.exit_code == 143


def test_handlers_are_restored_after_an_error(handlers):
    with pytest.raises(ZeroDivisionError), polite_stop():
        raise ZeroDivisionError
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_ctrl_c_outside_of_work_exits_with_130():
    exit_on_interrupt()
    with pytest.raises(SystemExit) as end:
        send(signal.SIGINT)
    assert end.value.code == 130


def test_off_the_main_thread_nothing_is_installed(handlers):
    seen = []

    def work():
        with polite_stop() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers[signal.SIGINT])]
