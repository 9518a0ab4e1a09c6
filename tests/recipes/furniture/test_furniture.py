"""Libraries of furniture: catalogues, categories, variants, credits; and the real ones if there."""

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.octree.fit import mesh_tree
from ddimx.recipes.furniture import sweethome
from ddimx.recipes.furniture.attribution import attribution
from ddimx.recipes.furniture.categories import (
    BY_SIGHT,
    CATEGORIES,
    LEFT_OUT,
    category_of,
    families,
    split_families,
)
from ddimx.recipes.furniture.licenses import CC0, CC_BY, CC_BY_US, Credit, credit_of, licence_name
from ddimx.recipes.furniture.sweethome import (
    CATALOGUE,
    INSTALLED,
    Item,
    find_libraries,
    parse_catalogue,
    read_item,
    read_library,
)
from tests.data.shapes.meshes import BOX, FACES, library, obj

TEXT_PAGE = (
    '----\nThank you for downloading "Oak Table" by Doug C\nReleased under\n'
    "Creative Commons Attribution 3.0\nDownloaded from http://www.blendswap.com/blends/view/66530\n"
)
HTML_PAGE = (
    "<html><style>a {color: red}</style><title>89509 - Sofa &amp; chair - Downloaded from Blend "
    "Swap</title><h1>Blend #89509: Sofa &amp; chair Author: x</h1>Released under "
    "<b>Creative Commons Attribution 3.0</b> http://www.blendswap.com/blends/view/89509</html>"
)
OLD_PAGE = (
    "<title>Tulip by Nmn9 - 74181</title> Creative Commons Zero <p>Name: Tulip Author: Nmn9 . "
    "https://www.blendswap.com/blends/view/74181</p>"
)


def item(key="Test#chair", name="Chair", **others):
    values = {
        "library": Path("test.sh3f"),
        "tags": (),
        "room": "Living room",
        "model": "m.obj",
        "size": (50.0, 50.0, 90.0),
        "rotation": None,
        "credit": Credit("Ada", CC_BY),
        "checksum": "0",
    }
    return Item(key=key, name=name, **(values | others))


def test_the_catalogues_format():
    text = (
        "# a comment\n! another\nid=Lib#1\nlicense = Public domain\nname#10=B\n"
        "name#2 = A \\u20ac 5\\:1\ntags#2=one,\\\n   two\nnonsense\nicon#x=no\n"
    )
    about, entries = parse_catalogue(text)
    assert about == {"id": "Lib#1", "license": "Public domain"}
    assert entries == [(2, {"name": "A € 5:1", "tags": "one,two"}), (10, {"name": "B"})]


def test_an_item_as_the_catalogue_says(tmp_path):
    path = library(
        tmp_path / "l.sh3f",
        [
            {
                "id": "Test#big_Chair 1",
                "name": "Fauteuil né",
                "tags": "Seat, ,Old",
                "page": TEXT_PAGE,
            }
        ],
        licence="Public domain",
    )
    read = read_library(path)
    (found,) = read.items
    assert (read.key, read.name, read.licence) == ("Test#Library", "Test library", CC0)
    assert (found.shape_id, found.name) == ("test-big-chair-1", "Fauteuil né")
    assert (found.tags, found.size) == (("Seat", "Old"), (40, 20, 10))
    url = "https://www.blendswap.com/blends/view/66530"
    assert found.credit == Credit("Ada", CC_BY, "Oak Table", url)  # the page demands more


def test_a_model_is_turned_and_of_the_catalogues_size(tmp_path):
    """modelRotation, row by row, turns y to z: the box of 4 x 1 x 2 then is 4 x 2 x 1."""
    turned = {"id": "Test#a", "name": "a", "modelRotation": "1 0 0 0 0 1 0 -1 0"}
    plain = {"id": "Test#b", "name": "b", "width": "8", "height": "2", "depth": "4"}
    one, two = read_library(library(tmp_path / "l.sh3f", [turned, plain])).items
    assert np.ptp(read_item(one).vertices, axis=0) == pytest.approx([40, 10, 20])
    assert np.ptp(read_item(two).vertices, axis=0) == pytest.approx([8, 2, 4])
    (first, *_), corner = read_item(one).vertices, BOX[FACES[0, 0]]
    assert first == pytest.approx(np.array([corner[0] * 10, corner[2] * 5, -corner[1] * 20]))


