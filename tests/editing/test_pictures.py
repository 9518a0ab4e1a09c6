"""Pictures for editing: from files, folders, zips, arrays and runs the same pixels."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from ddimx.editing.interpolate import read_end
from ddimx.editing.pictures import read_pictures
from ddimx.errors import DdimxError, UsageError
from ddimx.weights.model import load_model
from tests.data.images.official import smooth

PIXELS = np.stack([smooth(i, 8, 8) for i in range(3)])


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu")


@pytest.fixture
def folder(tmp_path):
    """The same three images in all forms."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "run").mkdir()
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for i, image in enumerate(PIXELS):
            path = tmp_path / "pictures" / f"{i:06d}.png"
            Image.fromarray(image).save(path)
            archive.write(path, f"below/{path.name}")
    np.savez(tmp_path / "adm.npz", arr_0=PIXELS)
    np.save(tmp_path / "pixels.npy", PIXELS)
    (tmp_path / "run" / "manifest.json").write_text("{}")
    np.savez(tmp_path / "run" / "samples.npz", images=PIXELS)
    return tmp_path


@pytest.mark.parametrize("name", ["pictures", "pictures.zip", "adm.npz", "pixels.npy", "run"])
def test_every_form_gives_the_same_pictures(folder, model, name):
    pictures = read_pictures(folder / name, model)
    assert [picture.name for picture in pictures] == ["000000", "000001", "000002"]
    np.testing.assert_array_equal([picture.pixels for picture in pictures], PIXELS)


@pytest.mark.parametrize("end", ["adm.npz:2", "pixels.npy:2", "pictures/000002.png"])
def test_an_end_may_be_an_image_of_an_array(folder, model, end):
    np.testing.assert_array_equal(read_end(str(folder / end), model).pixels, PIXELS[2])


def test_which_image_of_an_array_must_be_said(folder, model):
    with pytest.raises(UsageError, match=r"adm\.npz holds 3 images; say which, as .*adm\.npz:0"):
        read_end(str(folder / "adm.npz"), model)
    with pytest.raises(UsageError, match="there are 3 images, counted from 0"):
        read_end(str(folder / "adm.npz:3"), model)


def test_gray_and_clear_images_of_arrays(tmp_path, model):
    gray, clear = PIXELS[..., :1], np.zeros((1, 8, 8, 4), np.uint8)
    np.save(tmp_path / "gray.npy", gray)
    np.save(tmp_path / "clear.npy", clear)
    pictures = read_pictures(tmp_path / "gray.npy", model)
    np.testing.assert_array_equal(pictures[1].pixels, gray[1].repeat(3, axis=2))
    (picture,) = read_pictures(tmp_path / "clear.npy", model)
    assert (picture.pixels == 255).all()
    assert (picture.alpha == 0).all()


def test_what_no_result_could_be_named_after_is_refused(tmp_path, model):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a/x.png", "b/x.png"):
            archive.writestr(name, b"")
    with pytest.raises(UsageError, match=r"a\.zip: two images are called 'x'"):
        read_pictures(tmp_path / "a.zip", model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken.zip", r"broken\.zip: x\.png: not a readable image"),
        ("floats.npy", "pixels are uint8"),
        ("two.npy", "images of 2 channels; 1, 3 or 4 are read"),
        ("large.npy", r"large\.npy, image 0, is 9x9, model .* makes 8x8"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, model, name, message):
    with zipfile.ZipFile(tmp_path / "broken.zip", "w") as archive:
        archive.writestr("x.png", b"no picture")
    np.save(tmp_path / "floats.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save(tmp_path / "two.npy", np.zeros((1, 8, 8, 2), np.uint8))
    np.save(tmp_path / "large.npy", np.zeros((1, 9, 9, 3), np.uint8))
    with pytest.raises(DdimxError, match=message):
        read_pictures(tmp_path / name, model)
