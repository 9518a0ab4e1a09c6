"""A training set of small colour images: the emoji of a bitmap font such as Noto Color Emoji."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddimx.data.emoji_names import (
    GROUPS,
    Entry,
    Namer,
    Sequence,
    bare,
    family_key,
    read_emoji_test,
    text_of,
)
from ddimx.errors import DdimxError
from ddimx.files import sha256_file, whole_file

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["GROUPS", "EmojiSet", "extract", "find_emoji_test", "find_font", "save"]

_FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  # Fedora up to 37
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",  # Fedora
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "~/.fonts/NotoColorEmoji.ttf",
)
_EMOJI_TESTS = (
    "/usr/share/unicode/emoji/emoji-test.txt",  # Debian, Fedora, Arch
    "/usr/share/unicode/emoji-test.txt",
)
_LIGATURE, _EXTENSION = 4, 7  # GSUB lookup types
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold

# Only these end a joined sequence, so a font's ligature that begins with one is the reversed copy
# which it holds for right-to-left text.
_TRAILERS = frozenset(
    {0x27A1, 0x2640, 0x2642, 0x2194, 0x2195, 0x1F4A5, 0x1F525, 0x1F7E9, 0x1F7EB, 0x1F9D2}
)


@dataclass(frozen=True, slots=True)
class EmojiSet:
    """N emoji as images, with names, groups, families and a split.

    ``images`` (N, size, size, 3) uint8 RGB on white; ``labels`` (N,) int64, indices into
    ``GROUPS``; ``names`` (N,) str; ``codepoints`` (N,) str such as ``"1F468 1F3FD 200D 1F33E"``;
    ``families`` (N,) int64, equal for variants of one emoji (skin tone, hair, gender, direction);
    ``held_out`` (N,) bool, equal within a family; ``source`` says what the images were made from.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    names: npt.NDArray[np.str_]
    codepoints: npt.NDArray[np.str_]
    families: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.bool_]
    source: dict[str, str]


def find_font(path: Path | None) -> Path:
    """Return ``path``, or Noto Color Emoji where a system keeps it; DdimxError if there is none."""
    hint = "install the package fonts-noto-color-emoji (Debian, Ubuntu), or give --font FILE"
    return _find(path, _FONTS, "emoji font", hint)


def find_emoji_test(path: Path | None) -> Path:
    """Return ``path``, or the system's emoji-test.txt; DdimxError if there is none."""
    hint = "install the package unicode-data (Debian, Ubuntu), or give --emoji-test FILE"
    return _find(path, _EMOJI_TESTS, "emoji list (Unicode's emoji-test.txt)", hint)


def _find(path: Path | None, places: tuple[str, ...], what: str, hint: str) -> Path:
    if path is not None:
        if path.is_file():
            return path
        raise DdimxError(f"{what}: no such file: {path}; {hint}")
    for place in places:
        candidate = Path(place).expanduser()
        if candidate.is_file():
            return candidate
    raise DdimxError(f"{what} not found in the usual places; {hint}")


