"""What is known of one option, and the check of a value by its kind."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

from .errors import UsageError, nearest, unknown

Kind = Literal[
    "whole",
    "number",
    "flag",
    "text",
    "path",
    "times",
    "clip",
    "size",
    "guidance",
    "steps",
    "temperature",
]
Panel = Literal["What to draw", "How", "Octrees", "Text to image", "Where to", "Running"]

# Of images, and of octrees. The formulas stand where NumPy may be imported; a test compares names.
SPACINGS = ("ddim", "leading", "linspace", "trailing", "quad", "logsnr", "karras")
TOKEN_SPACINGS = ("linear", "cosine")
ROUTINGS = ("random", "confidence", "entropy")
MOST_REDRAWS = 64  # the noise of an attempt is that of rows of its own, which are numbered
SAMPLING_VERBS = ("sample", "inpaint", "sequence", "interpolate", "encode")


@dataclass(frozen=True)
class Option:
    """The description of one option besides its name and default.

    Attributes:
        help: one line for ``--help``.
        kind: of its value. The kinds from "times" on are text on a command line, and parsed.
        panel: where ``--help`` lists it.
        flags: as on the command line, ``("--count", "-n")``.
        metavar: what ``--help`` shows in place of the value.
        verbs: the verbs that have it.
        draws: the kind of models it is for, as :attr:`ddimx.models.process.Process.draws` names
            it; None for all.
        choices: the values that are allowed; empty where others decide.
        least, most: bounds of a number, both included.
        remembered: whether ``--resume`` takes it from the run's manifest.
    """

    help: str
    kind: Kind
    panel: Panel
    flags: tuple[str, ...]
    metavar: str | None = None
    verbs: tuple[str, ...] = SAMPLING_VERBS
    draws: str | None = None
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    remembered: bool = True


def checked(name: str, option: Option, value: Any) -> Any:
    """Return an option's value, parsed where it is written as text.

    Raises:
        UsageError: with the option, the value and what is allowed.
    """
    what = option.flags[0].partition("/")[0].removeprefix("--")
    if option.kind in ("whole", "number"):
        return _number(what, option, value)
    if option.kind == "times":
        return _times(value)
    if option.kind == "clip":
        return _clip(value)
    if option.kind == "size":
        return _size(value)
    if option.kind == "guidance":
        return guidance_option(value)
    if option.kind == "steps":
        return steps_option(value)
    if option.kind == "temperature":
        return temperature_option(value)
    if option.kind == "flag":
        if not isinstance(value, bool):
            raise UsageError(f"{what} must be true or false, got {value!r}")
        return value
    if option.kind == "path":
        return value
    several = name == "category" and not isinstance(value, str)
    words = list(value) if several and isinstance(value, Sequence) else [value]
    for word in words:
        if not isinstance(word, str):
            raise UsageError(f"{what} must be text, got {word!r}")
        if name == "spacing":
            _check_spacing(word)
        elif name == "routing":
            parse_routing(word)
        elif option.choices and word not in option.choices:
            raise unknown(what, word, option.choices)
    return tuple(words) if several else value


def parse_routing(value: str) -> tuple[str, float]:
    """Return a routing of tokens and its bound in nats, which "entropy" has: 1, or as it says.

    Raises:
        UsageError: an unknown name, or a bound that is no number from 0 on.
    """
    name, colon, number = value.partition(":")
    if name not in ROUTINGS or (colon and name != "entropy"):
        raise unknown("routing", value, ROUTINGS)
    if colon and re.fullmatch(r"\d+(\.\d+)?", number) is None:
        raise UsageError(f"--routing {value}: write entropy or, with a bound in nats, entropy:2")
    return name, float(number) if colon else 1.0


def _check_spacing(word: str) -> None:
    """Refuse a spacing that no model has; ``karras`` may have its rho behind a colon."""
    name, colon, number = word.partition(":")
    if name == "karras" and colon and re.fullmatch(r"\d+(\.\d+)?", number) is None:
        raise UsageError(f"--spacing {word}: write karras or, with a rho from 1 to 100, karras:5")
    if word not in (*SPACINGS, *TOKEN_SPACINGS) and name != "karras":
        raise UsageError(
            f"unknown spacing '{word}'{nearest(word, SPACINGS + TOKEN_SPACINGS)} Allowed: "
            f"{', '.join(sorted(SPACINGS))}; of octrees {' and '.join(TOKEN_SPACINGS)}."
        )


def _number(what: str, option: Option, value: Any) -> float:
    whole = option.kind == "whole"
    kind = "a whole number" if whole else "a number"
    right: type = Integral if whole else Real
    if isinstance(value, bool) or not isinstance(value, right):
        bound = "" if option.least is None else f" of at least {option.least:g}"
        raise UsageError(f"{what} must be {kind}{bound}, got {value!r}")
    convert: Any = int if whole else float
    number: float = convert(value)
    least, most = option.least, option.most
    if least is not None and most is not None and not least <= number <= most:
        last = "2^64-1" if most == 2**64 - 1 else most
        span = f"{least}..{last}" if whole else f"[{least:g}, {most:g}]"
        raise UsageError(f"{what} must lie in {span}, got {value}")
    if least is not None and not number >= least:
        raise UsageError(f"{what} must be at least {least:g}, got {value}")
    if not math.isfinite(number):
        raise UsageError(f"{what} must be a finite number, got {value}")
    return number


def check_number(what: str, value: Any, *, whole: bool, least: float | None = None) -> float | None:
    """Return a number that is not one of the declared options, None as it is.

    Raises:
        UsageError: with its name, the value and what is allowed.
    """
    if value is None:
        return None
    kind: Kind = "whole" if whole else "number"
    return _number(what, Option("", kind, "How", (f"--{what}",), least=least), value)


def _times(value: Any) -> tuple[float, ...]:
    """Return timesteps, written as ``999,749,499`` or as a sequence of numbers."""
    parts = [p for p in value.split(",") if p.strip()] if isinstance(value, str) else value
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(
            f"--timesteps {value}: write numbers with commas, as 999,749,499"
        ) from None


class Guidance(NamedTuple):
    """A weight of classifier-free guidance, and between which fractions of the rows it acts.

    ``start`` and ``end`` lie in [0, 1]; None is "wherever the plan says", usually everywhere.
    """

    weight: float
    start: float | None = None
    end: float | None = None


def parse_guidance(value: Any) -> Guidance:
    """Return guidance that is written as ``3`` or ``3@0.2-0.8``, or given as a number.

    Raises:
        UsageError: something else; it names the two forms.
    """
    text = value if isinstance(value, str) else ""
    weight, at, interval = text.partition("@")
    start, dash, end = interval.partition("-")
    try:
        if isinstance(value, bool) or (at and not dash):
            raise ValueError
        parsed = Guidance(float(weight if text else value))
        if at:
            parsed = Guidance(parsed.weight, float(start), float(end))
            if not 0 <= float(start) < float(end) <= 1:
                raise ValueError
    except (TypeError, ValueError):
        raise UsageError(
            f"--guidance {value}: write a weight, as 3, or a weight with the fractions of the rows "
            "between which it acts, the first less than the second, both in 0..1, as 3@0.2-0.8"
        ) from None
    if not math.isfinite(parsed.weight):
        raise UsageError(f"guidance must be a finite number, got {parsed.weight}")
    return parsed


def guidance_option(value: Any) -> float | str:
    """Return guidance as options keep it: a number, or ``3@0.2-0.8`` where there is an interval.

    Raises:
        UsageError: as :func:`parse_guidance`.
    """
    parsed = parse_guidance(value)
    if parsed.start is None:
        return parsed.weight
    weight, start, end = (repr(number).removesuffix(".0") for number in parsed)
    return f"{weight}@{start}-{end}"


def steps_option(value: Any) -> int | tuple[int, ...]:
    """Return steps as options keep them: one number, or one for each level of an octree.

    Args:
        value: a whole number, several of them, or text: ``8``, ``1,8,6,4,4`` or ``1/8/6/4/4``.

    Raises:
        UsageError: something else, or a number below 1.
    """
    several = isinstance(value, Sequence) and not isinstance(value, str)
    parts: Sequence[Any] = value if several else re.split("[,/]", str(value))
    if not isinstance(value, str) and not several:
        return int(_number("steps", Option("", "whole", "How", ("--steps",), least=1), value))
    try:
        numbers = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        raise UsageError(
            f"steps must be a whole number of at least 1, got {value!r}; octrees take one for each "
            "level too, as 1,8,6,4,4"
        ) from None
    if not numbers or min(numbers) < 1:
        raise UsageError(f"steps must be at least 1, got {','.join(map(str, parts))}")
    return numbers[0] if len(numbers) == 1 and not several else numbers


def one_number_of_steps(steps: int | Sequence[int]) -> int:
    """Return steps that are one number.

    Raises:
        UsageError: one for each level, which only octrees have.
    """
    if isinstance(steps, int):
        return steps
    raise UsageError(
        f"--steps {','.join(map(str, steps))}: one number for each level is for models of octrees"
    )


Falling = tuple[float, float]  # in a level's first row and in its last one


def parse_temperature(value: Any) -> tuple[Falling, ...]:
    """Return the temperatures of levels: one pair that serves all of them, or one for each.

    Args:
        value: a number, or text: ``0.8``, ``1-0.6`` (falls from row to row), or one of these for
            each level, ``1,1,1-0.6,0.8,0.8``, with commas or slashes.

    Raises:
        UsageError: something else, or a negative number.
    """
    if isinstance(value, bool) or not isinstance(value, str):
        least = Option("", "number", "Octrees", ("--temperature",), least=0)
        number = _number("temperature", least, value)
        return ((number, number),)
    pairs = []
    for part in re.split("[,/]", value):
        match = re.fullmatch(r"(-?[0-9.]+(?:e-?[0-9]+)?)(?:-([0-9.]+))?", part.strip())
        try:
            first = float(match[1] if match else "")
            last = first if match is None or match[2] is None else float(match[2])
        except ValueError:
            raise UsageError(
                f"--temperature {value}: write a number, as 0.8, or those of a level's first and "
                "last row, as 1-0.6, or one of these for each level, as 1,1,1,0.8,0.8-0.6"
            ) from None
        if min(first, last) < 0:
            raise UsageError(f"temperature must be at least 0, got {min(first, last)}")
        pairs.append((first, last))
    return tuple(pairs)


def temperature_option(value: Any) -> float | str:
    """Return a temperature as options keep it: a number, or text as :func:`parse_temperature` has.

    Raises:
        UsageError: as :func:`parse_temperature`.
    """
    pairs = parse_temperature(value)
    if len(pairs) == 1 and pairs[0][0] == pairs[0][1]:
        return pairs[0][0]
    ends = [[repr(end).removesuffix(".0") for end in dict.fromkeys(pair)] for pair in pairs]
    return ",".join("-".join(each) for each in ends)


def _size(value: Any) -> tuple[int, int]:
    """Return width and height, written as ``512`` or ``512x384`` or as two numbers."""
    parts = value.split("x") if isinstance(value, str) else value
    try:
        sides = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        sides = ()
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UsageError(f"--size {value}: write pixels as 512 or, width first, as 512x384")
    return sides[0], sides[-1]


def size_text(size: Sequence[int]) -> str:
    """Return height and width as ``--size`` takes them: 64, or 64x48 with the width first."""
    return str(size[0]) if size[0] == size[1] else f"{size[1]}x{size[0]}"


def _clip(value: Any) -> float | Literal["none"]:
    if value == "none":
        return "none"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"--clip {value}: give a number or 'none'")
    if not number > 0:
        raise UsageError(f"clip must be positive, got {number}")
    return number
