"""Names, groups and families of emoji: Unicode's emoji-test.txt and what it leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ddimx.errors import DdimxError

GROUPS: tuple[str, ...] = (
    "smileys",
    "people",
    "animals",
    "food",
    "travel",
    "activities",
    "objects",
    "symbols",
    "flags",
)

Sequence = tuple[int, ...]  # code points, in the order in which they are typed

_UNICODE_GROUPS = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}
_LINE = re.compile(r"([0-9A-F ]+?)\s*;\s*fully-qualified\s*#\s*\S+\s+(?:E\d+\.\d+\s+)?(\S.*)")

JOINER = 0x200D
VARIATION = 0xFE0F
_TONES = dict(
    zip(
        range(0x1F3FB, 0x1F400),
        ("light", "medium-light", "medium", "medium-dark", "dark"),
        strict=True,
    )
)
_HAIR = frozenset(range(0x1F9B0, 0x1F9B4))
_GENDER = frozenset({0x2640, 0x2642})
_RIGHT = 0x27A1
_BLACK_FLAG, _FIRST_TAG, _LAST_TAG = 0x1F3F4, 0xE0020, 0xE007E
_HEART, _KISS_MARK, _HANDSHAKE = 0x2764, 0x1F48B, 0x1F91D
_KISS, _COUPLE, _FAMILY, _HOLDING_HANDS = 0x1F48F, 0x1F491, 0x1F46A, 0x1F46B

# Drawn in fonts before (or without) being in the emoji-test.txt of Unicode 15.0.
_EXTRA = {
    (0x1F642, JOINER, 0x2194): ("smileys", "head shaking horizontally"),
    (0x1F642, JOINER, 0x2195): ("smileys", "head shaking vertically"),
    (0x1F426, JOINER, 0x1F525): ("animals", "phoenix"),
    (0x1F34B, JOINER, 0x1F7E9): ("food", "lime"),
    (0x1F344, JOINER, 0x1F7EB): ("food", "brown mushroom"),
    (0x26D3, JOINER, 0x1F4A5): ("objects", "broken chain"),
    (0x1F9D1, JOINER, 0x1F9D1, JOINER, 0x1F9D2): ("people", "family: adult, adult, child"),
    (0x1F9D1, JOINER, 0x1F9D1, JOINER, 0x1F9D2, JOINER, 0x1F9D2): (
        "people",
        "family: adult, adult, child, child",
    ),
    (0x1F9D1, JOINER, 0x1F9D2): ("people", "family: adult, child"),
    (0x1F9D1, JOINER, 0x1F9D2, JOINER, 0x1F9D2): ("people", "family: adult, child, child"),
}

# One emoji in several forms, each with a code point of its own: form -> the one it counts as.
_SAME: dict[int, Sequence] = {
    0x1F468: (0x1F9D1,),  # man, woman -> person
    0x1F469: (0x1F9D1,),
    0x1F471: (0x1F9D1,),  # blond hair, beard: hair styles of the same face
    0x1F9D4: (0x1F9D1,),
    0x1F466: (0x1F9D2,),  # boy, girl -> child
    0x1F467: (0x1F9D2,),
    0x1F474: (0x1F9D3,),  # old man, old woman -> older person
    0x1F475: (0x1F9D3,),
    0x1F934: (0x1FAC5,),  # prince, princess -> person with crown
    0x1F478: (0x1FAC5,),
    0x1F385: (0x1F9D1, JOINER, 0x1F384),  # Santa Claus, Mrs. Claus -> Mx Claus
    0x1F936: (0x1F9D1, JOINER, 0x1F384),
    0x1F57A: (0x1F483,),  # man dancing, woman dancing
    0x1F930: (0x1FAC4,),  # pregnant woman, man -> person
    0x1FAC3: (0x1FAC4,),
    0x1F46C: (_HOLDING_HANDS,),
    0x1F46D: (_HOLDING_HANDS,),
    0x1F449: (0x1F448,),  # mirror images: a flip of the training images would give them away
    0x1F91C: (0x1F91B,),
    0x1FAF2: (0x1FAF1,),
    0x1FAF8: (0x1FAF7,),
}
_PERSONS = frozenset({0x1F9D1, 0x1F9D2, 0x1F9D3})


@dataclass(frozen=True, slots=True)
class EmojiEntry:
    """One emoji: its code points, the index of its group in ``GROUPS``, its English name."""

    codepoints: Sequence
    group: int
    name: str


def read_emoji_test(path: Path) -> tuple[str, list[EmojiEntry]]:
    """Return the version and the fully-qualified emoji of an emoji-test.txt, in its order.

    Components (skin and hair swatches) are left out. Raises DdimxError if the file cannot be
    read or lists no emoji.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DdimxError(f"cannot read the emoji list {path}: {error}") from error
    version = re.search(r"^# Version: (\S+)", text, re.MULTILINE)
    entries = parse_emoji_test(text.splitlines())
    if not entries:
        raise DdimxError(
            f"{path} lists no emoji; expected Unicode's emoji-test.txt (Debian: unicode-data)"
        )
    return (version[1] if version else "unknown"), entries


