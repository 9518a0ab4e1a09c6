"""Opening pictures with Pillow: only of kinds that hold pixels, and of a size that is known before.

A PNG of zeros takes a thousandth of the memory that its pixels do, so the file's size says nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

from . import limits
from .foreign import FAULTS, reason

# The cameras with the largest sensors of today make 102 million pixels, telephones 108. Pictures
# that were put together of several are larger: --limit-memory takes them.
MOST_PIXELS = 110_000_000
# Bytes that Pillow takes for a pixel: one to four; some kinds are decoded by way of more copies
# (measured at 88 megapixels: WebP 15.3, JPEG 2000 18.5, progressive JPEG 6.8).
PIXEL, PROGRESSIVE = 4, 7
PIXEL_OF = {"WEBP": 16, "JPEG2000": 20, "AVIF": 20}
MOST_BYTES = MOST_PIXELS * PIXEL
# From so many pixels on pictures are decoded one after another, whatever the number of threads:
# together they would take as many times the memory.
LARGE = 1 << 24
# What holds pixels and is decoded by Pillow and its libraries. Not EPS, which starts Ghostscript,
# and not WMF, which the system draws.
KINDS: tuple[str, ...] = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM")
KINDS += ("TGA", "ICO", "JPEG2000", "AVIF")
_FAULTS: tuple[type[Exception], ...] = (*FAULTS, Image.DecompressionBombError)

_ONE = threading.Lock()


@contextmanager
def open_picture(source: Path | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture that is still to be decoded, and hold its size against the bounds above.

    What Pillow raises within the block counts as damage of the picture.

    Raises:
        ValueError: no such file, not a picture, a damaged one, or one of too many pixels.
    """
    Image.init()
    most = max(MOST_BYTES, limits.memory())
    if Image.MAX_IMAGE_PIXELS is not None:  # its warning would come before our refusal
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most)
    kinds = [kind for kind in KINDS if kind in Image.OPEN]  # AVIF came with Pillow 11.3
    try:
        with Image.open(source, formats=kinds) as image:
            pixels = image.width * image.height
            each = PROGRESSIVE if image.info.get("progressive") else PIXEL
            each = PIXEL_OF.get(image.format or "", each)
            if pixels * each > most:
                raise ValueError(
                    f"{image.width}x{image.height} {image.format}: more than {most // each} "
                    f"pixels; --limit-memory {limits.readable(pixels * each)} allows it"
                )
            with _ONE if pixels > LARGE else nullcontext():
                yield image
    except MemoryError:
        raise ValueError("it needs more memory than there is") from None
    except UnidentifiedImageError:  # its text holds the path, or the name of a Python object
        raise ValueError("cannot identify image file") from None
    except _FAULTS as error:
        plain = isinstance(error, (ValueError, OSError)) and str(error)
        raise ValueError(str(error) if plain else reason(error)) from None
