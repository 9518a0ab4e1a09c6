"""Folders and archives that somebody else made: nothing outside is written, removed or read."""

import io
import json
import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from ddimx.data.images.celeba import CelebASource
from ddimx.data.images.cifar10 import Cifar10Source
from ddimx.data.images.lsun import LsunSource
from ddimx.data.shapes.lists import read_list
from ddimx.data.shapes.meshes import read_surface
from ddimx.data.shapes.octrees import ShapeSource
from ddimx.data.shapes.scan import scan_shapes
from ddimx.editing.pictures import read_pictures
from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.fid.images import open_images
from ddimx.exporting.api import export
from ddimx.octree.file import Shape
from ddimx.recipes.furniture.sweethome import read_library
from ddimx.runs.sinks import ArraySink
from ddimx.weights.model import load_model
from tests.data.shapes.meshes import box, gltf, tokens_npz
from tests.data.shapes.test_prepare import jobs, prepare
from tests.sampling import image_names, invoke, manifest_of, names_in, sample, sampled, state_of

# What each system would take out of the folder, or could not take at all.
WRONG = ["../x", "/etc/x", "a/../../x", "..", "", "C:x", "\\\\server\\x", "a\\..\\b", "a\0b", None]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


@pytest.fixture
def outside(tmp_path):
    """A folder of somebody's, which must stay as it is."""
    folder = tmp_path / "precious"
    folder.mkdir()
    parts = ("00000000-8.npz", "00000000-8.piece", ".a.part")
    for name in ("x", "b0.npz", "000000.png", "pixels", "lock", *parts):
        (folder / name).write_text("keep me")
    before = state_of(folder)
    yield folder
    assert state_of(folder) == before


def journal(folder, *names):
    with (folder / "journal.jsonl").open("a") as stream:
        for name in names:
            stream.write(json.dumps({"file": name, "stamp": "0", "bytes": 7}) + "\n")


# --- prepare octrees ------------------------------------------------------------------------------


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", [*WRONG, 5, "link/x", "file"], ids=repr)
def test_a_journal_removes_nothing_elsewhere(name, overwrite, outside, tmp_path):
    prepare(tmp_path / "set", jobs(2))
    (tmp_path / "set" / "link").symlink_to(outside)
    (tmp_path / "set" / "file").symlink_to(outside / "x")
    (tmp_path / "x").write_text("beside the set")
    journal(tmp_path / "set", "shapes/box/gone.npz", name)
    before = state_of(tmp_path / "set")
    with pytest.raises(DdimxError, match=r"journal\.jsonl: the name .* is refused"):
        prepare(tmp_path / "set", jobs(1), overwrite=overwrite, depth=2 if overwrite else 3)
    assert state_of(tmp_path / "set") == before
    assert (tmp_path / "x").read_text() == "beside the set"


def test_an_absolute_name_of_a_file_that_is_there(outside, tmp_path):
    prepare(tmp_path / "set", jobs(1))
    journal(tmp_path / "set", str(outside / "x"))
    with pytest.raises(DdimxError, match="is not relative"):
        prepare(tmp_path / "set", jobs(1))


@pytest.mark.parametrize("link", ["shapes", "shapes/box", "shapes/box/b0.npz", "journal.jsonl"])
def test_a_link_where_shapes_are_written(link, outside, tmp_path):
    prepare(tmp_path / "set", jobs(1))
    place = tmp_path / "set" / link
    kept = tmp_path / "kept"
    place.rename(kept)
    place.symlink_to(outside / "x" if link.endswith(("l", "z")) else outside)
    before = state_of(tmp_path / "set")
    for options in ({}, {"overwrite": True, "depth": 2}):
        with pytest.raises(DdimxError, match="by a symbolic link"):
            prepare(tmp_path / "set", jobs(1), **options)
        assert state_of(tmp_path / "set") == before


def test_a_link_where_a_new_category_belongs(outside, tmp_path):
    """The journal does not name it yet."""
    prepare(tmp_path / "set", jobs(1))
    (tmp_path / "set" / "shapes" / "new").symlink_to(outside)
    with pytest.raises(DdimxError, match=r"'shapes/new/b0\.npz' is refused: .* symbolic link"):
        prepare(tmp_path / "set", [*jobs(1), replace(jobs(1)[0], category="new")])


