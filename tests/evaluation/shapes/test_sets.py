"""Which files are a set, and what is said about files that are none."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.shapes import sets
from ddimx.octree.errors import OctreeError
from tests.evaluation.shapes import blocks, prepared, save

TREES = blocks(4, seed=0)


def leaves(found):
    return [tree.leaves.tolist() for tree in found.trees]


def test_a_folder_gives_all_token_files_below_it_by_name(tmp_path):
    save(tmp_path / "b", TREES[:2])
    save(tmp_path / "a" / "deep", TREES[2:])
    np.save(tmp_path / "c.npy", TREES[0].tokens())
    (tmp_path / "c.txt").write_text("no shape")
    (tmp_path / ".000009.npz.abc.part.npz").write_bytes(b"half written")
    found = sets.read(sets.find(tmp_path))
    expected = [TREES[i].leaves.tolist() for i in (2, 3, 0, 1, 0)]
    assert leaves(found) == expected


def test_of_a_run_only_its_own_files_count(tmp_path):
    save(tmp_path, TREES)
    save(tmp_path / "exported", TREES[:1])
    assert len(sets.find(tmp_path).files) == 5
    (tmp_path / "manifest.json").write_text("{}")
    assert len(sets.find(tmp_path).files) == 4


def test_a_prepared_set_is_read_by_its_list(tmp_path):
    prepared(tmp_path, train=TREES[:3], test=TREES[3:])
    save(tmp_path / "shapes" / "chair", TREES[:1])  # on disk, but in no list
    assert leaves(sets.read(sets.find(tmp_path, "test"))) == [TREES[3].leaves.tolist()]
    assert len(sets.find(tmp_path, "train").files) == 3
    listed = sets.find(tmp_path / "train.jsonl")
    assert (len(listed.files), listed.label) == (3, str(tmp_path / "train.jsonl"))
    with pytest.raises(UsageError, match=r"with train, test: there is no 'val'"):
        sets.find(tmp_path, "val")
    with pytest.raises(UsageError, match=r"name a list, as .*test\.jsonl"):
        sets.find(tmp_path)


def test_training_shapes_are_found_beside_the_reference(tmp_path):
    prepared(tmp_path / "data", train=TREES[:3], test=TREES[3:])
    save(tmp_path / "plain", TREES)
    expected = tmp_path / "data" / "train.jsonl"
    assert sets.training_list(tmp_path / "data", "test") == expected
    assert sets.training_list(tmp_path / "data" / "test.jsonl", "test") == expected
    assert sets.training_list(tmp_path / "data" / "train.jsonl", "test") is None
    assert sets.training_list(tmp_path / "data", "train") is None
    assert sets.training_list(tmp_path / "plain", "test") is None


def test_a_category_is_the_lists_word_or_the_files(tmp_path):
    prepared(tmp_path / "data", test=TREES)
    listed = sets.find(tmp_path / "data", "test")
    chairs = sets.read(listed, categories=["chair"])
    assert leaves(chairs) == [TREES[0].leaves.tolist(), TREES[2].leaves.tolist()]
    both = sets.read(listed, categories=["table", "chair", "lamp"])
    assert len(both.shapes) == 4
    lines = (tmp_path / "data" / "test.jsonl").read_text().replace('"chair"', '"sofa"')
    (tmp_path / "data" / "test.jsonl").write_text(lines)
    assert len(sets.read(sets.find(tmp_path / "data", "test"), categories=["sofa"]).shapes) == 2
    save(tmp_path / "run", TREES[:1], "chair")
    save(tmp_path / "nameless", TREES[:1])
    assert len(sets.read(sets.find(tmp_path / "run"), categories=["chair"]).shapes) == 1
    with pytest.raises(UsageError, match=r"no shape of category lamp; there are: chair$"):
        sets.read(sets.find(tmp_path / "run"), categories=["lamp"])
    with pytest.raises(UsageError, match="lamp; its files name none"):
        sets.read(sets.find(tmp_path / "nameless"), categories=["lamp"])


def spoil(folder):
    """Files that hold no octree, each for a reason of its own."""
    tokens = TREES[0].tokens()
    np.save(folder / "cut.npy", tokens[:-1])
    np.save(folder / "zero.npy", np.where(np.arange(len(tokens)) == 0, 0, tokens))
    np.savez(folder / "images.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    (folder / "text.npz").write_text("not an archive")


def test_what_is_no_octree_is_counted_or_refused(tmp_path):
    save(tmp_path, TREES[:2])
    spoil(tmp_path)
    found = sets.read(sets.find(tmp_path), strict=False)
    assert (len(found.shapes), len(found.invalid)) == (2, 4)
    for name, message in zip(("cut", "images", "text", "zero"), found.invalid, strict=True):
        assert message.startswith(f"{tmp_path / name}.np")
    with pytest.raises(OctreeError, match=r"cut\.npy: .*the level above says"):
        sets.read(sets.find(tmp_path))


def test_not_one_valid_file_is_an_error_with_the_first_reason(tmp_path):
    spoil(tmp_path)
    with pytest.raises(DdimxError, match=r"not one valid octree; the first: .*cut\.npy"):
        sets.read(sets.find(tmp_path), strict=False)


def test_a_place_without_shapes_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    for where, message in (
        (tmp_path, "no token files"),
        (tmp_path / "missing", "no such folder"),
        (tmp_path / "notes.txt", "no such folder"),
    ):
        with pytest.raises(UsageError, match=message):
            sets.find(where)


@pytest.mark.parametrize("line", ["{", "[1]", '"x"', '{"category": "chair"}', "7"])
def test_a_spoilt_list_is_told_by_its_line(tmp_path, line):
    good = json.dumps({"file": "shapes/a.npz", "category": "chair"})
    (tmp_path / "test.jsonl").write_text(f"{good}\n\n{line}\n")
    with pytest.raises(DdimxError, match=r"test\.jsonl, line 3: no JSON object with a 'file'"):
        sets.find(tmp_path, "test")


def test_a_list_may_not_be_empty_nor_name_what_is_missing(tmp_path):
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="lists no shapes"):
        sets.find(tmp_path, "test")
    (tmp_path / "test.jsonl").write_text('{"file": "shapes/gone.npz"}\n')
    with pytest.raises(DdimxError, match=r"no file .*gone\.npz"):
        sets.read(sets.find(tmp_path, "test"))


def zipped(folder):
    """A folder in a zip file beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    return path


