"""Charts: where lines and levels lie, and what happens at the edges."""

import numpy as np

from ddimx.evaluation.chart import COLOURS, MARGIN, SIZE, Level, line_chart

RGB = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLOURS[:2]]


def heights(picture, colour):
    """The rows of a colour's pixels left of the key, by column."""
    pixels = np.asarray(picture)[:, : SIZE[0] - 230]
    y, x = np.nonzero((pixels == colour).all(axis=-1))
    return {int(column): float(y[x == column].mean()) for column in np.unique(x)}


def test_a_linear_axis_is_linear_and_takes_zero():
    lines = {"a": [(1, 0.0), (2, 0.5), (4, 1.0)], "b": [(1, 1.0), (4, 0.0)]}
    rising, falling = (heights(line_chart(lines, "v", logarithmic=False), c) for c in RGB)
    left, right = min(rising), max(rising)
    middle = (left + right) // 2  # 2 lies midway between 1 and 4 on a logarithmic axis
    assert abs(rising[middle] - (rising[left] + rising[right]) / 2) < 2
    assert rising[left] - rising[right] > 300
    assert abs(falling[min(falling)] - rising[right]) < 2
    assert abs(max(falling) - right) <= 1


def test_a_linear_axis_reaches_out_to_a_level_and_a_logarithmic_one_does_not():
    line, level = {"a": [(1, 0.5), (4, 0.6)]}, [Level(1.0, "reference")]

    def black_rows(logarithmic):
        picture = np.asarray(line_chart(line, "v", levels=level, logarithmic=logarithmic))
        inside = picture[MARGIN + 3 : SIZE[1] - MARGIN - 3, MARGIN + 3 : SIZE[0] - 233]
        dashes = (inside == 0).all(axis=-1).sum(axis=1)
        return int((dashes > inside.shape[1] // 3).sum())

    assert black_rows(False) == 1
    assert black_rows(True) == 0


def test_values_of_no_spread_and_no_logarithm():
    assert line_chart({"a": [(5, 0.4)]}, "v", logarithmic=False).size == SIZE
    assert not heights(line_chart({"a": [(1, 0.0), (2, 0.0)]}, "v"), RGB[0])
