"""How a network is run: its operations one by one, with packed weights, as graphs, or compiled.

All engines compute the same function, to the rounding of the network's precision. Graphs replay the
very operations of the plain path, so that not a bit differs. With packed weights the products are
the same; in float32 oneDNN may choose another order of its sums. Compiled code rounds elsewhere: it
keeps more digits within what it fuses. For that reason "auto" never compiles under --invariant,
which promises the same bits whatever the number of samples; whoever asks for it there, has the
engine in the run's identity.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..errors import DdimxError, UsageError
from ..solvers.graphs import RowGraphs
from ..timing import timed
from ..weights.model import Model
from . import compiled, costs, packed
from .memory import shortage, together, weight_bytes
from .settings import Settings

EngineName = Literal["eager", "pack", "graph", "compile"]
WARM_UP = 1  # calls that are not timed: the first of them allocates and chooses algorithms
TIMED = 2  # calls that are, before it is decided whether to compile
WORTH_A_LOOK = 2.0  # seconds that a run has to last before the record of costs is read for it
LONG = 10.0  # seconds of a run from which on the figures are worth telling
Compiling = Callable[[str], AbstractContextManager[Any]]
COMPILER = 300 << 20  # bytes that the compiler needs besides a second copy of the weights
MOST_ENGINES = 4  # that are kept for a model: the sizes of batch that a program changes between


class Engine:
    """A network as it is run, with the reason for it.

    Attributes:
        name: "eager", "pack", "graph" or "compile", as things stand: "auto" may change during a
            run.
        reason: why, in a few words.
        network: what to call, as the model's network: (x, t[, labels]).
        compile_seconds: what compiling has cost in this run, None if nothing was compiled.
        say: is told in one line what was decided.
        compiling: surrounds each compilation, and is told how long it will take.
    """

    def __init__(self, name: EngineName, reason: str, network: nn.Module) -> None:
        self.name, self.reason, self.network = name, reason, network
        self.compile_seconds: float | None = None
        self.say: Callable[[str], None] = lambda _: None
        self.compiling: Compiling = nullcontext

    def expect_samples(self, count: int) -> None:
        """Begin a run of so many samples."""

    @contextmanager
    def telling(self, say: Callable[[str], None], compiling: Compiling) -> Iterator[None]:
        """Tell ``say`` what happens meanwhile, and surround compilations with ``compiling``."""
        before = self.say, self.compiling
        self.say, self.compiling = say, compiling
        try:
            yield
        finally:
            self.say, self.compiling = before

    def begin_batch(self) -> None:
        """Note that no row is under way."""

    def line(self) -> str:
        """Return the engine and the reason in one line."""
        cost = self.compile_seconds
        more = "" if cost is None else f"; compiled in {cost:.1f} s"
        return f"engine: {self.name} ({self.reason}{more})"

    def outlook(self) -> str:
        """Return in one line what is known before the run."""
        return self.line()

    def record(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        cost = self.compile_seconds
        seconds = {} if cost is None else {"compile_seconds": round(cost, 3)}
        return {"name": self.name, "reason": self.reason} | seconds

    @contextmanager
    def counted(self, on_call: Callable[[], None]) -> Iterator[None]:
        """Call ``on_call`` for every call of the network meanwhile, replayed ones included."""
        graphs: RowGraphs | None = getattr(self.network, "graphs", None)

        def called(*_: Any) -> None:
            # While a graph is captured nothing runs; its replays are counted.
            if graphs is None or not torch.cuda.is_current_stream_capturing():
                on_call()

        hook = self.network.register_forward_hook(called)
        if graphs is not None:
            graphs.on_replay = on_call
        try:
            yield
        finally:
            hook.remove()
            if graphs is not None:
                graphs.on_replay = None


class _Runner(nn.Module):
    """A network whose calls an engine answers; parameters and dtype are the network's."""

    def __init__(
        self, network: nn.Module, answer: Callable[..., Tensor], graphs: RowGraphs | None
    ) -> None:
        super().__init__()
        self.network = network
        self.graphs = graphs
        self._answer = answer

    def forward(self, *arguments: Tensor) -> Tensor:
        """Return the network's raw output."""
        return self._answer(*arguments)


