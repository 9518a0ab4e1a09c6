"""Real processes: how much faster two are than one, what they take of memory, how long they start.

Each has one thread. Those that sample stay alive between the rounds (:mod:`.worker`); those that
train, start or are asked for their memory are fresh ones, which import and load everything anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddimx.data.order import Order
from ddimx.errors import DdimxError
from ddimx.noise import Noise

from ..machine import ROOT, peak_mb
from ..runner import Budget, Contender, Table, compare, table_of

PROCESSES = (1, 2)
SIZE = 8  # pixels a side of the small pictures
BATCH = 8  # samples together, the same for one process and for two
# A network that costs next to nothing, and no validation, previews or FID on the way.
TINY = ("model.ch=8", "model.norm_groups=2", "sampling.steps=1", "sampling.batch_size=2")
RARELY = ("training.validation_freq=1000000", "training.snapshot_freq=1000000")
# Of the training of two ranks: small enough to be measured soon, large enough that gradients,
# which both must exchange, are not most of it.
TRAINED = ("model.ch=32", "model.num_res_blocks=1", *RARELY, "sampling.steps=1")
TRAINED_BATCH, LOGGED = 64, 50  # examples of a step, of both ranks together; steps of a log line


def sampling(rounds: int, count: int) -> Table:
    """Measure one process that makes a run, and two that make one of the same size in shards.

    Everything counts but the start of the processes: the network, the files, the coordination, the
    gathering. Each process has a thread, and two are begun at the same moment.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        workers = {n: [stack.enter_context(_worker("emoji")) for _ in range(n)] for n in PROCESSES}
        told: dict[int, list[dict[str, float]]] = {n: [] for n in PROCESSES}

        def make(number: int) -> None:
            out = folder / "run"
            for k, worker in enumerate(workers[number], start=1):
                order = {"out": str(out), "shard": f"{k}/{number}", "count": count}
                _write(worker, json.dumps(order | {"batch_size": BATCH}))
            told[number] += [json.loads(_read(worker)) for worker in workers[number]]
            shutil.rmtree(out)

        names = {number: _processes(number) for number in PROCESSES}
        peers = [Contender(names[n], lambda n=n: make(n), warm=True) for n in PROCESSES]  # type: ignore[misc]
        for number in PROCESSES:
            make(number)  # what is compiled, packed and looked up once
        title = f"sample, emoji, {count} samples, one thread a process"
        table = compare(title, peers, rounds)
    for number, row in zip(PROCESSES, table["rows"], strict=True):
        row["images_per_s"] = 1e3 * count / row["median_ms"]
        row["coordinating_ms"] = float(np.median([t["coordinating_ms"] for t in told[number]]))
        row["peak_mb"] = max(t["peak_mb"] for t in told[number])
    table["notes"] = ["peak memory and coordination are those of one process of the run", cores()]
    return table


