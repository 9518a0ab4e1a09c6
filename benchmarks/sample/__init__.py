"""Sampling end to end: starting noise, all steps, clamping to bytes, back in main memory.

Networks of images with configurations of ermongroup/ddim have random weights (which take as long as
trained ones) and are written as a diffusers folder, which both programs read; the baseline is
diffusers' DDIMPipeline in float32. The baseline of a model that no pipeline of theirs draws from is
the loop that one would write after reading the paper, around the same network.

Every row runs DDIM with eta 0 and no guidance. Before it is timed it starts once from the same x_T
as the baseline, so that the column of differences tells whether it computed the same images;
network calls are counted by a hook. Loading a model and encoding PNGs are not part of it, and the
first call, in which things are initialized and compiled, stands in a column of its own.
Milliseconds per network call are the whole time divided by the calls, so the sampler's own work is
in them.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ddimx
from ddimx.config_file import load_config
from ddimx.device import choose_precision
from ddimx.errors import DdimxError
from ddimx.models.factory import build
from ddimx.noise import Noise
from ddimx.weights.formats.diffusers.folder import write_folder

from ..attention import REFUSALS
from ..device import per_call, waiter
from ..runner import Absent, Budget, Contender, Job, Table, TooLong, compare
from . import pipelines
from .loop import eager_loop

ROUNDS = 10
FAILURES: tuple[type[Exception], ...] = (DdimxError, *REFUSALS)  # a peer that cannot run here
BATCHES = {"cpu": (1, 16), "cuda": (1, 16, 512)}
STEPS = 50
CLIP = 1.0  # of x0, as DDIMPipeline has it by default; without, random weights overflow the range
FEW_STEPS = 2  # of the sample in which launches are counted: a profile of fifty is megabytes

# Configurations of ermongroup/ddim, of which no weights are shipped.
RANDOM = ("cifar10", "celeba", "church", "bedroom")


@dataclass(frozen=True)
class Case:
    """One table: a configuration or a shipped model, how many samples, in how many steps.

    Attributes:
        quick_steps: steps under ``--quick``.
        weight: its part of the suite's time.
    """

    model: str
    batch: int
    steps: int
    quick_steps: int
    weight: float = 1.0


CASES = {
    "cpu": (
        Case("cifar10", 1, 50, 4, 3.0),
        Case("cifar10", 8, 10, 2, 4.0),
        Case("emoji", 1, 50, 10),
        Case("emoji", 16, 20, 3, 1.5),
        Case("furniture", 4, 4, 1, 1.5),
    ),
    # Two networks are compiled in a table; the first two get the time for it.
    "cuda": (
        Case("cifar10", 1, 50, 50, 10.0),
        Case("cifar10", 512, 20, 5, 10.0),
        Case("cifar10", 64, 50, 20, 2.0),
        Case("church", 16, 10, 3, 2.0),
        Case("furniture", 4, 8, 4),
        Case("emoji", 1, 50, 50),
        Case("furniture", 64, 8, 4),
    ),
}


@dataclass(frozen=True)
class Variant:
    """One way to run ``ddimx.sample``."""

    dtype: str
    engine: str

    @property
    def name(self) -> str:
        """Precision and engine, as the tables show them."""
        return f"ddimx {self.dtype}, engine {self.engine}"


def variants(device: torch.device) -> tuple[Variant, ...]:
    """Return the rows of ours: float32, and every engine in the precision that "auto" takes."""
    dtype = choose_precision("auto", device).name
    engines = ("eager", *(("graph",) if device.type == "cuda" else ()), "compile", "auto")
    rows = [Variant("fp32", "eager"), *(Variant(dtype, engine) for engine in engines)]
    return tuple(dict.fromkeys(rows))


def jobs(
    device: torch.device,
    rounds: int | None = None,
    *,
    model: str | None = None,
    steps: int | None = None,
    batches: Sequence[int] = (),
    compiled: bool = True,
    quick: bool = False,
    budget: Budget | None = None,
) -> list[Job]:
    """Return what measures a table for every case, or for every batch size of one model."""
    kind = device.type if device.type in CASES else "cpu"
    cases: Sequence[Case] = CASES[kind]
    if model is not None:
        sizes = batches or BATCHES[kind]
        cases = [Case(model, batch, STEPS, STEPS) for batch in sizes]

    def job(case: Case) -> Job:
        count = steps or (case.quick_steps if quick else case.steps)
        shapes = case.model == "furniture"
        what = "shapes" if shapes else "batch"
        number = f"{case.batch} {what}" if shapes else f"{what} {case.batch}"
        name = Path(case.model).stem
        per = " per level" if shapes else ""
        title = f"sample, {name}, {number}, {count} steps{per}"
        title += "" if shapes else " of DDIM"
        parts = (title, case, count, device, rounds or ROUNDS, compiled, budget or Budget())
        return Job(title, _Measurement(*parts).table, case.weight)

    return [job(case) for case in cases]


@cache
def random_model(config: str) -> Path:
    """Write a configuration's network with random weights as a diffusers folder, once a process."""
    tree = load_config(config, [f"sampling.clip={CLIP}", "sampling.spacing=trailing"])
    network, _ = build(tree)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the last layers begin at zero, and an output of zeros checks nothing
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_folder(folder / config, network.state_dict(), tree, {}, "raw")
    return folder / config


