"""Text and JSON from outside: bounded in size, depth and digits before anything is built of it.

Every function raises ValueError for a text that is refused or wrong, and OSError for a file that
cannot be read; the caller says which file it was.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import reprlib
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from . import limits

_STRING = re.compile(rb'"[^"]*"?')
_BRACKETS = bytes(i for i in range(256) if i not in b"[]{}")
_RISE = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_LONG = re.compile(rb"[0-9.eE+-]{%d}" % (limits.NUMBER + 1))


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Return a file's bytes.

    Args:
        most: how many it may have; None: as many as may be held in memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer.
    """
    bound = limits.memory() if most is None else most
    with path.open("rb") as stream:
        data = stream.read(bound + 1)
    if len(data) > bound:
        raise ValueError(f"it is longer than {limits.readable(bound)}")
    return data


def unix_text(content: bytes) -> bytes:
    """Return a text in UTF-8 without its byte order mark, its lines ended as on Unix."""
    return content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def read_json(path: Path, *, finite: bool = True) -> Any:
    """Return what a JSON file holds, see :func:`parse_json`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or beyond what is read.
    """
    most = limits.memory() // limits.TEXT_COST
    try:
        data = read_bytes(path, most)
    except ValueError as error:
        raise ValueError(f"{error}, a bound that --limit-memory raises") from None
    return parse_json(data, finite=finite)


def read_object(path: Path, *, finite: bool = True) -> dict[str, Any]:
    """Return the object that a JSON file holds, as :func:`read_json`."""
    value = read_json(path, finite=finite)
    if not isinstance(value, dict):
        raise ValueError("expected settings in braces")
    return value


def parse_json(text: bytes | str, *, finite: bool = True) -> Any:
    """Return the value of a JSON text in UTF-8.

    Integers have at most 64 bits, and no object has a key twice. With ``finite`` floats that are
    infinite are refused, as are ``NaN`` and ``Infinity``, which are not JSON; without it they are
    read as Python writes them.

    Raises:
        ValueError: it is not such a text, or longer or deeper than what is read.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) * limits.TEXT_COST > limits.memory():
        raise ValueError(
            f"JSON of {limits.readable(len(data))}; --limit-memory "
            f"{limits.readable(len(data) * limits.TEXT_COST)} allows it"
        )
    # What is left without the strings. A backslash stands in strings only, so that pairs of it
    # and escaped quotes can be taken out first.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = plain.count(b'"') // 2
    _check_count(strings)
    bare = _STRING.sub(b"", plain)
    _check_count(strings + sum(bare.count(sign) for sign in (b",", b"[", b"{")))
    if _LONG.search(bare):
        raise ValueError(f"a number of more than {limits.NUMBER} characters")
    brackets = bare.translate(None, _BRACKETS)
    if max(accumulate(map(_RISE.__getitem__, brackets)), default=0) > limits.DEPTH:
        raise ValueError(f"nested deeper than {limits.DEPTH} levels")
    return json.loads(
        data.decode("utf-8"),
        parse_int=_integer,
        parse_float=_finite if finite else float,
        parse_constant=_constant if finite else None,
        object_pairs_hook=_unique,
    )


def shown(value: object) -> str:
    """Return ``repr(value)`` shortened for an error, whatever its size or nesting."""
    return shortened(_SHORT.repr(value))


def shortened(text: str, most: int = limits.SHOWN) -> str:
    """Return a text as an error may quote it: its beginning, where it is long."""
    return text if len(text) <= most else f"{text[:most]}..."


def first_of(texts: Sequence[str], count: int, most: int = limits.SHOWN) -> str:
    """Return the first of many texts, each :func:`shortened`, and how many more there are."""
    more = f" and {len(texts) - count} more" if len(texts) > count else ""
    return ", ".join(shortened(text, most) for text in texts[:count]) + more


def _short() -> reprlib.Repr:
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = 12
    short.maxlevel = 3
    short.maxstring = short.maxother = short.maxlong = 120
    return short


_SHORT = _short()


def _check_count(values: int) -> None:
    if values * limits.VALUE_COST > limits.memory():
        raise ValueError(
            f"JSON of {values} values; --limit-memory "
            f"{limits.readable(values * limits.VALUE_COST)} allows it"
        )


def _integer(text: str) -> int:
    if len(text) > limits.INTEGER or not -(1 << 63) <= int(text) < 1 << 64:
        raise ValueError("an integer of more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice")
    return values
