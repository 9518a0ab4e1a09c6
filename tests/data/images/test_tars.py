"""Tars of pictures as a data set: classes, several tars, what is passed over, hostile ones."""

import json
import tarfile
import zipfile

import numpy as np
import pytest

from ddimx.config import DataConfig
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.listing import list_images
from ddimx.data.images.pack import Packing
from ddimx.data.images.packed import PackedSource
from ddimx.data.images.scan import scan_images
from ddimx.data.images.sources import open_part
from ddimx.data.recognize import recognize
from ddimx.errors import DdimxError, UsageError
from ddimx.progress import Progress
from ddimx.untrusted import limits
from tests.data.images.official import encoded, smooth
from tests.fuzz.tars import BLOCK, entry, tar_of

PICTURES = {f"{i:03d}.png": encoded(smooth(i, 8, 8)) for i in range(60)}


def put(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))
    return path


def classed(values, suffix=".json"):
    """Pictures, each followed by what says its class; None leaves that away."""
    members = {}
    for i, value in enumerate(values):
        members[f"{i:03d}.png"] = PICTURES[f"{i:03d}.png"]
        if value is not None:
            text = json.dumps({"class": value}) if suffix == ".json" else str(value)
            members[f"{i:03d}{suffix}"] = text.encode()
    return members