def parse_emoji_test(lines: Iterable[str]) -> list[EmojiEntry]:
    """Return the fully-qualified emoji of the nine known groups, in the order of the lines."""
    entries: list[EmojiEntry] = []
    group: str | None = None
    for line in lines:
        if line.startswith("# group:"):
            group = _UNICODE_GROUPS.get(line.partition(":")[2].strip())
        match = _LINE.match(line)
        if match and group:
            codepoints = tuple(int(word, 16) for word in match[1].split())
            entries.append(EmojiEntry(codepoints, GROUPS.index(group), match[2].strip()))
    return entries


def bare(codepoints: Sequence) -> Sequence:
    """Return the sequence without its variation selectors, which not every font uses."""
    return tuple(point for point in codepoints if point != VARIATION)


def text_of(codepoints: Sequence) -> str:
    """Return the sequence as upper-case hexadecimal words: ``"1F468 1F3FD 200D 1F33E"``."""
    return " ".join(f"{point:04X}" for point in codepoints)


class Namer:
    """Names sequences which a font draws and emoji-test.txt does not list."""

    def __init__(self, entries: Iterable[EmojiEntry]) -> None:
        self._known = {bare(entry.codepoints): entry for entry in entries}

    def name(self, codepoints: Sequence) -> EmojiEntry | None:
        """Return the emoji with its name, or None where its group is not obvious."""
        plain = bare(codepoints)
        if plain in _EXTRA:
            group, name = _EXTRA[plain]
            return EmojiEntry(codepoints, GROUPS.index(group), name)
        return _subdivision_flag(plain) or self._facing_right(plain) or self._toned(plain)

    def _facing_right(self, plain: Sequence) -> EmojiEntry | None:
        """Name ``WALKER ZWJ RIGHT-ARROW`` after the walker."""
        if plain[-2:] != (JOINER, _RIGHT) or plain[:-2] not in self._known:
            return None
        base = self._known[plain[:-2]]
        what, colon, tone = base.name.partition(":")
        return EmojiEntry(plain, base.group, f"{what} facing right{colon}{tone}")

    def _toned(self, plain: Sequence) -> EmojiEntry | None:
        """Name an emoji with one skin tone after the same emoji without it."""
        tones = [_TONES[point] for point in plain if point in _TONES]
        base = self._known.get(tuple(point for point in plain if point not in _TONES))
        if base is None or len(tones) != 1:
            return None
        return EmojiEntry(plain, base.group, f"{base.name}: {tones[0]} skin tone")


def _subdivision_flag(plain: Sequence) -> EmojiEntry | None:
    """Name a flag spelled in tag letters (black flag, ``u s c a``, end) by its region code."""
    tags = plain[1:-1]
    if plain[0] != _BLACK_FLAG or len(tags) < 3:
        return None
    if not all(_FIRST_TAG <= tag <= _LAST_TAG for tag in tags):
        return None
    code = "".join(chr(tag - 0xE0000) for tag in tags).upper()
    return EmojiEntry(plain, GROUPS.index("flags"), f"flag: {code[:2]}-{code[2:]}")


def family_key(codepoints: Sequence) -> Sequence:
    """Return the sequence that stands for all variants of this emoji.

    Skin tones, hair, gender and direction are dropped; man, woman and person count as one; all
    families are one, and so are all kisses, all couples with a heart, all that hold hands and
    all handshakes.
    """
    plain = tuple(point for point in bare(codepoints) if point not in _TONES)
    parts = [
        part
        for part in _parts(plain)
        if not (len(part) == 1 and (part[0] in _HAIR or part[0] in _GENDER or part[0] == _RIGHT))
    ]
    same = [
        piece for part in parts for piece in _parts(_SAME.get(part[0], part[:1]) + part[1:])
    ] or [plain]
    return _several_people([piece for piece in same if piece])


def _parts(plain: Sequence) -> list[Sequence]:
    """Split a sequence at its joiners."""
    parts: list[list[int]] = [[]]
    for point in plain:
        if point == JOINER:
            parts.append([])
        else:
            parts[-1].append(point)
    return [tuple(part) for part in parts if part]


def _several_people(parts: list[Sequence]) -> Sequence:
    """Join the parts again; groups of people become the one emoji for their kind."""
    points = {point for part in parts for point in part}
    persons = sum(part[0] in _PERSONS for part in parts)
    if parts == [(0x1FAF1,), (0x1FAF1,)]:
        return (_HANDSHAKE,)
    if persons < 2:
        return tuple(point for part in parts for point in (JOINER, *part))[1:]
    if _HEART in points:
        return (_KISS,) if _KISS_MARK in points else (_COUPLE,)
    return (_HOLDING_HANDS,) if _HANDSHAKE in points else (_FAMILY,)
