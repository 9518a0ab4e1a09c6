"""The one loop that runs every token plan, level by level, for a ragged batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from ..kernels.discrete_update import (
    COLUMNS,
    MASK,
    TokenState,
    Transition,
    UpdateOptions,
    discrete_update,
)
from ..noise import Noise, Stream
from ..timing import timed
from .cells import Cells, Level, check_drawn, children, root
from .confidence import entropies, fractions, reveal, settle, start
from .draws import MAX_DEPTH, token_words, uniform_ids
from .plan import TokenPlan
from .redraw import connected

INVERSE_TEMPERATURE = COLUMNS.index("inverse_temperature")


class TokenRaw(NamedTuple):
    """A network's logits [N, 256] in any floating dtype, column = id; under guidance also those
    without the class."""

    logits: Tensor
    uncond: Tensor | None = None


# (cells, their tokens uint8 [N], the time, the finished levels above) -> logits
Evaluate = Callable[[Cells, Tensor, float, tuple[Level, ...]], TokenRaw]


# With guidance or without a class, and (or None) without guidance.
Networks = tuple[Evaluate, Evaluate | None]


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


@torch.no_grad()
def execute(
    plan: TokenPlan,
    evaluate: Evaluate,
    sample_indices: Tensor | Sequence[int],
    noise: Noise,
    *,
    guidance: float = 1.0,
    unguided: Evaluate | None = None,
    of_part: Callable[[Tensor], Networks] | None = None,
    device: torch.device | str = "cpu",
    want_x0: bool = True,
) -> Iterator[TokenStep]:
    """Run a plan from noise and yield after every row; the last step's ``levels`` are the trees.

    The tokens of a sample depend on its index, the seed, the plan and its own logits, and on
    nothing else of the batch. Each row is one fused launch (and a sort with confidence routing);
    the host waits for the device once a level, to learn how many cells the next one has, and at
    the end, to see that every token was drawn. Where the plan's ``redraw`` is above 0, finished
    levels go through :func:`ddimx.discrete.redraw.connected`, whose rows are not yielded.

    Args:
        plan: the table to run.
        evaluate: the network: logits of a level's tokens at a time, given the finished levels.
        sample_indices: [B], the seed's sample indices, one for each tree.
        noise: the seed.
        guidance: the weight G, used where ``evaluate`` returns unconditional logits.
        unguided: the network where the plan's g is 0: with its class, in one pass. None takes
            ``evaluate`` there too.
        of_part: both of them for some of the samples, given their positions in the batch, int64 [b]
            on the host; called where a level is drawn again. None takes the two for them too.
        device: where the state lives.
        want_x0: give each step its estimate of the clean tokens.

    Raises:
        UsageError: no samples.
        DdimxError: logits without a softmax, at the end of the level.
        ValueError: logits of a wrong shape or dtype.
    """
    samples = torch.as_tensor(sample_indices, dtype=torch.int64).to(device)
    if samples.dim() != 1 or not len(samples):
        raise UsageError(
            f"sample indices have shape {tuple(samples.shape)}; at least one is needed"
        )
    by_token = plan.routing == "random"
    stream, wants_x0 = int(Stream.TOKEN), want_x0 or not by_token
    options = UpdateOptions(plan.transition, stream, by_token, wants_x0)
    # Every attempt at a level has rows, and so words of the noise, of its own.
    attempts = (plan.redraw + 1) ** 2
    table = torch.from_numpy(plan.table()).to(device, torch.float32).repeat(attempts, 1)
    # Without confidence routing reveal is NaN, and these two are not read.
    reveal_to = fractions(torch.from_numpy(plan.reveal).nan_to_num(0.0)).to(device)
    remask = fractions(torch.from_numpy(plan.noise), up=True).to(device)
    seed = noise.key_bits(samples.device)
    share = torch.from_numpy(plan.g).to(device, torch.float32)
    weights = share * guidance + (1 - share)  # [rows]

    def networks(positions: Tensor) -> Networks:
        return (evaluate, unguided) if of_part is None else of_part(positions)

    def rows_of(
        cells: Cells,
        coarser: tuple[Level, ...],
        positions: Tensor,
        network: Networks,
        attempt: int = 0,
    ) -> Iterator[TokenStep]:
        """Yield the steps of a level of the samples at these positions of the batch."""
        cell_samples = samples[positions.to(samples.device)][cells.sample]
        with timed("noise"):
            state = start(pure_noise(plan.transition, noise, cells, cell_samples, attempt))
        rows = plan.rows_of(cells.level)
        first = rows.start + attempt * len(plan)
        ordinal = torch.full((), first, device=samples.device)  # no copy from the host
        raw = None
        for row in rows:
            # Entropy routing may be done before the last row, which waits for the device.
            settled = plan.routing == "entropy" and row > rows.start and bool(state.clean.all())
            if plan.calls[row] and not settled:
                guided, without = network
                ask = guided if without is None or plan.g[row] != 0 else without
                with timed("network"):
                    raw = ask(cells, state.ids, float(plan.t[row]), coarser)
            assert raw is not None  # the plan's first row of a level calls
            weight = None if raw.uncond is None else weights[row]
            with timed("update"):
                draws = discrete_update(
                    table,
                    ordinal,
                    raw.logits,
                    TokenState(state.ids, cells.keys, cell_samples),
                    seed,
                    options,
                    uncond=raw.uncond,
                    guidance=weight,
                )
                if plan.routing == "entropy":
                    nats = entropies(
                        raw.logits, raw.uncond, weight, table[row, INVERSE_TEMPERATURE]
                    )
                    last = row == rows.stop - 1
                    state = settle(state, draws, cells, nats, plan.entropy_bound, last=last)
                elif plan.routing == "confidence":
                    state = reveal(state, draws, cells, reveal_to[row], remask[row])
                else:
                    state = state._replace(ids=draws.ids)
            ordinal = ordinal + 1
            if row == len(plan) - 1:  # of other levels the next one's cells tell
                check_drawn(Level(cells, state.ids))
            yield TokenStep(
                row=row,
                level=cells.level,
                t=float(plan.t[row]),
                t_to=float(plan.t_to[row]),
                called=bool(plan.calls[row]) and not settled,
                ids=state.ids,
                x0=draws.x0,
                confidence=draws.confidence,
                cells=cells,
                coarser=coarser,
                finished=row == rows.stop - 1,
            )

    def draw(cells: Cells, coarser: tuple[Level, ...], positions: Tensor, attempt: int) -> Tensor:
        *_, last = rows_of(cells, coarser, positions, networks(positions), attempt)
        return last.ids

    finished: tuple[Level, ...] = ()
    everyone, network = torch.arange(len(samples)), (evaluate, unguided)
    for level in range(plan.depth):
        with timed("decoding"):
            cells = children(finished[-1]) if level else root(len(samples), samples.device)
        for step in rows_of(cells, finished, everyone, network):
            if step.finished and plan.redraw:
                *coarser, (cells, ids) = connected(step.levels, draw, plan.redraw)
                if cells is not step.cells:  # levels above were drawn again, too
                    network = networks(everyone)
                    step = replace(step, coarser=tuple(coarser), cells=cells, confidence=None)
                step = replace(step, ids=ids, x0=None if step.x0 is None else ids)
            yield step
        finished = step.levels


def sample_levels(steps: Iterator[TokenStep]) -> tuple[Level, ...]:
    """Run :func:`execute` to its end and return all finished levels."""
    levels: tuple[Level, ...] = ()
    for step in steps:
        levels = step.levels
    return levels


def pure_noise(
    transition: Transition, noise: Noise, cells: Cells, samples: Tensor, attempt: int = 0
) -> Tensor:
    """Return the ids that a level starts from, uint8 [N]; they do not depend on the plan's rows.

    Args:
        transition: "absorbing" starts from [MASK] alone, "uniform" from keyed ids in 1..255.
        noise: the seed.
        cells: the level's cells.
        samples: int64 [N], the sample index of each cell.
        attempt: 0, or which further attempt at the level this is.
    """
    if transition == "absorbing":
        return torch.full_like(cells.keys, MASK, dtype=torch.uint8)
    row = cells.level + MAX_DEPTH * attempt
    word = token_words(noise, cells.keys, samples, row, Stream.INIT)[2]
    return uniform_ids(word)
