"""Drawing levels again where the cells of a sample fall into more pieces than before.

A piece that a level breaks stays broken, as no finer level can join what is not adjacent: two cells
that touch have parents that touch or are one. So every level is looked at when it is finished.
Drawing it again until nothing breaks is drawing from the model on the condition that shapes hang
together; where some tries do not suffice the sample is drawn again from its root.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .cells import Cells, Level, children, part, piece_counts, root

# (cells, the finished levels above, their samples' positions in the batch, which attempt) -> ids
DrawLevel = Callable[[Cells, tuple[Level, ...], Tensor, int], Tensor]


def connected(levels: tuple[Level, ...], draw: DrawLevel, tries: int) -> tuple[Level, ...]:
    """Return finished levels 0, 1, ..., of which the last was drawn again where it breaks pieces.

    Of a sample's attempts the first with the fewest pieces stays. The host waits for the device
    several times.

    Args:
        levels: of a batch; all but the last have been looked at before.
        draw: draws a level of some samples; their positions are int64 [b] on the host. Attempt 0
            is what ``levels`` holds; each further one has noise of its own.
        tries: how often the level is drawn again, and then how often the whole sample.
    """
    positions = torch.arange(len(levels[0].cells))
    levels, broken = _tried(levels, draw, tries, positions, 0)
    for lap in range(1, tries + 1):
        if not broken:
            break
        places = positions[broken]
        fresh: tuple[Level, ...] = ()
        for _ in levels:
            device = levels[0].ids.device
            cells = children(fresh[-1]) if fresh else root(len(places), device)
            ids = draw(cells, fresh, places, lap * (tries + 1))
            fresh = _tried((*fresh, Level(cells, ids)), draw, tries, places, lap)[0]
        before, after = (piece_counts(children(each[-1])) for each in (levels, fresh))
        fewer = torch.tensor([n < before[b] for n, b in zip(after, broken, strict=True)])
        if fewer.any():
            levels = _replaced(levels, _of(fresh, fewer.nonzero()[:, 0]), places[fewer])
        broken = _broken(levels)
    return levels


def _tried(
    levels: tuple[Level, ...], draw: DrawLevel, tries: int, positions: Tensor, lap: int
) -> tuple[tuple[Level, ...], list[int]]:
    """Draw the last level again where it breaks pieces; return the samples that are broken still.

    ``positions`` are those of these levels' samples in the batch, int64 [b] on the host.
    """
    *coarser, (cells, ids) = levels
    broken = _broken(levels)
    for attempt in range(1, tries + 1):
        if not broken:
            break
        places = torch.tensor(broken)
        own, mask = part(cells, places)
        above = _of(coarser, places)
        new_ids = draw(own, above, positions[places], lap * (tries + 1) + attempt)
        before = piece_counts(children(Level(own, ids[mask])))
        after = piece_counts(children(Level(own, new_ids)))
        fewer = torch.tensor([a < b for a, b in zip(after, before, strict=True)], device=ids.device)
        ids = ids.masked_scatter(mask, torch.where(fewer[own.sample], new_ids, ids[mask]))
        levels = (*coarser, Level(cells, ids))
        broken = _broken(levels)
    return levels, broken


def _broken(levels: Sequence[Level]) -> list[int]:
    """Return the samples whose cells lie in more pieces below the last level than on it."""
    below, here = piece_counts(children(levels[-1])), piece_counts(levels[-1].cells)
    return [i for i, (a, b) in enumerate(zip(below, here, strict=True)) if a > b]


def _of(levels: Sequence[Level], places: Tensor) -> tuple[Level, ...]:
    """Return the levels of some samples, int64 [b], ascending, on the host."""
    parts = [(part(level.cells, places), level.ids) for level in levels]
    return tuple(Level(cells, ids[mask]) for (cells, mask), ids in parts)


def _replaced(
    levels: Sequence[Level], others: Sequence[Level], places: Tensor
) -> tuple[Level, ...]:
    """Return levels of a batch with the samples at ``places`` [b] taken from ``others`` instead."""
    stay = torch.ones(len(levels[0].cells), dtype=torch.bool)
    stay[places] = False
    rest = stay.nonzero()[:, 0]
    result = []
    for (cells, ids), (cells_of, ids_of) in zip(_of(levels, rest), others, strict=True):
        device = ids.device
        sample = torch.cat([rest.to(device)[cells.sample], places.to(device)[cells_of.sample]])
        order = sample.argsort(stable=True)
        counts = torch.zeros(len(stay), dtype=torch.int64)
        for where, of in ((rest, cells), (places, cells_of)):
            counts[where] = torch.tensor(of.host_counts(), dtype=torch.int64)
        whole = Cells(
            cells.level,
            torch.cat([cells.keys, cells_of.keys])[order],
            sample[order],
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(device),
            tuple(counts.tolist()),
        )
        result.append(Level(whole, torch.cat([ids, ids_of])[order]))
    return tuple(result)
