"""Work in batches that goes on with smaller ones where the device's memory does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ..errors import DdimxError

T = TypeVar("T")


def in_batches(
    items: Sequence[int],
    size: int,
    do: Callable[[Sequence[int]], T],
    *,
    halved: Callable[[int], None] | None = None,
    indivisible: str | None = None,
) -> Iterator[tuple[Sequence[int], T]]:
    """Yield batches of items, in their order, with what ``do`` made of each.

    Where a batch does not fit into the device's memory, all go on with half its size.

    Args:
        items: indices of what is to be done.
        size: how many at once.
        do: does a batch.
        halved: is told each new size.
        indivisible: what to say where smaller batches would need as much memory.

    Raises:
        DdimxError: not even one item fits.
    """
    import torch  # here: verbs that fill a folder by other means have no need of it

    done = 0
    while done < len(items):
        batch = items[done : done + size]  # of a range no list is made
        try:
            result = do(batch)
        except torch.cuda.OutOfMemoryError:
            if indivisible is not None or size == 1:
                reason = indivisible or "not even one sample fits into the device's memory"
                raise DdimxError(reason) from None
            torch.cuda.empty_cache()
            size = (size + 1) // 2
            if halved is not None:
                halved(size)
            continue
        done += len(batch)
        yield batch, result
