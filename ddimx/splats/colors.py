"""What colour a Gaussian gets: one for all, or by height, normal or category, lit or plain.

All colours are sRGB in [0, 1]. No splat viewer has a lamp: under one colour for all a chair is a
silhouette. So light can be baked in, from above and softened where cells crowd together.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
import numpy.typing as npt

from ..errors import UsageError, nearest
from .neighbors import Neighbourhood, facing

Floats = npt.NDArray[np.float64]

NAMES = {
    "black": "000000", "white": "ffffff", "grey": "808080", "gray": "808080", "silver": "c0c0c0",
    "red": "ff0000", "green": "008000", "blue": "0000ff", "yellow": "ffff00", "cyan": "00ffff",
    "magenta": "ff00ff", "orange": "ffa500", "brown": "a52a2a", "tan": "d2b48c", "gold": "ffd700",
    "beige": "f5f5dc", "pink": "ffc0cb", "purple": "800080", "teal": "008080", "navy": "000080",
    "olive": "808000", "maroon": "800000", "lime": "00ff00", "ivory": "fffff0", "coral": "ff7f50",
}  # as CSS has them  # fmt: skip
KINDS = ("height", "normal", "category")

HEIGHTS = ("2f3e6e", "2f7f93", "6fb98f", "e8c872", "f2a65a")  # from the ground up
CATEGORIES = {
    "chair": "d9985b", "table": "b58a63", "sofa": "5b93d3", "bed": "9b7cc6", "cabinet": "c2a878",
    "lamp": "e2bf55", "bench": "c9784f", "appliance": "8fa1b5", "bath": "6fb1e0", "door": "a8745a",
    "window": "7fc4c9", "plant": "76b852", "person": "d99a9a", "vehicle": "d46a6a",
    "vessel": "45b5ad", "airplane": "b2c04d",
}  # fmt: skip

LIGHT = (-0.4, 0.8, 0.45)  # from the left, above and in front
DIMMEST, CROWDED = 0.6, 0.5  # light on what is edge-on; what a full window takes


def parse(text: str) -> str:
    """Return a colour option in its one spelling: a kind, or ``#rrggbb``.

    Raises:
        UsageError: neither a kind, nor a name, nor ``#rrggbb``.
    """
    word = text.strip().lower()
    if word in KINDS:
        return word
    if word in NAMES:
        return f"#{NAMES[word]}"
    if re.fullmatch(r"#[0-9a-f]{6}", word):
        return word
    close = nearest(word, [*KINDS, *NAMES])
    raise UsageError(
        f"unknown colour '{text}'{close} Give #rrggbb, {', '.join(KINDS)} or a name: "
        f"{', '.join(sorted(NAMES))}."
    )


def rgb(code: str) -> Floats:
    """Return ``#rrggbb`` as float64 [3] in [0, 1]."""
    digits = code.removeprefix("#")
    return np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255


def by_height(heights: npt.ArrayLike) -> Floats:
    """Return a gradient from the lowest to the highest, float [N] -> [N, 3]."""
    h = np.asarray(heights, dtype=np.float64)
    reach = float(np.ptp(h))
    share = (h - h.min()) / reach if reach > 0 else np.zeros_like(h)
    stops = np.stack([rgb(code) for code in HEIGHTS])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, at, stops[:, k]) for k in range(3)], axis=1)


def by_normal(normals: npt.ArrayLike) -> Floats:
    """Return (n + 1) / 2, the usual picture of normals, [N, 3] -> [N, 3]."""
    return np.clip((np.asarray(normals, dtype=np.float64) + 1) / 2, 0, 1)


def by_category(category: str) -> Floats:
    """Return the colour that a category's name has always and everywhere, [3].

    Names that are not in the table share its colours, by a hash.
    """
    palette = list(CATEGORIES.values())
    return rgb(CATEGORIES.get(category, palette[zlib.crc32(category.encode()) % len(palette)]))


def lit(colours: npt.ArrayLike, around: Neighbourhood) -> Floats:
    """Return colours [N, 3] (or one [3]) with light baked in, [N, 3].

    Both sides of a surface are lit alike, since one Gaussian is seen from both.
    """
    towards = np.asarray(LIGHT) / np.linalg.norm(LIGHT)
    normals = facing(around.spreads, np.tile(towards, (len(around.counts), 1)))
    plane, full = around.width**2, around.width**3
    crowded = np.clip((around.counts - plane) / (full - plane), 0, 1)
    light = (DIMMEST + (1 - DIMMEST) * normals @ towards) * (1 - CROWDED * crowded)
    shaded: Floats = np.asarray(colours, dtype=np.float64) * light[:, None]
    return shaded
