"""Pictures of samples: pixels as files, and the texts by which they say where they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..untrusted.text import parse_json

PREFIX = "ddimx "  # of the keywords of our text chunks
_DESCRIPTION = 0x010E  # EXIF's ImageDescription
MOST_CHANNELS = 4  # of a picture file: red, green, blue and alpha
_SHORT = 200  # characters; a longer text is compressed


def save_image(
    target: Path | BinaryIO, pixels: npt.NDArray[np.uint8], kind: str, facts: Mapping[str, str]
) -> None:
    """Write pixels uint8 [H, W, 1 to 4] without loss as "png" or "webp", with texts by name."""
    options: dict[str, Any] = {}
    if kind == "png":
        options["pnginfo"] = chunks = PngInfo()
        for name, text in facts.items():
            chunks.add_text(PREFIX + name, text, zip=len(text) > _SHORT)
    else:
        options["exact"] = True  # keeps the colors of what is transparent
    if kind == "webp" and facts:
        options["exif"] = exif = Image.Exif()
        exif[_DESCRIPTION] = json.dumps(dict(facts))  # ASCII, as EXIF wants it
    as_image(pixels).save(target, format=kind.upper(), lossless=True, **options)


def facts_of(image: Image.Image) -> dict[str, str]:
    """Return what a picture that :func:`save_image` wrote says of itself, {} for any other.

    Raises:
        ValueError: damaged texts, or more than Pillow takes.
    """
    image.load()  # PNG's text may stand behind the pixels
    if image.format == "WEBP":
        text = image.getexif().get(_DESCRIPTION, "")
        facts = parse_json(text) if isinstance(text, str) and text.startswith("{") else {}
        return {name: value for name, value in facts.items() if isinstance(value, str)}
    texts: dict[str, str] = getattr(image, "text", {})
    return {
        name.removeprefix(PREFIX): str(text)
        for name, text in texts.items()
        if name.startswith(PREFIX)
    }


def as_image(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return pixels uint8 [H, W, 1 to 4] as an image: gray, gray with alpha, RGB or RGBA."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