def test_a_link_of_another_category_is_not_swept(outside, tmp_path):
    """Nothing is written there, and what looks like a part of ours there is not ours."""
    prepare(tmp_path / "set", jobs(1))
    (tmp_path / "set" / "shapes" / "other").symlink_to(outside)
    prepare(tmp_path / "set", jobs(2))


def test_a_category_is_no_way_out(outside, tmp_path):
    (tmp_path / "meshes").mkdir()
    np.savez(tmp_path / "meshes" / "x.npz", points=np.random.RandomState(0).rand(9, 3))
    done = invoke("prepare", "octrees", "meshes", "set", "--category", "../../precious", "-q")
    assert done.code != 0
    assert "shapes/../../precious/x.npz' is refused: it leads upwards" in done.err
    assert not (tmp_path / "set").exists()


# --- runs of sampling -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    """A run of one image; read only."""
    folder = tmp_path_factory.mktemp("run") / "a"
    sampled(tiny_model, "-n", 1, "--out", folder)
    return folder


@pytest.mark.parametrize("key", ["files", "exported"])
@pytest.mark.parametrize("name", [*WRONG, ["x"], "link/x", "file"], ids=repr)
def test_a_manifest_removes_nothing_elsewhere(name, key, tiny_model, outside, run, tmp_path):
    shutil.copytree(run, tmp_path / "a")
    (tmp_path / "a" / "link").symlink_to(outside)
    (tmp_path / "a" / "file").symlink_to(outside / "x")
    record = manifest_of(tmp_path / "a")
    record[key] = [*record["files"], name]
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    before = state_of(tmp_path / "a")
    for options in (["--overwrite", "--seed", 1], []):
        done = sample(tiny_model, "-n", 1, "--out", "a", *options)
        assert done.code == 1
        assert "manifest.json: the name " in done.err
        assert state_of(tmp_path / "a") == before


def test_a_manifest_whose_names_are_no_list(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 1, "--out", "a")
    record = manifest_of(tmp_path / "a") | {"files": {"a": 1}}
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    done = sample(tiny_model, "-n", 1, "--out", "a")
    assert (done.code, done.err.count("\n")) == (1, 1)


def test_a_manifests_format_is_part_of_names(tiny_model, outside, tmp_path):
    sampled(tiny_model, "-n", 1, "--out", "a")
    record = manifest_of(tmp_path / "a")
    record["identity"]["format"] = "x/../../precious/x"
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    before = state_of(outside)
    done = sample(tiny_model, "-n", 1, "--out", "a", "--overwrite")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert state_of(outside) == before


def test_a_lock_that_is_a_link(tiny_model, outside, tmp_path):
    """A lock file is opened to be written; what it leads to must not be."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".ddimx.lock").symlink_to(outside / "x")
    done = sample(tiny_model, "-n", 1, "--out", "a")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "'.ddimx.lock' is refused: it is a symbolic link" in done.err


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_tar_in_another_place(tiny_model, outside, tmp_path, overwrite):
    """A run that grows replaces its last tar, and would read what a link leads to."""
    sampled(tiny_model, "-n", 1, "--out", "a", "--format", "tar")
    (tmp_path / "a" / "samples-000000.tar").unlink()
    (tmp_path / "a" / "samples-000000.tar").symlink_to(outside / "x")
    done = sample(tiny_model, "-n", 2, "--out", "a", "--format", "tar", *overwrite)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "'samples-000000.tar' is refused: it leads out of a by a symbolic link" in done.err


@pytest.mark.parametrize("kind", ["npy", "tar"])
@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_parts_in_another_place(tiny_model, outside, tmp_path, overwrite, kind):
    """Parts of an array or a tar are removed when it is whole: not where a link leads."""
    sampled(tiny_model, "-n", 1, "--out", "a", "--format", kind)
    (tmp_path / "a" / "parts").symlink_to(outside)
    done = sample(tiny_model, "-n", 1, "--out", "a", "--format", kind, *overwrite)
    assert done.code == 1
    assert "'parts' is refused: it leads out of a by a symbolic link" in done.err
    sink = ArraySink(tmp_path / "a", None, "npy", ())
    with pytest.raises(DdimxError, match="by a symbolic link"):
        sink.write([0], None, None)


def test_frames_in_another_place(tiny_model, outside, tmp_path):
    command = ("sequence", "-m", tiny_model, "--steps", 2, "-n", 1, "-o", "a", "--device", "cpu")
    assert invoke(*command).code == 0
    frames = tmp_path / "a" / "000000"
    frames.rename(tmp_path / "kept")
    frames.symlink_to(outside)
    for name in ("manifest.json",):
        (tmp_path / "a" / name).unlink()
    for path in (tmp_path / "a").iterdir():
        if not path.is_symlink():
            path.unlink()
    for options in ((), ("--overwrite",)):
        done = invoke(*command, *options)
        assert done.code != 0
    assert names_in(tmp_path / "a") == ["000000"]


def test_what_a_run_of_today_names_is_let_through(tiny_model, tmp_path):
    """Also where the run's folder is itself a link, and where a link stays within it."""
    sampled(tiny_model, "-n", 2, "--out", "a")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "a" / "000000.png").rename(tmp_path / "a" / "first.png")
    (tmp_path / "a" / "000000.png").symlink_to("first.png")
    sampled(tiny_model, "-n", 2, "--out", "b")
    sampled(tiny_model, "-n", 1, "--seed", 1, "--out", "b", "--overwrite")
    assert names_in(tmp_path / "a") == ["000000.png", "first.png", "grid.png", "manifest.json"]