def test_a_tar_is_the_folder_that_it_holds(tmp_path):
    """Made by tar from ".", as a zip of the same pictures is read."""
    folder = tmp_path / "in"
    for number, (name, data) in enumerate(PICTURES.items()):
        path = folder / "ab"[number % 2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(folder, ".")
    data = DataConfig(dataset="TAR", root=str(tmp_path / "in.tar"), image_size=8, channels=3)
    for held_out in (False, True):
        one = FolderSource(folder, size=8, held_out=held_out, workers=2)
        other = open_part(data, held_out=held_out)
        assert (len(one), one.fingerprint) == (len(other), other.fingerprint)
        assert one.classes == other.classes == ("a", "b")
        assert np.array_equal(one.labels, other.labels)
        order = np.random.default_rng(0).permutation(len(one))
        assert np.array_equal(one.images(order), other.images(order))
    assert other.place(0).startswith(f"{tmp_path / 'in.tar'}: ")


def test_several_tars_are_read_in_the_order_of_their_names(tmp_path):
    names = list(PICTURES)
    for part, start in (("b.tar", 20), ("a.tar", 0), ("sub/c.TAR", 40)):
        put(tmp_path / part, {name: PICTURES[name] for name in names[start : start + 20]})
    (tmp_path / "notes.txt").write_text("beside them")
    (tmp_path / ".hidden.tar").write_bytes(b"no tar")
    listing = list_images(tmp_path)
    assert listing.names[::20] == ("a.tar/000.png", "b.tar/020.png", "sub/c.TAR/040.png")
    assert [listing.stream(n).read() for n in listing.names] == list(PICTURES.values())
    assert (listing.classes, listing.labels) == ((), None)  # a tar is no class
    assert listing.place(listing.names[20]) == f"{tmp_path}: b.tar/020.png"
    assert scan_images(tmp_path, workers=2, listing=listing).formats == {"PNG": 60}


def test_tars_of_runs_below_are_none_of_the_pictures(tmp_path):
    """After ``sample --format tar`` in the folder that somebody trains on; a run itself is read."""
    put(tmp_path / "runs" / "0001-sample-x" / "samples-000000.tar", classed(["a", "b"]))
    (tmp_path / "runs" / "0001-sample-x" / "manifest.json").write_text("{}")
    with pytest.raises(DdimxError, match="no images"):
        list_images(tmp_path)
    put(tmp_path / "mine.tar", {"x.png": PICTURES["000.png"]})
    assert list_images(tmp_path).names == ("mine.tar/x.png",)
    assert len(list_images(tmp_path / "runs" / "0001-sample-x").names) == 2


def test_pictures_beside_tars(tmp_path):
    """A folder of pictures stays one; TAR takes the tars."""
    (tmp_path / "a.png").write_bytes(PICTURES["000.png"])
    put(tmp_path / "b.tar", {"001.png": PICTURES["001.png"]})
    assert list_images(tmp_path).names == ("a.png",)
    assert list_images(tmp_path, tars=True).names == ("b.tar/001.png",)
    data = DataConfig(dataset="TAR", root=str(tmp_path), image_size=8, channels=3, held_out=False)
    assert open_part(data, held_out=False).place(0).endswith("b.tar/001.png")
    (tmp_path / "b.tar").unlink()
    with pytest.raises(DdimxError, match=r"no tars$"):
        open_part(data, held_out=False)


CLASSES = {
    "names": (["cat", "dog", "cat"], ".json", ("cat", "dog"), [0, 1, 0], ""),
    "numbers": ([7, 0, 7], ".json", (), [7, 0, 7], ""),
    "cls": ([1, 0, 1], ".cls", (), [1, 0, 1], ""),
    "one class": (["cat"] * 3, ".json", (), None, ""),
    "one number": ([4] * 3, ".cls", (), None, ""),
    "none": ([None] * 3, ".json", (), None, ""),
    "some": (["cat", "dog", None], ".json", (), None, "classes are not used: 002.png has none"),
    "no text": ([["cat"]] * 3, ".json", (), None, ""),
    "names and numbers": (["cat", 1, 2], ".json", (), None, "some pictures have a name of it and"),
    "negative": (
        [-1, 0, 1],
        ".cls",
        (),
        None,
        "numbers from -1 to 1, which lie between 0 and 9999",
    ),
    "words": (["cat", "dog", "cow"], ".cls", (), None, "that of 000.png cannot be read, nor"),
    "steering": (["a\n\x1b[31m", "b", "b"], ".json", ("a\\n\\x1b[31m", "b"), [0, 1, 1], ""),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_that_tars_state(tmp_path, kind):
    values, suffix, names, labels, note = CLASSES[kind]
    listing = list_images(put(tmp_path / "a.tar", classed(values, suffix)))
    assert listing.classes == names
    assert (None if listing.labels is None else listing.labels.tolist()) == labels
    assert note in " ".join(listing.notes)
    assert bool(note) == bool(listing.notes)
    assert listing.skipped == {}
    assert len(listing.names) == 3


def test_a_class_that_cannot_be_read(tmp_path):
    """Its picture is passed over and counted, as one that is damaged itself."""
    members = classed(["cat", "dog", "cat", "dog", "cat"]) | {"002.json": b"{"}
    members["004.png"] = PICTURES["004.png"][:60]
    members["003.png"] = b"no picture"
    scan = scan_images(put(tmp_path / "a.tar", members), workers=1)
    assert scan.names == ("000.png", "001.png")
    assert scan.skipped == {
        "pictures whose class cannot be read": ["002.png"],
        "pictures that cannot be read": ["003.png", "004.png"],
    }
    with pytest.raises(DdimxError, match=r"2 pictures cannot be read, the first: 003\.png"):
        scan.refuse_unreadable()


def test_a_class_of_damaged_pictures_only(tmp_path):
    path = put(tmp_path / "a.tar", classed([0, 1], ".cls") | {"001.png": b"no picture"})
    with pytest.raises(DdimxError, match="no picture of the class 1 can be read"):
        scan_images(path, workers=1)


def test_names_up_to_the_first_dot_belong_together(tmp_path):
    """As webdataset has it; a whole name before the last dot is nearer."""
    members = {"x/a.b.jpg": PICTURES["000.png"], "x/a.json": b'{"class": "near"}'}
    members |= {"x/a.c.png": PICTURES["001.png"], "x/a.c.json": b'{"class": "nearer"}'}
    members |= {"x/a.txt": b"a caption", ".x/b.png": b"", "__MACOSX/._a.png": b""}
    listing = list_images(put(tmp_path / "a.tar", members))
    assert listing.names == ("x/a.b.jpg", "x/a.c.png")
    assert (listing.classes, listing.labels.tolist()) == (("near", "nearer"), [0, 1])
    assert listing.skipped == {
        "files that are no pictures": ["x/a.txt"],
        "hidden files": [".x/b.png", "__MACOSX/._a.png"],
    }


def test_of_members_of_one_name_the_last_is_read(tmp_path):
    """As tar unpacks what was appended."""
    first, last = tar_of({"a.png": PICTURES["000.png"]})[: -2 * BLOCK], {"a.png": b"last"}
    (tmp_path / "a.tar").write_bytes(first + tar_of(last))
    listing = list_images(tmp_path / "a.tar")
    assert listing.stream("a.png").read() == b"last"
    assert len(listing.names) == 1


def test_the_folder_of_a_run_is_recognized(tmp_path):
    members = classed(["cat", "dog"] * 30)
    keys = list(members)
    put(tmp_path / "samples-000000.tar", {key: members[key] for key in keys[:80]})
    put(tmp_path / "samples-000001.tar", {key: members[key] for key in keys[80:]})
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "grid.png").write_bytes(PICTURES["000.png"])
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "00000040-2.piece").write_bytes(tar_of({"40.png": PICTURES["000.png"]}))
    data = recognize(str(tmp_path))
    assert data.data == {"dataset": "TAR", "root": str(tmp_path), "held_out": False}
    assert (data.count, data.classes, data.channels) == (60, ("cat", "dog"), 3)
    one = recognize(str(put(tmp_path / "b" / "n.tar", classed([2, 0, 1], ".cls"))))
    assert (one.data["dataset"], one.classes) == ("TAR", ("0", "1", "2"))