@cache
def loaded(name: str, device: torch.device, dtype: str) -> ddimx.Model:
    """Return a model in a precision: a shipped one, a file, or a configuration's random one."""
    path = random_model(name) if name in RANDOM else name
    return ddimx.load_model(path, device=str(device), dtype=dtype)


@dataclass(frozen=True)
class Way:
    """One way to draw a table's samples.

    Attributes:
        draw: a function of the number of steps: the samples in main memory, images as bytes.
        compared: the samples from the common x_T, images float in [-1, 1]; the first call of all.
        calls: how often the network is called.
    """

    name: str
    draw: Callable[[int], object]
    compared: Callable[[], Tensor | None]
    calls: int


Prepared = tuple[str, Callable[[], Way]]  # a name, and what loads a model and makes it ready


@dataclass(frozen=True)
class _Measurement:
    """Everything that a table needs."""

    title: str
    case: Case
    steps: int
    device: torch.device
    rounds: int
    compiled: bool
    budget: Budget

    def table(self) -> Table:
        """Measure the peers that can run here."""
        plain = loaded(self.case.model, self.device, "fp32")
        random = self.case.model in RANDOM
        notes = [
            f"configs/{self.case.model}.yml with random weights"
            if random
            else f"model {Path(plain.name).name}, sha256 {plain.sha256}"
        ]
        if self.device.type == "cuda":
            notes.append("float32 is float32: TF32 is off")
        ours = [self._ours(variant) for variant in variants(self.device)]
        images = plain.process.draws == "images"
        if images:
            ways = [*self._plain_peers(plain), *ours]
            notes.append("rms diff.: to the first row's images from the same x_T, in [-1, 1]")
        else:
            ways = ours
        peers: list[Contender | Absent] = []
        expected: Tensor | None = None
        for make in ways:
            if isinstance(make, Absent):
                peers.append(make)
                continue
            name, prepare = make
            self.budget.check()
            try:
                peer, samples = self._contender(prepare(), expected)
            except FAILURES as error:
                if isinstance(error, TooLong):
                    raise
                reason = str(error).strip() or type(error).__name__
                peers.append(Absent(name, reason.splitlines()[0]))
                continue
            peers.append(peer)
            expected = samples if expected is None else expected
        notes += self._choices()
        wait = waiter(self.device)
        table = compare(self.title, peers, self.rounds, wait=wait, notes=notes, budget=self.budget)
        per_second = "images_per_s" if images else "shapes_per_s"
        for row in table["rows"]:
            if "absent" not in row:
                row[per_second] = 1e3 * self.case.batch / row["median_ms"]
                row["ms_per_call"] = row["median_ms"] / row["network_calls"]
        return table

    def _choices(self) -> list[str]:
        """Return what "auto" has chosen for this table's samples, and why."""
        dtype = choose_precision("auto", self.device).name
        engines = loaded(self.case.model, self.device, dtype).engines
        chosen = [engine.line() for (wish, *_), engine in engines.items() if wish == "auto"]
        return [f"auto, when it was warmed up: {line}" for line in chosen[-1:]]

    def _plain_peers(self, plain: ddimx.Model) -> list[Prepared | Absent]:
        """Return diffusers' pipelines where they can draw from the model, else the eager loop."""
        batch, steps, random = self.case.batch, self.steps, self.case.model in RANDOM
        start = Noise(0).normal(range(batch), plain.process.shape, device=self.device)
        precision = choose_precision("auto", self.device)
        half = None if precision.dtype == torch.bfloat16 else precision.reason
        peers: list[Prepared | Absent] = []
        if random:
            folder = random_model(self.case.model)
            ways = pipelines.peers(folder, self.device, half, batch, self.compiled, self.budget)
            for name, make in ways.items():
                if isinstance(make, str):
                    peers.append(Absent(name, make))
                else:
                    peers.append((name, partial(self._pipeline, name, make, start)))
        if all(isinstance(peer, Absent) for peer in peers):
            clip = CLIP if random else None

            def loop() -> Way:
                with pipelines.counting(plain.network) as calls:
                    eager_loop(plain, 1, steps, clip)()
                return Way(
                    "eager loop fp32",
                    lambda count: as_bytes(eager_loop(plain, batch, count, clip)()),
                    eager_loop(plain, batch, steps, clip),
                    len(calls),
                )

            peers.insert(0, ("eager loop fp32", loop))
        return peers

    def _pipeline(self, name: str, make: Callable[[], pipelines.Pipeline], start: Tensor) -> Way:
        pipeline = make()
        calls = pipeline.plain_calls(self.steps)
        return Way(
            name,
            lambda count: pipeline.draw(self.case.batch, count),
            lambda: pipeline.draw_from(start, self.steps),
            calls,
        )

    def _ours(self, variant: Variant) -> Prepared | Absent:
        if variant.engine != "eager" and not self.compiled:
            return Absent(variant.name, "--no-compile")
        seconds = pipelines.COMPILE_SECONDS.get(self.device.type, 0.0)
        if variant.engine == "compile" and (reason := self.budget.refusal(seconds)):
            return Absent(variant.name, reason)
        return variant.name, partial(self._our_way, variant)

    def _our_way(self, variant: Variant) -> Way:
        model = loaded(self.case.model, self.device, variant.dtype)
        batch, process = self.case.batch, model.process
        options: dict[str, Any] = {"seed": 0}
        if process.draws == "images":
            options |= {"eta": 0.0, "spacing": "trailing", "solver": "ddim"}
        if process.num_classes:
            options |= {"guidance": 1.0, "category": model.classes[0]}

        def samples(count: int, number: int = batch, engine: Any = variant.engine) -> Any:
            return ddimx.sample(
                model, count=number, batch_size=number, steps=count, engine=engine, **options
            )

        with pipelines.counting(model.network) as calls:  # the same plan, on the plain path
            samples(self.steps, 1, "eager")
        if process.draws != "images":
            return Way(variant.name, samples, lambda: samples(self.steps) and None, len(calls))
        return Way(
            variant.name,
            lambda count: as_bytes(samples(count)),
            lambda: samples(self.steps),
            len(calls),
        )

    def _contender(self, way: Way, expected: Tensor | None) -> tuple[Contender, Tensor | None]:
        """Draw once to warm up and to compare, then count what is launched."""
        wait = waiter(self.device)
        begun = time.perf_counter()
        samples = way.compared()
        wait()
        facts = {"first_call_s": time.perf_counter() - begun, "network_calls": float(way.calls)}
        if samples is not None:
            samples = samples.float().cpu()
            difference = samples - (samples if expected is None else expected)
            facts["rms_difference"] = difference.square().mean().sqrt().item()
        # On a CPU the count does not depend on the batch, and a profile takes as long as a sample.
        self.budget.check()
        if self.device.type == "cuda" or self.case.batch == 1:
            calls = way.calls / self.steps * FEW_STEPS
            facts |= per_call(lambda: way.draw(FEW_STEPS), calls, self.device)
        return Contender(way.name, lambda: way.draw(self.steps), facts=facts, warm=True), samples


def as_bytes(samples: Tensor) -> Tensor:
    """Return images in [-1, 1] as bytes in main memory."""
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).cpu()
