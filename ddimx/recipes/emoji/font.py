"""Bitmap emoji fonts: which glyph draws which emoji, and that glyph as an image."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddimx.errors import DdimxError
from ddimx.files import sha256_file
from ddimx.recipes.emoji.names import EmojiEntry, Namer, Sequence, bare

if TYPE_CHECKING:
    from PIL import Image

_LIGATURE, _EXTENSION = 4, 7  # GSUB lookup types

# Only these end a joined sequence, so a font's ligature that begins with one is the reversed copy
# which it holds for right-to-left text.
_TRAILERS = frozenset(
    {0x27A1, 0x2640, 0x2642, 0x2194, 0x2195, 0x1F4A5, 0x1F525, 0x1F7E9, 0x1F7EB, 0x1F9D2}
)


class Font:
    """An open font: PNG bitmaps by glyph name, characters by code point, ligatures by stage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._font = _open_font(path)
        try:
            self.bitmaps: dict[str, bytes] = _bitmaps(self._font)
            self.characters: dict[int, str] = dict(self._font.getBestCmap() or {})
            self.ligatures = _ligatures(self._font)
        except Exception as error:  # fontTools raises whatever a broken table leads to
            self._font.close()
            raise DdimxError(f"{path} is damaged: {error}") from error
        if not self.bitmaps:
            self._font.close()
            raise DdimxError(
                f"{path} has no PNG bitmaps (tables CBDT and CBLC); the bitmap build of Noto Color "
                "Emoji has them (package fonts-noto-color-emoji), the COLRv1 build has not"
            )

    def __enter__(self) -> Font:
        return self

    def __exit__(self, *_: object) -> None:
        self._font.close()

    def source(self) -> dict[str, str]:
        """Say which font this is, without the path, which would differ between machines."""
        names = self._font.get("name")
        texts = [names.getDebugName(number) if names else None for number in (5, 13, 0)]
        version, licence, copyright_ = (text or "unknown" for text in texts)
        return {
            "font": self.path.name,
            "font_version": version,
            "font_sha256": sha256_file(self.path),
            "licence": f"{licence} ({copyright_})",
        }


def _open_font(path: Path) -> Any:
    try:
        from fontTools.ttLib import TTFont, TTLibError
    except ImportError as error:
        raise DdimxError(
            'reading emoji from a font needs fontTools: pip install "ddimx[train]"'
        ) from error
    try:
        return TTFont(path, lazy=True)
    except (TTLibError, OSError, struct.error, AssertionError, ValueError) as error:
        raise DdimxError(f"cannot read the font {path}: {error}") from error


def _bitmaps(font: Any) -> dict[str, bytes]:
    """Return the PNG of each glyph, from the strike with the largest pixels."""
    if "CBDT" not in font or "CBLC" not in font:
        return {}
    sizes = [strike.bitmapSizeTable.ppemY for strike in font["CBLC"].strikes]
    if not sizes:
        return {}
    glyphs = font["CBDT"].strikeData[sizes.index(max(sizes))]
    pictures = {name: getattr(glyph, "imageData", b"") for name, glyph in glyphs.items()}
    return {name: png for name, png in pictures.items() if png[:4] == b"\x89PNG"}


Glyphs = tuple[str, ...]
Ligatures = list[dict[Glyphs, str]]  # one stage after the other, as a shaper would apply them


def _ligatures(font: Any) -> Ligatures:
    """Return what each ligature lookup of the font joins.

    Contextual lookups are left out: this kind of font uses them for flags it does not know.
    """
    if "GSUB" not in font or not font["GSUB"].table.LookupList:
        return []
    stages = [_stage(lookup) for lookup in font["GSUB"].table.LookupList.Lookup]
    return [stage for stage in stages if stage]


def _stage(lookup: Any) -> dict[Glyphs, str]:
    """Return the ligatures of one lookup; of two with the same parts the first counts."""
    stage: dict[Glyphs, str] = {}
    for table in lookup.SubTable:
        real = table.ExtSubTable if table.LookupType == _EXTENSION else table
        if real.LookupType != _LIGATURE:
            continue
        for first, ligatures in real.ligatures.items():
            for ligature in ligatures:
                stage.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return stage


def resolve(codepoints: Sequence, characters: dict[int, str], ligatures: Ligatures) -> str | None:
    """Return the one glyph that draws the sequence, or None if it needs several.

    Tried as it is and without variation selectors, which many fonts omit in ligatures.
    """
    for points in (codepoints, bare(codepoints)):
        glyphs = tuple(characters.get(point, "") for point in points)
        if all(glyphs):
            result = _shape(glyphs, ligatures)
            if len(result) == 1:
                return result[0]
    return None


def _shape(glyphs: Glyphs, ligatures: Ligatures) -> Glyphs:
    """Apply the stages in turn, again and again until nothing changes."""
    previous: Glyphs = ()
    while previous != glyphs and len(glyphs) > 1:
        previous = glyphs
        for stage in ligatures:
            glyphs = _join(glyphs, stage)
    return glyphs


def _join(glyphs: Glyphs, stage: dict[Glyphs, str]) -> Glyphs:
    """Replace, from the left, the longest run that the stage joins; then go on behind it."""
    result: list[str] = []
    at = 0
    while at < len(glyphs):
        ends = range(len(glyphs), at + 1, -1)
        end = next((end for end in ends if glyphs[at:end] in stage), at + 1)
        result.append(stage.get(glyphs[at:end], glyphs[at]))
        at = end
    return tuple(result)


def choose(
    bitmaps: Any, characters: dict[int, str], ligatures: Ligatures, entries: list[EmojiEntry]
) -> list[tuple[str, EmojiEntry]]:
    """Pair each glyph that has a bitmap with the first emoji that it draws.

    Listed emoji come first, in the order of the list; then ligatures of the font which the list
    does not have, as far as their name and group are clear.
    """
    entries_by_glyph: dict[str, EmojiEntry] = {}
    for entry in entries:
        glyph = resolve(entry.codepoints, characters, ligatures)
        if glyph in bitmaps and glyph is not None:
            entries_by_glyph.setdefault(glyph, entry)
    namer = Namer(entries)
    for glyph, codepoints in _spellings(characters, ligatures):
        extra = (
            namer.name(codepoints) if glyph in bitmaps and glyph not in entries_by_glyph else None
        )
        if extra is not None:
            entries_by_glyph[glyph] = extra
    return list(entries_by_glyph.items())


def _spellings(characters: dict[int, str], ligatures: Ligatures) -> Iterator[tuple[str, Sequence]]:
    """Yield ligature glyphs with their code points, in the order of the code points."""
    points: dict[str, int] = {}
    for point, glyph in sorted(characters.items()):
        points.setdefault(glyph, point)
    spellings = {
        (tuple(points[part] for part in parts), glyph)
        for stage in ligatures
        for parts, glyph in stage.items()
        if all(part in points for part in parts)
    }
    for codepoints, glyph in sorted(spellings):
        if codepoints[0] not in _TRAILERS:
            yield glyph, codepoints


def draw(png: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Return a PNG as (size, size, 3) uint8 on a white square, its proportions kept."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        square = _on_white(picture.convert("RGBA"))
    small = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small, np.uint8)


def _on_white(picture: Image.Image) -> Image.Image:
    """Return an RGB square with the picture in its middle.

    Blended before it is made smaller: averaging colors of transparent pixels leaves dark rims.
    """
    from PIL import Image

    side = max(picture.size)
    corner = ((side - picture.width) // 2, (side - picture.height) // 2)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, corner)
    return square.convert("RGB")
