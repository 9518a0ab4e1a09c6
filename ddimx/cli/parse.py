"""Option values that are more than a word or a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from ..errors import UsageError, unknown


def one_of(what: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        UsageError: with the nearest allowed value.
    """
    if value not in allowed:
        raise unknown(what, value, allowed)
    return value


def weights_choice(value: str | None) -> Literal["ema", "raw"] | None:
    """Return which weights are wanted; None takes the average where there is a choice.

    Raises:
        UsageError: another word.
    """
    if value is None:
        return None
    return "raw" if one_of("weights", value, ("ema", "raw")) == "raw" else "ema"


def times(text: str | None) -> list[float] | None:
    """Parse ``999,749,499`` into numbers.

    Raises:
        UsageError: something in the list is not a number.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"--timesteps {text}: write numbers with commas, as 999,749,499") from None


def clip_value(text: str | None) -> float | Literal["none"] | None:
    """Parse ``--clip none|V``.

    Raises:
        UsageError: neither "none" nor a finite number.
    """
    if text is None or text == "none":
        return "none" if text == "none" else None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"--clip {text}: give a number or 'none'")
    return value
