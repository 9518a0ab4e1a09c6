"""Ways of drawing octrees: every combination of the options that are to be compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...options import Options
from ...sampling.settings import Settings, resolve
from ...weights.model import Model


@dataclass(frozen=True)
class Way:
    """One way of drawing octrees; the fields are options of ``ddimx sample``.

    ``steps`` is one number, or one for each level, "1/8/6/4/4".
    """

    steps: int | str
    transition: str
    routing: str
    solver: str
    eta: float
    temperature: float | str
    guidance: float
    redraw: int = 0

    def settings(
        self,
        model: Model,
        seed: int,
        count: int,
        batch_size: int | None,
        *,
        clean: bool = False,
    ) -> Settings:
        """Return what draws ``count`` shapes this way.

        Raises:
            UsageError: options that do not exist or do not go together.
        """
        values: dict[str, Any] = asdict(self)
        values |= {"seed": seed, "count": count, "batch_size": batch_size, "clean": clean}
        return resolve(Options.of(values), model)


@dataclass(frozen=True)
class Ways:
    """The values of each option of :class:`Way`; all combinations of them are drawn."""

    steps: Sequence[int | str] = (1, 2, 4, 8, 16)
    transition: Sequence[str] = ("absorbing",)
    routing: Sequence[str] = ("random", "confidence")
    solver: Sequence[str] = ("ddim",)
    eta: Sequence[float] = (0.0,)
    temperature: Sequence[float | str] = (1.0,)
    guidance: Sequence[float] = (1.0,)
    redraw: Sequence[int] = (0,)

    def all(self) -> list[Way]:
        """Return all ways, the fewest steps first."""
        options = [dict.fromkeys(getattr(self, field.name)) for field in fields(Way)]
        return [Way(*values) for values in itertools.product(*options)]


def names_of(ways: Sequence[Way]) -> dict[Way, str]:
    """Return for each way a name by the options in which the ways differ, steps aside."""
    options = [field.name for field in fields(Way) if field.name != "steps"]
    vary = [name for name in options if len({getattr(way, name) for way in ways}) > 1]
    return {way: _named(way, vary or ["transition"]) for way in ways}


def _named(way: Way, options: Sequence[str]) -> str:
    words = {"eta": "eta ", "temperature": "T ", "guidance": "g ", "redraw": "redraw "}
    values = {name: getattr(way, name) for name in options}
    texts = {n: f"{v:g}" if isinstance(v, float) else str(v) for n, v in values.items()}
    return ", ".join(words.get(name, "") + text for name, text in texts.items())