def test_a_flat_model_stays_flat(tmp_path):
    flat = obj(vertices=BOX * [1, 0, 1])
    (found,) = read_library(
        library(tmp_path / "l.sh3f", [{"id": "T#a", "name": "a", "obj": flat}])
    ).items
    assert np.ptp(read_item(found).vertices, axis=0) == pytest.approx([40, 0, 20])


def test_libraries_that_are_none(tmp_path, monkeypatch):
    (tmp_path / "a.sh3f").write_bytes(b"no zip")
    with pytest.raises(DdimxError, match=r"a\.sh3f: not a Sweet Home 3D furniture library"):
        read_library(tmp_path / "a.sh3f")
    with pytest.raises(UsageError, match=r"no library .*b\.sh3f"):
        find_libraries([tmp_path / "b.sh3f"])
    monkeypatch.setattr(sweethome, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="install the Debian package sweethome3d-furniture"):
        find_libraries([])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": ""}, "item 1 has no name or no model"),
        ({"width": "wide"}, "item 1: not numbers: wide 20 10"),
        ({"modelRotation": "1 0 0"}, "modelRotation of item 1 has 3 numbers"),
    ],
)
def test_catalogues_with_faults(tmp_path, entry, words):
    path = library(tmp_path / "l.sh3f", [{"id": "T#a", "name": "a"} | entry])
    with pytest.raises(DdimxError, match=words):
        read_library(path)


@pytest.mark.parametrize(
    ("page", "credit"),
    [
        (None, Credit("Ada", CC0)),
        (TEXT_PAGE, Credit("Ada", CC_BY, "Oak Table", "66530")),
        (HTML_PAGE, Credit("Ada", CC_BY, "Sofa & chair", "89509")),
        (OLD_PAGE, Credit("Ada", CC0, "Tulip", "74181")),
        ("nothing of use", Credit("Ada", CC0)),
    ],
)
def test_what_a_licence_page_says(page, credit):
    found = credit_of("Ada", CC0, page)
    assert (found.licence, found.title) == (credit.licence, credit.title)
    assert found.url.rpartition("/")[2] == credit.url


def test_licences_by_their_words():
    assert licence_name("Public domain") == CC0
    assert licence_name("Creative Commons Attribution 3.0 Unported license  © Scopia") == CC_BY
    american = "Creative Commons Attribution 3.0 United States license  Copyright © 2003"
    assert licence_name(american) == CC_BY_US
    assert licence_name("All rights  reserved") == "All rights reserved"
    assert licence_name("") == "no licence stated"
    assert credit_of("Ada", "All rights reserved", OLD_PAGE).licence == "All rights reserved"


@pytest.mark.parametrize(
    ("name", "category"),
    [
        *(("Armchair", "chair"), ("Bar stool", "chair"), ("Wheelchair", None), ("Puff", None)),
        *(("Coffee table", "table"), ("Bedside table", "cabinet"), ("Table fan", None)),
        *(("Bed", "bed"), ("Day bed", "bed"), ("Bedroom door", None), ("Futon couch", "sofa")),
        *(("Island bath", "bath"), ("Island", "cabinet"), ("Knife stand", None)),
        *(("Sink cabinet", "cabinet"), ("Deck chair", "bench"), ("Piano bench", "bench")),
        *(("French window", None), ("Female", "person"), ("Wine bottle", "vessel")),
        *(("Rug", None), ("Cactus", "plant"), ("Concept Sedan 01", "vehicle")),
    ],
)
def test_categories_by_name(name, category):
    assert category_of(item(name=name)) == category


