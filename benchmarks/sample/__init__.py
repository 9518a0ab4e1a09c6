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
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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
from ..runner import LEAST, Absent, Budget, Contender, Job, Later, Table, TooLong, add_peer, compare
from ..turns import first_line
from . import pipelines
from .cases import BATCHES, CASES, RANDOM, Case
from .loop import eager_loop

ROUNDS = 10
FAILURES: tuple[type[Exception], ...] = (DdimxError, *REFUSALS)  # a peer that cannot run here
STEPS = 50
CLIP = 1.0  # of x0, as DDIMPipeline has it by default; without, random weights overflow the range
FEW_STEPS = 2  # of the sample in which launches are counted: a profile of fifty is megabytes


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
    times, time_left = pipelines.CompileTimes(device), budget or Budget()
    if model is not None:
        sizes = batches or BATCHES[kind]
        cases = [Case(model, batch, STEPS, STEPS) for batch in sizes]

    def job(case: Case) -> Job:
        count = steps or (case.quick_steps if quick else case.steps)
        if case.model == "furniture":
            what = f"{case.batch} shapes, {count} steps per level"
        else:
            what = f"batch {case.batch}, {count} steps of DDIM"
        title = f"sample, {Path(case.model).stem}, {what}"
        parts = (title, case, count, device, rounds or ROUNDS, compiled, time_left, times)
        measurement = _Measurement(*parts)
        return Job(title, measurement.table, case.weight, lambda: measurement.later)

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


@dataclass(frozen=True)
class Prepared:
    """What loads a model and makes a way ready to draw.

    ``cost`` is how long its first call compiles, in units of a plain compilation.
    """

    name: str
    make: Callable[[], Way]
    cost: float = 0.0


@dataclass
class _Measurement:
    """Everything that a table needs.

    ``later`` holds the peers that are added once the table is measured: those that are compiled
    and those that did not fit. Without a limit of time all take part in the table's own rounds.
    """

    title: str
    case: Case
    steps: int
    device: torch.device
    rounds: int
    compiled: bool
    budget: Budget
    times: pipelines.CompileTimes
    later: list[Later] = field(default_factory=list)

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
        order = [way.name for way in ways]
        if self.budget.limited:
            # The baseline, what people get by default, the rest of ours, then theirs: when the time
            # is over, the last are left out, but never the first two.
            ways = sorted(
                ways,
                key=lambda way: (way.name != order[0], way is not ours[-1], way not in ours),
            )
        peers: list[Contender | Absent] = []
        failed: set[str] = set()
        baseline: Contender | None = None
        expected: Tensor | None = None
        for way in ways:
            if isinstance(way, Absent):
                peers.append(way)
            elif way.cost and self.budget.limited:
                peers.append(Absent(way.name, "its time was over before its turn came"))
            elif sum(isinstance(peer, Contender) for peer in peers) > 1 and self.budget.late():
                peers.append(Absent(way.name, "the table's time for getting ready was over"))
            else:
                self.budget.check()
                try:
                    peer, samples = self._contender(way.make(), expected)
                except FAILURES as error:
                    if isinstance(error, TooLong) and baseline is None:
                        raise
                    if not isinstance(error, TooLong):
                        failed.add(way.name)
                    peers.append(Absent(way.name, first_line(error)))
                    continue
                peers.append(peer)
                baseline = baseline or peer
                expected = samples if expected is None else expected
        notes += self._choices()
        wait = waiter(self.device)
        table = compare(self.title, peers, self.rounds, wait=wait, notes=notes, budget=self.budget)
        table["rows"].sort(key=lambda row: order.index(row["name"]))
        for row in table["rows"]:
            if "absent" not in row:
                self._complete(row, images)
        if baseline is not None:
            layers = _layers(plain.network)
            rows = {row["name"]: row for row in table["rows"]}
            once = rows[baseline.name]["median_ms"] / 1e3
            absent = [
                way
                for way in ways
                if isinstance(way, Prepared)
                and "absent" in rows[way.name]
                and way.name not in failed
            ]
            absent.sort(key=lambda way: way not in ours)
            self.later = [
                Later(
                    way.name,
                    partial(self._refusal, way.cost, layers, once),
                    partial(self._add, way, layers, once, baseline, expected),
                    math.ceil(way.cost),
                )
                for way in absent
            ]
        return table

    def _refusal(self, cost: float, layers: int, once: float) -> str | None:
        """Return why a peer cannot be compiled and measured in the time that is left.

        Args:
            cost: of :class:`Prepared`.
            layers: of the network.
            once: seconds of the baseline's samples, which a compiled peer takes at most.
        """
        rounds = (2 * LEAST + 4) * once  # of two, and what a peer draws before
        if cost:
            return self.budget.refusal(self.times.estimate(layers, cost), rounds)
        if self.budget.left() >= rounds:
            return None
        return f"the {max(0.0, self.budget.left()):.2g} s that were left did not suffice"

    def _add(
        self,
        way: Prepared,
        layers: int,
        once: float,
        baseline: Contender,
        expected: Tensor | None,
        table: Table,
    ) -> str | None:
        """Compile a peer and measure it beside the baseline; return why it cannot run here."""
        try:
            peer, _ = self._contender(way.make(), expected)
            if way.cost:
                seconds = (peer.facts or {})["first_call_s"]
                self.times.note(max(0.0, seconds - once), layers, way.cost)
            wait = waiter(self.device)
            row = add_peer(table, baseline, peer, self.rounds, wait=wait, budget=self.budget)
        except FAILURES as error:
            return first_line(error)
        self._complete(row, expected is not None)
        return None

    def _complete(self, row: dict[str, Any], images: bool) -> None:
        """Add to a measured row what follows from its median."""
        per_second = "images_per_s" if images else "shapes_per_s"
        row[per_second] = 1e3 * self.case.batch / row["median_ms"]
        row["ms_per_call"] = row["median_ms"] / row["network_calls"]

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
            ways = pipelines.peers(folder, self.device, half, batch, self.compiled)
            for name, way in ways.items():
                if isinstance(way, str):
                    peers.append(Absent(name, way))
                else:
                    make = partial(self._pipeline, name, way.make, start)
                    peers.append(Prepared(name, make, way.cost))
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

            peers.insert(0, Prepared("eager loop fp32", loop))
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
        cost = 1.0 if variant.engine == "compile" else 0.0
        return Prepared(variant.name, partial(self._our_way, variant), cost)

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


def _layers(network: torch.nn.Module) -> int:
    """Return how many layers with weights a network has."""
    return sum(any(True for _ in part.parameters(recurse=False)) for part in network.modules())


def as_bytes(samples: Tensor) -> Tensor:
    """Return images in [-1, 1] as bytes in main memory."""
    return samples.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8).cpu()