def test_a_tar_can_be_packed(tmp_path):
    path = put(tmp_path / "a.tar", classed(["cat", "dog"] * 30))
    data = DataConfig(dataset="TAR", root=str(path), image_size=8, channels=3)
    parts = open_part(data, held_out=False), open_part(data, held_out=True)
    Packing(parts, {"size": 8}, tmp_path / "p.npy").run(Progress(quiet=True))
    packed = PackedSource(tmp_path / "p.npy", held_out=False)
    numbers = np.arange(len(packed))
    assert np.array_equal(packed.images(numbers), parts[0].images(numbers))
    assert packed.classes == ("cat", "dog")
    assert np.array_equal(packed.labels, parts[0].labels)


# --- what is refused ------------------------------------------------------------------------------


def test_tars_that_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    good = tar_of({"a.png": PICTURES["000.png"]})
    for data, reason in (
        (b"text", r"a\.tar: not a readable tar of images \(not a tar file\)"),
        (good[: 2 * BLOCK], r"a\.tar: not a readable tar of images \(cut: it ends"),
        (tar_of({"../a.png": b""}), "leads upwards"),
        (tar_of({"/a.png": b""}), "is not relative"),
        (tar_of({"a.txt": b""}), "no images"),
        (entry("a.png", b"", kind=b"2") + bytes(1024), "no images"),
        (b"\x1f\x8b" + bytes(600), "compressed by gzip, so that no member can be read without"),
    ):
        path.write_bytes(data)
        with pytest.raises(DdimxError, match=reason):
            list_images(path)
        with pytest.raises(DdimxError, match=reason):  # the tar is named in a folder as well
            list_images(tmp_path)


def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path):
    for name in ("a.tar.gz", "a.tgz", "a.tar.zst"):
        (tmp_path / name).write_bytes(b"\x1f\x8b")
        with pytest.raises(DdimxError, match=r"compressed, so .*; unpack it to a plain \.tar"):
            list_images(tmp_path / name)
        with pytest.raises(UsageError, match=r"compressed, so .*; unpack it to a plain \.tar"):
            recognize(str(tmp_path / name))
    with pytest.raises(DdimxError, match=r"no images .*; a\.t\S+ is compressed: unpack it to a"):
        list_images(tmp_path)


def test_a_picture_too_large_to_be_held(tmp_path, monkeypatch):
    path = put(tmp_path / "a.tar", classed(["cat", "dog"]) | {"002.png": bytes(4000)})
    monkeypatch.setenv(limits.VARIABLE, "3000")
    scan = scan_images(path, workers=1)
    assert scan.errors == {"002.png": "002.png takes 4000; --limit-memory 4000 allows it"}


def test_a_tar_that_changes_under_a_source(tmp_path):
    path = put(tmp_path / "a.tar", {name: PICTURES[name] for name in ("000.png", "001.png")})
    source = FolderSource(path, size=8, held_out=False, workers=1, split=False)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DdimxError, match=r"001\.png: cannot be decoded \(.*a\.tar has become shor"):
        source.images(np.array([1]))
    path.unlink()
    with pytest.raises(DdimxError, match=r"000\.png: cannot be decoded \(.*No such file"):
        source.images(np.array([0]))


def test_a_zip_is_no_tar(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.tar", "w") as archive:
        archive.writestr("a.png", PICTURES["000.png"])
    with pytest.raises(DdimxError, match="not a tar file"):
        list_images(tmp_path / "a.tar")