def test_categories_by_room_tag_and_override():
    assert category_of(item(name="Flos Arco", room="Lights")) == "lamp"
    assert category_of(item(name="Candle", room="Lights")) is None
    assert category_of(item(name="Mixer", tags=("Appliance",))) == "appliance"
    assert category_of(item(name="Box", key="Scopia#office_box")) == "cabinet"
    assert category_of(item(name="Table", size=(100.0, 100.0, 2.0))) is None  # flat


def test_variants_are_one_family():
    box = mesh_tree(BOX, FACES, 5)
    tall = mesh_tree(BOX * [1, 4, 1], FACES, 5)
    wide = mesh_tree(BOX * [1, 1, 2], FACES, 5)
    work = Credit("Ada", CC_BY, "Set", "https://example.org/1")
    items = [
        item("L#sedan-01v1"),
        item("L#sedan-02-sport"),  # the name's stem
        item("M#sedan-01v1"),  # another library
        item("L#one", credit=work),
        item("L#two", credit=work),  # the same published work
        item("L#solo"),
        item("L#twin"),  # the same cells as the one before
        item("L#far"),
    ]
    trees = [box, tall, wide, box, tall, wide, wide, tall]
    kinds = ["a", "a", "a", "b", "b", "c", "c", "d"]
    found = families(items, kinds, trees)
    assert found[0] == found[1] == found[2] - 2 == 0
    assert found == [0, 0, 2, 3, 3, 5, 5, 7]
    # In one category the same cells are enough.
    assert len(set(families(items[5:], ["c"] * 3, trees[5:]))) == 2


