"""One row of a run: as single operations, or as a CUDA graph that is captured once and replayed.

Sampling small batches on a GPU is bound by launches: the host needs ten times as long to start a
row's operations as the device to do them. A graph starts them all at once. Rows of a plan differ in
numbers, which are read from the device's table, and in few things that a graph cannot change: see
:class:`Kind`. For each kind one graph is captured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import DdimxError
from ..kernels.update import Extras, Stepped, update
from ..timing import timed

AHEAD = 4  # rows that the host may be ahead of the device, so that progress and Ctrl-C are live
MOST_FORMS = 4  # forms of a batch whose graphs are kept: the full one, the tail, and two to spare


class Kind(NamedTuple):
    """What a row's operations depend on, besides numbers and shapes."""

    calls: bool  # whether the network is called
    guided: bool  # in two passes, where the run is guided
    same_input: bool  # whether y is x
    same_point: bool  # whether y' is x'


class Evaluator(Protocol):
    """A network that rows can be captured with: it is called as (y, t), or through ``unguided``."""

    @property
    def form(self) -> Hashable:
        """What a captured call depends on besides the shapes of its tensors."""
        ...

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors besides y and t that change from batch to batch: the classes."""
        ...

    def own(self) -> Evaluator:
        """Return the same with inputs of its own, which a later batch's are copied into."""
        ...

    def __call__(self, y: Tensor, t: Tensor) -> Any:
        """Return the raw output, in two passes where the run is guided."""
        ...

    def unguided(self, y: Tensor, t: Tensor) -> Any:
        """Return the raw output in one pass."""
        ...


@dataclass(eq=False)
class RowState:
    """All tensors that the rows of a run read and write.

    Attributes:
        table: the plan's coefficients [rows, ...].
        times: float32 [rows], the network's times, NaN where it is not called.
        ordinal: 0-d int64, the next row.
        x, y: [B, ...], the state, and the point of a row whose kind says that it is another.
        history: [depth - 1, B, ...], or None.
        extras: what does not change from row to row.
        weight: 0-d, of guidance.
    """

    table: Tensor
    times: Tensor
    ordinal: Tensor
    x: Tensor
    y: Tensor
    history: Tensor | None
    extras: Extras
    weight: Tensor

    def step(self, evaluator: Evaluator, kind: Kind) -> Stepped:
        """Return what the next row makes of the state, and advance the ordinal on the device.

        Nothing here asks the device for a number, so that all of it can be captured.
        """
        out, uncond = None, None
        y = self.x if kind.same_input else self.y
        if kind.calls:
            time = self.times.index_select(0, self.ordinal.reshape(1))
            # A tensor of its own, not a view with stride 0: compiled code knows the strides.
            time = time.repeat(len(self.x))
            ask = evaluator if kind.guided else evaluator.unguided
            with timed("network"):
                out, uncond = ask(y, time)
        extras = replace(
            self.extras,
            same_point=kind.same_point,
            uncond=uncond,
            guidance=None if uncond is None else self.weight,
        )
        with timed("update"):
            stepped = update(self.table, self.ordinal, self.x, y, out, self.history, extras)
            self.ordinal.add_(1)
        return stepped

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        own = [getattr(self, f.name) for f in fields(self)]
        more = [getattr(self.extras, f.name) for f in fields(self.extras)]
        return [value for value in (*own, *more) if isinstance(value, Tensor)]

    def form(self) -> Hashable:
        """Return what captured rows depend on: shapes, dtypes, and the switches of the update."""
        values = (getattr(self.extras, f.name) for f in fields(self.extras))
        switches = tuple(None if isinstance(value, Tensor) else value for value in values)
        shapes = tuple((tuple(v.shape), v.dtype, v.device) for v in self.tensors())
        return switches, shapes, self.history is None

    def own(self) -> RowState:
        """Return a copy that shares no memory; x and y are two tensors in it."""

        def copies(of: RowState | Extras) -> dict[str, Any]:
            values = ((f.name, getattr(of, f.name)) for f in fields(of))
            return {name: value.clone() for name, value in values if isinstance(value, Tensor)}

        return replace(self, **copies(self), extras=replace(self.extras, **copies(self.extras)))


@dataclass(eq=False)
class _Form:
    """The graphs of batches of one form, and the buffers that they read and write."""

    state: RowState
    evaluator: Evaluator
    graphs: dict[Kind, Any] = field(default_factory=dict)
    warm: set[Kind] = field(default_factory=set)
    x0: dict[Kind, Tensor] = field(default_factory=dict)
    busy: bool = False