# --- training and packing -------------------------------------------------------------------------


def test_a_log_that_is_a_link_is_not_appended_to(tiny_config, outside, tmp_path):
    from ddimx.config_file import dump_yaml

    (tmp_path / "t.yml").write_text(dump_yaml(tiny_config))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").symlink_to(outside / "x")
    done = invoke("train", "-c", "t.yml", "-o", "run", "--device", "cpu")
    assert done.code == 1
    assert "'log.jsonl' is refused: it leads out of run by a symbolic link" in done.err


@pytest.mark.parametrize("link", ["p.npy.unfinished/pixels", "p.npy.unfinished/.ddimx.lock"])
def test_packing_writes_through_no_link(link, outside, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "in" / f"{i}.png")
    (tmp_path / "p.npy.unfinished").mkdir()
    (tmp_path / link).symlink_to(outside / "x")
    before = state_of(outside)
    done = invoke("prepare", "images", "in", "p.npy", "--size", 8)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert state_of(outside) == before


def test_a_folder_of_unfinished_work_elsewhere(outside, tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "0.png")
    (tmp_path / "p.npy.unfinished").symlink_to(outside)
    done = invoke("prepare", "images", "in", "p.npy", "--size", 8)
    assert done.code == 1
    assert "'p.npy.unfinished' is refused" in done.err


# --- lists and configurations ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WRONG, 5, "link/x"], ids=repr)
def test_lists_of_shapes(name, outside, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    lines = [{"file": "shapes/a.npz", "category": "a"}, {"file": name, "category": "a"}]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DdimxError, match=r"train\.jsonl: the name .* is refused"):
        read_list(folder / "train.jsonl")
    with pytest.raises(DdimxError, match=r"train\.jsonl: the name .* is refused"):
        ShapeSource(folder, "train")
    done = invoke("evaluate", "shapes", "--samples", "set/train.jsonl", "--reference", "set")
    assert done.code == 1
    assert "train.jsonl: the name " in done.err


@pytest.mark.parametrize("name", ["../x.npz", "/x", "C:x", "a\\..\\b", "link/x.npz"])
def test_lists_of_the_original_projects_tree(name, outside, tmp_path):
    folder = tmp_path / "chair" / "train"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "a.npz").write_bytes(tokens_npz())
    (tmp_path / "chair" / "train.txt").write_text(f"a.npz\n{name}\n")
    with pytest.raises(DdimxError, match=r"train\.txt: the name .* is refused"):
        ShapeSource(tmp_path, "train")
    if "link" not in name:  # whose names are only compared
        with pytest.raises(DdimxError, match=r"train\.txt: the name .* is refused"):
            scan_shapes(tmp_path)


