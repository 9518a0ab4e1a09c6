"""What the place of a mesh in a folder says: category, identity and part."""

import os

import pytest

from ddimx.data.shapes.contents import LINKED
from ddimx.data.shapes.lists import part_of
from ddimx.data.shapes.reading import job_of
from ddimx.data.shapes.scan import scan_shapes
from ddimx.data.shapes.shapenet import SYNSETS
from ddimx.errors import DdimxError, UsageError

CHAIR = "03001627"


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def told(folder, **options):
    return [(s.category, s.shape_id, s.part) for s in scan_shapes(folder, **options).shapes]


def test_one_folder_is_one_category(tmp_path):
    touch(tmp_path / "chairs", "b.obj", "a.PLY", "notes.txt", "a.mtl", ".hidden.obj", ".git/c.obj")
    assert told(tmp_path / "chairs") == [("chairs", "a", None), ("chairs", "b", None)]
    assert told(tmp_path / "chairs", category="chair")[0] == ("chair", "a", None)


def test_a_folder_for_each_category(tmp_path):
    touch(tmp_path, "chair/a.obj", "table/a.stl", "table/set/old/b.glb")
    assert told(tmp_path) == [
        ("chair", "a", None),
        ("table", "a", None),
        ("table", "set-old-b", None),
    ]
    assert told(tmp_path, category="chair") == [("chair", "a", None)]
    with pytest.raises(UsageError, match="unknown category 'chairs'; did you mean 'chair'"):
        scan_shapes(tmp_path, category="chairs")


def test_the_seeds_tree_keeps_its_parts(tmp_path):
    touch(tmp_path, "chair/train/a.obj", "chair/val/b.obj", "chair/test/c.npz", "chair/Valid/d.obj")
    parts = {shape_id: part for _, shape_id, part in told(tmp_path)}
    assert parts == {"a": "train", "b": "val", "c": "test", "d": "val"}
    assert {category for category, _, _ in told(tmp_path)} == {"chair"}


def test_parts_without_categories(tmp_path):
    touch(tmp_path / "lamps", "train/a.obj", "test/b.obj")
    assert told(tmp_path / "lamps") == [("lamps", "b", "test"), ("lamps", "a", "train")]


def test_shapenets_tree(tmp_path):
    one = f"{CHAIR}/1006be65/models/model_normalized"
    touch(tmp_path, f"{one}.obj", f"{one}.solid.binvox", f"{CHAIR}/1006be65/models/other.obj")
    touch(tmp_path, f"{CHAIR}/abc/model.obj", "02691156/10155655/models/model_normalized.obj")
    touch(tmp_path, "99999999/x/models/model_normalized.obj")
    expected = [("airplane", "10155655", None), ("chair", "1006be65", None)]
    expected += [("chair", "abc", None), ("99999999", "x", None)]
    assert told(tmp_path) == expected
    assert told(tmp_path / CHAIR) == expected[1:3]  # one category by itself
    assert told(tmp_path, category="chair") == expected[1:3]


def test_shapenets_own_list_of_parts(tmp_path):
    touch(tmp_path, *(f"{CHAIR}/{i}/models/model_normalized.obj" for i in "abc"))
    head = "id,synsetId,subSynsetId,modelId,split\n"
    rows = f"1,{CHAIR},1,a,test\n2,3001627,1,b,val\n3,02691156,1,c,train\n"
    (tmp_path / "all.csv").write_text(head + rows)
    assert told(tmp_path) == [("chair", "a", "test"), ("chair", "b", "val"), ("chair", "c", None)]
    (tmp_path / "all.csv").write_text("id,split\n1,test\n")
    with pytest.raises(DdimxError, match=r"all\.csv: not ShapeNet's list of splits"):
        scan_shapes(tmp_path)


def test_all_55_categories_of_shapenet():
    assert len(SYNSETS) == len(set(SYNSETS.values())) == 55
    assert SYNSETS["04256520"] == "sofa"
    assert SYNSETS["03636649"] == "lamp"


def test_a_folder_within_is_skipped(tmp_path):
    touch(tmp_path, "a.obj", "out/shapes/x/a.npz")
    assert len(told(tmp_path, skip=tmp_path / "out")) == 1


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(UsageError, match=r"no meshes or point clouds \(.obj .ply .*\) in"):
        scan_shapes(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        scan_shapes(tmp_path / "nowhere")


def test_a_part_depends_on_the_name_alone():
    shares = (0.8, 0.1, 0.1)
    parts = [part_of("chair", f"id{i}", shares) for i in range(5000)]
    for part, share in zip(("train", "val", "test"), shares, strict=True):
        error = (share * (1 - share) / 5000) ** 0.5
        assert abs(parts.count(part) / 5000 - share) < 4 * error
    assert parts[:10] == [part_of("chair", f"id{i}", shares) for i in range(10)]
    assert {part_of("c", str(i), (1, 0, 0)) for i in range(200)} == {"train"}
    assert {part_of("c", str(i), (0, 0, 1)) for i in range(200)} == {"test"}


def test_known_parts_stay():
    """A change here moves shapes between the parts of sets that people have made.

    ``printf chair/g | sha256sum`` begins with dea6: from c on it is a test shape, from 8 val.
    """
    parts = {name: part_of("chair", name, (0.5, 0.25, 0.25)) for name in "abglmn"}
    assert parts == {"a": "train", "b": "train", "g": "test", "l": "test", "m": "train", "n": "val"}


def test_another_source_has_another_stamp(tmp_path):
    touch(tmp_path, "a.obj")
    before = job_of(scan_shapes(tmp_path).shapes[0]).stamp
    (tmp_path / "a.obj").write_bytes(b"xy")
    assert job_of(scan_shapes(tmp_path).shapes[0]).stamp != before


def test_links_in_a_circle_have_an_end(tmp_path):
    folder = tmp_path / "src" / "chair"
    folder.mkdir(parents=True)
    (folder / "a.npz").write_bytes(b"")
    (folder / "up").symlink_to(tmp_path / "src")
    (tmp_path / "src" / "same").symlink_to(folder)
    found = scan_shapes(tmp_path / "src").shapes
    # The folder itself, and by the link beside it; nothing by the links upwards.
    assert [shape.path.relative_to(tmp_path / "src").parts for shape in found] == [
        ("chair", "a.npz"),
        ("same", "a.npz"),
    ]


def test_links_that_fork_on_and_on_have_an_end(tmp_path):
    """Each folder leads to the next by three links: 3^12 ways to the last."""
    for i in range(12):
        (tmp_path / f"d{i}").mkdir()
        for way in "xyz":
            (tmp_path / f"d{i}" / way).symlink_to(tmp_path / f"d{i + 1}")
    (tmp_path / "d12").mkdir()
    (tmp_path / "d12" / "a.npz").write_bytes(b"")
    assert 1 <= len(scan_shapes(tmp_path).shapes) <= LINKED


def test_a_name_that_is_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.npz"
    try:
        with open(path, "wb"):
            pass
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(UsageError, match="its name is not in UTF-8"):
        scan_shapes(tmp_path)


@pytest.mark.parametrize(
    "text", [b"\xff\xfe", b"synsetId,modelId,split\n1,b,sometimes\n", b"\0,\n1"]
)
def test_a_list_of_parts_that_is_none(tmp_path, text):
    (tmp_path / "a.npz").write_bytes(b"")
    (tmp_path / "all.csv").write_bytes(text)
    if text.startswith(b"\0"):
        text += b"\n"
    with pytest.raises(DdimxError, match=r"all\.csv: not ShapeNet's list"):
        scan_shapes(tmp_path)
