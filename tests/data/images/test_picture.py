"""What a picture is: the side that is up, what lies behind it, which value is white."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from ddimx.data.images.picture import View, displayed_size, picture_array
from ddimx.untrusted.pictures import open_picture
from tests.data.images.official import smooth

GRAY = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 9, axis=0)  # [9, 32], mean 124


def saved(pixels, kind="PNG", **options):
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(
        stream, kind, **options
    )
    return stream


def read(stream, channels=3, **options):
    with open_picture(stream) as image:
        return picture_array(image, channels, **options)


def turned(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


KINDS = ["PNG", "JPEG", "WEBP", "TIFF", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_s_orientation_is_applied(kind, orientation):
    stream = saved(smooth(1, 20, 13), kind, exif=turned(orientation))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(stream)).convert("RGB"))
    assert upright.shape[:2] == ((13, 20) if orientation > 4 else (20, 13))
    assert np.array_equal(read(stream), upright)
    with open_picture(stream) as image:
        assert displayed_size(image) == upright.shape[:2]
        view = View(image, 3)
        assert np.array_equal(view.array((3, 2, 11, 12)), upright[2:12, 3:11])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_says_nothing():
    stream = saved(smooth(1, 20, 13), exif=turned(6).tobytes()[:14])
    assert read(stream).shape == (20, 13, 3)
    assert read(saved(smooth(1, 20, 13), exif=turned(99))).shape == (20, 13, 3)


def test_alpha_turns_with_its_picture():
    pixels = np.zeros((20, 13, 4), dtype=np.uint8)
    pixels[:5, :, 3] = 255
    with open_picture(saved(pixels, exif=turned(6))) as image:
        alpha = View(image, 3).alpha()
    assert alpha.shape == (13, 20)
    assert (alpha[:, 15:] == 255).all()
    assert (alpha[:, :15] == 0).all()


MAGENTA = (255, 0, 255)


def seen_through():
    """Magenta of which nothing, half and all is to be seen; it hides where it is transparent."""
    pixels = np.zeros((6, 9, 4), dtype=np.uint8)
    pixels[..., :3] = MAGENTA
    pixels[:, 3:6, 3], pixels[:, 6:, 3] = 51, 255
    return pixels


@pytest.mark.parametrize(
    ("background", "behind"), [("white", 255), ("black", 0), ("#ffffff", 255), ("#000000", 0)]
)
def test_what_is_transparent_lies_on_the_background(background, behind):
    image = read(saved(seen_through()), background=background)
    assert image[0, 0].tolist() == [behind] * 3
    fifth = [round(0.2 * color + 0.8 * behind) for color in MAGENTA]
    assert image[0, 3].tolist() == fifth
    assert image[0, 8].tolist() == [*MAGENTA]
    gray = read(saved(seen_through()), 1, background=background)
    assert gray[0, 0].tolist() == [behind]


def test_four_channels_keep_alpha():
    assert np.array_equal(read(saved(seen_through()), 4), seen_through())
    opaque = read(saved(smooth(1, 5, 5)), 4)
    assert (opaque[..., 3] == 255).all()
    assert np.array_equal(opaque[..., :3], smooth(1, 5, 5))


@pytest.mark.parametrize("mode", ["P", "LA", "PA", "L", "1 in a palette"])
def test_other_ways_to_say_transparent(mode):
    if mode == "P":
        stream = saved(Image.fromarray(seen_through()).quantize(8))
    elif mode == "LA":
        stream = saved(seen_through()[..., [0, 3]])
    elif mode == "PA":
        stream = saved(Image.fromarray(seen_through()).quantize(8), "GIF", transparency=0)
    elif mode == "L":
        stream = saved(np.zeros((6, 9), dtype=np.uint8), transparency=0)
    else:
        stream = saved(Image.new("1", (9, 6)), transparency=0)
    assert read(stream)[0, 0].tolist() == [255] * 3


DEEP = {
    "sixteen.png": lambda: saved(GRAY.astype(np.uint16) * 257),
    "sixteen.tif": lambda: saved(GRAY.astype(np.uint16) * 257, "TIFF"),
    "sixteen.pgm": lambda: saved(GRAY.astype(np.uint16) * 257, "PPM"),
    "12 bits.pgm": lambda: io.BytesIO(
        b"P5 32 9 4095\n" + (GRAY.astype(np.uint32) * 4095 // 255).astype(">u2").tobytes()
    ),
    "float 1.tif": lambda: saved((GRAY / 255).astype(np.float32), "TIFF"),
    "float 255.tif": lambda: saved(GRAY.astype(np.float32), "TIFF"),
    "int32.tif": lambda: saved(GRAY.astype(np.int32), "TIFF"),
    "int32 of 16.tif": lambda: saved(GRAY.astype(np.int32) * 257, "TIFF"),
    "plain.png": lambda: saved(GRAY),
}
if features.check("jpg_2000"):
    DEEP["sixteen.jp2"] = lambda: saved(GRAY.astype(np.uint16) * 257, "JPEG2000")


@pytest.mark.parametrize("kind", DEEP)
def test_every_depth_gives_the_same_eight_bits(kind):
    image = read(DEEP[kind](), 1)[..., 0]
    assert np.abs(image.astype(int) - GRAY).max() <= (kind == "12 bits.pgm")


def tiff(data, bits, photometric=1):
    """A gray TIFF of 32 by 9 pixels, of bits that Pillow does not write."""
    tags = [(256, 32), (257, 9), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 9), (279, len(data))]
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return io.BytesIO(b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + data)


def test_a_tiff_whose_white_is_0():
    negative = (255 - GRAY).astype(np.uint16) * 257
    assert np.array_equal(read(tiff(negative.tobytes(), 16, 0), 1)[..., 0], GRAY)
    assert np.array_equal(read(tiff((255 - GRAY).tobytes(), 8, 0), 1)[..., 0], GRAY)


def test_lab():
    for channels in (1, 3, 4):
        image = read(saved(Image.new("LAB", (4, 4), (128, 128, 128)), "TIFF"), channels)
        assert np.abs(image[..., 0].astype(int) - 119).max() <= 1  # L* = 50 of 100, neutral


def test_a_tiff_of_twelve_bits_says_so():
    """Two pixels in three bytes, as scanners and microscopes write them."""
    values = GRAY.astype(np.uint16) * 16
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    assert np.array_equal(read(tiff(packed.astype(np.uint8).tobytes(), 12), 1)[..., 0], GRAY)


REFUSED = {
    "8 in 16": (GRAY.astype(np.uint16), r"values from 0 to 248: 12 bits \(white is 4095\), or"),
    "12 in 16": (GRAY.astype(np.uint16) * 16, "has 16 bits and values from 0 to 3968: 12"),
    "12 in 32": (GRAY.astype(np.int32) * 16, r"or a dark picture \(65535\)\? set data.white"),
    "24 bits": (GRAY.astype(np.int32) << 16, r"values from 0 to 1.*e\+07, which are above 65535"),
    "negative": (GRAY.astype(np.int32) - 9, "has values from -9 to 239, black is 0; convert it"),
    "overshoot": (GRAY.astype(np.float32) / 240, r"beyond a white of 1, or a dark picture \(255\)"),
    "bright": (GRAY.astype(np.float32) * 4, "from 0 to 992, which are above 255, its white: set"),
    "nan": (np.full((9, 32), np.nan, np.float32), "has values that are no numbers"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_values_that_could_mean_two_things(kind):
    pixels, message = REFUSED[kind]
    stream = saved(pixels, "TIFF")
    with pytest.raises(ValueError, match=message):
        read(stream)


WHITES = {
    "12 in 16": (GRAY.astype(np.uint16) * 16, 4095),
    "dark": (GRAY.astype(np.uint16), 255),
    "24 bits": (GRAY.astype(np.int32) << 16, (1 << 24) - 1),
    "bright": (GRAY.astype(np.float32) * 4, 1020),
    "a decimal fraction": (GRAY.astype(np.float32) / 510, 0.5),
    "odd": (GRAY.astype(np.uint16) * 100, 25500),
}


@pytest.mark.parametrize("kind", WHITES)
def test_the_user_says_what_is_white(kind):
    pixels, white = WHITES[kind]
    assert np.array_equal(read(saved(pixels, "TIFF"), 1, white=white)[..., 0], GRAY)


def test_a_dark_picture_of_sixteen_bits():
    dark = saved(GRAY.astype(np.uint16) * 16)
    assert np.array_equal(read(dark, 1, white=65535)[..., 0], GRAY // 16)
    assert not read(saved(np.zeros((4, 4), dtype=np.uint16))).any()
    with pytest.raises(ValueError, match="values from 0 to 3968, which are above 1000, its white"):
        read(dark, white=1000)


def color_of_sixteen_bits(factor):
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = (np.repeat(GRAY[..., None], 3, axis=2).astype(">u2") * factor).astype(">u2")
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", 32, 9, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b""))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_colors_of_sixteen_bits():
    assert np.array_equal(read(color_of_sixteen_bits(257))[..., 1], GRAY)
    with pytest.raises(ValueError, match="colors of 16 bits that are nearly black, perhaps 12"):
        read(color_of_sixteen_bits(16))
    assert np.array_equal(read(color_of_sixteen_bits(16), white=65535)[..., 1], GRAY // 16)


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(ValueError, match="pictures have 1, 3 or 4 channels, not 2"):
        read(saved(GRAY), 2)
