"""Runs readers on hostile files, each in a process forked for it, and says what went wrong.

    python -m tests.fuzz.runner TARGET COUNT [FIRST]     inputs FIRST.. of a target (or all)
    python -m tests.fuzz.runner TARGET --keep DIR INDEX  one input: written to DIR and read there

Input number i of a target is a function of the target's name and i. A finding is an exception
other than DdimxError, death by a signal, more than CPU seconds of processor time, more than GROWTH
bytes of memory, or an error of more than MESSAGE characters. Wall time plays no part, for a busy
machine is no hang; only a process that has not ended after WALL seconds is taken for stuck.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from random import Random

from ddimx.errors import DdimxError

from .mutate import mutated
from .target import Target

CPU = 5.0  # seconds, of the reader and the processes that it starts
GROWTH = 500 << 20  # bytes of memory beyond what the imported modules take
MESSAGE = 6000  # characters of an error
WALL = 300.0  # seconds
_FLOOD = 4 << 30  # bytes of address space beyond the present: saves the machine, not the reader


def all_targets() -> dict[str, Target]:
    """Return the targets of every module ``targets_*.py`` here, by name."""
    from importlib import import_module

    names = sorted(path.stem for path in Path(__file__).parent.glob("targets_*.py"))
    found = [t for name in names for t in import_module(f"{__package__}.{name}").TARGETS]
    by_name = {target.name: target for target in found}
    assert len(by_name) == len(found), "two targets of one name"
    return by_name


def write_input(target: Target, good: Path, folder: Path, index: int) -> None:
    """Write input number ``index`` into a fresh folder."""
    rng = Random(f"{target.name} {index}")
    shutil.copytree(good, folder)
    if target.edit is not None and index % 4 == 0:
        target.edit(folder, rng)
        if rng.random() < 0.7:
            return
    files = target.files(folder)
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 1, 2)))):
        if rng.random() < 0.02:
            path.unlink()
        else:
            path.write_bytes(mutated(path.read_bytes(), rng))


class Runner:
    """Reads inputs of targets; its folder holds the good files and the present input."""

    def __init__(self, folder: Path) -> None:
        self.targets = all_targets()
        self._folder = folder

    def good(self, target: Target) -> Path:
        """Return the folder of a target's good files, which are read once first."""
        folder = self._folder / "good" / target.name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            target.make(folder)
            copy = self._folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(folder, copy)
            target.read(copy)  # also imports what it needs, which is no growth afterwards
            shutil.rmtree(copy)
        return folder

    def run(self, name: str, indices: range) -> list[str]:
        """Return the findings among these inputs, each with what makes it again."""
        target = self.targets[name]
        try:
            good = self.good(target)
        except Exception:  # noqa: BLE001 - the other targets are still to be read
            return [f"{name}: its good files are refused: {traceback.format_exc()[-3000:]}"]
        found = []
        for index in indices:
            folder = self._folder / "input"
            write_input(target, good, folder, index)
            problem = self._problem(target, folder)
            if problem:
                found.append(f"{name} {index}: {problem}")
            shutil.rmtree(folder, ignore_errors=True)
        return found

    def _problem(self, target: Target, folder: Path) -> str:
        """Read one input in a child; return what is wrong with how that went, or nothing."""
        reading, writing = os.pipe()
        before = _resident()
        child = os.fork()
        if not child:
            os.close(reading)
            _child(target, folder, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            told, ended = _until_end(child, pipe.fileno())
        status, usage = ended
        spent = usage.ru_utime + usage.ru_stime
        grown = usage.ru_maxrss * 1024 - before
        problems = [told.decode("utf-8", "replace")] if told else []
        if os.WIFSIGNALED(status):
            problems.append(f"killed by {signal.Signals(os.WTERMSIG(status)).name}")
        elif os.WEXITSTATUS(status):
            problems.append(f"exit status {os.WEXITSTATUS(status)}")
        if spent > CPU:
            problems.append(f"{spent:.1f} s of CPU")
        if grown > GROWTH:
            problems.append(f"{grown >> 20} MB more memory")
        return "; ".join(problems)


def _child(target: Target, folder: Path, writing: int) -> None:
    told = ""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        seconds = int(CPU) + 2
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _FLOOD, used + _FLOOD))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        try:
            target.read(folder)
        except DdimxError as error:
            length = len(str(error))
            told = (
                f"an error of {length} characters: {str(error)[:200]}" if length > MESSAGE else ""
            )
    except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
        told = traceback.format_exc()[-3000:]
    finally:
        os.write(writing, told.encode("utf-8", "replace"))
        os._exit(0)


def _until_end(child: int, pipe: int) -> tuple[bytes, tuple[int, resource.struct_rusage]]:
    """Return what a child wrote, with its status and usage; it is killed after WALL seconds."""
    os.set_blocking(pipe, False)
    told, deadline, pause = b"", time.monotonic() + WALL, 0.0005
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        with suppress(BlockingIOError):
            told += os.read(pipe, 65536)
        if done:
            return told, (status, usage)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.02)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def serve() -> None:
    """Answer lines ["target", first, count] on stdin with lines of findings on stdout."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Path(folder))
        for line in sys.stdin:
            name, first, count = json.loads(line)
            print(json.dumps(runner.run(name, range(first, first + count))), flush=True)


def main(arguments: list[str]) -> None:
    """Run from the command line, see the module."""
    if arguments == ["--serve"]:
        serve()
    elif arguments[1:2] == ["--keep"]:
        target, kept = all_targets()[arguments[0]], Path(arguments[2])
        with tempfile.TemporaryDirectory() as folder:
            target.make(Path(folder))
            write_input(target, Path(folder), kept, int(arguments[3]))
        target.read(kept)
    else:
        name, count, first = arguments[0], int(arguments[1]), int((arguments[2:] or ["0"])[0])
        with tempfile.TemporaryDirectory() as folder:
            runner, begun = Runner(Path(folder)), time.monotonic()
            for one in runner.targets if name == "all" else [name]:
                findings = runner.run(one, range(first, first + count))
                print(*findings, sep="\n")
                seconds = time.monotonic() - begun
                print(
                    f"{one}: {count} inputs, {len(findings)} findings, {seconds:.0f} s", flush=True
                )


if __name__ == "__main__":
    main(sys.argv[1:])
