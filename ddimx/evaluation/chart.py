"""Line charts over numbers of network evaluations, drawn with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..runs.rendering import COLORS, DPI, rendered, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (900, 560)  # pixels of one panel, by default
MARKERS = ("o", "s", "^", "D")  # the next one with each repetition of the colors
CLOSEST = 0.06  # of an axis: labels of numbers that lie closer together would overlap

Line = Sequence[tuple[float, float]]
"""Points (evaluations, value), in the order in which they are joined."""


@dataclass(frozen=True)
class HorizontalLine:
    """A dashed line at a value, with what it is."""

    value: float
    name: str


@dataclass(frozen=True)
class Panel:
    """One chart of a picture: values against numbers of evaluations.

    Attributes:
        lines: by name; the evaluations lie on a logarithmic axis. Where the values' axis is
            logarithmic too, values up to 0 are left out.
        title: what the values are.
        levels: a linear axis reaches out to them; on a logarithmic one, drawn where they lie
            within the range of the lines.
        logarithmic: whether the values' axis is logarithmic.
    """

    lines: Mapping[str, Line]
    title: str
    levels: Sequence[HorizontalLine] = ()
    logarithmic: bool = True


def line_charts(panels: Sequence[Panel], size: tuple[int, int] = SIZE) -> Image.Image:
    """Draw panels below each other, each ``size`` (width, height) pixels large, as an RGB image.

    Raises:
        MissingPackage: matplotlib is not installed, or cannot be imported.
    """
    return rendered(lambda: figure_of(panels, size))


def write_charts(path: Path, panels: Sequence[Panel], size: tuple[int, int] = SIZE) -> str | None:
    """Write a picture of panels as PNG, whole or not at all.

    For commands whose main result is another: without matplotlib no picture is written, one of
    earlier results is removed, and the line that says so is returned.
    """
    return write_figure(path, lambda: figure_of(panels, size))


def figure_of(panels: Sequence[Panel], size: tuple[int, int] = SIZE) -> Figure:
    """Return the figure that :func:`line_charts` renders."""
    from matplotlib.figure import Figure

    rows = max(len(panels), 1)
    inches = (size[0] / DPI, rows * size[1] / DPI)
    figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
    for axes, panel in zip(figure.subplots(rows, squeeze=False)[:, 0], panels, strict=False):
        _draw(axes, panel)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    """Draw a panel's lines, their key at the right, and its levels."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log" if panel.logarithmic else "linear")
    for i, (name, line) in enumerate(panel.lines.items()):
        points = [(n, value) for n, value in line if value > 0 or not panel.logarithmic]
        axes.plot(
            [n for n, _ in points],
            [value for _, value in points],
            label=name,
            color=COLORS[i % len(COLORS)],
            marker=MARKERS[i // len(COLORS) % len(MARKERS)],
            linewidth=2,
            markersize=6,
        )
    numbers = sorted({n for line in panel.lines.values() for n, _ in line})
    if numbers:
        axes.set_xlim(numbers[0] / 1.1, numbers[-1] * 1.1)
        shown = numbers[:1]
        for n in numbers[1:]:
            if math.log(n / shown[-1]) > CLOSEST * math.log(1.21 * numbers[-1] / numbers[0]):
                shown.append(n)
        axes.set_xticks(shown, [f"{n:.3g}" for n in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    if panel.logarithmic:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    if numbers and not panel.logarithmic:
        axes.update_datalim([(numbers[0], level.value) for level in panel.levels])
        axes.autoscale_view(scalex=False)
    low, high = axes.get_ylim()
    for level in panel.levels:
        if low <= level.value <= high:
            below = level.value > (low + high) / 2  # where there is room for its name
            axes.axhline(level.value, color="black", linestyle="--", linewidth=1)
            axes.annotate(
                level.name,
                (1, level.value),
                xycoords=axes.get_yaxis_transform(),
                xytext=(-6, -3 if below else 3),
                textcoords="offset points",
                horizontalalignment="right",
                verticalalignment="top" if below else "bottom",
            )
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.set_xlabel("network evaluations")
    if panel.lines:
        size = "medium" if len(panel.lines) <= len(COLORS) else "x-small"
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=size)
