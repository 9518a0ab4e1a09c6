"""Bitmap emoji fonts: shaping, drawing, what is refused; and the small fonts of all these tests."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddimx.errors import DdimxError
from ddimx.recipes.emoji.font import Font, draw, resolve

# --- shaping and drawing ------------------------------------------------------------------------


def test_ligatures_are_joined_longest_first_and_over_stages() -> None:
    characters = {1: "a", 2: "b", 3: "c"}
    stages = [{("a", "b"): "ab", ("a", "b", "c"): "abc", ("c", "c"): "cc"}, {("ab", "cc"): "end"}]
    assert resolve((1, 2, 3), characters, stages) == "abc"
    assert resolve((1, 2, 0xFE0F), characters, stages) == "ab"
    assert resolve((2, 3), characters, stages) is None
    assert resolve((1, 9), characters, stages) is None
    second = [{("b", "c"): "bc"}, {("a", "bc"): "end"}]
    assert resolve((1, 2, 3), characters, second) == "end"


def png(size: tuple[int, int], color: tuple[int, int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", size, color).save(stream, "PNG")
    return stream.getvalue()


def test_a_wide_picture_is_centered_on_a_white_square() -> None:
    image = draw(png((32, 16), (255, 0, 0, 255)), 32)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert (image[[0, 7, 24, 31]] == 255).all()
    assert (image[8:24] == [255, 0, 0]).all()


def test_colors_of_transparent_pixels_do_not_show() -> None:
    assert (draw(png((8, 8), (0, 0, 0, 0)), 4) == 255).all()
    assert (draw(png((8, 8), (0, 0, 0, 128)), 4) == 127).all()


# --- small fonts made here ----------------------------------------------------------------------

FEATURES = """
feature ccmp {
    sub hand tone by handtone;
    sub j p by japan;
} ccmp;
"""
CHARACTERS = {
    0x1F600: "grin",
    0x2639: "frown",
    0x1F44B: "hand",
    0x1F3FB: "tone",
    0x1F1EF: "j",
    0x1F1F5: "p",
}
PICTURES = ["grin", "frown", "hand", "handtone", "tone", "japan"]


def plain_font() -> Any:
    """Return a font with a character map and ligatures but nothing to draw."""
    from fontTools.fontBuilder import FontBuilder

    builder = FontBuilder(1024, isTTF=True)
    order = [".notdef", *CHARACTERS.values(), "handtone", "japan"]
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(CHARACTERS)
    builder.setupHorizontalMetrics(dict.fromkeys(order, (1024, 0)))
    builder.setupHorizontalHeader()
    builder.setupNameTable({"familyName": "Tiny", "styleName": "Regular", "version": "Version 7"})
    builder.setupOS2()
    builder.setupPost()
    builder.addOpenTypeFeatures(FEATURES)
    return builder.font


def add_bitmaps(font: Any, pictures: dict[str, bytes]) -> None:
    """Give the font one strike of PNG bitmaps (CBDT and CBLC)."""
    from fontTools.misc import sstruct
    from fontTools.ttLib import newTable
    from fontTools.ttLib.tables.BitmapGlyphMetrics import SmallGlyphMetrics
    from fontTools.ttLib.tables.C_B_D_T_ import cbdt_bitmap_format_17
    from fontTools.ttLib.tables.E_B_L_C_ import (
        BitmapSizeTable,
        SbitLineMetrics,
        Strike,
        eblc_index_sub_table_1,
        sbitLineMetricsFormat,
    )

    strike, glyphs = Strike(), {}
    for name, data in pictures.items():
        glyph = glyphs[name] = cbdt_bitmap_format_17(None, None)
        glyph.metrics, glyph.imageData = SmallGlyphMetrics(), data
        for field in ("height", "width", "BearingX", "BearingY", "Advance"):
            setattr(glyph.metrics, field, 16)
    size = strike.bitmapSizeTable = BitmapSizeTable()
    size.hori, size.vert = SbitLineMetrics(), SbitLineMetrics()
    for metrics in (size.hori, size.vert):
        for field in sstruct.getformat(sbitLineMetricsFormat)[1]:
            setattr(metrics, field, 0)
    size.colorRef, size.ppemX, size.ppemY, size.bitDepth, size.flags = 0, 16, 16, 32, 1
    index = eblc_index_sub_table_1(None, None)
    index.names = sorted(pictures, key=font.getGlyphID)
    index.indexFormat, index.imageFormat = 1, 17
    strike.indexSubTables = [index]
    font["CBLC"], font["CBDT"] = newTable("CBLC"), newTable("CBDT")
    font["CBLC"].version = font["CBDT"].version = 3.0
    font["CBLC"].strikes, font["CBDT"].strikeData = [strike], [glyphs]


def save_tiny_font(folder: Path) -> Path:
    """Write a font with six pictures and two ligatures."""
    font = plain_font()
    add_bitmaps(font, {name: png((17, 16), (9, 9, 9, 255)) for name in PICTURES})
    font.save(folder / "tiny.ttf")
    return folder / "tiny.ttf"


# --- what can go wrong --------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"not a font at all", b"\0\1\0\0" + bytes(7)])
def test_a_file_that_is_no_font_is_refused(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("fontTools")
    path = tmp_path / "wrong.ttf"
    path.write_bytes(content)
    with pytest.raises(DdimxError, match=r"cannot read the font .*wrong\.ttf"):
        Font(path)


def test_a_font_without_bitmaps_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fontTools")
    plain_font().save(tmp_path / "outlines.ttf")
    with pytest.raises(DdimxError, match=r"outlines\.ttf has no PNG bitmaps.*CBDT"):
        Font(tmp_path / "outlines.ttf")


def test_without_fonttools_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fontTools.ttLib", None)
    with pytest.raises(DdimxError, match=r'pip install "ddimx\[train\]"'):
        Font(tmp_path / "any.ttf")
