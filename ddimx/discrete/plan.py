"""A discrete sampler as a table: one row for every level and step, all numbers in float64.

With ``x`` the tokens of a level and ``logits`` the network's, a row says

    logits = network(x, t)                    if the row calls, else those of the last call
    x0     ~ softmax(logits / temperature)
    x'     = x with weight keep, x0 with weight clean, noise with weight noise

for each token by one uniform ("random" routing). With "confidence" routing ``reveal`` says which
share of each sample's tokens is clean after the row, and the network's confidence says which ones
(:mod:`ddimx.discrete.confidence`); ``noise`` is then the share of clean tokens that are given up.
With "entropy" routing a row settles as many of the most certain tokens as the plan's
``entropy_bound`` allows, and a level's last row all that remain.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..kernels.discrete_update import COLUMNS, Transition
from ..option_values import MOST_REDRAWS
from ..solvers.table import Columns, float32_sha256, rows_within
from .draws import MAX_DEPTH

Array = npt.NDArray[np.float64]
Routing = Literal["random", "confidence", "entropy"]

COLDEST = 1e-30  # the temperature that stands for 0 in the tensor form


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The columns of a token plan: the one list of them, in the order in which people see them.

    Attributes:
        level: int64 [rows], 0, ..., depth - 1, each level's rows together.
        calls: bool [rows], whether the row calls the network. The others are float64 [rows].
        t, t_to: the schedule's times (-1 is clean data). The network is given ``t``, the time of
            the state, where it is called.
        alpha_from, alpha_to: the share of clean tokens at these times: 0 at the start of each
            level, whatever the schedule ends at, and 1 at its end.
        keep, clean, noise: the weights of a token's three routes.
        reveal: the cumulative share of a level's tokens that is clean after the row; NaN with
            random routing.
        temperature: divides the logits; 0 takes the most likely id.
        gumbel: how much Gumbel noise is added to the confidence; 0 with random routing.
        g: the share of the run's guidance, as of :class:`ddimx.solvers.plan.Plan`; a row that does
            not call has that of the call whose logits it takes.
    """

    level: npt.NDArray[np.int64]
    calls: npt.NDArray[np.bool_]
    t: Array
    t_to: Array
    alpha_from: Array
    alpha_to: Array
    keep: Array
    clean: Array
    noise: Array
    reveal: Array
    temperature: Array
    gumbel: Array
    g: Array


FLOATS = tuple(f.name for f in fields(TokenRows) if f.name not in ("level", "calls"))


