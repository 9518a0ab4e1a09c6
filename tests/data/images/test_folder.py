"""Image folders: every kind of image becomes a square RGB array, and broken ones are named."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images import encoded
from ddimx.data.images.encoded import centered, is_held_out
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.picture import View
from ddimx.errors import DdimxError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def source(root, *, size=8, held_out=False, workers=2, **options):
    return FolderSource(root, size=size, held_out=held_out, workers=workers, **options)


def square(image, size):
    return centered(View(image, 3), (size, size))


def both_parts(root):
    """Names of the training and of the held-out part."""
    return [source(root, held_out=held)._names for held in (False, True)]


def training_name(stem, suffix):
    """A file name that falls into the training part."""
    names = (f"{stem}{i}{suffix}" for i in range(100))
    return next(n for n in names if not is_held_out(n))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp", ".bmp", ".gif", ".tiff"])
def test_formats(tmp_path, suffix):
    Image.new("RGB", (12, 12), (200, 100, 50)).save(tmp_path / training_name("a", suffix))
    image = source(tmp_path).images(np.array([0]))
    assert (image.shape, image.dtype) == ((1, 8, 8, 3), np.uint8)
    assert np.abs(image.astype(int) - (200, 100, 50)).max() <= 4  # JPEG's and GIF's loss


def gray16():
    return Image.fromarray(np.full((9, 9), 128 << 8, dtype=np.uint16))


MODES = {
    "palette": (lambda: Image.new("RGB", (9, 9), GREEN).quantize(4), GREEN),
    "palette and alpha": (lambda: Image.new("RGBA", (9, 9), (*BLUE, 255)).quantize(4), BLUE),
    "alpha": (lambda: Image.new("RGBA", (9, 9), (*RED, 255)), RED),
    "gray": (lambda: Image.new("L", (9, 9), 77), (77, 77, 77)),
    "gray and alpha": (lambda: Image.new("LA", (9, 9), (77, 255)), (77, 77, 77)),
    "16-bit gray": (gray16, (128, 128, 128)),
    "black and white": (lambda: Image.new("1", (9, 9), 1), (255, 255, 255)),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", MODES)
def test_color_modes(tmp_path, mode):
    make, color = MODES[mode]
    make().save(tmp_path / training_name("a", ".png"))
    image = source(tmp_path).images(np.array([0]))[0]
    assert np.array_equal(image, np.broadcast_to(np.uint8(color), (8, 8, 3)))


def test_cmyk(tmp_path):
    Image.new("CMYK", (9, 9), (0, 255, 255, 0)).save(tmp_path / training_name("a", ".jpg"))
    image = source(tmp_path).images(np.array([0]))[0].astype(int)
    assert np.abs(image - RED).max() <= 4


@pytest.mark.parametrize("turned", [False, True])
def test_the_center_square_is_cropped(turned):
    stripes = np.zeros((4, 12, 3), dtype=np.uint8)
    stripes[:, :4], stripes[:, 4:8], stripes[:, 8:] = RED, GREEN, BLUE
    if turned:
        stripes = stripes.transpose(1, 0, 2).copy()
    cropped = square(Image.fromarray(stripes), 4)
    assert np.array_equal(cropped, np.broadcast_to(np.uint8(GREEN), (4, 4, 3)))


def test_an_image_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(square(Image.fromarray(pixels), 8), pixels)


def test_resizing_averages_and_does_not_skip():
    fine = np.zeros((64, 64, 3), dtype=np.uint8)
    fine[:, ::2] = 255
    assert np.abs(square(Image.fromarray(fine), 8).astype(int) - 127).max() < 12


def test_names_are_sorted_and_found_in_subfolders(tmp_path):
    for i, name in enumerate(["b/x.png", "a.png", "b/c/y.PNG", "z.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    train, held_out = both_parts(tmp_path)
    assert sorted(train + held_out) == ["a.png", "b/c/y.PNG", "b/x.png", "z.png"]
    assert train == sorted(train)
    order = np.arange(len(train))[::-1]
    first = source(tmp_path, size=4).images(order)[:, 0, 0, 0].tolist()
    numbers = {"b/x.png": 0, "a.png": 1, "b/c/y.PNG": 2, "z.png": 3}
    assert first == [numbers[train[i]] for i in order]


def test_the_split_is_stable_when_files_are_added(tmp_path):
    def add(numbers):
        for i in numbers:
            (tmp_path / f"{i:04d}.png").touch()  # nothing is decoded for the list

    add(range(0, 400, 2))
    train, held_out = both_parts(tmp_path)
    add(range(1, 400, 2))
    more_train, more_held_out = both_parts(tmp_path)
    assert set(train) < set(more_train)
    assert set(held_out) < set(more_held_out)
    assert not set(more_train) & set(more_held_out)
    assert len(more_train) + len(more_held_out) == 400
    assert 8 <= len(more_held_out) <= 34  # one in twenty, three standard deviations


def test_the_split_does_not_depend_on_where_the_folder_is(tmp_path):
    names = [f"{i}.png" for i in range(100)]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    assert both_parts(tmp_path / "one") == both_parts(tmp_path / "two")
    # Recorded: a change here would mix held-out images of old runs into new training sets.
    assert [n for n in names if is_held_out(n)] == ["11.png", "16.png", "91.png", "97.png"]


def test_the_fingerprint_follows_the_names(tmp_path):
    (tmp_path / "a.png").touch()
    before = source(tmp_path).fingerprint
    assert before == hashlib.sha256(b"a.png").hexdigest()  # as versions 0.1 and 0.2 had it
    assert source(tmp_path, held_out=True).fingerprint == before
    (tmp_path / "b.png").touch()
    assert source(tmp_path).fingerprint == hashlib.sha256(b"a.png\nb.png").hexdigest()


def broken_png():
    """A PNG whose second chunk has a name that is none: Pillow raises SyntaxError."""
    import io

    stream = io.BytesIO()
    Image.new("RGB", (9, 9), RED).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    at = data.index(b"IDAT")
    return bytes(data[:at] + b"\x80\x81\x82\x83" + data[at + 4 :])


def huge_bmp():
    """The header of a BMP of 2^17 by 2^17 pixels: Pillow takes it for an attack."""
    import io

    stream = io.BytesIO()
    Image.new("RGB", (9, 9), RED).save(stream, "BMP")
    data = bytearray(stream.getvalue())
    data[18:26] = (2**17).to_bytes(4, "little") * 2
    return bytes(data)


BROKEN = {"no image": lambda: b"text", "empty": lambda: b"", "chunk": broken_png, "huge": huge_bmp}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named(tmp_path, kind):
    name = training_name("bad", ".png")
    (tmp_path / name).write_bytes(BROKEN[kind]())
    with pytest.raises(DdimxError, match=rf"{name}: cannot be decoded \("):
        source(tmp_path).images(np.array([0]))
    with pytest.raises(DdimxError, match=f"none of 1 images can be read: {name}"):
        source(tmp_path, strict=True)


def test_a_truncated_image_among_good_ones_is_named(tmp_path):
    names = [training_name(stem, ".png") for stem in "abc"]
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for name in names:
        Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / names[1]).read_bytes()
    (tmp_path / names[1]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DdimxError, match=f"1 pictures cannot be read, the first: {names[1]}"):
        source(tmp_path, strict=True)
    with pytest.raises(DdimxError, match=f"{names[1]}: cannot be decoded"):
        source(tmp_path).decoded(1)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DdimxError, match=r"no images \(looked for \.apng, \.avif"):
        source(tmp_path)
    with pytest.raises(DdimxError, match="no image folder"):
        source(tmp_path / "absent")


def test_no_workers_means_one(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / training_name("a", ".png"))
    assert source(tmp_path, workers=0).images(np.array([0, 0])).shape == (2, 8, 8, 3)


@pytest.mark.parametrize(("kept", "times"), [(1 << 20, 1), (0, 3)])
def test_a_small_set_is_decoded_once(tmp_path, monkeypatch, kept, times):
    """Where its images fit into memory; what is drawn is the same, and so is what cannot be."""
    monkeypatch.setattr(encoded, "KEPT", kept)
    for i in range(3):
        Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_bytes(b"no picture")
    source = FolderSource(tmp_path, size=4, held_out=False, workers=1, split=False)
    decode, numbers = FolderSource.decoded, []
    monkeypatch.setattr(
        FolderSource, "decoded", lambda self, i: numbers.append(i) or decode(self, i)
    )
    for _ in range(3):
        drawn = source.drawn(np.array([1, 0, 2, 1]))
        assert drawn[:, 0, 0, 0].tolist() == [40, 40, 80, 40]
    assert numbers.count(2) == times
