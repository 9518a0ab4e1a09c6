"""A sampler as a table: one row for every step, all coefficients in float64.

With ``x`` the state, ``y`` the point where the network is evaluated, ``out`` its raw output,
``m_j`` the j-th last prediction (``m_0`` this row's epsilon or x0) and ``z`` unit noise, a row says

    out = network(y, t)
    out = uncond + (g G + 1 - g) (out - uncond)         under guidance of weight G
    x0  = clip(r y + s out);  eps = u y + v out
    x'  = a x + w x0 + sum_j b_j m_j + c z
    y'  = p x' + sum_j q_j m_j

A row whose ``t`` is NaN calls no network and uses neither x0 nor m. The state goes from the time
``t_from`` to ``t_to``; the network's ``t`` may differ from both. A run's result is the last y'.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..config import Prediction
from ..errors import UsageError
from ..kernels.update.columns import (
    ADDED,
    BY_DEPTH,
    NEUTRAL,
    SCALARS,
    TABLE,
    Coefficients,
)
from .table import Columns, float32_sha256, rows_within

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RowTimes:
    """The times of a plan's rows, float64 [rows] each; -1 is clean data.

    Attributes:
        t: the time that the network is given; NaN where it is not called.
        t_from, t_to: the times from and to which a row moves the state.
    """

    t: Array
    t_from: Array
    t_to: Array


TIMES = tuple(f.name for f in fields(RowTimes))
# The output of a network in bfloat16 is rounded by up to 2^-9 of it. Enlarged 64 times that is an
# eighth of the state's own spread, or 16 of 255 levels of gray for pixels that span [-1, 1].
MOST_AMPLIFIED = 64
COLUMNS = (*TIMES, *SCALARS, *BY_DEPTH)  # all of a plan, in the order in which files have them


@dataclass(frozen=True, eq=False)
class Plan(Coefficients[Array], RowTimes):
    """Every number that a sampling run needs besides the network and the noise.

    The columns are those of :class:`RowTimes` and of
    :class:`ddimx.kernels.update.columns.Coefficients`.

    Attributes:
        prediction: what the network's raw output is.
        history: whether ``m_j`` are epsilon or x0 predictions.
        clip: bound of x0 in every row, or None.
        threshold: of dynamic thresholding, instead of a clip: the share of a sample's values and
            the most of their bound; see :func:`ddimx.solvers.executor.thresholded`.
        label: the solver and its arguments, for people.
        notes: remarks for people.
        inputs: what the table was computed from, as JSON values: the solver with its version and
            options, and the times. None for a table that was given as numbers. Two plans of equal
            inputs are the same plan, though their numbers differ in the last bit where two
            machines computed them. Whoever changes the numbers adds to the inputs what was done.
    """

    prediction: Prediction
    history: Literal["epsilon", "x0"] = "epsilon"
    clip: float | None = None
    threshold: tuple[float, float] | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    inputs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        rows = len(self.t)
        if not rows:
            raise ValueError("a plan needs at least one row")
        for name in (*TIMES, *SCALARS):
            if getattr(self, name).shape != (rows,):
                raise ValueError(f"plan column {name} has shape {getattr(self, name).shape}")
        if self.b.shape != self.q.shape or self.b.ndim != 2 or len(self.b) != rows:
            raise ValueError("plan columns b and q need one shape, [rows, depth]")
        if not all(np.isfinite(getattr(self, n)).all() for n in (*SCALARS, *BY_DEPTH)):
            raise ValueError("a plan's coefficients must be finite")
        if (self.t_from[1:] != self.t_to[:-1]).any():
            raise ValueError("each row must start at the time where the last one ended")

    def __len__(self) -> int:
        return len(self.t)

    @property
    def depth(self) -> int:
        """How many predictions, the current one included, a row may use."""
        return int(self.b.shape[1])

    @property
    def nfe(self) -> int:
        """Number of rows that call the network; guidance doubles the passes, not this number."""
        return int(np.isfinite(self.t).sum())

    def passes(self, guidance: float) -> int:
        """Return how often the network sees a sample under guidance of this weight."""
        guided = np.isfinite(self.t) & (self.g != 0)
        return self.nfe + (int(guided.sum()) if guidance != 1.0 else 0)

    @property
    def noisy(self) -> bool:
        """Whether any row adds noise."""
        return bool((self.c != 0).any())

    def table(self) -> Array:
        """Return what the update reads, float64 [rows, len(TABLE) + 2 depth].

        The columns are those of ``TABLE`` in :mod:`ddimx.kernels.update.columns`, and then
        b_0..b_{depth-1} and q_0..q_{depth-1}.
        """
        columns = [getattr(self, name)[:, None] for name in SCALARS]
        network = np.isfinite(self.t)
        calls = (network.cumsum() - network)[:, None]  # in earlier rows
        return np.concatenate([*columns, calls, self.b, self.q], axis=1)

    def columns(self) -> Columns:
        """Return the columns for people, name -> float64 [rows], in the order to show them.

        First the times ``t`` (NaN where no network is called) and ``t_to``, then the coefficients,
        those of ``b`` and ``q`` one by one as ``b0``, ``b1``, ... A coefficient that changes
        nothing in any row is left out.
        """
        coefficients = {name: getattr(self, name) for name in SCALARS if "known" not in name}
        for name in BY_DEPTH:
            coefficients |= {f"{name}{j}": getattr(self, name)[:, j] for j in range(self.depth)}
        return {"t": self.t, "t_to": self.t_to} | {
            name: values
            for name, values in coefficients.items()
            if (values != NEUTRAL[name.rstrip("0123456789")]).any()
        }

    def keeps_point(self) -> npt.NDArray[np.bool_]:
        """Return for every row whether its y' is its x', bool [rows]."""
        same: npt.NDArray[np.bool_] = (self.p == 1) & (self.q == 0).all(axis=1)
        return same

    def guided_within(self, start: float, end: float) -> Plan:
        """Return the plan with guidance in a part of its rows only (arXiv 2404.07724).

        Of n rows that call the network, row i is guided where its middle (i + 1/2) / n lies
        between the fractions ``start`` and ``end``.

        Raises:
            UsageError: no row lies there.
        """
        calls = np.isfinite(self.t)
        inside = rows_within(start, end, int(calls.sum()))
        g = np.ones(len(self))
        g[calls] = inside
        inputs = self.inputs
        if inputs is not None:
            inputs = {name: value for name, value in inputs.items() if name != "guided"}
            if not inside.all():
                inputs["guided"] = [start, end]
        return replace(self, g=g, inputs=inputs)

    def with_clip(self, clip: float | None) -> Plan:
        """Return the plan with x0 clipped to [-clip, clip], or not at all.

        Raises:
            UsageError: a clip that is not positive, that no row would ever use, or on a plan
                whose rows also use other rows' epsilon, which keeps what the clip removes.
        """
        if clip is not None and not clip > 0:
            raise UsageError(f"clip must be positive, got {clip}")
        if clip is not None and not ((self.w != 0).any() or self.history == "x0"):
            raise UsageError(f"{self.label} never uses x0, so that a clip would do nothing")
        if clip is not None and self.history == "epsilon" and self._mixes_predictions():
            raise UsageError(
                f"{self.label} combines predictions of epsilon, which a clip of x0 does not change"
            )
        return replace(self, clip=clip, threshold=None)

    def with_threshold(self, share: float, most: float) -> Plan:
        """Return the plan with dynamic thresholding of x0 instead of a clip.

        Raises:
            UsageError: a plan that needs x0 for more than its own row.
        """
        if self.history == "x0" or self._mixes_predictions() or not self.keeps_point().all():
            raise UsageError(f"{self.label} has no dynamic thresholding; ddim and ddpm do")
        return replace(self, clip=None, threshold=(share, most))

    def _mixes_predictions(self) -> bool:
        """Whether a row uses older predictions, or another state's: more than its own x0."""
        older = (self.b[:, 1:] != 0).any() or (self.q != 0).any()
        return bool(older or (self.t != self.t_from)[np.isfinite(self.t)].any())

    def identity(self) -> dict[str, Any]:
        """Return what tells this plan from others, as JSON values: never a label or a note.

        These are its inputs or, where it was given as numbers, the SHA-256 of its table in float32,
        which is what runs.
        """
        common: dict[str, Any] = {
            "steps": len(self),
            "prediction": self.prediction,
            "clip": self.clip,
        }
        if self.threshold is not None:
            common["threshold"] = [*self.threshold]
        if self.inputs is not None:
            return common | self.inputs
        unused = [TABLE.index(name) for name in SCALARS if self._is_unused(name)]
        numbers = np.delete(self.table(), unused, axis=1)
        columns = np.concatenate([self.t[:, None], self.t_to[:, None], numbers], axis=1)
        return common | {"table_sha256": float32_sha256(columns, f"{self.history} ")}

    def to_json(self) -> dict[str, Any]:
        """Return the table and what it says as JSON values, without ``inputs``.

        ``t`` is null where no network is called. A column that a later version added is left out
        where it does nothing, so that it changes no file of a plan that does without.
        """
        value: dict[str, Any] = {
            "label": self.label,
            "prediction": self.prediction,
            "history": self.history,
            "clip": self.clip,
            "notes": list(self.notes),
            "nfe": self.nfe,
        }
        if self.threshold is not None:
            value["threshold"] = [*self.threshold]
        value |= {
            name: getattr(self, name).tolist() for name in COLUMNS if not self._is_unused(name)
        }
        value["t"] = [None if np.isnan(t) else t for t in value["t"]]
        return value

    def _is_unused(self, name: str) -> bool:
        """Whether a column is one that a later version added and that changes nothing here."""
        return name in ADDED and bool((getattr(self, name) == NEUTRAL[name]).all())


