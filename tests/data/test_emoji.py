"""The emoji training set: names, families, the split, and what comes out of a bitmap font."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddimx.data import emoji
from ddimx.data.emoji import GROUPS, EmojiSet, extract, find_emoji_test, find_font, save
from ddimx.data.emoji_names import Namer, family_key, parse_emoji_test, read_emoji_test
from ddimx.errors import DdimxError

EMOJI_TEST = """\
# emoji-test.txt
# Version: 15.0

# group: Smileys & Emotion
# subgroup: face-smiling
1F600          ; fully-qualified     # 😀 E1.0 grinning face
2639 FE0F      ; fully-qualified     # ☹️ E0.7 frowning face
2639           ; unqualified         # ☹ E0.7 frowning face
# group: People & Body
1F44B          ; fully-qualified     # 👋 E0.6 waving hand
1F44B 1F3FB    ; fully-qualified     # 👋🏻 E1.0 waving hand: light skin tone
1F6B6 1F3FD    ; fully-qualified     # 🚶🏽 E1.0 person walking: medium skin tone
# group: Component
1F3FB          ; component           # 🏻 E1.0 light skin tone
1F3FC          ; fully-qualified     # 🏼 E1.0 not a known group
# group: Flags
1F1EF 1F1F5    ; fully-qualified     # 🇯🇵 E0.6 flag: Japan
"""


def points(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def same_family(*texts: str) -> bool:
    return len({family_key(points(text)) for text in texts}) == 1


@pytest.fixture
def emoji_test(tmp_path: Path) -> Path:
    path = tmp_path / "emoji-test.txt"
    path.write_text(EMOJI_TEST, encoding="utf-8")
    return path


# --- names and groups ---------------------------------------------------------------------------


def test_only_fully_qualified_emoji_of_known_groups_are_read(emoji_test: Path) -> None:
    version, entries = read_emoji_test(emoji_test)
    assert version == "15.0"
    assert [(GROUPS[entry.group], entry.name) for entry in entries] == [
        ("smileys", "grinning face"),
        ("smileys", "frowning face"),
        ("people", "waving hand"),
        ("people", "waving hand: light skin tone"),
        ("people", "person walking: medium skin tone"),
        ("flags", "flag: Japan"),
    ]
    assert entries[1].codepoints == (0x2639, 0xFE0F)


@pytest.mark.parametrize(
    ("sequence", "group", "name"),
    [
        ("1F344 200D 1F7EB", "food", "brown mushroom"),
        ("1F44B 1F3FF", "people", "waving hand: dark skin tone"),
        (
            "1F6B6 1F3FD 200D 27A1 FE0F",
            "people",
            "person walking facing right: medium skin tone",
        ),
        ("1F3F4 E0075 E0073 E0063 E0061 E007F", "flags", "flag: US-CA"),
    ],
)
def test_unlisted_sequences_are_named_after_what_is_listed(
    sequence: str, group: str, name: str
) -> None:
    entry = Namer(parse_emoji_test(EMOJI_TEST.splitlines())).name(points(sequence))
    assert entry is not None
    assert (GROUPS[entry.group], entry.name) == (group, name)


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


def test_every_group_has_held_out_families_whatever_the_seed() -> None:
    labels = np.repeat(np.arange(len(GROUPS)), 40)
    families = np.arange(len(labels)) // 2
    for seed in range(3):
        held = emoji.split(families, labels, 0.1, seed)
        assert np.bincount(labels[held]).tolist() == [4] * len(GROUPS)
        assert (held[::2] == held[1::2]).all()
    assert (emoji.split(families, labels, 0.1, 5) == emoji.split(families, labels, 0.1, 5)).all()
    assert (emoji.split(families, labels, 0.1, 5) != emoji.split(families, labels, 0.1, 6)).any()


def test_growth_of_one_group_leaves_the_split_of_the_others() -> None:
    labels = np.array([0] * 30 + [3] * 30)
    before = emoji.split(np.arange(60), labels, 0.1, 0)
    after = emoji.split(np.arange(80), np.append(labels, [0] * 20), 0.1, 0)
    assert (before[30:60] == after[30:60]).all()


def test_no_holdout_holds_nothing_out() -> None:
    assert not emoji.split(np.arange(9), np.arange(9), 0.0, 0).any()


# --- shaping and drawing ------------------------------------------------------------------------


def test_ligatures_are_joined_longest_first_and_over_stages() -> None:
    characters = {1: "a", 2: "b", 3: "c"}
    stages = [{("a", "b"): "ab", ("a", "b", "c"): "abc", ("c", "c"): "cc"}, {("ab", "cc"): "end"}]
    assert emoji.resolve((1, 2, 3), characters, stages) == "abc"
    assert emoji.resolve((1, 2, 0xFE0F), characters, stages) == "ab"
    assert emoji.resolve((2, 3), characters, stages) is None
    assert emoji.resolve((1, 9), characters, stages) is None
    second = [{("b", "c"): "bc"}, {("a", "bc"): "end"}]
    assert emoji.resolve((1, 2, 3), characters, second) == "end"


def png(size: tuple[int, int], colour: tuple[int, int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_a_wide_picture_is_centred_on_a_white_square() -> None:
    image = emoji.draw(png((32, 16), (255, 0, 0, 255)), 32)
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    assert (image[[0, 7, 24, 31]] == 255).all()
    assert (image[8:24] == [255, 0, 0]).all()


def test_colours_of_transparent_pixels_do_not_show() -> None:
    assert (emoji.draw(png((8, 8), (0, 0, 0, 0)), 4) == 255).all()
    assert (emoji.draw(png((8, 8), (0, 0, 0, 128)), 4) == 127).all()


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


@pytest.fixture
def tiny_font(tmp_path: Path) -> Path:
    pytest.importorskip("fontTools")
    font = plain_font()
    add_bitmaps(font, {name: png((17, 16), (9, 9, 9, 255)) for name in PICTURES})
    font.save(tmp_path / "tiny.ttf")
    return tmp_path / "tiny.ttf"


def test_a_small_font_gives_its_listed_emoji_in_order(tiny_font: Path, emoji_test: Path) -> None:
    calls: list[tuple[int, int]] = []
    data = extract(
        tiny_font, emoji_test, size=17, progress=lambda done, total: calls.append((done, total))
    )
    assert data.names.tolist() == [
        "grinning face",
        "frowning face",
        "waving hand",
        "waving hand: light skin tone",
        "flag: Japan",
    ]
    assert data.codepoints.tolist()[3:] == ["1F44B 1F3FB", "1F1EF 1F1F5"]
    assert data.families.tolist() == [0, 1, 2, 2, 3]
    assert data.images.shape == (5, 17, 17, 3)
    assert (data.images[:, 2, 3] == 9).all()
    assert calls == [(done, 5) for done in range(1, 6)]
    assert data.source["font"] == "tiny.ttf"
    assert data.source["font_version"] == "Version 7"
    assert str(tiny_font.parent) not in json.dumps(data.source)


def test_saved_bytes_depend_on_nothing_but_the_set(
    tiny_font: Path, emoji_test: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "one.npz", tmp_path / "two.npz"
    save(extract(tiny_font, emoji_test, size=8), first)
    save(extract(tiny_font, emoji_test, size=8), second)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_saved_set_reads_back_without_pickle(
    tiny_font: Path, emoji_test: Path, tmp_path: Path
) -> None:
    data = extract(tiny_font, emoji_test, size=8)
    save(data, tmp_path / "set.npz")
    with np.load(tmp_path / "set.npz", allow_pickle=False) as read:
        for name in ("images", "labels", "names", "codepoints", "families", "held_out"):
            assert (read[name] == getattr(data, name)).all()
            assert read[name].dtype == getattr(data, name).dtype
        assert tuple(read["groups"]) == GROUPS
        assert json.loads(str(read["source"])) == data.source


# --- what can go wrong --------------------------------------------------------------------------


def test_a_missing_font_names_the_package_and_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DdimxError, match=r"no such file: .*gone\.ttf.*fonts-noto-color-emoji"):
        find_font(tmp_path / "gone.ttf")
    monkeypatch.setattr(emoji, "_FONTS", (str(tmp_path / "gone.ttf"),))
    with pytest.raises(DdimxError, match=r"fonts-noto-color-emoji.*--font FILE"):
        find_font(None)


def test_a_missing_emoji_list_names_the_package_and_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DdimxError, match=r"no such file: .*gone\.txt.*unicode-data"):
        find_emoji_test(tmp_path / "gone.txt")
    monkeypatch.setattr(emoji, "_EMOJI_TESTS", (str(tmp_path / "gone.txt"),))
    with pytest.raises(DdimxError, match=r"unicode-data.*--emoji-test FILE"):
        find_emoji_test(None)


def test_the_usual_places_are_searched_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(emoji, "_FONTS", (str(tmp_path / "gone.ttf"), "~/here.ttf"))
    (tmp_path / "here.ttf").touch()
    assert find_font(None) == tmp_path / "here.ttf"


@pytest.mark.parametrize("content", [b"", b"# Version: 15.0\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_emoji_list_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "emoji-test.txt"
    path.write_bytes(content)
    with pytest.raises(DdimxError, match=r"emoji-test\.txt"):
        read_emoji_test(path)


@pytest.mark.parametrize("content", [b"", b"not a font at all", b"\0\1\0\0" + bytes(7)])
def test_a_file_that_is_no_font_is_refused(
    tmp_path: Path, emoji_test: Path, content: bytes
) -> None:
    pytest.importorskip("fontTools")
    path = tmp_path / "wrong.ttf"
    path.write_bytes(content)
    with pytest.raises(DdimxError, match=r"cannot read the font .*wrong\.ttf"):
        extract(path, emoji_test)


def test_a_font_without_bitmaps_is_refused(tmp_path: Path, emoji_test: Path) -> None:
    pytest.importorskip("fontTools")
    plain_font().save(tmp_path / "outlines.ttf")
    with pytest.raises(DdimxError, match=r"outlines\.ttf has no PNG bitmaps.*CBDT"):
        extract(tmp_path / "outlines.ttf", emoji_test)


def test_a_cut_font_is_refused(tiny_font: Path, emoji_test: Path) -> None:
    content = tiny_font.read_bytes()
    for length in range(0, len(content), 50):
        tiny_font.write_bytes(content[:length])
        with pytest.raises(DdimxError, match=r"tiny\.ttf"):
            extract(tiny_font, emoji_test, size=4)


def test_a_font_with_other_characters_is_refused(tiny_font: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("# group: Flags\n1F3C1 ; fully-qualified # 🏁 E0.6 chequered flag\n")
    with pytest.raises(DdimxError, match="draws none of the emoji"):
        extract(tiny_font, other)


def test_a_damaged_bitmap_is_named(tmp_path: Path, emoji_test: Path) -> None:
    pytest.importorskip("fontTools")
    font = plain_font()
    add_bitmaps(font, {"grin": png((16, 16), (0, 0, 0, 255))[:40]})
    font.save(tmp_path / "damaged.ttf")
    with pytest.raises(DdimxError, match="glyph grin is damaged"):
        extract(tmp_path / "damaged.ttf", emoji_test)


def test_without_fonttools_the_message_says_what_to_install(
    tmp_path: Path, emoji_test: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fontTools.ttLib", None)
    with pytest.raises(DdimxError, match=r'pip install "ddimx\[train\]"'):
        extract(tmp_path / "any.ttf", emoji_test)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"holdout": 1.0}, {"holdout": -0.1}, {"seed": -1}])
def test_arguments_out_of_range_are_refused(
    tmp_path: Path, emoji_test: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(DdimxError, match="got size="):
        extract(tmp_path / "any.ttf", emoji_test, **wrong)


# --- the real font, where it is installed -------------------------------------------------------


@pytest.fixture(scope="module")
def noto() -> EmojiSet:
    pytest.importorskip("fontTools")
    try:
        font, listed = find_font(None), find_emoji_test(None)
    except DdimxError as error:
        pytest.skip(f"needs Noto Color Emoji and emoji-test.txt: {error}")
    return extract(font, listed)


def member(data: EmojiSet, name: str) -> int:
    return data.names.tolist().index(name)


def test_noto_gives_nearly_all_of_its_bitmaps(noto: EmojiSet) -> None:
    assert 3500 < len(noto.images) < 5000
    assert noto.images.shape[1:] == (32, 32, 3)
    assert noto.images.dtype == np.uint8
    assert len(set(noto.codepoints.tolist())) == len(noto.images)
    assert np.bincount(noto.labels, minlength=9).min() > 50


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("grinning face", "smileys"),
        ("waving hand", "people"),
        ("panda", "animals"),
        ("pizza", "food"),
        ("rocket", "travel"),
        ("soccer ball", "activities"),
        ("laptop", "objects"),
        ("keycap: 7", "symbols"),
        ("flag: Japan", "flags"),
        ("flag: Scotland", "flags"),
        ("woman farmer: medium skin tone", "people"),
    ],
)
def test_noto_groups(noto: EmojiSet, name: str, group: str) -> None:
    assert GROUPS[noto.labels[member(noto, name)]] == group


def test_noto_variants_share_family_and_split(noto: EmojiSet) -> None:
    names = noto.names.tolist()
    hands = [index for index, name in enumerate(names) if name.startswith("waving hand")]
    farmers = [index for index, name in enumerate(names) if "farmer" in name]
    assert (len(hands), len(farmers)) == (6, 18)
    for members in (hands, farmers):
        assert len(set(noto.families[members].tolist())) == 1
        assert len(set(noto.held_out[members].tolist())) == 1


def test_noto_split_is_by_family_and_reaches_every_group(noto: EmojiSet) -> None:
    kept = set(noto.families[~noto.held_out].tolist())
    held = set(noto.families[noto.held_out].tolist())
    assert not kept & held
    assert 0.04 < len(held) / (len(held) + len(kept)) < 0.06
    assert set(noto.labels[noto.held_out].tolist()) == set(range(len(GROUPS)))


def test_noto_has_the_same_picture_on_one_side_only(noto: EmojiSet) -> None:
    pictures = [image.tobytes() for image in noto.images]
    kept = {picture for picture, held in zip(pictures, noto.held_out, strict=True) if not held}
    held = {picture for picture, held in zip(pictures, noto.held_out, strict=True) if held}
    assert not kept & held


def test_noto_is_drawn_on_white(noto: EmojiSet) -> None:
    corners = noto.images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all(axis=(1, 2)).mean() > 0.95
    ink = (noto.images < 255).any(axis=3).mean(axis=(1, 2))
    assert ink.min() > 0.01
