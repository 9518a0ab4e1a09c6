"""Data sets as they come: which one it is, what its places and lists say, what is passed over."""

import io
import zipfile

import numpy as np
import pytest

from ddimx.data.shapes.jobs import PrepareSettings, make
from ddimx.data.shapes.lists import Entry, read_tree
from ddimx.data.shapes.octrees import ShapeSource, open_shapes, with_depth_of_files
from ddimx.data.shapes.reading import job_of
from ddimx.data.shapes.scan import counted, scan_shapes
from ddimx.errors import DdimxError, UsageError
from ddimx.octree.file import read_shape
from tests.models.octree.small import octree_config

from .meshes import BOX, npz, obj
from .prepared import chair, write_set

CHAIR, PLANE = "03001627", "02691156"
MODEL = "models/model_normalized.obj"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def zipped(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(points=BOX):
    stream = io.BytesIO()
    np.save(stream, points.astype(np.float32))
    return stream.getvalue()


CLOUD = npz(points=BOX.astype(np.float16), normals=BOX, loc=np.zeros(3), scale=np.float64(1))
SETS = {
    "PC15k: 2 categories, 3 shapes (2 train, 1 val)": {
        f"{CHAIR}/train/a.npy": npy(),
        f"{CHAIR}/val/b.npy": npy(),
        f"{PLANE}/train/a.npy": npy(),
    },
    "Occupancy Networks: 2 categories, 3 shapes (1 train, 1 test, 1 of no part)": {
        f"{CHAIR}/a/pointcloud.npz": CLOUD,
        f"{CHAIR}/a/points.npz": CLOUD,
        f"{CHAIR}/b/pointcloud.npz": CLOUD,
        f"{CHAIR}/unlisted/pointcloud.npz": CLOUD,
        f"{CHAIR}/train.lst": b"a\n",
        f"{CHAIR}/test.lst": b"b\nabsent\n\n",
        f"{PLANE}/a/pointcloud.npz": CLOUD,
        "metadata.yaml": b"",
    },
    "ShapeNet55: 2 categories, 2 shapes (1 train, 1 test)": {
        f"shapenet_pc/{CHAIR}-a.npy": npy(),
        f"shapenet_pc/{PLANE}-b-c.npy": npy(),
        f"shapenet_pc/{PLANE}-unlisted.npy": npy(),
        "ShapeNet-55/train.txt": f"{CHAIR}-a.npy\n".encode(),
        "ShapeNet-55/test.txt": f"{PLANE}-b-c.npy".encode(),
    },
    "ShapeNetCore: 2 categories, 2 shapes": {
        f"{CHAIR}/a/{MODEL}": obj(),
        f"{CHAIR}/a/models/model_normalized.mtl": b"",
        f"{PLANE}/b/{MODEL}": obj(),
    },
    "folders of parts: 1 category, 2 shapes (1 train, 1 test)": {
        "chair/train/a.obj": obj(),
        "chair/train/unlisted.obj": obj(),
        "chair/test/b.obj": obj(),
        "chair/train.txt": b"a.obj",
    },
}


@pytest.mark.parametrize("said", SETS)
def test_what_it_is_is_said_and_it_becomes_octrees(said, tmp_path):
    root = write(tmp_path / "src", SETS[said])
    scan = scan_shapes(root)
    assert str(scan) == said
    assert scan.root == root
    above = scan_shapes(tmp_path)  # one folder too high
    assert (str(above), above.root) == (said, root)
    assert {shape.category for shape in scan.shapes} <= {"chair", "airplane"}
    for shape in scan.shapes:
        made = make(job_of(shape), PrepareSettings("here", 3), tmp_path / "out")
        assert made.entry is not None, made.reason
    path = tmp_path / "all.zip"  # which holds the same
    path.write_bytes(zipped({f"sets/{name}": data for name, data in SETS[said].items()}))
    assert str(scan_shapes(path)) == said
    for shape in scan_shapes(path).shapes:
        made = make(job_of(shape), PrepareSettings("here", 3), tmp_path / "zip")
        assert made.entry is not None, made.reason
        own, other = (read_shape(tmp_path / name / made.job.file) for name in ("out", "zip"))
        assert np.array_equal(own.tree.leaves, other.tree.leaves)


def test_what_the_lists_say(tmp_path):
    occupancy, flat, parts = (SETS[said] for said in SETS if said[0] in "Of" or "55" in said)
    shapes = scan_shapes(write(tmp_path / "o", occupancy)).shapes
    assert [(s.category, s.shape_id, s.part) for s in shapes] == [
        ("airplane", "a", None),  # without lists: --split decides
        ("chair", "a", "train"),
        ("chair", "b", "test"),
    ]
    scan = scan_shapes(tmp_path / "o")
    assert counted(scan.skipped) == (
        "1 .npz beside a shape of Occupancy Networks, 1 .yaml, 1 named by a list, but absent, "
        "1 not named by train.lst or test.lst"
    )
    shapes = scan_shapes(write(tmp_path / "f", flat)).shapes
    assert {(s.shape_id, s.part) for s in shapes} == {("a", "train"), ("b-c", "test")}
    (tmp_path / "f" / "train.txt").write_text(f"{PLANE}-unlisted.npy\n")  # nearer than the folder
    assert [s.shape_id for s in scan_shapes(tmp_path / "f").shapes] == ["unlisted"]
    assert scan_shapes(write(tmp_path / "p", parts)).skipped == {"not named by train.txt": 1}


def test_shapenets_zip_files_by_category(tmp_path):
    """Some hold the synset's folder, some only what is in it; macOS adds files of its own."""
    write(
        tmp_path,
        {
            f"{CHAIR}.zip": zipped({f"{CHAIR}/a/{MODEL}": obj(), f"__MACOSX/{CHAIR}/._a": b""}),
            f"{PLANE}.zip": zipped({f"b/{MODEL}": obj(), "b/images/0.png": b""}),
            "other.zip": b"",
        },
    )
    scan = scan_shapes(tmp_path)
    assert [(s.category, s.shape_id) for s in scan.shapes] == [("airplane", "b"), ("chair", "a")]
    assert scan.skipped == {"hidden": 1, ".png": 1, ".zip": 1}
    assert scan_shapes(tmp_path / f"{PLANE}.zip").shapes[0].category == "airplane"
    job = job_of(scan.shapes[1])
    assert job.origin == f"{tmp_path}/{CHAIR}.zip:{CHAIR}/a/{MODEL}"
    path = tmp_path / f"{CHAIR}.zip"
    path.write_bytes(path.read_bytes().replace(b"v 4.0", b"v 9.0").replace(b"PK\3\4", b"PK\3\5"))
    with pytest.raises(DdimxError, match=r"zip: cannot read .* is not where the archive's dir"):
        job.read()
    (tmp_path / "bad.zip").write_bytes(zipped({"a.npz": npz(x=BOX[0]), "b.npy": b"x"}))
    bad = [job_of(shape) for shape in scan_shapes(tmp_path / "bad.zip").shapes]
    for job, words in zip(bad, ("no points", "not a readable .npz or .npy"), strict=True):
        with pytest.raises(DdimxError, match=rf"bad\.zip:[ab]\.np[yz]: {words}"):
            job.read()


def test_several_data_sets_are_refused(tmp_path):
    write(tmp_path, {f"a/{CHAIR}/train/a.npy": b"", f"b/{CHAIR}/x/{MODEL}": b""})
    with pytest.raises(UsageError, match=r"several data sets: \S+/a \(PC15k\), \S+/b \(ShapeNetC"):
        scan_shapes(tmp_path)
    (tmp_path / "a" / CHAIR / "train" / "a.npy").rename(tmp_path / "own.npy")
    with pytest.raises(UsageError, match=r"other shapes beside a data set \(own\.npy\): \S+/b"):
        scan_shapes(tmp_path)
    (tmp_path / "own.npy").unlink()
    assert scan_shapes(tmp_path).root == tmp_path / "b"


def test_folders_within_a_category_may_be_called_as_parts_are(tmp_path):
    write(tmp_path, {"chair/a.obj": b"", "chair/old/test/b.obj": b"", "table/set/train/c.obj": b""})
    scan = scan_shapes(tmp_path)
    assert [(s.category, s.shape_id, s.part) for s in scan.shapes] == [
        ("chair", "a", None),
        ("chair", "old-test-b", None),
        ("table", "set-train-c", None),
    ]
    assert str(scan) == "folders: 2 categories, 3 shapes"


def test_of_two_files_of_one_shape_the_mesh_is_taken(tmp_path):
    write(
        tmp_path, {"c/x.npz": b"", "c/x.obj": b"", "c/x.ply": b"", "c/y.ply": b"", "c/n.mtl": b""}
    )
    scan = scan_shapes(tmp_path)
    assert [shape.path.name for shape in scan.shapes] == ["x.obj", "y.ply"]
    assert scan.skipped == {
        ".mtl": 1,
        ".npz beside .obj of the same shape": 1,
        ".ply beside .obj of the same shape": 1,
    }
    chosen = scan_shapes(tmp_path, extensions=[".ply", ".obj"])
    assert [shape.path.name for shape in chosen.shapes] == ["x.ply", "y.ply"]
    assert [s.path.name for s in scan_shapes(tmp_path, extensions=[".npz"]).shapes] == ["x.npz"]
    with pytest.raises(UsageError, match=r"unknown --extension '.objj'; did you mean '.obj'"):
        scan_shapes(tmp_path, extensions=[".objj"])
    with pytest.raises(UsageError, match=r"no meshes .*\(.stl\) in .*passed over: 2 .ply, 1 .mtl"):
        scan_shapes(tmp_path, extensions=[".stl"])


def test_a_category_is_called_as_its_folder_or_zip_file(tmp_path):
    write(tmp_path / "my.chairs", {"a.obj": b""})
    (tmp_path / "my.chairs.zip").write_bytes(zipped({"a.obj": b""}))
    for source in (tmp_path / "my.chairs", tmp_path / "my.chairs.zip"):
        assert [shape.category for shape in scan_shapes(source).shapes] == ["my.chairs"]


def test_texts_are_points_only_where_nothing_else_is_there(tmp_path):
    write(tmp_path, {"names.txt": b"", "chair/a.txt": b"", "table/b.txt": b""})
    scan = scan_shapes(tmp_path)
    assert [shape.shape_id for shape in scan.shapes] == ["a", "b"]
    assert scan.skipped == {".txt": 1}
    write(tmp_path, {"table/b.obj": b""})
    scan = scan_shapes(tmp_path)
    assert [shape.path.name for shape in scan.shapes] == ["b.obj"]
    assert scan.skipped == {".txt": 3}
    assert len(scan_shapes(tmp_path, extensions=[".txt"]).shapes) == 3


def test_a_category_by_its_synset(tmp_path):
    write(tmp_path, SETS["ShapeNetCore: 2 categories, 2 shapes"])
    scan = scan_shapes(tmp_path, category=CHAIR)
    assert ([shape.category for shape in scan.shapes], scan.skipped) == (
        ["chair"],
        {".mtl": 1, "of other categories": 1},
    )


def tree(root, depth=4, category="chair"):
    """The original project's tree: padded tokens of its types, a number for the category."""
    for part, heights in (("train", (3, 4, 5)), ("test", (6,))):
        for height in heights:
            stream = chair(height, depth).tokens()
            tokens, mask = np.zeros((2, 4681), np.int64)
            tokens[: len(stream)], mask[: len(stream)] = stream, 1
            content = npz(tokens=tokens.astype(np.int16), mask=mask.astype(np.uint8))
            content = npz(**np.load(io.BytesIO(content)), category=0, shape_id=f"c{height}")
            write(root, {f"{category}/{part}/c{height}.npz": content})
    write(root, {f"{category}/train.txt": b"c3.npz\ntrain/c5.npz", f"{category}/test.txt": b"c6"})
    return root


def test_the_original_projects_tree_is_trained_on_directly(tmp_path):
    root = tree(tmp_path)
    source = ShapeSource(root, "train")
    assert [shape.shape_id for shape in source.shapes(np.arange(2))] == ["c3", "c5"]
    assert source.classes == ("chair",)
    assert [t.counts for t in ShapeSource(root, "test", category="chair").trees] == [
        chair(6).counts
    ]
    assert len(ShapeSource(root / "chair", "train")) == 2  # one category alone
    (root / "chair" / "train.txt").unlink()
    assert len(ShapeSource(root, "train")) == 3
    config = octree_config(root, data={"max_depth": 6, "test_split": "test"})
    assert with_depth_of_files(config).data.max_depth == 4
    shallow = octree_config(root, data={"max_depth": 3})
    assert with_depth_of_files(shallow) == shallow
    of_set = octree_config(write_set(tmp_path / "set"), data={"max_depth": 6})
    assert with_depth_of_files(of_set) == of_set
    with pytest.raises(DdimxError, match=r"of depth 4, .* give --set data\.max_depth=4"):
        open_shapes(of_set)


def test_the_original_projects_tree_is_prepared(tmp_path):
    scan = scan_shapes(tree(tmp_path / "src"))
    assert str(scan) == "token files: 1 category, 3 shapes (2 train, 1 test)"
    jobs = [job_of(shape) for shape in scan.shapes]
    made = make(jobs[0], PrepareSettings("here", 3), tmp_path / "out")
    shape = read_shape(tmp_path / "out" / made.job.file)
    assert made.job.file == "shapes/chair/c6.npz"
    assert np.array_equal(shape.tree.leaves, chair(6).coarser(3).leaves)
    assert (shape.tree.lower, shape.tree.edge) == ((0, 0, 0), 1)
    files = [file for file in (tmp_path / "src").rglob("*") if file.is_file()]
    path = tmp_path / "src.zip"
    path.write_bytes(zipped({str(f.relative_to(tmp_path)): f.read_bytes() for f in files}))
    unpacked = [job_of(shape).read().tree(4) for shape in scan.shapes]
    packed = [job_of(shape).read().tree(4) for shape in scan_shapes(path).shapes]
    assert [t.leaves.tolist() for t in packed] == [t.leaves.tolist() for t in unpacked]
    refused = make(jobs[0], PrepareSettings("here", 5), tmp_path / "out")
    assert refused.reason.endswith("c6.npz: an octree of depth 4, not 5; give --depth 4")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"chair/train/a.npz": npz(points=BOX)}, r"it holds folders of parts: .* octrees of them"),
        ({f"{CHAIR}/train/a.npy": npy()}, r"it holds PC15k: .* 'ddimx prepare octrees \S+ DST'"),
        ({"set/train.jsonl": b""}, r"octrees are in (\S+/set): --set data\.root=\1"),
        ({"val.jsonl": b""}, "splits there: val"),
        ({}, "make it with 'ddimx prepare octrees'"),
    ],
)
def test_what_cannot_be_trained_on_says_the_way(files, words, tmp_path):
    with pytest.raises(UsageError, match=rf"no list of shapes .*train\.jsonl; {words}"):
        ShapeSource(write(tmp_path, files), "train")