def test_a_zip_file_stands_for_what_is_in_it(tmp_path):
    save(tmp_path / "plain", TREES, "chair")
    save(tmp_path / "tree" / "chair" / "train", TREES[:3], "sofa")
    save(tmp_path / "tree" / "chair" / "test", TREES[3:], "sofa")
    for part, trees in (("train", TREES[:2]), ("test", TREES[2:])):
        folder = tmp_path / "pc15k" / "03001627" / part
        folder.mkdir(parents=True)
        for i, tree in enumerate(trees):
            np.save(folder / f"{i}.npy", tree.centers())
    for name, split, depth in (("plain", None, None), ("tree", "test", None), ("pc15k", "test", 3)):
        folder, path = tmp_path / name, zipped(tmp_path / name)
        expected, found = (sets.read(sets.find(p, split), depth=depth) for p in (folder, path))
        assert leaves(found) == leaves(expected)
        assert found.categories == expected.categories
        assert found.label == expected.label.replace(name, f"{name}.zip")
        assert sets.parts_of(path) == sets.parts_of(folder)
    path = tmp_path / "tree.zip"
    assert sets.training_list(path, "test") == path
    assert sets.read(sets.find(path, "train")).files == tuple(
        f"{path}:tree/chair/train/{i:06d}.npz" for i in range(3)
    )


def test_what_a_zip_file_may_not_be(tmp_path):
    prepared(tmp_path / "data", train=TREES[:3], test=TREES[3:])
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "a.obj").write_text("v 0 0 0")
    save(tmp_path / "cut", TREES[:2])
    (tmp_path / "cut" / "b.npz").write_bytes((tmp_path / "cut" / "000000.npz").read_bytes()[:-9])
    for name, message in (("data", "a prepared data set in a zip"), ("meshes", "no token files")):
        with pytest.raises(UsageError, match=message):
            sets.find(zipped(tmp_path / name), "test")
    (tmp_path / "none.zip").write_text("no zip")
    with pytest.raises(DdimxError, match="not a zip file that can be read"):
        sets.find(tmp_path / "none.zip")
    found = sets.read(sets.find(zipped(tmp_path / "cut")), strict=False)
    assert len(found.shapes) == 2
    assert found.invalid[0].startswith(f"{tmp_path / 'cut.zip'}:cut/b.npz: not a readable .npz")


def test_points_need_a_depth(tmp_path):
    """Also where bad files are only counted: no file is bad here."""
    listing = sets.Listed("points", (tmp_path / "a.npy",), {}, of_points=True)
    with pytest.raises(UsageError, match="points: point clouds, and no depth for octrees"):
        sets.read(listing, strict=False)
