"""What both kinds of plan have in common: a table of rows that people read and runs record."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

Columns = dict[str, npt.NDArray[Any]]


class AnyPlan(Protocol):
    """A plan of images, :class:`ddimx.solvers.plan.Plan`, or octrees, ``discrete.plan.TokenPlan``.

    Whoever only shows, records or compares plans needs no more than this. What the rows mean
    differs, and so do the loops that run them.
    """

    @property
    def label(self) -> str:
        """The solver and its arguments, for people."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for people."""

    @property
    def nfe(self) -> int:
        """Number of rows that call the network; guidance doubles the passes, not this number."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def identity(self) -> dict[str, Any]:
        """Return what tells this plan from others, as JSON values: never a label or a note."""

    def to_json(self) -> dict[str, Any]:
        """Return the whole table and what it says as JSON values."""

    def columns(self) -> Columns:
        """Return the columns for people, name -> values [rows], in the order to show them.

        Numbers are float64 or int64, NaN where a row has none; ``calls`` is bool. A column that
        has the same neutral value in every row is left out.
        """


@runtime_checkable
class GuidedByRow(Protocol):
    """A plan that says which of its rows are guided; one that does not is guided in all."""

    def passes(self, guidance: float) -> int:
        """Return how often the network sees a sample under guidance of this weight.

        These are two passes for a row that is guided and one for any other that calls it.
        """

    def guided_within(self, start: float, end: float) -> Self:
        """Return the plan with guidance only between these fractions of its rows.

        Raises:
            UsageError: no row lies there.
        """


def rows_within(start: float, end: float, rows: int) -> npt.NDArray[np.bool_]:
    """Return which of a number of rows lie between two fractions of them, bool [rows].

    Row i does where its middle, (i + 1/2) / rows, lies in [start, end): 10..39 of 50 rows for 0.2
    and 0.8.

    Raises:
        UsageError: no row does.
    """
    middles = (np.arange(rows) + 0.5) / rows
    inside: npt.NDArray[np.bool_] = (middles >= start) & (middles < end)
    if not inside.any():
        raise UsageError(
            f"none of {rows} rows lies between the fractions {start:g} and {end:g}, where guidance "
            "is wanted: widen the interval, or omit --guidance"
        )
    return inside


def float32_sha256(numbers: npt.NDArray[Any], prefix: str = "") -> str:
    """Return the SHA-256 of a table's shape and its numbers in float32, which is what runs.

    ``numbers``: of any shape and number type, NaN allowed.
    """
    rounded = numbers.astype("<f4")
    digest = hashlib.sha256(f"{prefix}{rounded.shape} ".encode())
    # One NaN and one zero, of the several that IEEE 754 has.
    digest.update((np.where(np.isnan(rounded), np.float32(np.nan), rounded) + 0.0).tobytes())
    return digest.hexdigest()