def training(rounds: int, count: int, size: int) -> Table:
    """Measure one rank that trains, and two of torchrun with the same global batch.

    Args:
        rounds: how often each trains.
        count: pictures; a few, for a step does not depend on their number.
        size: pixels of a side.

    The figures are those of the log: seconds of a step, of ``LOGGED`` steps after as many others.
    """
    seconds: dict[str, list[float]] = {_processes(number): [] for number in PROCESSES}
    peaks = dict.fromkeys(seconds, 0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _pictures(folder / "pictures", count, size)
        _ddimx(f"prepare images pictures packed.npy --size {size}", folder)
        words = ["train", "--data", "packed.npy", "--device", "cpu", "--out", "run", "-q"]
        words += ["--steps", str(2 * LOGGED), "--batch-size", str(TRAINED_BATCH), *_set(*TRAINED)]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        for _ in range(rounds):
            for number, row in zip(PROCESSES, seconds, strict=True):
                begin = [*launcher, str(number), "-m"] if number > 1 else ["-m"]
                peaks[row] = max(peaks[row], _run([*begin, "ddimx", *words], folder))
                lines = (folder / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
                rates = [r["images_per_second"] for r in map(json.loads, lines) if "loss" in r]
                seconds[row].append(TRAINED_BATCH / rates[-1])
                shutil.rmtree(folder / "run")
    title = f"training, {size}x{size} pixels, {TRAINED_BATCH} examples a step, one thread a rank"
    arrays = {name: np.array(values) for name, values in seconds.items()}
    table = table_of(title, arrays, _processes(1))
    for row in table["rows"]:
        row["images_per_s"] = 1e3 * TRAINED_BATCH / row["median_ms"]
        row["peak_mb"] = peaks[row["name"]]
    table["notes"] = ["peak memory: of the largest process, be it torchrun's own", cores()]
    return table


def cores() -> str:
    """Return what ``lscpu`` says of the cores: two threads of one core are no two processors."""
    try:
        words = subprocess.run(["lscpu"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "no lscpu here: whether two threads share a core is not known"
    told = dict(line.split(":", 1) for line in words.splitlines() if ":" in line)
    threads, virtual = (
        told.get(k, "").strip() for k in ("Thread(s) per core", "Hypervisor vendor")
    )
    note = f"lscpu: {os.cpu_count()} CPUs, threads a core: {threads or 'not said'}"
    if virtual:
        note += f"; a virtual machine ({virtual}), whose cores may be threads of one core"
    return note


def start(rounds: int, count: int, budget: Budget | None = None) -> Table:
    """Measure how long training takes to its first step, and to its end after it.

    Fresh processes of one step each: the folder is listed and each picture's size looked at, the
    packed array is mapped.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _pictures(folder / "pictures", count, SIZE)
        _ddimx(f"prepare images pictures packed.npy --size {SIZE}", folder)

        def fresh(words: str) -> Callable[[], object]:
            def begin() -> None:
                options = ["--steps", "1", "--batch-size", "16", "--device", "cpu", "-q"]
                _run(["-m", "ddimx", *words.split(), *options, *_set(*TINY, *RARELY)], folder)
                shutil.rmtree(folder / "run", ignore_errors=True)

            return begin

        packed, pictures = (
            f"train --data {data} --out run" for data in ("packed.npy", "pictures --size 8")
        )
        torch = Contender(
            'python -c "import torch"',
            lambda: _run(["-c", "import torch"], folder),
            yardstick=True,
            warm=True,
        )
        peers = [
            Contender("packed", fresh(packed), warm=True),
            torch,
            Contender("a folder of pictures", fresh(pictures), warm=True),
        ]
        title = f"training of one step from the start of Python, {count:,} pictures"
        return compare(title, peers, rounds, budget=budget)


def epochs(rounds: int, count: int) -> Table:
    """Measure the boundary of an epoch: the order of the next one, however many went before."""

    def boundary(epoch: int) -> Callable[[], object]:
        order, first = Order(Noise(0), count), np.array([epoch * count])

        def cross() -> None:
            order.indices(first - 1)
            order.indices(first)

        return cross

    peers = [Contender(f"before epoch {n:,}", boundary(n)) for n in (2, 1_000, 1_000_000)]
    return compare(f"orders of two epochs of {count:,} examples", peers, rounds)


def memory(counts: Sequence[int]) -> Table:
    """Return the peak memory of runs of so many samples, each a process; the network is tiny."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _pictures(folder / "pictures", 32, SIZE)
        words = f"train --data pictures --size {SIZE} --steps 1 --device cpu --out model -q"
        _run(["-m", "ddimx", *words.split(), *_set(*TINY, *RARELY)], folder)
        for count in counts:
            words = f"sample -m model --steps 1 -n {count} --batch-size 100 --device cpu --out run"
            peak = _run(["-m", "ddimx", *words.split(), "-q", "--engine", "eager"], folder)
            record = json.loads((folder / "run" / "manifest.json").read_text(encoding="utf-8"))
            assert record["status"] == "complete"
            rate = count / record["seconds"]
            rows.append({"name": f"-n {count:,}", "images_per_s": rate, "peak_mb": peak})
            shutil.rmtree(folder / "run")
    return {
        "title": f"memory of sample, {SIZE}x{SIZE} pixels, one step of a tiny network, PNG",
        "baseline": "",
        "notes": [f"command: ddimx {words}"],
        "rows": rows,
    }


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _pictures(folder: Path, count: int, size: int) -> None:
    """Write so many pictures of noise, of two classes."""
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "ab"[i % 2] / f"{i:06d}.png")


def _set(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def _environment() -> dict[str, str]:
    """One thread a process, this checkout, and no launcher's variables."""
    theirs = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # as an installed package is: compiled once
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _ddimx(words: str, folder: Path) -> float:
    return _run(["-m", "ddimx", *words.split()], folder)


def _run(words: Sequence[str], folder: Path) -> float:
    """Run the interpreter in a folder; return the peak memory of its largest process in MB.

    Raises:
        DdimxError: it failed; the message is its own.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=_environment(), stdout=said, stderr=said
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # an interrupt must not leave it behind
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise DdimxError(f"{' '.join(words)}: {said.read().strip()[-2000:]}")
    return peak_mb(usage)


@contextmanager
def _worker(model: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.worker", model],
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _read(process)
        yield process
    finally:
        process.kill()
        process.communicate()


def _write(worker: subprocess.Popen[str], line: str) -> None:
    assert worker.stdin is not None
    worker.stdin.write(line + "\n")
    worker.stdin.flush()


def _read(worker: subprocess.Popen[str]) -> str:
    """Return a worker's next line.

    Raises:
        DdimxError: it has ended; why stands on stderr.
    """
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise DdimxError("a process that samples has ended")
    return line
