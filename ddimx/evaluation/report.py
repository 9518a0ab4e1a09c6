"""Measured errors as a table, a CSV file and a plot."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont
from rich.table import Table

from .solvers import Measured, best_of

SIZE, MARGIN, KEY = (900, 560), 70, 230  # the plot, its axes' distance to the edge, the key's width
COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999",
    "#7f3c8d", "#117733", "#882255", "#44aa99", "#aa4499", "#ddcc77", "#332288", "#661100",
)  # fmt: skip


def error_table(results: Sequence[Measured]) -> Table:
    """Return one row for every solver and spacing, one column for every number of evaluations.

    The least error of a column is marked with a star.
    """
    nfes = sorted({r.nfe for r in results})
    best = best_of(results)
    cells = {(r.solver, r.spacing, r.nfe): r for r in results}
    table = Table(title="RMSE of x_0 to the reference, by network evaluations", box=None)
    for name in ("solver", "spacing"):
        table.add_column(name)
    for nfe in nfes:
        table.add_column(str(nfe), justify="right")
    for solver, spacing in dict.fromkeys((r.solver, r.spacing) for r in results):
        found = [cells.get((solver, spacing, nfe)) for nfe in nfes]
        shown = [
            "-" if r is None else f"{r.rmse:.4f}{'*' if r is best[r.nfe] else ' '}" for r in found
        ]
        table.add_row(solver, spacing, *shown)
    return table


def csv_text(results: Sequence[Measured]) -> str:
    """Return the results as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["nfe", "solver", "spacing", "rmse", "worst_sample"])
    for r in results:
        writer.writerow([r.nfe, r.solver, r.spacing, f"{r.rmse:.6g}", f"{r.worst:.6g}"])
    return text.getvalue()


def plot(results: Sequence[Measured], floor: float) -> Image.Image:
    """Draw error against evaluations, both logarithmic: for each solver its best spacing.

    ``floor`` is the reference's own error, a dashed line where it lies within the picture.
    """
    lines = _lines(results)
    errors = [r.rmse for line in lines.values() for r in line if r.rmse > 0]
    nfes = sorted({r.nfe for r in results})
    axes = _Axes((min(nfes), max(nfes)), (min(errors, default=1.0), max(errors, default=1.0)))
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    axes.frame(draw, nfes)
    if axes.low <= floor <= axes.high:
        axes.dashes(draw, floor)
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        points = [axes.point(r.nfe, r.rmse) for r in line if r.rmse > 0]
        draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        at = MARGIN + 22 * i
        draw.line((SIZE[0] - KEY + 10, at + 7, SIZE[0] - KEY + 30, at + 7), fill=colour, width=3)
        draw.text((SIZE[0] - KEY + 36, at), name, fill="black", font=_font())
    return image


def _lines(results: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Return each solver's results with the spacing of least mean log error."""
    groups: dict[str, dict[str, list[Measured]]] = {}
    for r in results:
        groups.setdefault(r.solver, {}).setdefault(r.spacing, []).append(r)
    chosen = {}
    for solver, spacings in groups.items():
        most = max(len(line) for line in spacings.values())
        whole = {name: line for name, line in spacings.items() if len(line) == most}
        best = min(whole, key=lambda n: sum(math.log(r.rmse + 1e-30) for r in whole[n]))
        chosen[f"{solver}, {best}"] = sorted(whole[best], key=lambda r: r.nfe)
    return chosen


class _Axes:
    """Logarithmic axes: where a number of evaluations and an error lie in the picture."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self.left, self.right = across[0] / 1.1, across[1] * 1.1
        self.low, self.high = up[0] / 1.3, up[1] * 1.3

    def point(self, nfe: float, error: float) -> tuple[float, float]:
        """Return the place of a result in pixels."""
        x = math.log(nfe / self.left) / math.log(self.right / self.left)
        y = math.log(error / self.low) / math.log(self.high / self.low)
        width, height = SIZE[0] - MARGIN - KEY, SIZE[1] - 2 * MARGIN
        return MARGIN + x * width, SIZE[1] - MARGIN - y * height

    def frame(self, draw: ImageDraw.ImageDraw, nfes: Sequence[int]) -> None:
        """Draw the axes with their labels."""
        corner, other = self.point(self.left, self.high), self.point(self.right, self.low)
        draw.rectangle((*corner, *other), outline="black")
        for nfe in nfes:
            x, y = self.point(nfe, self.low)
            draw.line((x, y, x, y + 5), fill="black")
            draw.text((x, y + 8), str(nfe), fill="black", anchor="ma", font=_font())
        for value in _ticks(self.low, self.high):
            x, y = self.point(self.left, value)
            draw.line((x, y, other[0], y), fill="#dddddd")
            draw.text((x - 8, y), f"{value:g}", fill="black", anchor="rm", font=_font())
        middle = (corner[0] + other[0]) / 2
        draw.text(
            (middle, SIZE[1] - 28), "network evaluations", fill="black", anchor="ma", font=_font()
        )
        draw.text((MARGIN, 30), "RMSE of x_0 to the reference", fill="black", font=_font())

    def dashes(self, draw: ImageDraw.ImageDraw, value: float) -> None:
        """Draw a dashed level line."""
        (start, y), (end, _) = self.point(self.left, value), self.point(self.right, value)
        for x in range(int(start), int(end), 12):
            draw.line((x, y, x + 6, y), fill="black")
        draw.text(
            (end - 6, y - 4), "reference's own error", fill="black", anchor="rd", font=_font()
        )


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    return [v for v in values if low <= v <= high]


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)
