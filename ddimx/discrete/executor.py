"""The one loop that runs every token plan, level by level, for a ragged batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.discrete_update import MASK, Drawn, Options, Tokens, discrete_update
from ..noise import Noise, Stream
from .cells import Cells, Level, check_drawn, children, root
from .confidence import Revealed, fractions, reveal, start
from .draws import token_words, uniform_ids
from .plan import TokenPlan


class TokenRaw(NamedTuple):
    """A network's logits [N, 256], column = id, and under guidance those without the class."""

    logits: Tensor
    uncond: Tensor | None = None


# (cells, their tokens uint8 [N], the time, the finished levels above) -> logits
Evaluate = Callable[[Cells, Tensor, float, tuple[Level, ...]], TokenRaw]


@dataclass(frozen=True, eq=False)
class TokenStep:
    """What an observer sees after one row.

    Attributes:
        row: the row's ordinal in the plan; ``level``: its level.
        t: the time of the state before the row; ``t_to``: that of ``ids``.
        called: whether the row called the network.
        ids: uint8 [N], the level's tokens, [MASK] (0) where they are masked.
        x0: uint8 [N], the row's estimate of the clean tokens, None if it is not wanted.
        confidence: float32 [N], how sure the network was of each id of ``x0``, or None.
        cells: the level's cells.
        coarser: the finished levels above.
        finished: whether this is the level's last row, so that its tokens are final.
    """

    row: int
    level: int
    t: float
    t_to: float
    called: bool
    ids: Tensor
    x0: Tensor | None
    confidence: Tensor | None
    cells: Cells
    coarser: tuple[Level, ...]
    finished: bool

    @property
    def levels(self) -> tuple[Level, ...]:
        """The finished levels, this one included if it is."""
        return (*self.coarser, Level(self.cells, self.ids)) if self.finished else self.coarser


@dataclass(frozen=True, eq=False)
class _Run:
    """What stays the same through a run, all tensors on its device."""

    plan: TokenPlan
    evaluate: Evaluate
    noise: Noise
    samples: Tensor
    guidance: Tensor
    table: Tensor
    reveal_to: Tensor
    remask: Tensor
    seed: Tensor
    fixed: Options


@torch.no_grad()
def execute(
    plan: TokenPlan,
    evaluate: Evaluate,
    sample_indices: Tensor | Sequence[int],
    noise: Noise,
    *,
    guidance: float = 1.0,
    device: torch.device | str = "cpu",
    want_x0: bool = True,
) -> Iterator[TokenStep]:
    """Run a plan from noise and yield after every row; the last step's ``levels`` are the trees.

    The tokens of a sample depend on its index, the seed, the plan and its own logits, and on
    nothing else of the batch. Each row is one fused launch (and a sort with confidence routing);
    the host waits for the device once a level, to learn how many cells the next one has.

    Args:
        plan: the table to run.
        evaluate: the network: logits of a level's tokens at a time, given the finished levels.
        sample_indices: [B], the seed's sample indices, one for each tree.
        noise: the seed.
        guidance: the weight g, used where ``evaluate`` returns unconditional logits.
        device: where the state lives.
        want_x0: give each step its estimate of the clean tokens.

    Raises:
        UsageError: no samples.
        DdimxError: logits without a softmax, at the end of the level.
        ValueError: logits of a wrong shape or dtype.
    """
    run = _prepare(plan, evaluate, sample_indices, noise, guidance, torch.device(device), want_x0)
    cells = root(len(run.samples), run.samples.device)
    finished: tuple[Level, ...] = ()
    for level in range(plan.depth):
        if level:
            cells = children(finished[-1])
        for step in _rows(run, cells, finished):
            yield step
            finished = step.levels


def sample_levels(steps: Iterator[TokenStep]) -> tuple[Level, ...]:
    """Run :func:`execute` to its end and return all finished levels."""
    levels: tuple[Level, ...] = ()
    for step in steps:
        levels = step.levels
    return levels


def _prepare(
    plan: TokenPlan,
    evaluate: Evaluate,
    sample_indices: Tensor | Sequence[int],
    noise: Noise,
    guidance: float,
    device: torch.device,
    want_x0: bool,
) -> _Run:
    samples = torch.as_tensor(sample_indices, dtype=torch.int64).to(device)
    if samples.dim() != 1 or not len(samples):
        raise UsageError(
            f"sample indices have shape {tuple(samples.shape)}; at least one is needed"
        )
    route = plan.routing == "random"
    # With random routing reveal is NaN, and nobody reads these columns.
    reveal_to = fractions(torch.from_numpy(plan.reveal).nan_to_num(0.0))
    remask = fractions(torch.from_numpy(plan.noise), up=True)
    return _Run(
        plan=plan,
        evaluate=evaluate,
        noise=noise,
        samples=samples,
        guidance=torch.tensor(guidance, dtype=torch.float32, device=device),
        table=torch.from_numpy(plan.table()).to(device, torch.float32),
        reveal_to=reveal_to.to(device),
        remask=remask.to(device),
        seed=noise.key_bits(device),
        fixed=Options(plan.transition, int(Stream.TOKEN), route, want_x0 or not route),
    )


def _rows(run: _Run, cells: Cells, coarser: tuple[Level, ...]) -> Iterator[TokenStep]:
    """Run a level's rows."""
    plan, rows = run.plan, run.plan.rows_of(cells.level)
    samples = run.samples[cells.sample]
    state = start(_initial(run, cells, samples))
    ordinal = torch.tensor(rows.start, device=samples.device)
    raw = None
    for row in rows:
        if plan.calls[row]:
            raw = run.evaluate(cells, state.ids, float(plan.t[row]), coarser)
        assert raw is not None  # the plan's first row of a level calls
        drawn = discrete_update(
            run.table,
            ordinal,
            raw.logits,
            Tokens(state.ids, cells.keys, samples),
            run.seed,
            run.fixed,
            uncond=raw.uncond,
            guidance=None if raw.uncond is None else run.guidance,
        )
        state = _advance(run, state, drawn, cells, row)
        ordinal = ordinal + 1
        if row == len(plan) - 1:  # of other levels the next one's cells tell
            check_drawn(Level(cells, state.ids))
        yield TokenStep(
            row=row,
            level=cells.level,
            t=float(plan.t[row]),
            t_to=float(plan.t_to[row]),
            called=bool(plan.calls[row]),
            ids=state.ids,
            x0=drawn.x0,
            confidence=drawn.confidence,
            cells=cells,
            coarser=coarser,
            finished=row == rows.stop - 1,
        )


def _advance(run: _Run, state: Revealed, drawn: Drawn, cells: Cells, row: int) -> Revealed:
    if run.fixed.route:
        return state._replace(ids=drawn.ids)
    return reveal(state, drawn, cells, run.reveal_to[row], run.remask[row])


def _initial(run: _Run, cells: Cells, samples: Tensor) -> Tensor:
    """Return pure noise: [MASK], or keyed uniform ids that do not depend on the plan's rows."""
    if run.plan.transition == "absorbing":
        return torch.full_like(cells.keys, MASK, dtype=torch.uint8)
    word = token_words(run.noise, cells.keys, samples, cells.level, Stream.INIT)[2]
    return uniform_ids(word)
