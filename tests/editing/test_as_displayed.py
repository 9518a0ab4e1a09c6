"""Pictures that are edited are what training sees: upright, on the background, of any depth."""

import os
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

import ddimx
from ddimx.data.images.folder import FolderSource
from ddimx.editing.masks import make_mask
from ddimx.editing.pictures import find_pictures, gray_levels, read_picture
from ddimx.errors import UsageError
from tests.data.images.official import smooth
from tests.editing import edited
from tests.sampling import names_in

QUARTER = Image.Exif()
QUARTER[0x112] = 6


@pytest.fixture(scope="module")
def model(tiny_model):
    return ddimx.load_model(tiny_model, device="cpu", dtype="fp32")


def in_training(path, **options):
    (source,) = (
        part
        for part in (
            FolderSource(path.parent, size=8, held_out=h, workers=1, **options)
            for h in (False, True)
        )
        if len(part)
    )
    return source.decoded(0)


def alpha():
    pixels = np.full((12, 9, 4), 200, dtype=np.uint8)
    pixels[:5, :, 3] = 60
    return Image.fromarray(pixels)


PICTURES = {
    "turned.jpg": lambda path: Image.fromarray(smooth(1, 12, 9)).save(path, exif=QUARTER),
    "alpha.png": lambda path: alpha().save(path, exif=QUARTER),
    "sixteen.png": lambda path: Image.fromarray(
        smooth(1, 12, 9)[..., 0].astype(np.uint16) * 257
    ).save(path),
    "float.tif": lambda path: Image.fromarray(smooth(1, 12, 9)[..., 0] / np.float32(255)).save(
        path
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_editing_and_training_see_one_picture(model, tmp_path, name):
    path = tmp_path / name
    PICTURES[name](path)
    picture = read_picture(path, model, resize=True)
    assert np.array_equal(picture.pixels, in_training(path))
    assert picture.size == ((12, 9) if name in ("turned.jpg", "alpha.png") else (9, 12))
    turned = np.asarray(ImageOps.exif_transpose(Image.open(path)).resize((8, 8)))
    if name == "alpha.png":
        assert (picture.alpha == 60).sum() == 8 * 3  # of 12 columns 5; 8 of them are cut out
        assert (turned[:, -1, 3] == 60).all()
        assert (picture.alpha[:, -1] == 60).all()


def test_the_size_that_is_asked_for_is_the_displayed_one(model, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(smooth(1, 9, 12)).save(path, exif=QUARTER)
    with pytest.raises(UsageError, match=r"a\.png is 9x12, model .* makes 8x8"):
        read_picture(path, model)


def test_a_mask_is_upright_and_may_be_deep(model, tmp_path):
    white = np.zeros((8, 8), dtype=np.uint8)
    white[:2] = 255  # the upper rows, which an upright picture has on the right
    Image.fromarray(smooth(1, 8, 8)).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png", model)
    expected = np.zeros((8, 8), dtype=bool)
    expected[:, 6:] = True
    for name, pixels in (
        ("m.png", white),
        ("16.png", white.astype(np.uint16) * 257),
        ("m.tif", white.astype(np.float32) / 255),
        ("i.tif", white.astype(np.int32)),
    ):
        Image.fromarray(pixels).save(tmp_path / name, exif=QUARTER)
        mask, gray = make_mask(str(tmp_path / name), picture)
        assert np.array_equal(mask, expected)
        assert gray == 0
    image = Image.open(tmp_path / "16.png")
    painted = ddimx.inpaint(model, picture.pixels, image, steps=1, count=1, resample=1, seed=0)
    same = ddimx.inpaint(model, picture.pixels, expected, steps=1, count=1, resample=1, seed=0)
    assert np.array_equal(painted.numpy(), same.numpy())
    Image.fromarray(white.astype(np.uint16)).save(tmp_path / "dark.png")
    with pytest.raises(UsageError, match=r"dark\.png: not a readable image \(has 16 bits and"):
        gray_levels(tmp_path / "dark.png")
    with pytest.raises(UsageError, match="the mask cannot be read: it has 16 bits and values"):
        ddimx.inpaint(model, picture.pixels, Image.open(tmp_path / "dark.png"), steps=1)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text(tiny_model, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"\xb5\xff")
    Image.fromarray(smooth(1, 8, 8)).save(folder / f"{name}.png")
    assert [path.stem for path in find_pictures(folder)] == [name]
    options = ("--mask", "left", "--steps", 2, "-n", 1, "-o", tmp_path / "out")
    for _ in range(2):  # the second time the manifest is read, which holds the name
        edited("inpaint", tiny_model, folder, *options)
        assert f"{name}-00.png" in names_in(tmp_path / "out")
