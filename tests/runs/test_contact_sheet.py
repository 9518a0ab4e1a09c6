"""Contact sheets: where each image stands."""

import numpy as np
import pytest
from PIL import Image

from ddimx.runs.contact_sheet import GAP, LEGIBLE, fitting, grid, write_grid


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


def band(sheet, row, column, line):
    """What stands below a tile of 128 pixels."""
    top, left = row * (128 + GAP + line) + GAP + 128, column * (128 + GAP) + GAP
    return sheet[top : top + line, left : left + 128]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_labels_stand_below_their_images(channels):
    images = plain(3, 64, 64, channels)
    labels = ["jumping", "", "a name much longer than the image is wide"]
    bare, sheet = grid(images), grid(images, labels=labels)
    line = (sheet.shape[0] - bare.shape[0]) // 2
    assert 12 <= line <= 24
    assert sheet.shape == (bare.shape[0] + 2 * line, *bare.shape[1:])
    for i in range(3):
        top, left = i // 2 * (128 + GAP + line) + GAP, i % 2 * (128 + GAP) + GAP
        assert (sheet[top : top + 128, left : left + 128] == i + 10).all()
        sheet[top : top + 128, left : left + 128] = 255
    written = [band(sheet, i // 2, i % 2, line) for i in range(3)]
    assert [bool((text < 128).any()) for text in written] == [True, False, True]
    columns = np.flatnonzero((written[0] < 128).any(axis=(0, 2)))
    assert abs((columns[0] + columns[-1]) / 2 - 63.5) <= 2  # in the middle
    if channels == 4:
        assert all((text[..., 3] == 255).all() for text in written)  # the text is opaque
    for text in written:  # nothing else is written anywhere
        text[:] = 255
    assert (sheet == 255).all()


def test_the_same_label_is_the_same_picture():
    sheet = grid(plain(4, 64, 64), labels=["cat", "dog", "dog", "cat"])
    line = (sheet.shape[0] - GAP) // 2 - 128 - GAP
    cat, dog, also, again = (band(sheet, i // 2, i % 2, line) for i in range(4))
    assert (cat == again).all()
    assert (dog == also).all()
    assert (cat != dog).any()


def test_labels_that_have_room():
    names = ["activities", "objects"]
    assert fitting(names, 32, 32) == names
    assert fitting(["w" * 8], 512, 512) == ["w" * 8]
    assert not fitting(["activities", "a name much longer than the image"], 32, 32)
    assert not fitting(["activities"], 1024, 8)  # a narrow one, which is not enlarged
    assert not fitting(["Ångström"], 32, 32)  # letters that the font lacks


def test_the_last_part_of_a_class_may_have_room():
    assert fitting(["food/drink", "none"], 48, 48) == ["food/drink", "none"]
    assert fitting(["people/hand-pointing", "none"], 48, 48) == ["hand-pointing", "none"]
    assert not fitting(["people/hand-pointing", "none"], 16, 8)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_grid_is_a_png(tmp_path, channels, mode):
    write_grid(tmp_path / "grid.png", plain(3, 64, 64, channels))
    with Image.open(tmp_path / "grid.png") as picture:
        assert (picture.format, picture.mode) == ("PNG", mode)
        assert picture.size == (2 * (128 + GAP) + GAP,) * 2
        assert picture.getpixel((GAP, GAP)) in (10, (10, 10, 10))


def test_of_five_channels_the_first_three_are_shown():
    images = np.arange(2 * 4 * 4 * 5, dtype=np.uint8).reshape(2, 4, 4, 5)
    assert (grid(images) == grid(images[..., :3])).all()
