"""What goes into an update besides the row, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Stepped(NamedTuple):
    """The result of one row: all tensors in the state's shape and dtype, contiguous.

    ``y`` is ``x`` itself where the row keeps the point (``Extras.same_point``); ``x0`` is None if
    no network was called or it is not wanted (``Extras.want_x0``).
    """

    x: Tensor
    y: Tensor
    x0: Tensor | None


@dataclass(frozen=True)
class Extras:
    """The optional parts of an update.

    Attributes:
        history_is_x0: predictions kept for later rows are x0 instead of epsilon.
        same_point: the caller knows that p = 1 and q = 0 in this row, so that y' is x'.
        want_x0: return the row's prediction of clean data.
        clip: bound of x0, or None.
        uncond, guidance: the unconditional raw output and a 0-d weight G; the row then uses
            ``uncond + (g G + 1 - g) (out - uncond)`` with its own share g, usually 1.
        seed: the noise's 64-bit key as a 0-d int64 tensor (its bits).
        samples: int64 [B], sample indices.
        step_stream: stream of the step's noise; None adds none.
        z: unit noise to add instead of drawing it (for comparisons with other programs).
        known, mask, known_stream: pixels to keep, where to keep them (1 keeps; broadcastable),
            and the stream of the noise that brings them to the row's level.
    """

    history_is_x0: bool = False
    same_point: bool = False
    want_x0: bool = True
    clip: float | None = None
    uncond: Tensor | None = None
    guidance: Tensor | None = None
    seed: Tensor | None = None
    samples: Tensor | None = None
    step_stream: int | None = None
    z: Tensor | None = None
    known: Tensor | None = None
    mask: Tensor | None = None
    known_stream: int | None = None