class RowGraphs:
    """The captured rows of one network, kept from batch to batch.

    A kind's first row runs as single operations, which also brings up what a capture must not
    (handles, workspaces, compiled kernels); its second is captured, and from then on replayed. The
    samples are those of the plain path, bit for bit: the same kernels run on the same numbers.

    Attributes:
        on_replay: is called for every replay of a row that calls the network.
        replays: how many rows were replayed.
        seconds: the device's time for the fastest replay so far that calls the network, or None.
        strict: whether a row that cannot be captured ends the run.
        failure: why rows are not captured, where that was tried and failed.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Any] | None = None) -> None:
        """Begin without any.

        Args:
            capture: records what a function launches and returns it with a method ``replay``; by
                default a CUDA graph.
        """
        self.strict = False
        self.failure: str | None = None
        self._own, self._capture = capture, capture or _Capture()
        self._forms: dict[Hashable, _Form] = {}
        self.on_replay: Callable[[], None] | None = None
        self.replays = 0
        self.seconds: float | None = None

    def clear(self) -> None:
        """Forget all graphs, and give their memory back."""
        self._forms.clear()
        self._capture = self._own or _Capture()

    @contextmanager
    def rows(
        self, state: RowState, evaluator: Evaluator
    ) -> Iterator[Callable[[Kind], Stepped] | None]:
        """Yield a function that does the next row of a run and returns tensors of their own.

        None where the graphs of this form are in use by another run that has not ended.
        """
        key = (state.form(), evaluator.form)
        form = self._forms.get(key)
        if form is None:
            while len(self._forms) >= MOST_FORMS:
                del self._forms[next(iter(self._forms))]
            form = self._forms[key] = _Form(state.own(), evaluator.own())
        elif form.busy:
            yield None
            return
        else:
            pairs = zip(form.state.tensors(), state.tensors(), strict=True)
            labels = zip(form.evaluator.inputs, evaluator.inputs, strict=True)
            for kept, new in (*pairs, *labels):
                kept.copy_(new)
        form.busy = True
        device = state.x.device
        clock = _Clock(device)

        def next_row(kind: Kind) -> Stepped:
            # Streams and graphs are made on PyTorch's current device; -1 leaves it.
            with torch.cuda.device(device if device.type == "cuda" else -1):
                return self._row(form, kind, clock)

        try:
            yield next_row
        except torch.cuda.OutOfMemoryError:
            self.clear()  # the batch is halved, and these graphs hold memory for nothing
            raise
        finally:
            form.busy = False

    def _row(self, form: _Form, kind: Kind, clock: _Clock) -> Stepped:
        state = form.state

        def row() -> None:
            stepped = state.step(form.evaluator, kind)
            state.x.copy_(stepped.x)
            if not kind.same_point:
                state.y.copy_(stepped.y)
            if stepped.x0 is not None:
                form.x0.setdefault(kind, torch.empty_like(state.x)).copy_(stepped.x0)

        graph = form.graphs.get(kind)
        if graph is None and kind in form.warm and self.failure is None:
            try:
                graph = form.graphs[kind] = self._capture(row)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:  # a capture runs nothing, so that the row is still to do
                if self.strict:
                    raise DdimxError(f"a row cannot be captured: {error}") from None
                self.failure = str(error).partition("\n")[0]
        if graph is None:
            row()
            form.warm.add(kind)
        else:
            with timed("network"):  # and the update, which is in the same graph
                graph.replay()
            self.replays += 1
            if kind.calls:
                if self.on_replay is not None:
                    self.on_replay()
                seconds = clock.tick()
                if seconds is not None:
                    self.seconds = min(seconds, self.seconds or seconds)
        # The buffers are written again by the next row, and an observer may keep what it is shown.
        x = state.x.clone()
        x0 = form.x0[kind].clone() if kind.calls else None
        return Stepped(x, x if kind.same_point else state.y.clone(), x0)


class _Clock:
    """The device's time from row to row, by which the host also waits for a device far behind."""

    def __init__(self, device: torch.device) -> None:
        self._on = device.type == "cuda"
        self._device = device
        self._events: deque[Any] = deque()

    def tick(self) -> float | None:
        """Note that a row is launched; return the seconds of an earlier one, or None."""
        if not self._on:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) <= AHEAD:
            return None
        first = self._events.popleft()
        self._events[0].synchronize()
        milliseconds: float = first.elapsed_time(self._events[0])
        return milliseconds / 1000


class _Capture:
    """Captures CUDA graphs, which share their memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._pool: Any = None

    def __call__(self, launch: Callable[[], None]) -> Any:
        """Return a graph of what a function launches, which is not run meanwhile."""
        before = torch.cuda.current_stream()
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # What other threads do with the device is none of this graph's business.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                launch()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails at its end leaves its own set
        return graph