class _Compiling(Engine):
    """An engine that compiles: at once where that is the user's wish, else once it pays."""

    def __init__(
        self,
        model: Model,
        wish: str,
        together: int,
        size: int,
        refusal: str | None,
        *,
        packs: bool = False,
    ) -> None:
        """Begin without any code.

        Args:
            wish: "auto", "pack", "graph" or "compile".
            together: how many samples a batch has.
            size: how many a compiled call takes.
            refusal: why nothing is compiled in any case.
            packs: whether weights are packed while nothing is compiled.
        """
        graphs = RowGraphs() if model.device.type == "cuda" else None
        super().__init__("eager", "the run has not begun", model.network)
        self.network = _Runner(model.network, self._call, graphs)
        self._model, self._wish, self._size, self._refusal = model, wish, size, refusal
        self._graphs = graphs
        self._function: Callable[..., Tensor] | None = None
        self._key, self._kind = costs.names_of(model, size)
        self._together, self._calls_per_batch = together, 0
        self._expected, self._calls, self._replays = 0, 0, 0
        self._plain: list[float] = []
        self._compiled: list[float] = []
        self._decided = False
        if graphs is not None:
            graphs.strict = wish == "graph"
            self.name, self.reason = "graph", "a GPU waits for launches otherwise"
        self._network = packed.packed(model.network) if packs else model.network
        self._without: EngineName = "pack" if packs else "eager"
        if wish != "auto":
            self._decided = True
            self.name = cast(EngineName, wish)
            self.reason = "asked for"

    def expect_samples(self, count: int) -> None:
        self._calls, self.compile_seconds = 0, None
        self._expected = math.ceil(count / self._together) * self._calls_per_batch
        self._replays = 0 if self._graphs is None else self._graphs.replays
        if self._refusal is None and self._function is None and self._wish in ("auto", "compile"):
            self._function = self._compiled_for_another()
        if self._function is not None and self._wish == "auto":
            if self.name != "compile" and self._graphs is not None:
                self._graphs.clear()  # of the plain network
            self._decided, self.name, self.reason = True, "compile", "compiled already"
        elif self._wish == "auto":
            self._decided = self._refusal is not None
            if self._graphs is None:
                short = "the run is too short for compiling to pay"
                self.name, self.reason = self._without, self._refusal or short

    def outlook(self) -> str:
        if self._decided or self._function is not None:
            return self.line()
        seconds = self._estimate().seconds
        return (
            f"engine: {self.name}; compile as soon as that pays, which the first calls show "
            f"(it takes about {seconds:.0f} s)"
        )

    def _estimate(self, plain: float | None = None) -> costs.Estimate:
        """Return what compiling would cost and gain; ``plain`` are the seconds of a plain call."""
        device, speed = self._model.device.type, self._model.device.type
        if device == "cpu":
            low = self._model.precision.dtype == torch.bfloat16
            speed += " bf16" if low else " fp32"
        layers = costs.layers_of(self._model.network)
        return costs.estimate(costs.read(), self._key, self._kind, device, speed, layers, plain)

    def begin(self, nfe: int, count: int) -> None:
        """Begin a run of ``count`` samples with ``nfe`` calls of the network for each batch."""
        self._calls_per_batch = nfe
        self.expect_samples(count)

    def _compiled_for_another(self) -> Callable[..., Tensor] | None:
        """Return what another engine of this model has compiled at this size, if any has."""
        ours = [engine for engine in self._model.engines.values() if isinstance(engine, _Compiling)]
        return next(
            (
                other._function
                for other in ours
                if other._size == self._size
                and other._function is not None
                and other._model.network is self._model.network
            ),
            None,
        )

    def begin_batch(self) -> None:
        graphs = self._graphs
        if graphs is None:
            return
        if graphs.failure is not None and self.name == "graph":
            self.name, self.reason = "eager", f"rows cannot be captured: {graphs.failure}"
        if not self._decided and graphs.seconds is not None:
            self._decide(graphs.seconds)

    def _decide(self, plain: float) -> None:
        """Decide whether to compile, by the seconds of a plain call."""
        if self._graphs is None:
            self._decided = True
        done = self._calls + (0 if self._graphs is None else self._graphs.replays - self._replays)
        left = (self._expected - done) * plain
        if left < WORTH_A_LOOK:
            return
        cost = self._estimate(plain)
        saving = left * (1 - cost.ratio)
        if saving > cost.seconds:
            lack = shortage(self._model.device, weight_bytes(self._model) + COMPILER)
            if lack is not None:
                self.reason = f"compiling {lack}"
                self.say(self.line())
                return
            self.name = "compile"
            self.reason = f"saves about {saving - cost.seconds:.0f} s of {left:.0f} s"
            self._decided = True
            if self._graphs is not None:
                self._graphs.clear()  # of the plain network
        elif left > LONG and self._graphs is None:
            saves = f"save {max(saving, 0):.0f} s of {left:.0f} s"
            self.reason = f"compiling would take about {cost.seconds:.0f} s and {saves}"
            self.say(self.line())

    def _call(self, *arguments: Tensor) -> Tensor:
        """Answer a call of the network."""
        self._calls += 1
        network = self._network
        if self.name == "compile":
            if self._function is None:
                return self._first_compiled(arguments)
            return self._timed(self._compiled, lambda: self._run(arguments))
        if self._graphs is not None or self._decided:
            out: Tensor = network(*arguments)
            return out
        out = self._timed(self._plain, lambda: network(*arguments))
        if len(self._plain) >= WARM_UP + TIMED:
            self._decide(min(self._plain[WARM_UP:]))
        return out

    def _run(self, arguments: tuple[Tensor, ...]) -> Tensor:
        assert self._function is not None
        try:
            return compiled.in_parts(self._function, self._size, arguments)
        except torch.cuda.OutOfMemoryError:
            # The batch will be halved, and padding it to the old size would need as much again.
            self._size, self._function = max(1, (self._size + 1) // 2), None
            raise

    def _timed(self, seconds: list[float], call: Callable[[], Tensor]) -> Tensor:
        """Return what a call returns, and add its time to the first few on a CPU."""
        if self._graphs is not None or len(seconds) >= WARM_UP + TIMED:
            return call()
        start = time.perf_counter()
        out = call()
        seconds.append(time.perf_counter() - start)
        if seconds is self._compiled and len(seconds) == WARM_UP + TIMED:
            plain = min(self._plain[WARM_UP:], default=None)
            older = costs.read().get(self._key)
            if plain is not None or older is None or older.plain is None:  # else a pair of one run
                entry = costs.Entry(
                    self._kind,
                    costs.layers_of(self._model.network),
                    plain=plain,
                    compiled=min(seconds[WARM_UP:]),
                )
                costs.remember(self._key, entry)
        return out

    def _first_compiled(self, arguments: tuple[Tensor, ...]) -> Tensor:
        """Compile and answer the call, plainly where that fails and was not the user's wish.

        A damaged cache of code may be the reason, so that it is removed before the second try.

        Raises:
            DdimxError: it failed, and compiling was the user's wish.
        """
        held = costs.code_is_held(costs.read(), self._key)
        notice = f"compiling the network, about {self._estimate().seconds:.0f} s"
        for last in (False, True):
            start = time.perf_counter()
            self._function = compiled.compiled(self._model.network)
            try:
                with self.compiling(notice), timed("compiling"), compiled.code_folder():
                    out = self._run(arguments)
                break
            except torch.cuda.OutOfMemoryError:
                raise
            # What a compiler, a linker or a loader may raise has no common class. It is told in
            # the manifest and on stderr, or is an error.
            except Exception as error:  # noqa: BLE001
                self._function = None
                failure = _first_line(error)
            if last:
                return self._not_compiled(failure, arguments)
            compiled.forget_code()
            held = False
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
        self.compile_seconds = time.perf_counter() - start
        entry = costs.Entry(
            self._kind,
            costs.layers_of(self._model.network),
            cold=self.compile_seconds if held is False else None,
            warm=self.compile_seconds if held else None,
        )
        costs.remember(self._key, entry)
        self.say(self.line())
        return out

    def _not_compiled(self, failure: str, arguments: tuple[Tensor, ...]) -> Tensor:
        """Go on without compiling, or refuse to."""
        if self._wish == "compile":
            raise DdimxError(
                f"the network cannot be compiled here: {failure}; --engine eager does without"
            )
        self.name = self._without if self._graphs is None else "graph"
        self.reason = f"compiling failed: {failure}"
        self._refusal = self.reason
        self.say(self.line())
        out: Tensor = self._network(*arguments)
        return out


def choose_engine(model: Model, settings: Settings, count: int | None = None) -> Engine:
    """Return how to run a model's network. Nothing is compiled before the first call.

    Args:
        settings: with the engine that the user wants, or "auto".
        count: how many samples are to be drawn, where they are not all of the settings.

    Raises:
        UsageError: an engine that cannot run here, with the reason.
    """
    wish, device, process = settings.engine, model.device, model.process
    if wish == "eager":
        return Engine("eager", "asked for", model.network)
    refusals: dict[str, str | None]
    if not getattr(process, "fixed_shapes", False):  # a process of before 0.2 says nothing
        varying = process.draws != "images"
        reason = (
            f"the shapes of {process.draws} vary from call to call"
            if varying
            else f"'{model.name}' brings a loop of its own"
        )
        refusals = dict.fromkeys(("pack", "graph", "compile"), reason)
    else:
        no_cuda = f"CUDA graphs need a CUDA device, and this run is on {device.type}"
        refusals = {
            "pack": packed.refusal(model.network, device),
            "graph": None if device.type == "cuda" else no_cuda,
            "compile": compiled.refusal(device),
        }
        # Under "auto" there may be more memory, or less, once it is decided whether to compile.
        needs = {"pack": packed.KEPT * weight_bytes(model)}
        if wish == "compile":
            needs["compile"] = weight_bytes(model) + COMPILER
        for name, need in needs.items():
            if refusals[name] is None and (lack := shortage(device, need)) is not None:
                refusals[name] = f"it {lack}"
    if wish != "auto" and (refusal := refusals[wish]) is not None:
        raise UsageError(f"--engine {wish}: {refusal}; --engine auto takes what runs here")
    if wish == "auto":
        if refusals["compile"] is None and settings.invariant:
            refusals["compile"] = "--invariant keeps the bits whatever the number of samples"
        if settings.invariant or model.precision.dtype != torch.bfloat16:
            # In bfloat16 not a bit differs; in float32 a last one may, for less time saved.
            refusals["pack"] = "packed in bfloat16 only"
        if not type(model.network).__module__.startswith("ddimx."):
            refusals = dict.fromkeys(refusals, "a network from outside the package")
        if all(refusals.values()):
            return Engine("eager", refusals["compile"] or "", model.network)
    # With guidance in some rows only, these take two compiled calls, and the others one.
    both = settings.passes == 2 * settings.plan.nfe
    samples = together(model, settings)
    size = samples * (2 if both else 1)
    key = (wish, size, settings.invariant, id(model.network))
    engine: _Compiling | None = model.engines.pop(key, None)
    if engine is None:
        packs = wish in ("auto", "pack") and refusals["pack"] is None
        engine = _Compiling(model, wish, samples, size, refusals["compile"], packs=packs)
    while len(model.engines) >= MOST_ENGINES:
        del model.engines[next(iter(model.engines))]
    model.engines[key] = engine
    number = settings.count if count is None else count
    engine.begin(settings.plan.nfe, number)
    return engine


def _first_line(error: Exception) -> str:
    """Return what an error says in its first line that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
