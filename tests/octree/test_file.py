"""Token files: what is written, what is read of what others wrote, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddimx.errors import DdimxError
from ddimx.octree.errors import OctreeError
from ddimx.octree.file import Shape, read_shape, write_shape
from ddimx.octree.tree import from_leaves

from .shapes import trees

TOKENS = np.array([0b10000001, 0b00000011, 0b10000000, 1, 1, 1])  # depth 2, three leaves
LEAVES = [0, 1, 63]


def saved(tmp_path, **fields):
    path = tmp_path / "shape.npz"
    np.savez(path, **fields)
    return path


@given(tree=trees())
def test_what_is_written_is_read(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "ä.npz"
    write_shape(path, Shape(tree, "chair", "Ü 7"))
    shape = read_shape(path, depth=tree.depth)
    assert (shape.category, shape.shape_id, shape.tree.depth) == ("chair", "Ü 7", tree.depth)
    np.testing.assert_array_equal(shape.tree.leaves, tree.leaves)
    assert (shape.tree.lower, shape.tree.edge) == ((-0.5, -0.5, -0.5), 1.0)


def test_the_fields_of_a_written_file(tmp_path):
    path = tmp_path / "a" / "b.npz"
    write_shape(path, Shape(from_leaves(np.array(LEAVES), 2, (1.0, -2.0, 0.25), 0.5), "lamp", "x"))
    with np.load(path) as fields:
        assert {name: fields[name].dtype.kind for name in fields.files} == {
            "tokens": "u",
            "mask": "b",
            "category": "U",
            "shape_id": "U",
            "max_depth": "i",
            "bounds_min": "f",
            "bounds_max": "f",
        }
        assert fields["tokens"].tolist() == TOKENS.tolist()
        assert fields["mask"].all()
        assert fields["bounds_max"].tolist() == [1.5, -1.5, 0.75]
    assert [part.name for part in path.parent.iterdir()] == ["b.npz"]
    shape = read_shape(path)
    assert (shape.tree.lower, shape.tree.edge) == ((1.0, -2.0, 0.25), 0.5)


PADDED = np.concatenate([TOKENS, np.zeros(5, dtype=TOKENS.dtype)])


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", ">i4", "u4", "i8", "u8"])
@pytest.mark.parametrize("padded", [False, True])
def test_any_integer_type_is_read(tmp_path, dtype, padded):
    tokens = (PADDED if padded else TOKENS).astype(dtype)
    np.save(tmp_path / "bare.npy", tokens)
    files = [tmp_path / "bare.npy", saved(tmp_path, tokens=tokens, mask=tokens > 0)]
    for path in files:
        assert read_shape(path).tree.leaves.tolist() == LEAVES


@pytest.mark.parametrize(
    "fields",
    [
        {"mask": (PADDED > 0).astype(np.int64)},
        {"mask": (PADDED > 0).astype(np.float32)},
        {},  # the zeros at the end are padding
        {"other": np.array([1.5])},
        {"tokens": PADDED[None], "mask": (PADDED > 0)[None]},
        {"tokens": PADDED[None], "mask": PADDED > 0},
        {"max_depth": np.array([2], dtype=np.uint8)},
        {"bounds_min": np.zeros(3, np.float32), "bounds_max": np.full(3, 2)},
    ],
)
def test_forms_that_are_read(tmp_path, fields):
    path = saved(tmp_path, **{"tokens": PADDED} | fields)
    assert read_shape(path).tree.leaves.tolist() == LEAVES


def test_names_of_other_types(tmp_path):
    path = saved(tmp_path, tokens=TOKENS, category=np.array(["chair"]), shape_id=b"a\xc3\xbc")
    assert (read_shape(path).category, read_shape(path).shape_id) == ("chair", "aü")
    path = saved(tmp_path, tokens=TOKENS, category=3001627)
    assert (read_shape(path).category, read_shape(path).shape_id) == ("3001627", "")


REFUSED = {
    "floats": ({"tokens": TOKENS.astype(float)}, "tokens are float64"),
    "flags": ({"tokens": TOKENS > 0}, "tokens are bool"),
    "a batch": ({"tokens": np.stack([TOKENS, TOKENS])}, "holds 2 shapes"),
    "points": ({"tokens": np.zeros((5, 3))}, "5 points and no octree; 'ddimx prepare octrees'"),
    "no rows": ({"tokens": TOKENS[None][:0]}, "tokens has shape (0, 6)"),
    "a scalar": ({"tokens": np.array(1)}, "tokens has shape ()"),
    "nothing": ({"tokens": TOKENS[:0]}, "there are no tokens"),
    "zeros alone": ({"tokens": np.zeros(9, int)}, "there are no tokens"),
    "a zero inside": ({"tokens": np.array([3, 1, 0, 1, 1])}, "(level 1, token 2)"),
    "token 256": ({"tokens": np.array([3, 1, 256, 1, 1])}, "token 256 is outside 1..255 (level 1"),
    "truncated": ({"tokens": TOKENS[:-1]}, "(level 2, token 5)"),
    "mask length": ({"mask": np.ones(5)}, "mask has shape (5,), tokens (6,)"),
    "mask values": ({"mask": np.array([1, 1, 1, 1, 1, 2])}, "besides 0 and 1"),
    "mask NaN": ({"mask": np.array([1, 1, 1, 1, 1, np.nan])}, "besides 0 and 1"),
    "mask hole": (
        {"mask": np.array([1, 0, 1, 1, 1, 1])},
        "hole: padding belongs at the end (token",
    ),
    "mask at the end": ({"mask": np.array([0, 1, 1, 1, 1, 1])}, "the mask has a hole"),
    "empty mask": ({"mask": np.zeros(6)}, "the mask is empty"),
    "mask too short": ({"mask": np.array([1, 1, 1, 1, 0, 0])}, "3 cells, 1 tokens are left"),
    "another depth": ({"max_depth": 3}, "the stream is of depth 2, not 3"),
    "depth 0": ({"max_depth": 0}, "max_depth 0 is not within 1..20"),
    "a huge depth": ({"max_depth": 2**40}, "max_depth 1099511627776 is not within 1..20"),
    "depth of a float": ({"max_depth": 2.0}, "max_depth is float64"),
    "two depths": ({"max_depth": np.array([2, 2])}, "expected one integer"),
    "infinite bounds": ({"bounds_max": np.array([1, np.inf, 1])}, "bounds_max is not three finite"),
    "flat bounds": ({"bounds_max": np.zeros(3)}, "bounds_max does not lie above"),
    "a box": ({"bounds_max": np.array([1.0, 1.0, 1.1])}, "a box, not of a cube"),
    "half the bounds": ({"bounds_min": np.zeros(3)}, "one of bounds_min and bounds_max is missing"),
    "two names": ({"category": np.array(["a", "b"])}, "category is <U1 (2,)"),
    "a fraction": ({"shape_id": 0.5}, "shape_id is float64 ()"),
    "half the variants": ({"variants": TOKENS}, "one of variants and variant_lengths is missing"),
    "variants of floats": (
        {"variants": TOKENS * 1.0, "variant_lengths": np.array([6])},
        "variants are float64 (6,)",
    ),
    "too few variants": (
        {"variants": TOKENS, "variant_lengths": np.array([6, 6])},
        "variant_lengths do not add up to the 6 tokens",
    ),
    "a huge variant": (
        {"variants": TOKENS, "variant_lengths": np.array([2**64 - 1, 7], dtype=np.uint64)},
        "variant_lengths do not add up to the 6 tokens",
    ),
    "a variant of another depth": (
        {"variants": np.array([2, 1]), "variant_lengths": np.array([2])},
        "the stream is of depth 1, not 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself_is_refused_by_name(tmp_path, name):
    fields, message = REFUSED[name]
    extra = {"bounds_min": np.zeros(3)} if "bounds_max" in fields else {}
    path = saved(tmp_path, **{"tokens": TOKENS} | extra | fields)
    with pytest.raises(OctreeError) as caught:
        read_shape(path, variants=True)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_variants_are_read_on_request_alone(tmp_path):
    trees = [from_leaves(np.array(leaves), 2) for leaves in (LEAVES, [5], [0, 9, 10, 62])]
    path = tmp_path / "a.npz"
    write_shape(path, Shape(trees[0], "chair", "a", tuple(trees[1:])))
    assert read_shape(path).variants == ()
    shape = read_shape(path, variants=True)
    for tree, expected in zip((shape.tree, *shape.variants), trees, strict=True):
        np.testing.assert_array_equal(tree.leaves, expected.leaves)
    write_shape(path, Shape(trees[0], "chair", "a"))
    assert read_shape(path, variants=True).variants == ()
    with np.load(path) as fields:
        assert "variants" not in fields.files


def test_the_wished_depth_must_be_the_files(tmp_path):
    path = saved(tmp_path, tokens=TOKENS, max_depth=2)
    assert read_shape(path, depth=2).tree.depth == 2
    with pytest.raises(OctreeError, match="the file is of depth 2, not 6"):
        read_shape(path, depth=6)
    np.save(tmp_path / "bare.npy", TOKENS)
    with pytest.raises(OctreeError, match=r"bare.npy: the stream is of depth 2, not 6 \(level 2\)"):
        read_shape(tmp_path / "bare.npy", depth=6)


def test_what_is_no_token_file_is_refused(tmp_path):
    contents = {
        "empty.npz": b"",
        "text.npy": b"these are not the tokens",
        "short.npy": b"\x93NUMPY\x01\x00",
        # NumPy puts such a header through Python's tokenizer, which has errors of its own.
        "odd.npy": b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<i8', (".ljust(117) + b"\n",
        "short.npz": b"PK\x03\x04 and no more",
        # A header that says more than there is memory for.
        "huge.npy": b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '<i8', 'fortran_order': False, 'shape': (4611686018427387904,), }".ljust(117)
        + b"\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DdimxError, match=name):
            read_shape(tmp_path / name)
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DdimxError, match=r"pickle.npy.*not a readable"):
        read_shape(tmp_path / "pickle.npy")
    with pytest.raises(DdimxError, match=r"not a readable.*objects"):
        read_shape(saved(tmp_path, tokens=TOKENS, category=np.array([{}], dtype=object)))
    with pytest.raises(DdimxError, match=r"an \.npz without 'tokens'"):
        read_shape(saved(tmp_path, images=TOKENS))
    with pytest.raises(DdimxError, match="is a folder"):
        read_shape(tmp_path)
    with pytest.raises(DdimxError, match="no file"):
        read_shape(tmp_path / "absent.npz")


@given(data=st.data())
def test_a_damaged_file_is_an_error_of_ours_or_still_a_tree(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    write_shape(path, Shape(from_leaves(np.array(LEAVES), 2), "chair"))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(4, len(content)))])
    message = ""
    try:
        read_shape(path)
    except DdimxError as error:
        message = str(error)
    assert not message or str(path) in message
