"""The emoji list: what is read from it, the names of what it lacks, and families."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddimx.errors import DdimxError
from ddimx.recipes.emoji.names import (
    CLASSES,
    GROUPS,
    Namer,
    family_key,
    parse_emoji_test,
    read_emoji_test,
)

EMOJI_TEST = """\
# emoji-test.txt
# Version: 15.0

# group: Smileys & Emotion
# subgroup: face-smiling
1F600          ; fully-qualified     # 😀 E1.0 grinning face
2639 FE0F      ; fully-qualified     # ☹️ E0.7 frowning face
2639           ; unqualified         # ☹ E0.7 frowning face
# group: People & Body
# subgroup: hand-fingers-open
1F44B          ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FB    ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
# subgroup: person-activity
1F6B6 1F3FD    ; fully-qualified     # 🚶🏽 E1.0 person walking: medium skin tone
# group: Component
1F3FB          ; component           # 🏻 E1.0 light skin tone
1F3FC          ; fully-qualified     # 🏼 E1.0 not a known group
# group: Flags
# subgroup: of a later Unicode
1F1EF 1F1F5    ; fully-qualified     # 🇯🇵 E0.6 flag: Japan
"""


def points(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def same_family(*texts: str) -> bool:
    return len({family_key(points(text)) for text in texts}) == 1


# --- names and groups ---------------------------------------------------------------------------


def test_only_fully_qualified_emoji_of_known_groups_are_read(tmp_path: Path) -> None:
    path = tmp_path / "emoji-test.txt"
    path.write_text(EMOJI_TEST, encoding="utf-8")
    version, entries = read_emoji_test(path)
    assert version == "15.0"
    assert [(CLASSES[entry.label], entry.name) for entry in entries] == [
        ("smileys/smiling", "grinning face"),
        ("smileys/smiling", "frowning face"),
        ("people/hand-open", "waving hand"),
        ("people/hand-open", "waving hand: light skin tone"),
        ("people/activity", "person walking: medium skin tone"),
        ("flags/other", "flag: Japan"),
    ]
    assert entries[1].codepoints == (0x2639, 0xFE0F)


@pytest.mark.parametrize(
    ("sequence", "of_class", "name"),
    [
        ("1F344 200D 1F7EB", "food/vegetable", "brown mushroom"),
        ("1F44B 1F3FF", "people/hand-open", "waving hand: dark skin tone"),
        (
            "1F6B6 1F3FD 200D 27A1 FE0F",
            "people/activity",
            "person walking facing right: medium skin tone",
        ),
        ("1F3F4 E0075 E0073 E0063 E0061 E007F", "flags/subdivision", "flag: US-CA"),
    ],
)
def test_unlisted_sequences_are_named_after_what_is_listed(
    sequence: str, of_class: str, name: str
) -> None:
    entry = Namer(parse_emoji_test(EMOJI_TEST.splitlines())).name(points(sequence))
    assert entry is not None
    assert (CLASSES[entry.label], entry.name) == (of_class, name)


def test_classes_are_named_after_their_groups() -> None:
    assert [name.partition("/")[0] for name in CLASSES] == sorted(
        (name.partition("/")[0] for name in CLASSES), key=GROUPS.index
    )
    assert {name.partition("/")[0] for name in CLASSES} == set(GROUPS)


@pytest.mark.parametrize("sequence", ["1F600 1F3F4", "1F3F4", "1F6B7 200D 27A1", "1F1EF"])
def test_unlisted_sequences_without_a_clear_group_have_no_name(sequence: str) -> None:
    assert Namer(parse_emoji_test(EMOJI_TEST.splitlines())).name(points(sequence)) is None


# --- families -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variants",
    [
        ("1F44B", "1F44B 1F3FB", "1F44B 1F3FF"),
        ("1F9D1 200D 1F33E", "1F468 1F3FD 200D 1F33E", "1F469 200D 1F33E"),
        ("1F46E", "1F46E 1F3FC 200D 2640 FE0F", "1F46E 200D 2642"),
        ("1F9D1", "1F469 200D 1F9B0", "1F468 1F3FE 200D 1F9B2", "1F471 200D 2640 FE0F", "1F9D4"),
        ("1F9D2", "1F466", "1F467 1F3FF"),
        ("1FAC5", "1F934", "1F478 1F3FB"),
        ("1F385", "1F936 1F3FB", "1F9D1 1F3FF 200D 1F384"),
        ("1F6B6", "1F6B6 200D 2640 FE0F 200D 27A1 FE0F", "1F6B6 1F3FD 200D 27A1"),
        ("1F46A", "1F468 200D 1F469 200D 1F466", "1F469 200D 1F467", "1F9D1 200D 1F9D2"),
        ("1F48F", "1F468 1F3FB 200D 2764 FE0F 200D 1F48B 200D 1F468 1F3FF"),
        ("1F491 1F3FC", "1F469 200D 2764 FE0F 200D 1F468"),
        ("1F46B", "1F46C", "1F46D 1F3FB", "1F9D1 200D 1F91D 200D 1F9D1"),
        ("1F91D", "1FAF1 1F3FB 200D 1FAF2 1F3FF"),
        ("1F448", "1F449 1F3FB"),
    ],
)
def test_variants_share_a_family(variants: tuple[str, ...]) -> None:
    assert same_family(*variants)


@pytest.mark.parametrize(
    "pair",
    [
        ("1F9D1 200D 1F33E", "1F9D1 200D 1F373"),
        ("1F9D1", "1F9D2"),
        ("1F46A", "1F48F"),
        ("1F48F", "1F491"),
        ("1F1EF 1F1F5", "1F1EF 1F1F4"),
        ("2640 FE0F", "2642 FE0F"),
        ("27A1", "2B05"),
        ("2764 FE0F", "2764 FE0F 200D 1F525"),
        ("1F642", "1F642 200D 2194 FE0F"),
        ("1F3F4", "1F3F4 200D 2620 FE0F"),
        ("1F550", "1F551"),
    ],
)
def test_different_emoji_have_different_families(pair: tuple[str, str]) -> None:
    assert not same_family(*pair)


@pytest.mark.parametrize("content", [b"", b"# Version: 15.0\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_emoji_list_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "emoji-test.txt"
    path.write_bytes(content)
    with pytest.raises(DdimxError, match=r"emoji-test\.txt"):
        read_emoji_test(path)