def amplification(plan: Plan, alpha_bar: Array) -> Array:
    """Return by how much each row enlarges the errors of predictions not made at its state.

    A network whose v errs by delta errs by sigma delta in x0 = alpha x - sigma v and by alpha delta
    in eps = sigma x + alpha v: a share of what is uncertain of either, which for data of unit
    variance has these standard deviations. So a row of history "x0" takes |b_j| sigma_j delta from
    an older prediction m_j, made at the level of sigma_j, and one of history "epsilon" |b_j|
    alpha_j delta; the same with q for the next point. A row's own prediction does not count: the
    state it is made at is the state it corrects, so that its part of x' is at most what a step of
    DDIM takes. It counts in rows that ask at another time than the state's.

    The state has unit variance: a delta of 1 / (this number) makes noise of it. In the right space
    the number is bounded whatever the levels are: an exact step weights x0 by at most alpha_to,
    which extrapolation enlarges by the ratio of its step to the one before, to a power below the
    order. In the wrong one it grows like 1 / alpha: the weight of eps from alpha_bar near 0 is
    sigma_to - alpha_to sigma / alpha. Over the spacings of whole times it is below 8 for all
    solvers but pfdiff (27) and dpm++:3 (35, in the row before the last, whose step is the longest).

    Args:
        plan: of depth d.
        alpha_bar: float64 [rows], at the network's times; NaN in rows that call none.

    Returns:
        float64 [rows].
    """
    in_x0, in_eps = np.sqrt(1 - alpha_bar), np.sqrt(alpha_bar)
    error = in_x0 if plan.history == "x0" else in_eps
    errors: list[float] = []  # of the predictions so far, newest first
    result = np.zeros(len(plan))
    for i in range(len(plan)):
        if np.isnan(plan.t[i]):
            continue
        errors = [float(error[i]), *errors][: plan.depth]
        older = np.array(errors)
        own = plan.t[i] == plan.t_from[i]
        older[0] = 0.0 if own else older[0]
        on_x0 = 0.0 if own else abs(plan.w[i]) * in_x0[i]
        of_state = np.abs(plan.b[i, : len(older)]) @ older + on_x0
        result[i] = max(of_state, np.abs(plan.q[i, : len(older)]) @ older)
    return result


def check_amplification(plan: Plan, alpha_bar: Array) -> None:
    """Refuse a plan that enlarges the errors of older predictions too much.

    Arguments as of :func:`amplification`.

    Raises:
        UsageError: the row, what it does and what to do instead.
    """
    sizes = amplification(plan, alpha_bar)
    row = int(sizes.argmax())
    if sizes[row] > MOST_AMPLIFIED:
        raise UsageError(
            f"{plan.label}: row {row}, from t = {plan.t_from[row]:g} to {plan.t_to[row]:g}, "
            f"enlarges the errors of predictions that were made elsewhere {sizes[row]:,.0f} times, "
            f"and the result would be noise (the bound is {MOST_AMPLIFIED}): take smaller steps, "
            "another spacing, or a solver that combines predictions of x0, as dpm++:2"
        )


def neutral_columns(rows: int, depth: int) -> dict[str, Array]:
    """Return the coefficients that a solver need not set: 0, and p = 1, so that y' is x'.

    Each is float64 [rows], b and q [rows, depth].
    """
    shapes = dict.fromkeys(SCALARS, (rows,)) | dict.fromkeys(BY_DEPTH, (rows, depth))
    return {name: np.full(shape, NEUTRAL[name]) for name, shape in shapes.items()}