def extract(
    font: Path,
    emoji_test: Path,
    *,
    size: int = 32,
    holdout: float = 0.05,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EmojiSet:
    """Draw every emoji of a bitmap font at ``size`` pixels and split them by family.

    ``holdout`` is the part of each group's families to hold out (rounded, at least one family
    unless it is 0), drawn from ``seed``. ``progress(done, total)`` is called after each image.
    Raises DdimxError if fontTools is missing, a file is unusable or an argument out of range.
    """
    if size < 1 or not 0 <= holdout < 1 or seed < 0:
        raise DdimxError(
            f"emoji: size must be at least 1, holdout in [0, 1) and seed at least 0; "
            f"got size={size}, holdout={holdout}, seed={seed}"
        )
    version, entries = read_emoji_test(emoji_test)
    with _Font(font) as opened:
        chosen = choose(opened.bitmaps.keys(), opened.characters, opened.ligatures, entries)
        if not chosen:
            raise DdimxError(f"{font} draws none of the emoji listed in {emoji_test}")
        images = _draw_all(opened, [glyph for glyph, _ in chosen], size, progress)
        source = opened.source() | {"emoji_test": emoji_test.name, "emoji_test_version": version}
    return _assemble(images, [entry for _, entry in chosen], holdout, seed, source)


def save(data: EmojiSet, path: Path) -> None:
    """Write the set as one compressed .npz, the same bytes for the same set.

    Holds the arrays of ``EmojiSet``, ``groups`` (9,) str and ``source``, a JSON string; nothing
    is pickled. Raises OSError if the file cannot be written.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        field.name: getattr(data, field.name) for field in fields(data) if field.name != "source"
    }
    arrays["groups"] = np.array(GROUPS)
    arrays["source"] = np.array(json.dumps(data.source, sort_keys=True, ensure_ascii=False))
    with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, array in arrays.items():
            _write_member(archive, f"{name}.npy", array)


def _write_member(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    """Add one array; np.savez would stamp it with the hour and the operating system."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


# --- the font -----------------------------------------------------------------------------------


class _Font:
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

    def __enter__(self) -> _Font:
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
    found: dict[Glyphs, str] = {}
    for table in lookup.SubTable:
        real = table.ExtSubTable if table.LookupType == _EXTENSION else table
        if real.LookupType != _LIGATURE:
            continue
        for first, ligatures in real.ligatures.items():
            for ligature in ligatures:
                found.setdefault((first, *ligature.Component), ligature.LigGlyph)
    return found


# --- which glyph is which emoji -----------------------------------------------------------------


def resolve(codepoints: Sequence, characters: dict[int, str], ligatures: Ligatures) -> str | None:
    """Return the one glyph that draws the sequence, or None if it needs several.

    Tried as it is and without variation selectors, which many fonts leave out of ligatures.
    """
    for points in (codepoints, bare(codepoints)):
        glyphs = tuple(characters.get(point, "") for point in points)
        if all(glyphs):
            joined = _shape(glyphs, ligatures)
            if len(joined) == 1:
                return joined[0]
    return None


def _shape(glyphs: Glyphs, ligatures: Ligatures) -> Glyphs:
    """Apply the stages in turn, again and again until nothing changes."""
    before: Glyphs = ()
    while before != glyphs and len(glyphs) > 1:
        before = glyphs
        for stage in ligatures:
            glyphs = _join(glyphs, stage)
    return glyphs


def _join(glyphs: Glyphs, stage: dict[Glyphs, str]) -> Glyphs:
    """Replace, from the left, the longest run that the stage joins; then go on behind it."""
    joined: list[str] = []
    at = 0
    while at < len(glyphs):
        ends = range(len(glyphs), at + 1, -1)
        end = next((end for end in ends if glyphs[at:end] in stage), at + 1)
        joined.append(stage.get(glyphs[at:end], glyphs[at]))
        at = end
    return tuple(joined)


def choose(
    bitmaps: Any, characters: dict[int, str], ligatures: Ligatures, entries: list[Entry]
) -> list[tuple[str, Entry]]:
    """Pair each glyph that has a bitmap with the first emoji that it draws.

    Listed emoji come first, in the order of the list; then ligatures of the font which the list
    does not have, as far as their name and group are clear.
    """
    chosen: dict[str, Entry] = {}
    for entry in entries:
        glyph = resolve(entry.codepoints, characters, ligatures)
        if glyph in bitmaps and glyph is not None:
            chosen.setdefault(glyph, entry)
    namer = Namer(entries)
    for glyph, codepoints in _spellings(characters, ligatures):
        extra = namer.name(codepoints) if glyph in bitmaps and glyph not in chosen else None
        if extra is not None:
            chosen[glyph] = extra
    return list(chosen.items())


def _spellings(characters: dict[int, str], ligatures: Ligatures) -> Iterator[tuple[str, Sequence]]:
    """Yield ligature glyphs with their code points, in the order of the code points."""
    points: dict[str, int] = {}
    for point, glyph in sorted(characters.items()):
        points.setdefault(glyph, point)
    found = {
        (tuple(points[part] for part in parts), glyph)
        for stage in ligatures
        for parts, glyph in stage.items()
        if all(part in points for part in parts)
    }
    for codepoints, glyph in sorted(found):
        if codepoints[0] not in _TRAILERS:
            yield glyph, codepoints


# --- images -------------------------------------------------------------------------------------


def _draw_all(
    font: _Font, glyphs: list[str], size: int, progress: Callable[[int, int], None] | None
) -> npt.NDArray[np.uint8]:
    """Return (N, size, size, 3) uint8, one image a glyph."""
    images = np.empty((len(glyphs), size, size, 3), np.uint8)
    for index, glyph in enumerate(glyphs):
        try:
            images[index] = draw(font.bitmaps[glyph], size)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
            raise DdimxError(f"{font.path}: glyph {glyph} is damaged: {error}") from error
        if progress is not None:
            progress(index + 1, len(glyphs))
    return images


def draw(png: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Return a PNG as (size, size, 3) uint8 on a white square, its proportions kept."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        square = _on_white(picture.convert("RGBA"))
    small = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small, np.uint8)


def _on_white(picture: Image.Image) -> Image.Image:
    """Return an RGB square with the picture in its middle.

    Blended before it is made smaller: averaging colours of transparent pixels leaves dark rims.
    """
    from PIL import Image

    side = max(picture.size)
    corner = ((side - picture.width) // 2, (side - picture.height) // 2)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, corner)
    return square.convert("RGB")


# --- families and the split ---------------------------------------------------------------------


def _assemble(
    images: npt.NDArray[np.uint8],
    entries: list[Entry],
    holdout: float,
    seed: int,
    source: dict[str, str],
) -> EmojiSet:
    numbers: dict[Sequence, int] = {}
    keys = (family_key(entry.codepoints) for entry in entries)
    families = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    labels = np.array([entry.group for entry in entries], np.int64)
    return EmojiSet(
        images=images,
        labels=labels,
        names=np.array([entry.name for entry in entries]),
        codepoints=np.array([text_of(entry.codepoints) for entry in entries]),
        families=families,
        held_out=split(families, labels, holdout, seed),
        source=source,
    )


def split(
    families: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], holdout: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return (N,) bool: the members of the held-out families, some from every group.

    Each group draws from a generator of its own, so that new emoji in one group leave the split
    of the others as it was.
    """
    held: list[int] = []
    ids, first = np.unique(families, return_index=True)
    for group in range(len(GROUPS)):
        own = ids[labels[first] == group]
        count = min(len(own), max(1, round(holdout * len(own)))) if holdout else 0
        generator = np.random.Generator(np.random.PCG64([seed, group]))
        held.extend(generator.permutation(own)[:count].tolist())
    return np.isin(families, held)
