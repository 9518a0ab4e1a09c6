"""A training set of small color images: the emoji of a bitmap font such as Noto Color Emoji.

The split goes by family, not by picture, so where training mirrors its images one held-out emoji
leaks: "two o'clock" is nearly the mirror image of "ten o'clock", which is trained on.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ddimx.errors import DdimxError
from ddimx.files import write_bytes
from ddimx.recipes.emoji.font import Font, choose, draw
from ddimx.recipes.emoji.names import (
    CLASSES,
    GROUPS,
    EmojiEntry,
    Sequence,
    family_key,
    read_emoji_test,
    text_of,
)

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "CLASSES",
    "GROUPS",
    "EmojiSet",
    "contact_sheet",
    "extract",
    "find_emoji_test",
    "find_font",
    "npz_bytes",
    "save",
    "split",
]

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
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold
_GAP, _MARGIN = 6, 72  # pixels of a contact sheet: between images, and for the groups' names


@dataclass(frozen=True, slots=True)
class EmojiSet:
    """N emoji as images, with names, classes, families and a split.

    ``images`` (N, size, size, 3) uint8 RGB on white; ``labels`` (N,) int64, indices into
    ``CLASSES``; ``names`` (N,) str; ``codepoints`` (N,) str such as ``"1F468 1F3FD 200D 1F33E"``;
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
        if os.path.isfile(path):  # Path.is_file raises where a name is too long
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
    with Font(font) as opened:
        entries_by_glyph = choose(
            opened.bitmaps.keys(), opened.characters, opened.ligatures, entries
        )
        if not entries_by_glyph:
            raise DdimxError(f"{font} draws none of the emoji listed in {emoji_test}")
        glyphs = [glyph for glyph, _ in entries_by_glyph]
        images = np.empty((len(glyphs), size, size, 3), np.uint8)
        for index, glyph in enumerate(glyphs):
            try:
                images[index] = draw(opened.bitmaps[glyph], size)
            except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three
                raise DdimxError(f"{opened.path}: glyph {glyph} is damaged: {error}") from error
            if progress is not None:
                progress(index + 1, len(glyphs))
        source = opened.source() | {"emoji_test": emoji_test.name, "emoji_test_version": version}
    return _assemble(images, [entry for _, entry in entries_by_glyph], holdout, seed, source)


def save(data: EmojiSet, path: Path) -> None:
    """Write ``npz_bytes`` to a file, whole or not at all; OSError if it cannot be written."""
    write_bytes(path, npz_bytes(data))


def npz_bytes(data: EmojiSet) -> bytes:
    """Return the set as one compressed .npz, the same bytes for the same set.

    Holds the arrays of ``EmojiSet``, ``groups`` (the names of the classes, str) and ``source``, a
    JSON string; nothing is pickled.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        field.name: getattr(data, field.name) for field in fields(data) if field.name != "source"
    }
    arrays["groups"] = np.array(CLASSES)
    arrays["source"] = np.array(json.dumps(data.source, sort_keys=True, ensure_ascii=False))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            _write_member(archive, f"{name}.npy", array)
    return stream.getvalue()


def _write_member(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    """Add one array; np.savez would stamp it with the hour and the operating system."""
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3
    info.external_attr = 0o644 << 16
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    archive.writestr(info, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def contact_sheet(data: EmojiSet, *, per_group: int = 12, scale: int = 3) -> Image.Image:
    """Return a picture to look at: a row of enlarged emoji for each group that has any.

    They are spread evenly over the group's families, of which each shows its first member.
    """
    from PIL import Image, ImageDraw

    rows = _rows(data, per_group)
    step = data.images.shape[1] * scale + _GAP
    sheet = Image.new("RGB", (_MARGIN + per_group * step, _GAP + len(rows) * step), "lightgray")
    pen = ImageDraw.Draw(sheet)
    for top, (group, members) in zip(range(_GAP, sheet.height, step), rows, strict=True):
        pen.text((_GAP, top + (step - _GAP) // 2), group, "black", anchor="lm")
        for x, member in zip(range(_MARGIN, sheet.width, step), members, strict=False):
            large = data.images[member].repeat(scale, axis=0).repeat(scale, axis=1)
            sheet.paste(Image.fromarray(large), (x, top))
    return sheet


def _rows(data: EmojiSet, per_group: int) -> list[tuple[str, list[int]]]:
    """Return for each group with emoji its name and the numbers of those to show."""
    rows: list[tuple[str, list[int]]] = []
    first = np.unique(data.families, return_index=True)[1]
    groups = groups_of(data.labels)
    for group, name in enumerate(GROUPS):
        own = first[groups[first] == group]
        if len(own):
            at = np.linspace(0, len(own) - 1, min(per_group, len(own))).round().astype(np.int64)
            rows.append((name, own[at].tolist()))
    return rows


def _assemble(
    images: npt.NDArray[np.uint8],
    entries: list[EmojiEntry],
    holdout: float,
    seed: int,
    source: dict[str, str],
) -> EmojiSet:
    numbers: dict[Sequence, int] = {}
    keys = (family_key(entry.codepoints) for entry in entries)
    families = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
    labels = np.array([entry.label for entry in entries], np.int64)
    return EmojiSet(
        images=images,
        labels=labels,
        names=np.array([entry.name for entry in entries]),
        codepoints=np.array([text_of(entry.codepoints) for entry in entries]),
        families=families,
        held_out=split(families, groups_of(labels), holdout, seed),
        source=source,
    )


def groups_of(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the groups, indices into ``GROUPS``, of classes, indices into ``CLASSES``."""
    table = np.array([GROUPS.index(name.partition("/")[0]) for name in CLASSES], np.int64)
    return table[labels]


def split(
    families: npt.NDArray[np.int64], groups: npt.NDArray[np.int64], holdout: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Return (N,) bool: the members of the held-out families, some from every group.

    Each group draws from a generator of its own, so that new emoji in one group leave the split
    of the others as it was.
    """
    held_out: list[int] = []
    ids, first = np.unique(families, return_index=True)
    for group in range(len(GROUPS)):
        own = ids[groups[first] == group]
        count = min(len(own), max(1, round(holdout * len(own)))) if holdout else 0
        generator = np.random.Generator(np.random.PCG64([seed, group]))
        held_out.extend(generator.permutation(own)[:count].tolist())
    return np.isin(families, held_out)