def test_families_go_to_one_part_and_shares_are_met():
    names = [f"n{i}" for i in range(60)]
    groups = [*[0] * 20, *range(1, 41)]
    parts = split_families(names, groups, 0.1)
    assert Counter(parts) == {"train": 48, "val": 6, "test": 6}
    assert set(parts[:20]) == {"train"}  # too large a family for a held-out part
    order = np.random.default_rng(0).permutation(60)
    shuffled = split_families([names[i] for i in order], [groups[i] for i in order], 0.1)
    assert [parts[i] for i in order] == shuffled
    pairs = split_families(names, [i // 2 for i in range(60)], 0.1)
    assert all(pairs[i] == pairs[i + 1] for i in range(0, 60, 2))


def test_small_categories_hold_out_one_if_they_can():
    assert Counter(split_families(list("abc"), [0, 1, 2], 0.05)) == {
        "train": 1,
        "val": 1,
        "test": 1,
    }
    assert split_families(["a", "b"], [0, 1], 0.05) == ["train", "train"]


def test_the_attribution_list(tmp_path):
    entries = [
        {"id": "Blend#oak_table", "name": "Table", "creator": "Doug C", "page": TEXT_PAGE},
        {"id": "Blend#oak_chair", "name": "Chair", "creator": "Doug C", "page": TEXT_PAGE},
        {"id": "Blend#lamp", "name": "Lamp", "creator": "Ada"},
        {"id": "Blend#unused", "name": "Rug", "creator": "Nobody"},
    ]
    key = "SweetHome3D#BlendSwap-CC-0-Models"
    read = read_library(library(tmp_path / "l.sh3f", entries, key=key, licence="Public domain"))
    text = attribution([read], read.items[:3])
    assert text == attribution([read], reversed(read.items[:3]))
    head, _, body = text.partition("## Test library\n")
    assert "3 models" in head
    assert "Every model was changed" in head
    assert body.strip().splitlines() == [
        "Models by various authors from https://www.blendswap.com, cleaned and converted to OBJ by "
        "Emmanuel Puybaret / eTeks <info@eteks.com>.",
        "Licence: [CC0 1.0](https://creativecommons.org/publicdomain/zero/1.0/).",
        "",
        "- Ada: lamp",
        "- Doug C: oak\\_chair, oak\\_table (from "
        "[Oak Table](https://www.blendswap.com/blends/view/66530), licence "
        "[CC BY 3.0](https://creativecommons.org/licenses/by/3.0/))",
    ]


@pytest.mark.skipif(not INSTALLED.is_dir(), reason=f"no {INSTALLED} (sweethome3d-furniture)")
def test_the_real_libraries():
    libraries = {part.path.stem: part for part in map(read_library, find_libraries([]))}
    counts = {name: len(part.items) for name, part in libraries.items()}
    assert counts == {
        "BlendSwap-CC-0": 175,
        "BlendSwap-CC-BY": 135,
        "KatorLegaz": 90,
        "Reallusion": 25,
        "Scopia": 395,
    }
    items = [found for part in libraries.values() for found in part.items]
    assert len({found.shape_id for found in items}) == 820
    assert sum(found.rotation is not None for found in items) == 33
    by_name = Counter(category_of(found, 2) for found in items)
    assert by_name["chair"] == 59
    assert all(by_name[name] >= 13 for name in CATEGORIES)
    by_sight = Counter(map(category_of, items))
    assert (by_sight["chair"], by_sight["vessel"], by_sight["bench"]) == (66, 49, 7)
    left_out = [name for names in LEFT_OUT.values() for name in names]
    assert {*BY_SIGHT, *left_out} <= {found.shape_id for found in items}
    # The CC0 library's two models that are not CC0.
    demanding = [i.key for i in libraries["BlendSwap-CC-0"].items if i.credit.licence != CC0]
    assert demanding == ["Blend Swap CC-0#winchesterArmchair", "Blend Swap CC-0#winchesterSofa"]
    # A turned chair stands: its catalogue says 42 x 47 x 88 cm, and the back is behind the seat.
    chair = next(i for i in items if i.key == "Scopia#chair")
    assert chair.rotation is not None
    vertices = read_item(chair).vertices
    assert np.ptp(vertices, axis=0) == pytest.approx([chair.size[0], chair.size[2], chair.size[1]])
    height = (vertices[:, 1] - vertices[:, 1].min()) / np.ptp(vertices[:, 1])
    assert vertices[height > 0.8, 2].mean() < vertices[(height > 0.4) & (height < 0.6), 2].mean()


# --- libraries that ask for too much --------------------------------------------------------------


def with_member(path, name, megabytes):
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w") as out,
    ):
        for _ in range(megabytes):
            out.write(bytes(1 << 20))


CHAIR = {"id": "Test#chair", "name": "Chair"}


def test_a_bomb_that_nobody_needs_is_not_unpacked(tmp_path):
    path = library(tmp_path / "a.sh3f", [CHAIR])
    for name in ("LICENSE.TXT", "other/LICENSE.TXT", "models/chair/chair.png"):
        with_member(path, name, 300)
    (item,) = read_library(path).items
    assert np.ptp(read_item(item).vertices, axis=0) == pytest.approx([40, 10, 20])


def test_bombs_that_are_needed_are_refused(tmp_path):
    path = library(tmp_path / "a.sh3f", [CHAIR])
    with_member(path, "models/chair/LICENSE.TXT", 1)
    with pytest.raises(DdimxError, match=r"models/chair/LICENSE\.TXT is longer than 64K"):
        read_library(path)
    path = library(tmp_path / "b.sh3f", [CHAIR | {"model": "x"}])
    with zipfile.ZipFile(path) as archive:
        catalogue = archive.read(CATALOGUE)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(CATALOGUE, catalogue)
    with_member(path, "models/chair/chair.obj", 100)
    (item,) = read_library(path).items
    with pytest.raises(DdimxError, match=r"cannot read models/chair/chair\.obj .*unpacks to 100M"):
        read_item(item)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", "9" * 5000),
        ("depth", "inf"),
        ("height", "nan"),
        ("width", "1e300"),
        ("modelRotation", "1 0 0 0 1 0 0 0 inf"),
    ],
)
def test_numbers_that_are_none(tmp_path, key, value):
    with pytest.raises(DdimxError, match="item 1: not numbers: ") as caught:
        read_library(library(tmp_path / "a.sh3f", [CHAIR | {key: value}]))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("number", ["9" * 5000, "\u00b2", "-1"])
def test_an_item_of_no_number_is_passed_over(number):
    assert parse_catalogue(f"name#{number}=Chair\nname#2=Table") == ({}, [(2, {"name": "Table"})])
