"""Contact sheets: where each image stands."""

import numpy as np
import pytest
from PIL import Image

from ddimx.runs.contact_sheet import GAP, LEGIBLE, grid, write_grid


def plain(count, height, width, channels=3):
    """Images of one gray each, none of them white."""
    values = np.arange(count, dtype=np.uint8) + 10
    return np.broadcast_to(
        values[:, None, None, None], (count, height, width, channels)
    ).copy()  # fmt: skip


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (2, 3)), (16, None, (4, 4)), (5, 5, (1, 5))],
)
def test_rows_and_columns(count, columns, shape):
    sheet = grid(plain(count, 130, 140), columns)  # large enough not to be enlarged
    rows, across = shape
    assert sheet.shape == (rows * (130 + GAP) + GAP, across * (140 + GAP) + GAP, 3)
    assert sheet.dtype == np.uint8
    for i in range(rows * across):
        top, left = i // across * (130 + GAP) + GAP, i % across * (140 + GAP) + GAP
        cell = sheet[top : top + 130, left : left + 140]
        assert (cell == (i + 10 if i < count else 255)).all()
        assert (sheet[top - GAP : top] == 255).all()
        assert (sheet[:, left - GAP : left] == 255).all()


def test_small_images_are_enlarged_by_a_whole_factor():
    picture = np.arange(2 * 40 * 3, dtype=np.uint8).reshape(1, 2, 40, 3)
    sheet = grid(picture)
    scale = LEGIBLE // 40
    assert scale == 3
    inner = sheet[GAP:-GAP, GAP:-GAP]
    assert inner.shape == (6, 120, 3)
    assert (inner == picture[0].repeat(3, axis=0).repeat(3, axis=1)).all()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_grid_is_a_png(tmp_path, channels, mode):
    write_grid(tmp_path / "grid.png", plain(3, 64, 64, channels))
    with Image.open(tmp_path / "grid.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        assert picture.size == (2 * (128 + GAP) + GAP,) * 2
        assert picture.getpixel((GAP, GAP)) in (10, (10, 10, 10))
