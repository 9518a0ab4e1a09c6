"""Work in processes that can be ended: results, limits, crashes, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.runs import processes as worker
from ddimx.runs.processes import Allowance, Exceeded, run_all
from tests.conftest import ROOT, cli_environment
from tests.runs.work import die, fail, fill, limits, spin, square, strange, who

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
ENOUGH = Allowance(200 << 20, 20)


def results(function, items, allowance=ENOUGH, processes=1, **options):
    return list(
        run_all(function, items, allowance=lambda _: allowance, processes=processes, **options)
    )


def test_results_come_with_their_items():
    done = results(square, range(20), processes=2)
    assert {one.item: one.result for one in done} == {n: n * n for n in range(20)}
    assert all(one.error is None for one in done)


def test_processes_are_used_again_and_are_not_this_one():
    first, second = results(who, [0]), results(who, [0, 1])
    assert {one.result for one in first} == {one.result for one in second}
    assert first[0].result != os.getpid()


def test_without_an_allowance_nothing_is_limited():
    for allowance in (None, lambda _: ENOUGH):
        (done,) = run_all(limits, [0], allowance=allowance, processes=1)
        assert any(done.result) == (allowance is not None and sys.platform != "win32")


def test_idle_processes_end_when_told():
    (first,) = results(who, [0])
    worker.end_idle()
    assert not worker._IDLE
    (second,) = results(who, [0])
    assert first.result != second.result


def test_no_item_is_taken_before_a_process_is_free():
    taken = []
    items = (taken.append(n) or n for n in range(9))
    with closing(run_all(square, items, processes=2)) as coming:
        next(coming)
        assert len(taken) == 2


def raised(done):
    assert done.result is None
    return str(done.error)


@linux
def test_too_much_computing_ends_one_piece_of_work():
    spun, squared = results(spin, [0], Allowance(1 << 30, 1)), results(square, [3])
    assert raised(spun[0]) == "takes more than 1.0 seconds of computing"
    assert squared[0].result == 9


@linux
def test_too_much_memory_ends_one_piece_of_work():
    done = results(fill, [10, 400 << 20, 20])
    assert [one.result for one in done] == [10, None, 20]
    assert raised(done[1]) == "needs more than 0.2 GB of memory"


@linux
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_a_crash_is_one_failed_piece_of_work(number):
    (done,) = results(die, [number])
    assert raised(done) == f"makes the process that reads it crash ({number.name})"
    assert results(square, [2])[0].result == 4


@linux
def test_a_process_that_was_killed_ends_the_run():
    """As the system does when memory runs out: then more of the same would come."""
    with pytest.raises(DdimxError, match=r"probably for want of memory; .* fewer --workers"):
        results(die, [signal.SIGKILL])


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError(28, "full"), OSError), (UsageError("no"), UsageError)]
)
def test_what_is_raised_is_raised_here(error, kind):
    with pytest.raises(kind, match=str(error.args[-1])):
        results(fail, [error])


def test_an_error_that_cannot_be_sent_is_told():
    with pytest.raises(RuntimeError, match="Strange: what"):
        results(strange, [0])


def test_what_is_in_hand_is_ended_when_nobody_waits():
    with closing(
        run_all(partial(pow, 2), range(9), allowance=lambda _: ENOUGH, processes=2)
    ) as coming:
        next(coming)
    assert results(square, [5])[0].result == 25


def test_a_fork_does_not_use_this_process_s_workers(monkeypatch):
    (process,) = {one.result for one in results(who, [0])}
    for idle in worker._IDLE:
        monkeypatch.setattr(idle, "owner", os.getpid() + 1)
    assert results(who, [0])[0].result != process


@linux
def test_it_dies_with_its_parent():
    """Even if that one was killed, and even amid work."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from ddimx.runs.processes import Allowance, run_all
        from tests.runs.work import spin, who
        if __name__ == "__main__":
            allowance = lambda _: Allowance(1 << 30, 600)
            for done in run_all(who, [0], allowance=allowance, processes=1):
                print(done.result, flush=True)
            next(run_all(spin, [0], allowance=allowance, processes=1))
        """
    )
    environment = cli_environment() | {"PYTHONPATH": str(ROOT)}
    path = Path(os.environ.get("TMPDIR", "/tmp"))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment, cwd=path
    ) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        descriptor = os.pidfd_open(number)
        parent.kill()
    import select

    assert select.select([descriptor], [], [], 60)[0]  # readable once it has ended


def test_exceeded_is_an_error_of_ours():
    assert issubclass(Exceeded, DdimxError)
