"""Bounds on what a file from outside may ask for, each with its reason.

They are far above what any file that we know of needs, and low enough that a small file cannot
keep a machine busy or fill its memory. ``--limit-memory``, which stands in the environment as
``DDIMX_LIMIT_MEMORY`` so that worker processes see it too, raises those that are about memory.
"""

from __future__ import annotations

import os
import re

from ..errors import UsageError

VARIABLE = "DDIMX_LIMIT_MEMORY"

# Bytes that one file may take once it is unpacked: an epoch's worth of small pictures, and less
# than half of the smallest machine that runs PyTorch.
MEMORY = 256 << 20
# A file that is large itself may take more: what is plainly large does not surprise its owner.
# Pictures and token streams are packed to a quarter at best; a bomb of zeros to a thousandth.
RATIO = 8

# Levels of nesting in JSON and YAML: ours have 6. Python's own limit of recursion is 1,000 calls.
DEPTH = 64
# Characters of one number. A float64 in decimal needs at most 24, and 2^64 has 20; an integer of
# thousands of digits costs quadratic time and fits nowhere afterwards.
NUMBER = 40
INTEGER = 20
# How many bytes of memory a byte of JSON text and a value in it may take: text is held twice, as
# one or four bytes a character; an empty list in a list (",[]") takes 64, an integer 40.
TEXT_COST = 8
VALUE_COST = 72
# Bytes of YAML, which PyYAML reads at 100 KB a second; ours have 2 KB, and a thousand class names
# 20. After aliases are followed a file may stand for so many values.
YAML_BYTES = 256 << 10
YAML_VALUES = 50_000

# A zip's directory: zipfile makes some 600 bytes of an entry, which takes 46 and its name.
DIRECTORY_COST = 12
# NumPy's own bound on the length of an array's header, and on the number of dimensions.
ARRAY_HEADER = 10_000
DIMENSIONS = 32
# Characters of a wrong value in an error: enough to recognize it.
SHOWN = 200


def memory() -> int:
    """Return how many bytes one file may take in memory: ``--limit-memory``, else ``MEMORY``.

    Raises:
        UsageError: the environment variable is not a size.
    """
    text = os.environ.get(VARIABLE)
    return MEMORY if text is None else size(text)


def raise_memory(text: str) -> None:
    """Let files take so much memory, in this process and in those that it starts.

    Args:
        text: bytes, or with a unit: "800M", "4G".

    Raises:
        UsageError: not a size.
    """
    size(text)
    os.environ[VARIABLE] = text


def size(text: str) -> int:
    """Return the number of bytes that a text such as "4G" means; units are powers of 1024.

    Raises:
        UsageError: not a size.
    """
    match = re.fullmatch(r"(\d{1,18})\s*([kmgt]?)i?b?", text.strip(), re.IGNORECASE | re.ASCII)
    if match is None or not int(match[1]):
        raise UsageError(f"--limit-memory {text}: write a size such as 800M or 4G")
    return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")


def allowed(stored: int, copies: int = 1) -> int:
    """Return how many bytes may be made of ``stored`` bytes of a file.

    Args:
        copies: how many times the unpacked data are held at once while they are worked on.
    """
    return max(memory() // copies, RATIO * stored)


def refused(what: str, declared: int, stored: int, copies: int = 1) -> None:
    """Raise ValueError if ``declared`` bytes are more than ``stored`` ones may become."""
    if declared > allowed(stored, copies):
        raise ValueError(
            f"{what} unpacks to {readable(declared)}, more than the "
            f"{readable(allowed(stored, copies))} allowed; --limit-memory "
            f"{readable(declared * copies)} allows it"
        )


def readable(count: int) -> str:
    """Return a number of bytes as ``--limit-memory`` takes it, rounded up: "1500M"."""
    units = [unit for unit in range(5) if count < 10_000 << 10 * unit]
    unit = units[0] if units else 4
    return f"{-(-count >> 10 * unit) if unit else count}{['', 'K', 'M', 'G', 'T'][unit]}"
