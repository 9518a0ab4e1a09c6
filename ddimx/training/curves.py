"""A picture of a run's curves, ``curves.png``, from its log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..runs.rendering import COLORS, DPI, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (1200, 840)  # pixels
LEAST = 2  # lines with a loss, without which there is no curve
OPENING = 0.02  # the share of a run whose losses, many times the later ones, may leave the picture
SMOOTHED = 40  # a smoothed curve's points are means over a share of 1 in this of the run
# What the log calls a distance to the training images, and how the picture calls it.
DISTANCES = {"fid": "FID", "frechet_distance": "Fréchet distance (no FID)"}
# The losses of the averaged weights, each with its name, color and style.
VALIDATIONS = {
    "validation_train": ("averaged, training", COLORS[2], "-"),
    "validation_held_out": ("averaged, held out", COLORS[1], "-"),
    "validation_train_ema2": ("second average, training", COLORS[2], ":"),
    "validation_held_out_ema2": ("second average, held out", COLORS[1], ":"),
}


@dataclass
class Curve:
    """A quantity by step; ``smoothed`` draws a moving mean of it, and itself faintly."""

    label: str
    color: str
    style: str = "-"
    smoothed: bool = False
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: object) -> None:
        """Add a point, unless it is no finite number, as of a part without examples."""
        if isinstance(value, int | float) and np.isfinite(value):
            self.steps.append(step)
            self.values.append(float(value))


def draw_curves(path: Path, log: Path) -> str | None:
    """Draw what a log holds; a log of fewer than two lines with a loss leaves things as they are.

    Returns:
        None, or the remark that there is no picture without matplotlib.

    Raises:
        OSError: the log cannot be read, or the picture cannot be written.
    """
    try:
        lines = _lines(log)
    except FileNotFoundError:
        return None
    if sum("loss" in line for line in lines) < LEAST:
        return None
    return write_figure(path, lambda: figure_of(lines))


def figure_of(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the figure of a log's lines: losses, losses by time, and what else there is."""
    from matplotlib.figure import Figure

    panels = panels_of(lines)
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    inches = (SIZE[0] / DPI, SIZE[1] / DPI * rows / 2)
    figure = Figure(figsize=inches, dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    last = max(int(line["step"]) for line in lines)
    for i, (title, curves) in enumerate(panels.items()):
        # The last one of an odd number has the whole width.
        place = slice(None) if i == len(panels) - 1 and i % 2 == 0 else i % 2
        axes = figure.add_subplot(grid[i // columns, place])
        for curve in curves:
            _draw(axes, curve, last)
        if curves[0].smoothed:
            _set_range(axes, curves, last)
        else:
            values = [value for curve in curves for value in curve.values]
            if min(values) >= 0 < max(values):
                axes.set_ylim(0, 1.06 * max(values))
        axes.set_title(title, loc="left", fontsize="medium")
        axes.set_xlim(0, 1.01 * last)
        axes.set_xlabel("step")
        axes.grid(color="#e5e5e5")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize="small")
    return figure


def panels_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[Curve]]:
    """Return the charts of a log's lines by title; those of which it holds nothing are left out."""
    loss = Curve("training (smoothed)", COLORS[0], smoothed=True)
    validations = {key: Curve(*place) for key, place in VALIDATIONS.items()}
    rate = Curve("learning rate", COLORS[0])
    distances = {key: Curve(name, COLORS[3]) for key, name in DISTANCES.items()}
    parts = max((len(line.get("loss_by_time") or ()) for line in lines), default=0)
    by_time = [
        Curve(f"{i / parts:.0%} to {(i + 1) / parts:.0%}", COLORS[i % len(COLORS)], smoothed=True)
        for i in range(parts)
    ]
    for line in lines:
        step = int(line["step"])
        loss.add(step, line.get("loss"))
        rate.add(step, line.get("learning_rate"))
        for key, curve in (*validations.items(), *distances.items()):
            curve.add(step, line.get(key))
        for curve, value in zip(by_time, line.get("loss_by_time") or (), strict=False):
            curve.add(step, value)
    panels = {
        "loss": [loss, *validations.values()],
        "loss by time, from clean (0%) to noise (100%)": by_time,
        "learning rate": [rate],
        **{curve.label: [curve] for curve in distances.values()},
    }
    with_points = {title: [c for c in curves if c.steps] for title, curves in panels.items()}
    return {title: curves for title, curves in with_points.items() if curves}


def _draw(axes: Axes, curve: Curve, last: int) -> None:
    """Draw a curve; a few points are marked, for a line of two says little."""
    steps, values = np.array(curve.steps), np.array(curve.values)
    if not curve.smoothed:
        marker = "o" if len(steps) <= SMOOTHED else ""
        axes.plot(steps, values, curve.style, color=curve.color, label=curve.label,
                  marker=marker, markersize=4, linewidth=1.8)  # fmt: skip
        return
    axes.plot(steps, values, color=curve.color, alpha=0.25, linewidth=0.8)
    axes.plot(steps, moving_mean(steps, values, last / SMOOTHED), curve.style, color=curve.color,
              label=curve.label, linewidth=1.8)  # fmt: skip


def _set_range(axes: Axes, curves: Sequence[Curve], last: int) -> None:
    """Make losses' axis logarithmic where they are above 0, and end it where the opening is over.

    What is drawn smoothed counts as it is smoothed.
    """
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    shown: list[float] = []
    for curve in curves:
        steps, values = np.array(curve.steps), np.array(curve.values)
        if curve.smoothed:
            values = moving_mean(steps, values, last / SMOOTHED)
        shown += values[steps >= min(OPENING * last, steps[-1])].tolist()
    low, high = min(shown), max(shown)
    if low <= 0:
        return
    axes.set_yscale("log")
    axes.set_ylim(low / 1.1, high * 1.1)
    subs: tuple[float, ...] = (1, 2, 5) if high > 30 * low else (1, 1.5, 2, 3, 4, 5, 7)
    if high < 4 * low:
        subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())


def moving_mean(
    steps: npt.NDArray[np.int64], values: npt.NDArray[np.float64], width: float
) -> npt.NDArray[np.float64]:
    """Return for each point the mean of those within ``width`` / 2 steps of it, float64 [N]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    first = np.searchsorted(steps, steps - width / 2, side="left")
    end = np.searchsorted(steps, steps + width / 2, side="right")
    means: npt.NDArray[np.float64] = (total[end] - total[first]) / (end - first)
    return means


def _lines(log: Path) -> list[dict[str, Any]]:
    """Return a log's lines of numbers; a kill may have left the beginning of one."""
    lines = []
    for text in log.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int) and "note" not in line:
            lines.append(line)
    return lines
