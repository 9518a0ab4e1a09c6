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
# Unicode's subgroups of each group, and the classes that they are here: names are the subgroups'
# last words, and what would be a class of a few emoji joins another one.
_CLASSES: dict[str, dict[str, str]] = {
    "smileys": {
        "face-smiling": "smiling",
        "face-affection": "affection",
        "face-tongue": "tongue",
        "face-hand": "hand",
        "face-neutral-skeptical": "neutral",
        "face-sleepy": "sleepy",
        "face-unwell": "unwell",
        "face-hat": "hat",
        "face-glasses": "hat",
        "face-concerned": "concerned",
        "face-negative": "negative",
        "face-costume": "costume",
        "cat-face": "cat",
        "monkey-face": "cat",
        "heart": "heart",
        "emotion": "emotion",
    },
    "people": {
        "hand-fingers-open": "hand-open",
        "hand-fingers-partial": "hand-partial",
        "hand-single-finger": "hand-pointing",
        "hand-fingers-closed": "hand-closed",
        "hands": "hands",
        "hand-prop": "hands",
        "body-parts": "body-part",
        "person": "person",
        "person-gesture": "gesture",
        "person-role": "role",
        "person-fantasy": "fantasy",
        "person-activity": "activity",
        "person-sport": "sport",
        "person-resting": "resting",
        "family": "family",
        "person-symbol": "symbol",
    },
    "animals": {
        "animal-mammal": "mammal",
        "animal-bird": "bird",
        "animal-amphibian": "reptile",
        "animal-reptile": "reptile",
        "animal-marine": "marine",
        "animal-bug": "bug",
        "plant-flower": "flower",
        "plant-other": "plant",
    },
    "food": {
        "food-fruit": "fruit",
        "food-vegetable": "vegetable",
        "food-prepared": "prepared",
        "food-asian": "asian",
        "food-marine": "seafood",
        "food-sweet": "sweet",
        "drink": "drink",
        "dishware": "dishware",
    },
    "travel": {
        "place-map": "landscape",
        "place-geographic": "landscape",
        "place-building": "building",
        "place-religious": "building",
        "place-other": "place",
        "transport-ground": "ground",
        "transport-water": "water",
        "transport-air": "air",
        "hotel": "place",
        "time": "time",
        "sky & weather": "sky",
    },
    "activities": {
        "event": "event",
        "award-medal": "medal",
        "sport": "sport",
        "game": "game",
        "arts & crafts": "art",
    },
    "objects": {
        "clothing": "clothing",
        "sound": "sound",
        "music": "music",
        "musical-instrument": "instrument",
        "phone": "phone",
        "computer": "computer",
        "light & video": "light",
        "book-paper": "book",
        "money": "money",
        "mail": "mail",
        "writing": "writing",
        "office": "office",
        "lock": "lock",
        "tool": "tool",
        "science": "science",
        "medical": "science",
        "household": "household",
        "other-object": "other",
    },
    "symbols": {
        "transport-sign": "sign",
        "warning": "warning",
        "arrow": "arrow",
        "religion": "religion",
        "zodiac": "zodiac",
        "av-symbol": "button",
        "gender": "mark",
        "math": "mark",
        "punctuation": "mark",
        "currency": "mark",
        "other-symbol": "other",
        "keycap": "keycap",
        "alphanum": "letter",
        "geometric": "shape",
    },
    "flags": {"flag": "other", "country-flag": "country", "subdivision-flag": "subdivision"},
}
# "animals/mammal", "animals/bird", ...: in the order of the groups and of Unicode's list.
CLASSES: tuple[str, ...] = tuple(
    dict.fromkeys(f"{group}/{name}" for group in GROUPS for name in _CLASSES[group].values())
)
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
    (0x1F642, JOINER, 0x2194): ("smileys/neutral", "head shaking horizontally"),
    (0x1F642, JOINER, 0x2195): ("smileys/neutral", "head shaking vertically"),
    (0x1F426, JOINER, 0x1F525): ("animals/bird", "phoenix"),
    (0x1F34B, JOINER, 0x1F7E9): ("food/fruit", "lime"),
    (0x1F344, JOINER, 0x1F7EB): ("food/vegetable", "brown mushroom"),
    (0x26D3, JOINER, 0x1F4A5): ("objects/tool", "broken chain"),
    (0x1F9D1, JOINER, 0x1F9D1, JOINER, 0x1F9D2): ("people/family", "family: adult, adult, child"),
    (0x1F9D1, JOINER, 0x1F9D1, JOINER, 0x1F9D2, JOINER, 0x1F9D2): (
        "people/family",
        "family: adult, adult, child, child",
    ),
    (0x1F9D1, JOINER, 0x1F9D2): ("people/family", "family: adult, child"),
    (0x1F9D1, JOINER, 0x1F9D2, JOINER, 0x1F9D2): ("people/family", "family: adult, child, child"),
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
    """One emoji: its code points, the index of its class in ``CLASSES``, its English name."""

    codepoints: Sequence
    label: int
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
    """Return the fully-qualified emoji of the nine known groups, in the order of the lines.

    What is in no known subgroup (of a later Unicode, say) is of its group's first class.
    """
    entries: list[EmojiEntry] = []
    group, name = "", ""
    for line in lines:
        mark, _, title = (part.strip() for part in line.partition(":"))
        if mark in ("# group", "# subgroup"):
            if mark == "# group":
                group = _UNICODE_GROUPS.get(title, "")
            names = _CLASSES.get(group, {})
            name = names.get(title, next(iter(names.values()), ""))
        elif group and (match := _LINE.match(line)):
            codepoints = tuple(int(word, 16) for word in match[1].split())
            label = CLASSES.index(f"{group}/{name}")
            entries.append(EmojiEntry(codepoints, label, match[2].strip()))
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
            kind, name = _EXTRA[plain]
            return EmojiEntry(codepoints, CLASSES.index(kind), name)
        return _subdivision_flag(plain) or self._facing_right(plain) or self._toned(plain)

    def _facing_right(self, plain: Sequence) -> EmojiEntry | None:
        """Name ``WALKER ZWJ RIGHT-ARROW`` after the walker."""
        if plain[-2:] != (JOINER, _RIGHT) or plain[:-2] not in self._known:
            return None
        base = self._known[plain[:-2]]
        what, colon, tone = base.name.partition(":")
        return EmojiEntry(plain, base.label, f"{what} facing right{colon}{tone}")

    def _toned(self, plain: Sequence) -> EmojiEntry | None:
        """Name an emoji with one skin tone after the same emoji without it."""
        tones = [_TONES[point] for point in plain if point in _TONES]
        base = self._known.get(tuple(point for point in plain if point not in _TONES))
        if base is None or len(tones) != 1:
            return None
        return EmojiEntry(plain, base.label, f"{base.name}: {tones[0]} skin tone")


def _subdivision_flag(plain: Sequence) -> EmojiEntry | None:
    """Name a flag spelled in tag letters (black flag, ``u s c a``, end) by its region code."""
    tags = plain[1:-1]
    if plain[0] != _BLACK_FLAG or len(tags) < 3:
        return None
    if not all(_FIRST_TAG <= tag <= _LAST_TAG for tag in tags):
        return None
    code = "".join(chr(tag - 0xE0000) for tag in tags).upper()
    return EmojiEntry(plain, CLASSES.index("flags/subdivision"), f"flag: {code[:2]}-{code[2:]}")


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