def test_faults_of_the_original_projects_tree(tmp_path):
    root = tree(tmp_path / "root")
    assert read_tree(root, "val") == []
    with pytest.raises(UsageError, match="splits there: train, test"):
        ShapeSource(root, "val")
    with pytest.raises(UsageError, match=r"octrees are in \S+/root: --set"):
        ShapeSource(tmp_path, "train")
    assert read_tree(root, "test") == [Entry(root / "chair" / "test" / "c6.npz", "chair")]
    (root / "chair" / "test.txt").write_text("c7.npz")
    with pytest.raises(DdimxError, match=r"test\.txt names c7\.npz, which is not in"):
        ShapeSource(root, "test")
    (root / "chair" / "test.txt").write_bytes(b"\xff")
    with pytest.raises(DdimxError, match=r"test\.txt: not a list of names"):
        ShapeSource(root, "test")


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (  # each part counts from 0
            [f"{CHAIR}/train/0.npy", f"{CHAIR}/test/0.npy", f"{CHAIR}/test/1.npy"],
            [
                ("chair", "test-0", "test"),
                ("chair", "1", "test"),
                ("chair", "train-0", "train"),
            ],
        ),
        (  # parts above categories
            ["train/chair/a.npy", "test/chair/b.npy", "test/table/old/c.npy"],
            [("chair", "b", "test"), ("table", "old-c", "test"), ("chair", "a", "train")],
        ),
        (  # a category that is called as a part is
            ["train/steam/a.npy", "train/electric/b.npy"],
            [("train", "electric-b", None), ("train", "steam-a", None)],
        ),
    ],
)
def test_what_parts_say(places, names, tmp_path):
    scan = scan_shapes(write(tmp_path, dict.fromkeys(places, npy())))
    assert [(s.category, s.shape_id, s.part) for s in scan.shapes] == names


