"""Prepared octrees as a data set: which shapes, which labels, and what is refused."""

import json

import numpy as np
import pytest

from ddimx.config_file import override
from ddimx.data.examples import open_batches, open_examples
from ddimx.data.shapes.batches import ShapeBatches
from ddimx.data.shapes.octrees import ShapeSource, open_shapes
from ddimx.errors import DdimxError, UsageError
from ddimx.noise import Noise
from ddimx.octree.geometry import mirrored
from tests.models.octree.small import octree_config

from .prepared import chair, table, write_set, write_split, write_variants


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


def identities(source):
    return [shape.shape_id for shape in source.shapes(np.arange(len(source)))]


def test_a_split_in_the_order_of_its_list(root):
    source = ShapeSource(root, "train")
    assert identities(source) == ["c3", "c4", "c5", "t6", "t7"]
    assert source.classes == ("chair", "table")
    assert source.labels.tolist() == [0, 0, 0, 1, 1]
    assert [t.counts for t in source.trees[:1]] == [chair(3).counts]
    assert identities(ShapeSource(root, "val")) == ["c6", "t5"]


def test_one_category_or_classes_in_the_models_order(root):
    source = ShapeSource(root, "train", category="table")
    assert (identities(source), source.labels.tolist()) == (["t6", "t7"], [0, 0])
    source = ShapeSource(root, "train", classes=("table", "chair"))
    assert source.labels.tolist() == [1, 1, 1, 0, 0]
    source = ShapeSource(root, "train", classes=("table",))
    assert identities(source) == ["t6", "t7"]


def test_the_fingerprint_is_that_of_the_shapes(root, tmp_path):
    source = ShapeSource(root, "train")
    assert ShapeSource(write_set(tmp_path), "train").fingerprint == source.fingerprint
    assert ShapeSource(root, "train", category="chair").fingerprint != source.fingerprint
    assert len(source.fingerprint) == 64


def test_the_configuration_names_root_split_category_and_depth(root):
    config = octree_config(root, data={"max_depth": 3})
    assert config.data.octrees
    assert identities(open_examples(config)) == ["c3", "c4", "c5", "t6", "t7"]
    assert identities(open_examples(config, held_out=True)) == ["c6", "t5"]
    batches = open_batches(open_examples(config), config.data, Noise(0), 2)
    assert isinstance(batches, ShapeBatches)
    seed = override(
        config, ["data.dataset=SHAPENET_OCTREE", "data.category=chair", "model.classes=[]"]
    )
    assert seed.data.octrees
    assert identities(open_examples(seed)) == ["c3", "c4", "c5"]


def test_a_class_that_the_held_out_part_lacks_is_no_error(root, tmp_path):
    """Small sets split by identity have such: there is less to measure on, no less to learn."""
    write_split(tmp_path, "train", [("chair", "c3", chair(3)), ("table", "t6", table(6))])
    write_split(tmp_path, "val", [("table", "t5", table(5))])
    config = octree_config(tmp_path)
    source = open_shapes(config, held_out=True)
    assert source.labels.tolist() == [1]
    one = override(config, ["data.category=chair", "model.classes=[]"])
    assert len(open_shapes(one, held_out=True)) == 0
    assert len(open_shapes(one)) == 1


@pytest.mark.parametrize(
    ("items", "kind", "said"),
    [
        (["data.root=null"], UsageError, r"data\.root must name a folder that 'ddimx prepare"),
        (["data.root=nowhere"], UsageError, r"no list of shapes nowhere/train\.jsonl; make it"),
        (["data.train_split=dev"], UsageError, r"dev\.jsonl; splits there: test, train, val"),
        (["data.category=chiar", "model.classes=[]"], UsageError, "'chiar'; did you mean 'chair'"),
        (["model.classes=[chair, stool]"], UsageError, "no shape of class 'stool' in split"),
        (["data.max_depth=5"], DdimxError, r"shape c3 is of depth 4, data\.max_depth is 5"),
    ],
)
def test_what_cannot_be_opened_is_refused(root, items, kind, said):
    with pytest.raises(kind, match=said):
        open_shapes(override(octree_config(root), items))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"train\.jsonl, line 2: no JSON object with a 'file'"),
        ("[1]", r"train\.jsonl, line 2: no JSON object with a 'file'"),
        ('{"category": "chair"}', r"train\.jsonl, line 2: no JSON object with a 'file'"),
        ('{"file": "x.npz"}', r"train\.jsonl: x\.npz has no category"),
        ("null", r"train\.jsonl, line 2: no JSON object with a 'file'"),
        ('{"file": "x.npz", "variants": 0}', r"line 2: .*its variants are not a number from 1 on"),
        ('{"file": "x.npz", "variants": true}', r"line 2: .*its variants are not a number"),
    ],
)
def test_a_broken_list_names_file_and_line(tmp_path, line, said):
    write_split(tmp_path, "train", [("chair", "c3", chair(3))])
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DdimxError, match=said):
        ShapeSource(tmp_path, "train")


def test_variants_of_a_shape_are_one_family(tmp_path):
    source = ShapeSource(write_variants(tmp_path), "train")
    assert identities(source) == ["c3", "c3", "c3", "t6"]
    assert source.labels.tolist() == [0, 0, 0, 1]
    assert source.families.tolist() == [0, 0, 0, 1]
    # The shape itself comes first, and of the four in its file the list takes three.
    expected = [chair(3), mirrored(chair(3), 0), chair(4), table(6)]
    assert [t.leaves.tolist() for t in source.trees] == [t.leaves.tolist() for t in expected]
    tables = ShapeSource(tmp_path, "train", category="table")
    assert (len(tables), tables.families) == (1, None)
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text().replace('"variants": 3', '"variants": 2'))
    fewer = ShapeSource(tmp_path, "train")
    assert (len(fewer), fewer.fingerprint == source.fingerprint) == (3, False)
    path.write_text(path.read_text().replace('"variants": 2', '"variants": 5'))
    with pytest.raises(DdimxError, match=r"c3\.npz: 4 variants, 5 in the list"):
        ShapeSource(tmp_path, "train")


def test_a_set_without_variants_has_no_families(root):
    assert ShapeSource(root, "train").families is None


def test_a_broken_or_absent_token_file_is_named(tmp_path):
    write_split(tmp_path, "train", [("chair", "c3", chair(3))])
    file = tmp_path / "shapes" / "chair" / "c3.npz"
    np.savez(file, tokens=np.array([1, 2, 3], np.uint8))
    with pytest.raises(DdimxError, match=r"c3\.npz"):
        ShapeSource(tmp_path, "train")
    file.unlink()
    with pytest.raises(DdimxError, match=r"no file .*c3\.npz"):
        ShapeSource(tmp_path, "train")


def test_an_empty_list_is_an_empty_source(tmp_path):
    (tmp_path / "train.jsonl").write_text("")
    assert len(ShapeSource(tmp_path, "train")) == 0
    assert json.dumps(ShapeSource(tmp_path, "train").classes) == "[]"