@pytest.mark.parametrize("name", [*WRONG, "%2e%2e%2fx", "file:///etc/x", "link/x"], ids=repr)
def test_files_that_a_gltf_names(name, outside, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(outside)
    document = json.loads(gltf())
    document["buffers"][0]["uri"] = name
    (tmp_path / "in" / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(DdimxError, match=r"is refused|not a file beside it|a buffer has no data"):
        read_surface(tmp_path / "in" / "a.gltf")


@pytest.mark.parametrize("name", ["../other", "/etc/x", "C:x", "a\\..\\b"])
def test_names_in_a_configuration(name, tmp_path):
    """Of a split or a category; the folder itself is the user's own choice."""
    with pytest.raises(DdimxError, match=r"data\.train_split.* is refused"):
        ShapeSource(tmp_path, name)
    with pytest.raises(DdimxError, match=r"data\.category: the name .* is refused"):
        LsunSource(tmp_path, name, size=8, held_out=False, workers=1)


@pytest.mark.parametrize("name", ["../x", "/x", "C:x", "a/b", "a\0b"])
def test_a_shapes_own_name(name, tmp_path):
    """It was read from a token file, and an export is called so."""
    tree = box(1).tree(3)
    with pytest.raises(UsageError, match=r"shape.id"):
        export(Shape(tree, "", name), tmp_path / "out", format="ply")
    assert not (tmp_path / "out").exists()


# --- archives -------------------------------------------------------------------------------------

MEMBERS = ["../x", "/x", "a/../../x", "C:x", "a\\..\\b", "\\\\server\\x"]


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_celebas_archive(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip", "w") as archive:
        archive.writestr("img_align_celeba/", b"")
        archive.writestr("img_align_celeba/000001.jpg", b"")
        archive.writestr(f"{name}.jpg", b"")
    with pytest.raises(DdimxError, match=r"celeba\.zip: the name .* is refused"):
        CelebASource(tmp_path, size=8, held_out=False, split="train", workers=1)


def test_names_in_celebas_list(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "list_eval_partition.txt").write_text("a.jpg 0\n../a.jpg 0\n")
    with pytest.raises(DdimxError, match=r"partition\.txt: the name '\.\./a\.jpg' is refused"):
        CelebASource(tmp_path, size=8, held_out=False, split="train", workers=1)


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_a_zip_of_pictures(name, tmp_path, tiny_model):
    """Results of editing are called by them."""
    path, model = tmp_path / "a.zip", load_model(tiny_model, device="cpu")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.png", b"")
    for read in (lambda: read_pictures(path, model), lambda: open_images(str(path))):
        with pytest.raises(DdimxError, match=r"a\.zip: the name .* is refused"):
            read()


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_cifars_archive(name, tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        member = tarfile.TarInfo(f"{name}/data_batch_1")
        archive.addfile(member, io.BytesIO(b""))
    with pytest.raises(DdimxError, match=r"tar\.gz: the name .* is refused"):
        Cifar10Source(tmp_path, held_out=False)


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_shapenets_zip_file(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "03001627.zip", "w") as archive:
        archive.writestr("03001627/a/models/model_normalized.obj", b"")
        archive.writestr(f"{name}.obj", b"")
    for source in (tmp_path, tmp_path / "03001627.zip"):
        with pytest.raises(DdimxError, match=r"03001627\.zip: the name .* is refused"):
            scan_shapes(source)


@pytest.mark.parametrize("name", MEMBERS)
def test_members_of_a_furniture_library(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", f"name#1=Chair\nmodel#1={name}")
        archive.writestr(name, b"v 0 0 0")
    with pytest.raises(DdimxError, match=r"a\.sh3f: the name .* is refused"):
        read_library(tmp_path / "a.sh3f")


def test_images_of_the_run_are_counted_by_their_names_alone(tiny_model, outside, tmp_path):
    """A file that a stranger linked there is one of the run's only if the manifest says so."""
    sampled(tiny_model, "-n", 1, "--out", "a")
    (tmp_path / "a" / "000000.png").unlink()
    (tmp_path / "a" / "000000.png").symlink_to(outside / "000000.png")
    done = sample(tiny_model, "-n", 1, "--out", "a")
    assert done.code == 1
    assert "leads out of a by a symbolic link" in done.err
    assert names_in(tmp_path / "a") == [*image_names(range(1)), "grid.png", "manifest.json"]
