"""The colors of Gaussians: one for all, or by a rule such as height, normal or category.

All colors are sRGB in [0, 1]. A new rule is a function and a line of ``RULES``, both here. The
command line lists the rules, so that NumPy is imported only where a color is computed.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import UsageError, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

NAMES = {
    "black": "000000", "white": "ffffff", "grey": "808080", "gray": "808080", "silver": "c0c0c0",
    "red": "ff0000", "green": "008000", "blue": "0000ff", "yellow": "ffff00", "cyan": "00ffff",
    "magenta": "ff00ff", "orange": "ffa500", "brown": "a52a2a", "tan": "d2b48c", "gold": "ffd700",
    "beige": "f5f5dc", "pink": "ffc0cb", "purple": "800080", "teal": "008080", "navy": "000080",
    "olive": "808000", "maroon": "800000", "lime": "00ff00", "ivory": "fffff0", "coral": "ff7f50",
}  # as CSS has them  # fmt: skip

HEIGHTS = ("2f3e6e", "2f7f93", "6fb98f", "e8c872", "f2a65a")  # from the ground up
CATEGORIES = {
    "chair": "d9985b", "table": "b58a63", "sofa": "5b93d3", "bed": "9b7cc6", "cabinet": "c2a878",
    "lamp": "e2bf55", "bench": "c9784f", "appliance": "8fa1b5", "bath": "6fb1e0", "door": "a8745a",
    "window": "7fc4c9", "plant": "76b852", "person": "d99a9a", "vehicle": "d46a6a",
    "vessel": "45b5ad", "airplane": "b2c04d",
}  # fmt: skip


@dataclass(frozen=True)
class Leaves:
    """What a color may depend on.

    Attributes:
        points: float64 [N, 3], the middles of the leaves, y up.
        normals: float64 [N, 3], unit; None unless the rule needs them.
        category: of the shape; empty if it has none.
    """

    points: Floats
    normals: Floats | None = None
    category: str = ""


@dataclass(frozen=True)
class Rule:
    """How leaves are colored.

    Attributes:
        color: returns float64 [N, 3], or [3] for all leaves alike.
        lit: whether light is baked in unless the user says otherwise.
        needs_normals: whether it needs the surface's normals, which take a while to find.
    """

    color: Callable[[Leaves], npt.ArrayLike]
    lit: bool = False
    needs_normals: bool = False


def rgb(code: str) -> tuple[float, float, float]:
    """Return the three numbers of ``#rrggbb`` or ``rrggbb``, in [0, 1]."""
    red, green, blue = bytes.fromhex(code.removeprefix("#"))
    return red / 255, green / 255, blue / 255


def by_height(leaves: Leaves) -> Floats:
    """Return a gradient from the lowest leaf to the highest, float64 [N, 3]."""
    import numpy as np

    heights = leaves.points[:, 1]
    reach = float(np.ptp(heights))
    share = (heights - heights.min()) / reach if reach > 0 else np.zeros_like(heights)
    stops = np.array([rgb(code) for code in HEIGHTS])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, at, stops[:, k]) for k in range(3)], axis=1)


def by_normal(leaves: Leaves) -> Floats:
    """Return (n + 1) / 2, the usual picture of normals, float64 [N, 3]."""
    assert leaves.normals is not None
    color: Floats = ((leaves.normals + 1) / 2).clip(0, 1)
    return color


def by_category(leaves: Leaves) -> tuple[float, float, float]:
    """Return the color that a category's name has always and everywhere.

    Names that are not in the table share its colors, by a hash.

    Raises:
        UsageError: the shape has no category.
    """
    name = leaves.category
    if not name:
        raise UsageError("color 'category': the shape has no category; choose another color")
    palette = list(CATEGORIES.values())
    return rgb(CATEGORIES.get(name, palette[zlib.crc32(name.encode()) % len(palette)]))


RULES = {
    "height": Rule(by_height, lit=True),
    "normal": Rule(by_normal, needs_normals=True),
    "category": Rule(by_category, lit=True),
}


def parse(text: str) -> str:
    """Return a color option in its one spelling: a rule's name, or ``#rrggbb``.

    Raises:
        UsageError: neither a rule, nor a name, nor ``#rrggbb``.
    """
    word = text.strip().lower()
    if word in RULES:
        return word
    if word in NAMES:
        return f"#{NAMES[word]}"
    if re.fullmatch(r"#[0-9a-f]{6}", word):
        return word
    close = nearest(word, [*RULES, *NAMES])
    raise UsageError(
        f"unknown color '{text}'{close} Give #rrggbb, {', '.join(RULES)} or a name: "
        f"{', '.join(sorted(NAMES))}."
    )


def rule(word: str) -> Rule:
    """Return the rule of what :func:`parse` returned; ``#rrggbb`` is one color for all leaves."""
    return RULES.get(word) or Rule(lambda leaves: rgb(word))
