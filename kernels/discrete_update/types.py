"""What an update of tokens may be given besides the row, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

Transition = Literal["absorbing", "uniform"]

MASK = 0  # the id of [MASK]; no cell of an octree has this child mask
IDS = 256  # columns of the logits, [MASK] included
CLASSES = IDS - 1  # what a token may be: ids 1..255


class Drawn(NamedTuple):
    """The result of one row.

    Attributes:
        ids: uint8 [N], the tokens after the row; without routing, what a token that is thrown
            back into noise becomes.
        x0: uint8 [N], the clean ids that were drawn, or None if they are not wanted.
        confidence: float32 [N], log p of each drawn id plus the row's share of Gumbel noise, or
            None as ``x0``.
    """

    ids: Tensor
    x0: Tensor | None
    confidence: Tensor | None


@dataclass(frozen=True)
class TokenState:
    """The state: N tokens of any number of samples, in one flat list.

    Attributes:
        ids: uint8 [N].
        keys: int64 [N], Morton keys in 0..2^32-1, the first word of the noise's counter.
        samples: int64 [N], each token's sample index (the seed's, not the place in the batch).
    """

    ids: Tensor
    keys: Tensor
    samples: Tensor


@dataclass(frozen=True)
class UpdateOptions:
    """What is fixed for a plan.

    Attributes:
        transition: what noise is: [MASK] ("absorbing") or a uniform id of 1..255.
        stream: the noise's stream id.
        route: choose between keeping, the clean id and noise; False leaves that to the caller.
        want_x0: return the drawn clean ids and their confidence. Without them a token that takes
            no clean id reads no logits.
    """

    transition: Transition
    stream: int
    route: bool = True
    want_x0: bool = True