@dataclass(frozen=True, eq=False)
class TokenPlan(TokenRows):
    """Every number that sampling a batch of octrees needs besides the network and the noise.

    The columns are those of :class:`TokenRows`.

    Attributes:
        transition, routing: see the module.
        entropy_bound: with entropy routing, nats: the sum of the entropies of the tokens that a row
            settles, without the largest of them, stays at or below it (arXiv 2505.24857).
        redraw: how often, at most, a level is drawn again for samples whose pieces it breaks: those
            whose cells hang together less below than they do on the level itself.
        label: the solver and its arguments, for people.
        notes: remarks for people.
        inputs: as of :class:`ddimx.solvers.plan.Plan`: what the table was computed from, or None.
    """

    transition: Transition
    routing: Routing = "random"
    entropy_bound: float = 0.0
    redraw: int = 0
    label: str = ""
    notes: tuple[str, ...] = ()
    inputs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.transition not in get_args(Transition) or self.routing not in get_args(Routing):
            raise ValueError(f"no plan is '{self.transition}' with '{self.routing}' routing")
        if not 0 <= self.redraw <= MOST_REDRAWS:
            raise ValueError(f"redraw is {self.redraw}, outside 0..{MOST_REDRAWS}")
        self._check_columns()
        self._check_weights()
        self._check_levels()
        self._check_reveal()

    def __len__(self) -> int:
        return len(self.level)

    @property
    def depth(self) -> int:
        """Number of levels, which is the depth of the trees."""
        return int(self.level[-1]) + 1

    @property
    def nfe(self) -> int:
        """Number of rows that call the network.

        Guidance doubles the passes, not this number; what is drawn again comes on top.
        """
        return int(self.calls.sum())

    def passes(self, guidance: float) -> int:
        """Return how often the network sees a sample's levels under guidance of this weight."""
        return self.nfe + (int((self.calls & (self.g != 0)).sum()) if guidance != 1.0 else 0)

    def guided_within(self, start: float, end: float) -> TokenPlan:
        """Return the plan with guidance in a part of each level's rows only.

        Args:
            start, end: fractions of the rows of a level that call the network, as of
                :meth:`ddimx.solvers.plan.Plan.guided_within`. A level without a row between them,
                as a root of one row may be, is not guided.

        Raises:
            UsageError: no level has a row there.
        """
        g = np.zeros(len(self))
        counts = [int(self.calls[self.rows_of(level)].sum()) for level in range(self.depth)]
        rows_within(start, end, max(counts))
        for level, count in enumerate(counts):
            rows = np.array(self.rows_of(level))
            middles = (np.arange(count) + 0.5) / count
            inside = (middles >= start) & (middles < end)
            g[rows] = inside[self.calls[rows].cumsum() - 1]
        inputs = self.inputs
        if inputs is not None:
            inputs = {name: value for name, value in inputs.items() if name != "guided"}
            if not g.all():
                inputs["guided"] = [start, end]
        return replace(self, g=g, inputs=inputs)

    def rows_of(self, level: int) -> range:
        """Return the ordinals of a level's rows."""
        rows = np.flatnonzero(self.level == level)
        if not len(rows):
            raise ValueError(f"a plan of depth {self.depth} has no level {level}")
        return range(int(rows[0]), int(rows[-1]) + 1)

    def table(self) -> Array:
        """Return what the update reads, float64 [rows, 4]: the columns of its ``COLUMNS``."""
        columns = {
            "keep": self.keep,
            "noise": self.noise,
            "inverse_temperature": 1 / np.maximum(self.temperature, COLDEST),
            "gumbel": self.gumbel,
        }
        return np.stack([columns[name] for name in COLUMNS], axis=1)

    def columns(self) -> Columns:
        """Return the columns for people, name -> values [rows], in the order to show them.

        ``level`` is int64, ``calls`` bool, the others float64. ``alpha_from`` and ``alpha_to``
        follow from the times; ``reveal`` and ``gumbel`` are left out where the routing has no use
        for them.
        """
        left_out = {"alpha_from", "alpha_to"}
        left_out |= {"reveal"} if self.routing != "confidence" else set()
        left_out |= {"gumbel"} if (self.gumbel == 0).all() else set()
        left_out |= {"g"} if (self.g == 1).all() else set()
        names = [field.name for field in fields(TokenRows) if field.name not in left_out]
        return {name: getattr(self, name) for name in names}

    def identity(self) -> dict[str, Any]:
        """Return what tells this plan from others; see :meth:`ddimx.solvers.plan.Plan.identity`."""
        common: dict[str, Any] = {
            "rows": len(self),
            "transition": self.transition,
            "routing": self.routing,
        }
        if self.routing == "entropy":
            common["entropy_bound"] = self.entropy_bound
        if self.redraw:
            common["redraw"] = self.redraw
        if self.inputs is not None:
            return common | self.inputs
        names = [name for name in FLOATS if name != "g" or not (self.g == 1).all()]
        numbers = np.stack([getattr(self, name) for name in (*names, "level", "calls")])
        return common | {"table_sha256": float32_sha256(numbers)}

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values; ``reveal`` is null with random routing."""
        value: dict[str, Any] = {
            "label": self.label,
            "transition": self.transition,
            "routing": self.routing,
            "notes": list(self.notes),
            "depth": self.depth,
            "nfe": self.nfe,
            "level": self.level.tolist(),
            "calls": self.calls.tolist(),
        }
        for name in FLOATS:
            column = getattr(self, name).tolist()
            value[name] = [None if np.isnan(number) else number for number in column]
        if self.routing == "entropy":
            value["entropy_bound"] = self.entropy_bound
        if self.redraw:
            value["redraw"] = self.redraw
        if (self.g == 1).all():
            del value["g"]  # as plans were written before there was guidance by rows
        return value

    def _check_columns(self) -> None:
        """Raise ValueError unless every column has one number of its kind for each row."""
        if not len(self.level):
            raise ValueError("a plan needs at least one row")
        for name in (*FLOATS, "level", "calls"):
            if getattr(self, name).shape != (len(self),):
                raise ValueError(f"plan column {name} has shape {getattr(self, name).shape}")
        for name in FLOATS:
            if name != "reveal" and not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"a plan's {name} must be finite")
        if self.calls.dtype != np.bool_:
            raise ValueError("plan column calls must be bool")
        if (self.temperature < 0).any() or (self.gumbel < 0).any():
            raise ValueError("temperature and gumbel must not be negative")

    def _check_weights(self) -> None:
        """Raise ValueError unless keep, clean and noise are the probabilities of three routes."""
        weights = np.stack([self.keep, self.clean, self.noise])
        if (weights < 0).any() or (weights > 1).any():
            raise ValueError("keep, clean and noise must lie in [0, 1]")
        # Three roundings of numbers up to 1, and as many in whoever made them.
        if (np.abs(weights.sum(axis=0) - 1) > 16 * np.finfo(np.float64).eps).any():
            raise ValueError("keep, clean and noise must sum to 1 in every row")

    def _check_levels(self) -> None:
        """Raise ValueError unless each level goes from noise to clean data, the root first."""
        first = np.diff(self.level, prepend=-1) != 0
        last = np.append(first[1:], True)
        if (self.level[first] != np.arange(first.sum())).any():
            raise ValueError("a plan's rows must run through the levels 0, 1, ... in order")
        if first.sum() > MAX_DEPTH:
            raise ValueError(f"a plan of depth {int(first.sum())} exceeds {MAX_DEPTH}")
        if not self.calls[first].all():
            raise ValueError("a level's first row must call the network: no logits are there yet")
        if (self.alpha_from[first] != 0).any() or (self.alpha_to[last] != 1).any():
            raise ValueError("each level must go from noise (alpha 0) to clean (alpha 1)")
        if (self.clean[last] != 1).any():
            raise ValueError("a level's last row must leave neither [MASK] nor noise: clean is 1")
        going_on = ~first[1:]
        for name in ("t", "alpha"):
            start, end = ("t", "t_to") if name == "t" else ("alpha_from", "alpha_to")
            if (getattr(self, start)[1:] != getattr(self, end)[:-1])[going_on].any():
                raise ValueError(f"each row must start at the {name} where the last one ended")

    def _check_reveal(self) -> None:
        """Raise ValueError unless ``reveal`` and ``gumbel`` fit the routing."""
        if not 0 <= self.entropy_bound < np.inf:
            raise ValueError(f"entropy_bound is {self.entropy_bound}, not a number from 0 on")
        if self.routing != "confidence":
            if not np.isnan(self.reveal).all() or (self.gumbel != 0).any():
                raise ValueError("reveal and gumbel belong to confidence routing")
            return
        first = np.diff(self.level, prepend=-1) != 0
        last = np.append(first[1:], True)
        before = np.where(first, 0.0, np.append(0.0, self.reveal[:-1]))
        if not ((self.reveal >= before) & (self.reveal <= 1)).all():  # NaN fails here too
            raise ValueError("reveal must rise within each level and lie in [0, 1]")
        if (self.reveal[last] != 1).any():
            raise ValueError("reveal must end at 1 on every level")
