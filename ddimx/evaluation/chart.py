"""Line charts as pictures: named lines over network evaluations, with a key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE, MARGIN, KEY = (
    (900, 560),
    70,
    230,
)  # the chart, its axes' distance to the edge, the key's width
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
    "#7f3c8d", "#117733", "#882255", "#44aa99", "#aa4499", "#ddcc77", "#332288", "#661100",
)  # fmt: skip

Line = Sequence[tuple[float, float]]
"""Points (evaluations, value), in the order in which they are joined."""


@dataclass(frozen=True)
class Level:
    """A dashed line at a value, with what it is."""

    value: float
    name: str


def line_chart(
    lines: Mapping[str, Line],
    title: str,
    *,
    levels: Sequence[Level] = (),
    logarithmic: bool = True,
    size: tuple[int, int] = SIZE,
    key: int = KEY,
) -> Image.Image:
    """Draw values against numbers of evaluations, which are always on a logarithmic axis.

    Args:
        lines: by name; with a logarithmic axis values up to 0 are left out.
        title: what the values are.
        levels: a linear axis reaches out to them; on a logarithmic one, drawn where they lie
            within the picture.
        logarithmic: whether the values' axis is too.
        size, key: in pixels, of the whole and of the key's width.
    """
    kept = {
        name: [(n, value) for n, value in line if value > 0 or not logarithmic]
        for name, line in lines.items()
    }
    values = [value for line in kept.values() for _, value in line]
    if not logarithmic:
        values += [level.value for level in levels]
    numbers = sorted({n for line in lines.values() for n, _ in line})
    up = (min(values, default=1.0), max(values, default=1.0))
    axes = _Axes((numbers[0], numbers[-1]), up, logarithmic, size, key)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    axes.frame(draw, numbers, title)
    for level in levels:
        if axes.low <= level.value <= axes.high:
            axes.dashes(draw, level)
    for i, (name, line) in enumerate(kept.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = [axes.point(n, value) for n, value in line]
        draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        at = MARGIN + 22 * i
        draw.line((size[0] - key + 10, at + 7, size[0] - key + 30, at + 7), fill=colour, width=3)
        draw.text((size[0] - key + 36, at), name, fill="black", font=_font())
    return image


class _Axes:
    """Where a number of evaluations and a value lie in the picture."""

    def __init__(
        self,
        across: tuple[float, float],
        up: tuple[float, float],
        logarithmic: bool,
        size: tuple[int, int],
        key: int,
    ) -> None:
        self.left, self.right = across[0] / 1.1, across[1] * 1.1
        self._logarithmic, self._size, self._key = logarithmic, size, key
        room = 0.1 * (up[1] - up[0]) or 0.1
        self.low = up[0] / 1.3 if logarithmic else up[0] - room
        self.high = up[1] * 1.3 if logarithmic else up[1] + room

    def point(self, nfe: float, value: float) -> tuple[float, float]:
        """Return the place of a result in pixels."""
        x = math.log(nfe / self.left) / math.log(self.right / self.left)
        if self._logarithmic:
            y = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            y = (value - self.low) / (self.high - self.low)
        width = self._size[0] - MARGIN - self._key
        height = self._size[1] - 2 * MARGIN
        return MARGIN + x * width, self._size[1] - MARGIN - y * height

    def frame(self, draw: ImageDraw.ImageDraw, numbers: Sequence[float], title: str) -> None:
        """Draw the axes with their labels; a number that would touch the one before has none."""
        corner, other = self.point(self.left, self.high), self.point(self.right, self.low)
        draw.rectangle((*corner, *other), outline="black")
        free = 0.0
        for number in numbers:
            x, y = self.point(number, self.low)
            draw.line((x, y, x, y + 5), fill="black")
            half = draw.textlength(f"{number:g}", font=_font()) / 2
            if x - half >= free:
                draw.text((x, y + 8), f"{number:g}", fill="black", anchor="ma", font=_font())
                free = x + half + 4
        for value in self._ticks():
            x, y = self.point(self.left, value)
            draw.line((x, y, other[0], y), fill="#dddddd")
            draw.text((x - 8, y), f"{value:g}", fill="black", anchor="rm", font=_font())
        middle = ((corner[0] + other[0]) / 2, self._size[1] - 28)
        draw.text(middle, "network evaluations", fill="black", anchor="ma", font=_font())
        draw.text((MARGIN, 30), title, fill="black", font=_font())

    def dashes(self, draw: ImageDraw.ImageDraw, level: Level) -> None:
        """Draw a dashed level line."""
        (start, y), (end, _) = (
            self.point(self.left, level.value),
            self.point(self.right, level.value),
        )
        for x in range(int(start), int(end), 12):
            draw.line((x, y, x + 6, y), fill="black")
        draw.text((end - 6, y - 4), level.name, fill="black", anchor="rd", font=_font())

    def _ticks(self) -> list[float]:
        if self._logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [m * 10.0**d for d in decades for m in (1, 2, 5)]
        else:
            unit = 10.0 ** math.floor(math.log10(self.high - self.low))
            spread = (self.high - self.low) / unit
            step = unit * (0.2 if spread < 2 else 0.5 if spread < 5 else 1.0)
            first = math.ceil(self.low / step)
            values = [round(k * step, 9) for k in range(first, math.floor(self.high / step) + 1)]
        return [v for v in values if self.low <= v <= self.high]


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)