def test_folders_of_categories_one_too_high(tmp_path):
    files = {"meshes/chair/a.obj": obj(), "meshes/table/b.obj": obj()}
    scan = scan_shapes(write(tmp_path / "in", files))
    assert {shape.category for shape in scan.shapes} == {"meshes"}
    assert scan.remark.endswith(f"give {tmp_path / 'in' / 'meshes'}")
    assert scan_shapes(tmp_path / "in/meshes").remark == ""
    # A zip file of a folder has that folder in it.
    write(tmp_path, {"meshes.zip": zipped(files)})
    zipped_scan = scan_shapes(tmp_path / "meshes.zip")
    assert [(s.category, s.shape_id) for s in zipped_scan.shapes] == [
        ("chair", "a"),
        ("table", "b"),
    ]
    assert zipped_scan.remark == ""
    # Folders of one shape each are no categories.
    each = {f"chair/{name}/model.obj": obj() for name in "ab"}
    assert scan_shapes(write(tmp_path / "each", each)).remark == ""
    write(tmp_path, {"each.zip": zipped(each)})
    assert {s.category for s in scan_shapes(tmp_path / "each.zip").shapes} == {"chair"}


def test_a_prepared_set_keeps_its_categories_and_parts(tmp_path):
    scan = scan_shapes(write_set(tmp_path / "set"))
    assert str(scan).startswith("prepared set: 2 categories, 9 shapes (5 train, 2 val, 2 test)")
    assert scan.shapes[0].shape_id == "c3"
    assert job_of(scan.shapes[0]).read().tree(3).depth == 3
    assert scan_shapes(tmp_path / "set", category="table").skipped == {"of other categories": 5}
    # Within other folders it is no source of shapes.
    write(tmp_path, {"set/prepare.json": b"{}", "chair/a.obj": obj()})
    scan = scan_shapes(tmp_path)
    assert [shape.shape_id for shape in scan.shapes] == ["a"]
    assert scan.skipped == {"prepared set": 1}


def test_a_zip_file_with_backslashes(tmp_path):
    members = {rf"meshes\{name}": obj() for name in (r"chair\a.obj", r"table\b.obj")}
    scan = scan_shapes(write(tmp_path, {"w.zip": zipped(members)}) / "w.zip")
    assert [(s.category, s.shape_id) for s in scan.shapes] == [("chair", "a"), ("table", "b")]
    assert job_of(scan.shapes[0]).read().tree(3).depth == 3
    write(tmp_path, {"up.zip": zipped({r"..\a.obj": obj()})})
    with pytest.raises(DdimxError, match="leads upwards"):
        scan_shapes(tmp_path / "up.zip")


def test_files_that_are_no_source(tmp_path):
    write(tmp_path, {"a.obj": obj(), "g.zip": zipped({"a.gltf": b"{}"})})
    with pytest.raises(UsageError, match="is a file; give its folder, or a zip file"):
        scan_shapes(tmp_path / "a.obj")
    with pytest.raises(UsageError, match=r"1 \.gltf in a zip file, which must be unpacked"):
        scan_shapes(tmp_path / "g.zip")
