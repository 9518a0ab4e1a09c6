"""Pictures from outside: what is decoded, what is refused before; bands change no pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images import encoded, picture
from ddimx.data.images.encoded import centered, scaled_center
from ddimx.data.images.picture import View, picture_array
from ddimx.untrusted import limits
from ddimx.untrusted.pictures import MOST_PIXELS, open_picture
from tests.data.images.official import smooth


def saved(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream


def test_what_a_camera_makes_is_read_at_full_size():
    """A hundred megapixels, as medium-format cameras make them: 11656x8742."""
    image = Image.new("L", (11656, 8742), 7)
    image.putpixel((11655, 8741), 200)
    with open_picture(saved(image)) as opened:
        assert opened.size == image.size
        assert opened.getpixel((11655, 8741)) == 200


def header_of(width, height):
    """A PNG that says this size and holds one pixel."""
    import struct
    import zlib

    data = bytearray(saved(Image.new("L", (1, 1))).getvalue())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return io.BytesIO(bytes(data))


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    side = int(MOST_PIXELS**0.5) + 1
    with (
        pytest.raises(
            ValueError, match=rf"{side}x{side} PNG: more than {MOST_PIXELS} pixels; --lim"
        ),
        open_picture(header_of(side, side)),
    ):
        pass
    monkeypatch.setenv(limits.VARIABLE, "4G")
    with open_picture(header_of(side, side)) as opened:
        assert opened.size == (side, side)


def test_kinds_that_take_more_memory_have_a_lower_bound():
    image = Image.new("L", (8000, 8000))
    for kind, most in (("WEBP", 27_500_000), ("JPEG", 62_857_142)):
        data = saved(image, kind, progressive=True)
        refused = pytest.raises(ValueError, match=f"8000x8000 {kind}: more than {most} pixels")
        with refused, open_picture(data):
            pass
    with open_picture(saved(image, "JPEG")) as opened:
        assert opened.size == (8000, 8000)


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_picture_or_would_start_a_program(data):
    with (
        pytest.raises(ValueError, match="cannot identify image file"),
        open_picture(io.BytesIO(data)),
    ):
        pass


def test_what_pillow_raises_while_decoding_is_one_kind_of_error():
    data = saved(Image.fromarray(smooth(1, 60, 60))).getvalue()
    with (
        pytest.raises(ValueError, match=r"truncated|broken"),
        open_picture(io.BytesIO(data[: len(data) // 2])) as opened,
    ):
        opened.load()


def noise(height, width, channels):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8)


MODES = {
    "RGB": lambda h, w: Image.fromarray(noise(h, w, 3)),
    "RGBA": lambda h, w: Image.fromarray(noise(h, w, 4)),
    "L": lambda h, w: Image.fromarray(noise(h, w, 1)),
    "P": lambda h, w: Image.fromarray(noise(h, w, 3)).quantize(16),
    "1": lambda h, w: Image.fromarray(noise(h, w, 1)).convert("1"),
    "I;16": lambda h, w: Image.fromarray(noise(h, w, 1).astype(np.uint16) * 257),
    "I": lambda h, w: Image.fromarray(noise(h, w, 1).astype(np.int32) * 257),
    "F": lambda h, w: Image.fromarray(noise(h, w, 1).astype(np.float32)),
    "LA": lambda h, w: Image.fromarray(noise(h, w, 4)).convert("LA"),
    "CMYK": lambda h, w: Image.fromarray(noise(h, w, 4), "CMYK"),
}


def displayed(image, channels):
    """The whole picture as the definition says it: upper eight bits, on white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "F":
        image = Image.fromarray(np.asarray(image).astype(np.uint8))
    rgba = image.convert("RGBA")
    if channels == 4:
        return rgba
    if image.mode in ("RGBA", "LA"):
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return image.convert({1: "L", 3: "RGB"}[channels])


def resized(image, size, resample):
    """By Pillow alone; [H, W, C]."""
    pixels = np.asarray(image.resize(size, resample))
    return pixels.reshape(*pixels.shape[:2], -1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (50, 50), (7, 90), (16, 16)])
def test_bands_change_no_pixel(monkeypatch, mode, shape, channels):
    """The result is that of converting, cropping and resizing the whole image by Pillow."""
    monkeypatch.setattr(encoded, "BAND", 300)
    monkeypatch.setattr(picture, "BAND", 300)
    image = MODES[mode](*shape)
    whole, view = displayed(image, channels), View(image, channels)
    pixels = np.asarray(whole).reshape(image.height, image.width, channels)
    assert np.array_equal(picture_array(image, channels), pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    for size in (5, 16, 70):
        cropped = whole.crop((left, top, left + side, top + side))
        expected = resized(cropped, (size, size), Image.Resampling.LANCZOS)
        assert np.array_equal(centered(view, (size, size)), expected)
        width, height = size * image.width // side, size * image.height // side
        scaled = whole.resize((width, height), Image.Resampling.BILINEAR)
        x, y = round((width - size) / 2), round((height - size) / 2)
        expected = resized(scaled.crop((x, y, x + size, y + size)), (size, size), None)
        assert np.array_equal(scaled_center(view, size), expected)


def test_a_line_is_not_scaled_to_a_landscape():
    with pytest.raises(ValueError, match="1x50000 is too narrow for 256 pixels"):
        scaled_center(View(Image.new("L", (1, 50000)), 3), 256)
