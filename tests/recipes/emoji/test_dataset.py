"""The emoji training set: the split, what comes out of a bitmap font, and the file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddimx.errors import DdimxError
from ddimx.recipes.emoji import dataset as emoji
from ddimx.recipes.emoji.dataset import (
    CLASSES,
    GROUPS,
    EmojiSet,
    contact_sheet,
    extract,
    find_emoji_test,
    find_font,
    groups_of,
    save,
)
from tests.recipes.emoji.test_font import add_bitmaps, plain_font, png, save_tiny_font
from tests.recipes.emoji.test_names import EMOJI_TEST


@pytest.fixture
def emoji_test(tmp_path: Path) -> Path:
    path = tmp_path / "emoji-test.txt"
    path.write_text(EMOJI_TEST, encoding="utf-8")
    return path


@pytest.fixture
def tiny_font(tmp_path: Path) -> Path:
    pytest.importorskip("fontTools")
    return save_tiny_font(tmp_path)


# --- the split ----------------------------------------------------------------------------------


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


# --- the set of a small font ------------------------------------------------------------------


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
        assert tuple(read["groups"]) == CLASSES
        assert json.loads(str(read["source"])) == data.source


def test_the_contact_sheet_has_a_row_for_each_group_with_emoji(
    tiny_font: Path, emoji_test: Path
) -> None:
    sheet = np.asarray(contact_sheet(extract(tiny_font, emoji_test, size=8), per_group=2, scale=3))
    ink = (sheet[:, 72:] == 9).all(axis=2)
    assert sheet.shape == (6 + 3 * (24 + 6), 72 + 2 * (24 + 6), 3)
    assert [ink[top : top + 24, :24].any() for top in (6, 36, 66)] == [True] * 3
    assert [ink[top : top + 24, 30:].any() for top in (6, 36, 66)] == [True, False, False]


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
    assert np.bincount(groups_of(noto.labels), minlength=9).min() > 50


@pytest.mark.parametrize(
    ("name", "of_class"),
    [
        ("grinning face", "smileys/smiling"),
        ("waving hand", "people/hand-open"),
        ("panda", "animals/mammal"),
        ("pizza", "food/prepared"),
        ("rocket", "travel/air"),
        ("soccer ball", "activities/sport"),
        ("laptop", "objects/computer"),
        ("keycap: 7", "symbols/keycap"),
        ("flag: Japan", "flags/country"),
        ("flag: Scotland", "flags/subdivision"),
        ("woman farmer: medium skin tone", "people/role"),
    ],
)
def test_noto_classes(noto: EmojiSet, name: str, of_class: str) -> None:
    assert CLASSES[noto.labels[member(noto, name)]] == of_class


def test_noto_has_two_families_or_more_of_every_class(noto: EmojiSet) -> None:
    _, first = np.unique(noto.families[~noto.held_out], return_index=True)
    trained = noto.labels[~noto.held_out][first]
    assert np.bincount(trained, minlength=len(CLASSES)).min() >= 2


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
    assert set(groups_of(noto.labels[noto.held_out]).tolist()) == set(range(len(GROUPS)))


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
