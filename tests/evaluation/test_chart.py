"""Charts: where lines and levels lie, what happens at the edges, and without matplotlib."""

import sys

import numpy as np
import pytest
from PIL import Image

from ddimx.errors import MissingPackage
from ddimx.evaluation.chart import (
    COLORS,
    SIZE,
    HorizontalLine,
    Panel,
    figure_of,
    line_charts,
    write_charts,
)

RGB = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLORS[:2]]


def within(panel):
    """The pixels within the axes' frame of a panel alone, uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = figure_of([panel])
    FigureCanvasAgg(figure).draw()  # lays the axes out
    frame = figure.axes[0].get_window_extent()
    left, right = int(frame.x0) + 3, int(frame.x1) - 3
    top, bottom = SIZE[1] - int(frame.y1) + 3, SIZE[1] - int(frame.y0) - 3
    return np.asarray(line_charts([panel]))[top:bottom, left:right]


def heights(panel, color):
    """The rows of a color's pixels, by column."""
    y, x = np.nonzero((within(panel) == color).all(axis=-1))
    return {int(column): float(y[x == column].mean()) for column in np.unique(x)}


def test_a_linear_axis_is_linear_and_takes_zero():
    lines = {"a": [(1, 0.0), (2, 0.5), (4, 1.0)], "b": [(1, 1.0), (4, 0.0)]}
    rising, falling = (heights(Panel(lines, "v", logarithmic=False), c) for c in RGB)
    left, right = min(rising), max(rising)
    middle = (left + right) // 2  # 2 lies midway between 1 and 4 on a logarithmic axis
    assert abs(rising[middle] - (rising[left] + rising[right]) / 2) < 2
    assert rising[left] - rising[right] > 300
    assert abs(falling[min(falling)] - rising[right]) < 2
    assert abs(max(falling) - right) <= 1


def test_a_logarithmic_axis_is_logarithmic():
    line = heights(Panel({"a": [(1, 0.01), (2, 0.1), (4, 1.0)]}, "v"), RGB[0])
    left, right = min(line), max(line)
    assert abs(line[(left + right) // 2] - (line[left] + line[right]) / 2) < 2
    assert line[left] - line[right] > 300


def test_a_linear_axis_reaches_out_to_a_level_and_a_logarithmic_one_does_not():
    line, level = {"a": [(1, 0.5), (4, 0.6)]}, [HorizontalLine(1.0, "reference")]

    def black_rows(logarithmic):
        inside = within(Panel(line, "v", level, logarithmic))
        dashes = (inside == 0).all(axis=-1).sum(axis=1)
        return int((dashes > inside.shape[1] // 3).sum())

    assert black_rows(False) == 1
    assert black_rows(True) == 0


def test_values_of_no_spread_and_no_logarithm():
    assert line_charts([Panel({"a": [(5, 0.4)]}, "v", logarithmic=False)]).size == SIZE
    assert not heights(Panel({"a": [(1, 0.0), (2, 0.0)]}, "v"), RGB[0])


def test_numbers_that_lie_close_together_share_a_label():
    line = [(n, 0.5) for n in (1, 1.01, 2, 2.01, 4)]
    (axes,) = figure_of([Panel({"a": line}, "v", logarithmic=False)]).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]


def test_panels_lie_below_each_other():
    panels = [Panel({"a": [(1, 0.1), (2, 0.2)]}, "v")] * 3
    assert line_charts(panels, (300, 200)).size == (300, 600)
    assert line_charts([], (300, 200)).size == (300, 200)


def test_settings_of_the_process_do_not_enter_and_do_not_change():
    import matplotlib

    panel = Panel({"a": [(1, 0.1), (2, 0.2)]}, "v")
    expected = line_charts([panel]).tobytes()
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        assert line_charts([panel]).tobytes() == expected
        assert dict(matplotlib.rcParams) == before


def test_a_picture_is_written(tmp_path):
    panel = Panel({"a": [(1, 0.1), (2, 0.2)]}, "v")
    assert write_charts(tmp_path / "a.png", [panel]) is None
    assert np.array_equal(Image.open(tmp_path / "a.png"), line_charts([panel]))


def test_without_matplotlib_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackage, match=r'is not installed; run pip install "ddimx\[plot\]"'):
        line_charts([])
    (tmp_path / "a.png").write_bytes(b"of earlier results")
    said = write_charts(tmp_path / "a.png", [])
    assert said.startswith("a.png is omitted: matplotlib, which charts need, is not")
    assert not (tmp_path / "a.png").exists()
