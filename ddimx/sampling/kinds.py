"""Which kind of layer an operation or a kernel belongs to, and how a trace divides among them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

MARK = "ddimx: "  # before a part's name in a trace
CONVOLUTION, NORM, ACTIVATION = "convolution", "normalization", "activation"
ATTENTION, LINEAR, COPIES = "attention", "linear", "copies and layout"
EMBEDDING, SUMS, RESIZING = "embedding", "sums and products", "resizing"
FUSED = "fused by the compiler"
UPDATE = "update"  # of a graph in which a row's network and update are one
HOST, IDLE, OTHER = "between operations", "waiting for the host", "other"

# The first that matches decides. Names are of PyTorch's operators, of the compiler's and cuDNN's
# kernels, and of our own. What a compiler has fused names all of its operations: convolutions and
# norms come before what is done on the way.
_KINDS = [
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        (COPIES, r"^memcpy|^memset|nchwtonhwc|nhwctonchw|catarraybatchedcopy"),
        (UPDATE, r"^(discrete_)?update_kernel"),
        (
            ATTENTION,
            r"^(strip|online|forward)$|attention|attend|softmax|flash|fmha|\bbmm\b|baddbmm",
        ),
        (CONVOLUTION, r"conv|implicit_gemm|fprop|winograd"),
        (
            NORM,
            r"^(whole|part|rest)_(for|back)ward$|group_?norm|layer_?norm|batch_?norm|"
            r"rowwisemoments|computefusedparams",
        ),
        (LINEAR, r"linear|addmm|\bmm\b|matmul|gemm|gemv|nvjet|cublas|splitkreduce"),
        (ACTIVATION, r"silu|swish|gelu|relu|sigmoid"),
        (EMBEDDING, r"embedding|\bindex(_select)?\b|gather|\bsin\b|\bcos\b|arange"),
        (RESIZING, r"upsample|interpolate|pool"),
        (
            COPIES,
            r"copy|clone|contiguous|\b_?to(_copy)?\b|::cat\b|stack|pad\b|reorder|transpose|"
            r"permute|view|reshape|split|chunk|unbind|slice|select|expand|flatten|as_strided|"
            r"unsqueeze|squeeze|repeat|fill|zero|empty|\bfull\b",
        ),
        (FUSED, r"^## call|compiled|cpp_fused|triton_|inductor|^graph_"),
        (SUMS, r"\b(add|sub|mul|div|rsqrt|sqrt|pow|mean|neg|exp|where|clamp|sum)_?\b|elementwise"),
    )
]
_HOST = {"cpu_op", "user_annotation"}
_DEVICE = {"kernel", "gpu_memcpy", "gpu_memset"}


@cache
def kind_of(name: str) -> str | None:
    """Return the kind of layer that an operator's or a kernel's name tells, None if it tells none.

    >>> kind_of("aten::native_group_norm"), kind_of("sm90_xmma_fprop_implicit_gemm_bf16")
    ('normalization', 'convolution')
    """
    return next((kind for kind, pattern in _KINDS if pattern.search(name)), None)


@dataclass(eq=False)
class _Operation:
    """An event of the host: ``own`` is the time outside of the operations that it calls."""

    name: str
    end: float
    own: float
    part: str | None
    kind: str  # of itself
    outer: str | None  # what the operations that it calls are part of


class Split:
    """How the time of each part divides among kinds of layers, by a trace of some rows.

    Attributes:
        time: by part (as "network") and kind, microseconds.
        count: by part and kind, how many operations.
        fused: the names of what a compiler made, with their microseconds.
        calls: by part, how often it is in the trace.
    """

    def __init__(self, events: Iterable[dict[str, Any]]) -> None:
        """Divide the ``traceEvents`` of a Chrome trace that PyTorch's profiler wrote.

        On a CPU the time is each operation's own, without those that it calls; what remains of a
        part is between operations. On a GPU it is that of the kernels, each by the operation that
        started it, or by its own name where that is not recorded (a replayed graph); what remains
        is waiting for the host.
        """
        self.time: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self.count: dict[str, Counter[str]] = defaultdict(Counter)
        self.fused: dict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        whole = [e for e in events if e.get("ph") == "X"]
        kernels = [e for e in whole if e.get("cat") in _DEVICE]
        # In the order of their beginning; of those that begin together the longest calls the rest.
        host = [e for e in whole if e.get("cat") in _HOST]
        host.sort(key=lambda e: (e["ts"], -e["dur"]))
        by_id = self._host(host, counted=not kernels)
        if kernels:
            self._kernels(kernels, host, by_id)

    def shares(self, part: str) -> dict[str, float]:
        """Return each kind's share of a part, the largest first; they sum to 1, or are none."""
        kinds = self.time.get(part, {})
        total = sum(kinds.values())
        largest = sorted(kinds.items(), key=lambda item: -item[1])
        return {kind: t / total for kind, t in largest} if total else {}

    def _host(self, events: list[dict[str, Any]], *, counted: bool) -> dict[Any, _Operation]:
        """Place the host's events, add up their times if ``counted``, and return them by id.

        Of an operation within another the outer one's kind counts: a product within attention is
        attention. But what a convolution copies before it begins is a copy, and what the compiler
        calls is what it would be elsewhere.
        """
        threads: dict[Any, list[_Operation]] = defaultdict(list)
        operations, by_id = [], {}
        for event in events:
            name, begun, duration = event["name"], event["ts"], event["dur"]
            stack = threads[event["tid"]]
            while stack and begun >= stack[-1].end:
                stack.pop()
            parent = stack[-1] if stack else None
            outer = None if parent is None else parent.outer
            if parent is not None:
                parent.own -= duration
            own = kind_of(name)
            if name.startswith(MARK):
                part: str | None = name.removeprefix(MARK)
                self.calls[name.removeprefix(MARK)] += 1
                kind, below = HOST, None
            else:
                part = None if parent is None else parent.part
                kind = own if own == COPIES else outer or own or OTHER
                below = outer if own == FUSED else outer or own
                first = outer is None or (own == COPIES and parent and parent.kind != COPIES)
                if part is not None and own is not None and first and counted:
                    self.count[part][kind] += 1
            operation = _Operation(name, begun + duration, duration, part, kind, below)
            stack.append(operation)
            operations.append(operation)
            by_id[event.get("args", {}).get("External id")] = operation
        for operation in operations if counted else ():
            if operation.part is not None:
                self._add(operation.part, operation.kind, operation.name, operation.own)
        return by_id

    def _kernels(
        self,
        kernels: list[dict[str, Any]],
        host: list[dict[str, Any]],
        by_id: dict[Any, _Operation],
    ) -> None:
        marks = [e for e in host if e["name"].startswith(MARK)]
        begins = [mark["ts"] for mark in marks]
        for kernel in kernels:
            name, args = kernel["name"], kernel.get("args", {})
            operation = by_id.get(args.get("External id"))
            if operation is not None and not operation.name.startswith(MARK):
                part, kind, own = operation.part, operation.kind, kind_of(name)
                if own == COPIES or kind in (OTHER, FUSED):
                    kind = own or kind
            else:
                place = bisect_right(begins, kernel["ts"]) - 1
                mark = marks[place] if place >= 0 else None
                inside = mark is not None and kernel["ts"] < mark["ts"] + mark["dur"]
                part = mark["name"].removeprefix(MARK) if mark is not None and inside else None
                kind = kind_of(name) or OTHER
            if part is not None:
                self.count[part][kind] += 1
                self._add(part, kind, name, kernel["dur"])
        for part in self.calls:
            wall = sum(mark["dur"] for mark in marks if mark["name"] == MARK + part)
            self.time[part][IDLE] += max(0.0, wall - sum(self.time[part].values()))

    def _add(self, part: str, kind: str, name: str, duration: float) -> None:
        self.time[part][kind] += duration
        if kind == FUSED or "fused" in name:
            self.fused[name] += duration
