"""What a folder or a zip holds: classes, sizes, what is passed over, what cannot be read."""

import os
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images import scan as module
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.listing import classes_of, list_images, passed_over, printable
from ddimx.data.images.scan import scan_images
from ddimx.errors import DdimxError
from tests.data.images.official import encoded, smooth


def put(folder, name, pixels=None, kind="PNG", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(smooth(1, 6, 9) if pixels is None else pixels, kind, **options))
    return path


def zipped(folder, path, top=""):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, top + file.relative_to(folder).as_posix())
    return path


CLASSES = {
    "flat": (["a.png", "b.png"], (), None, ""),
    "folders": (["cat/a.png", "cat/x/b.png", "dog/c.png"], ("cat", "dog"), [0, 0, 1], ""),
    "one above": (["all/cat/a.png", "all/dog/c.png"], ("cat", "dog"), [0, 1], ""),
    "one folder": (["all/a.png", "all/b.png"], (), None, ""),
    "one file": (["all/a.png"], (), None, ""),
    "beside": (["a.png", "cat/b.png", "dog/c.png"], (), None, "1 pictures lie beside them"),
    "parts": (["test/a.png", "Train/b.png"], (), None, "name the folder of one part, as test,"),
    "bytes": (["a\udcb5/a.png", "b/b.png"], ("a\\xb5", "b"), [0, 1], ""),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_which_folders_are_classes(kind):
    names, classes, labels, note = CLASSES[kind]
    ours, numbers, said = classes_of(names)
    assert (ours, None if numbers is None else numbers.tolist()) == (classes, labels)
    assert note in said
    assert bool(note) == bool(said)


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_passed_over_is_counted(tmp_path, packed):
    folder = tmp_path / "in"
    names = ["cat/b.png", "cat/deep/a.jfif", "dog/c.PGM"]
    put(folder, names[0])
    put(folder, names[1], kind="JPEG")
    put(folder, names[2], smooth(2, 4, 5)[..., 0], kind="PPM")
    hidden = ["._a.png", ".ipynb_checkpoints/b.png", "__MACOSX/x.png", "cat/.d.png"]
    for name in hidden:
        put(folder, name)
    (folder / "labels.csv").write_text("a,b")
    (folder / "cat" / "broken.png").write_bytes(b"text")
    root = zipped(folder, tmp_path / "in.zip") if packed else folder
    listing = list_images(root)
    assert listing.names == ("cat/b.png", "cat/broken.png", "cat/deep/a.jfif", "dog/c.PGM")
    scan = scan_images(root, workers=2)
    assert list(scan.names) == names
    assert scan.sizes.tolist() == [[6, 9], [6, 9], [4, 5]]
    assert scan.channels.tolist() == [3, 3, 1]
    assert (scan.classes, scan.labels.tolist()) == (("cat", "dog"), [0, 0, 1])
    assert scan.formats == {"PNG": 1, "JPEG": 1, "PPM": 1}
    assert scan.errors == {"cat/broken.png": "cannot identify image file"}
    whole = hidden if packed else [".ipynb_checkpoints", "__MACOSX", "._a.png", "cat/.d.png"]
    assert scan.skipped == {
        "hidden files": sorted(whole),
        "files that are no pictures": ["labels.csv"],
        "pictures that cannot be read": ["cat/broken.png"],
    }
    with pytest.raises(DdimxError, match=r"1 pictures cannot be read, the first: cat/broken.png"):
        scan.refuse_unreadable()


def test_what_is_passed_over_in_words():
    skipped = {"hidden files": [f"{i}\udcb5" for i in range(5)], "others": ["a"]}
    lines = ["5 hidden files: 0\\xb5, 1\\xb5, 2\\xb5 and 2 more", "1 others: a"]
    assert passed_over(skipped) == lines


def test_names_end_no_line_and_steer_no_terminal():
    assert printable("a\x1b[31m\nerror: \x85\u2028\t\u00e9 \U0001f600") == (
        "a\\x1b[31m\\nerror: \\x85\\u2028\\t\u00e9 \U0001f600"
    )


def test_runs_below_the_pictures_are_none_of_them(tmp_path):
    """As after ``ddimx train --data .``; samples in other places may be what is trained on."""
    for name in (
        "a.png",
        "runs/0001-train-x/samples/step-00000001.png",
        "mine/samples/step-00000001.png",
        "runs/0002-sample-x/000000.png",
        "synthetic/000000.png",
        "synthetic/grid.png",
        "other/grid.png",
    ):
        put(tmp_path, name)
    for folder in ("runs/0001-train-x", "mine"):
        (tmp_path / folder / "train.json").write_text("{}")
        (tmp_path / folder / "config.yml").write_text("{}")
    for folder in ("runs/0002-sample-x", "synthetic"):
        (tmp_path / folder / "manifest.json").write_text("{}")
    listing = list_images(tmp_path)
    assert listing.names == ("a.png", "other/grid.png", "synthetic/000000.png")
    assert len(listing.skipped["files of runs of ddimx"]) == 9
    # A run that is named itself is read, without its contact sheet.
    assert list_images(tmp_path / "synthetic").names == ("000000.png",)


def test_a_zip_is_the_folder_that_it_holds(tmp_path):
    for i in range(60):
        put(tmp_path / "in", f"{'ab'[i % 2]}/{i}.png", smooth(i, 8, 8))
    packed = zipped(tmp_path / "in", tmp_path / "in.zip")
    for held_out in (False, True):
        one, other = (
            FolderSource(root, size=8, held_out=held_out, workers=4)
            for root in (tmp_path / "in", packed)
        )
        assert (len(one), one.fingerprint) == (len(other), other.fingerprint)
        assert np.array_equal(one.labels, other.labels)
        order = np.random.default_rng(0).permutation(len(one))
        assert np.array_equal(one.images(order), other.images(order))
    assert other.place(0).startswith(f"{packed}: ")


def test_zips_that_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"text")
    with pytest.raises(DdimxError, match=r"a\.zip: not a readable zip of images \(not a zip"):
        list_images(path)
    for name, reason in (("../a.png", "leads upwards"), ("a.txt", "no images"), ("", "no images")):
        with zipfile.ZipFile(path, "w") as archive:
            if name:
                archive.writestr(name, encoded(smooth(1, 8, 8)))
        with pytest.raises(DdimxError, match=reason):
            list_images(path)


def test_links_are_entered_once_and_loops_end(tmp_path):
    put(tmp_path / "in", "real/a.png")
    put(tmp_path / "elsewhere", "b.png")
    put(tmp_path / "elsewhere", "below/c.png")
    try:
        os.symlink(tmp_path / "in", tmp_path / "in" / "real" / "loop", target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    for name in ("also", "twice"):
        os.symlink(tmp_path / "elsewhere", tmp_path / "in" / name, target_is_directory=True)
    os.symlink(tmp_path / "in" / "real", tmp_path / "in" / "again", target_is_directory=True)
    os.symlink(tmp_path / "in" / "none.png", tmp_path / "in" / "nowhere.png")
    os.symlink("self.png", tmp_path / "in" / "self.png")
    os.symlink(tmp_path / "elsewhere" / "b.png", tmp_path / "in" / "file.png")
    listing = list_images(tmp_path / "in")
    assert listing.names == ("also/b.png", "also/below/c.png", "file.png", "real/a.png")
    assert listing.skipped == {
        "links that lead nowhere": ["nowhere.png", "self.png"],
        "links to folders that are here already": ["again", "real/loop", "twice"],
    }


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text(tmp_path):
    put(tmp_path, "a.png")
    name = b"\xb5\xff.png"
    (tmp_path / os.fsdecode(name)).write_bytes((tmp_path / "a.png").read_bytes())
    parts = [FolderSource(tmp_path, size=4, held_out=h, workers=1) for h in (False, True)]
    assert sum(map(len, parts)) == 2
    places = [part.place(i) for part in parts for i in range(len(part))]
    assert str(tmp_path / r"\xb5\xff.png") in places
    for part in parts:
        part.images(np.arange(len(part))) if len(part) else None
    (tmp_path / os.fsdecode(name)).write_bytes(b"text")
    assert list(scan_images(tmp_path, workers=1).errors) == ["\udcb5\udcff.png"]


def test_a_file_that_ends_early_is_seen_by_the_scan(tmp_path):
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG")):
        path = put(tmp_path, name, smooth(1, 40, 40), kind)
        put(tmp_path, "whole" + name, smooth(1, 40, 40), kind)
        path.write_bytes(path.read_bytes()[:-200])
    # All pixels are there and only the mark is missing: it is a picture.
    path = put(tmp_path, "c.png")
    path.write_bytes(path.read_bytes()[:-12])
    scan = scan_images(tmp_path, workers=1)
    assert sorted(scan.errors) == ["a.png", "b.jpg"]
    assert all("runcated" in error for error in scan.errors.values())


def test_transparency_counts_where_it_says_something(tmp_path, monkeypatch):
    opaque = np.full((5, 5, 4), 255, dtype=np.uint8)
    for i in range(6):
        put(tmp_path, f"{i}.png", opaque)
    put(tmp_path, "gray.png", opaque[..., :2])
    assert scan_images(tmp_path, workers=1).channels.tolist() == [3] * 6 + [1]
    monkeypatch.setattr(module, "MOST_ALPHA", 2)  # numbers 0 and 4 are looked at
    assert scan_images(tmp_path, workers=1).channels.tolist() == [3] * 6 + [1]
    opaque[2, 2, 3] = 0
    put(tmp_path, "4.png", opaque)
    assert scan_images(tmp_path, workers=1).channels.tolist() == [3, 4, 4, 4, 4, 4, 4]


def test_the_displayed_size(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    for kind in ("PNG", "JPEG", "TIFF", "WEBP"):
        put(tmp_path, f"a.{kind.lower()}", kind=kind, exif=exif)
    assert scan_images(tmp_path, workers=1).sizes.tolist() == [[9, 6]] * 4


def test_an_unreadable_picture_gives_way_to_the_next_of_its_class(tmp_path):
    for i in range(12):
        put(tmp_path, f"{'ab'[i % 2]}/{i:02d}.png", np.full((4, 4, 3), i, dtype=np.uint8))
    for name in ("a/02.png", "a/04.png", "b/11.png"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:45])

    def source():
        return FolderSource(tmp_path, size=4, held_out=False, workers=2)

    first = source()
    names = [first.place(i)[-6:-4] for i in range(len(first))]
    order = np.random.default_rng(0).permutation(len(first))
    lines = []
    first.say = lines.append
    drawn = first.drawn(order)[:, 0, 0, 0].tolist()
    expected = {"02": 6, "04": 6, "11": 1}
    assert drawn == [expected.get(names[i], int(names[i])) for i in order]
    assert sorted(names[i] for i in first.unreadable) == ["02", "04", "11"]
    # Whichever pictures were asked for before.
    one = source()
    assert [int(one.drawn(np.array([i]))[0, 0, 0, 0]) for i in order] == drawn
    assert sorted(lines) == [
        f"{first.unreadable[i]}; the next one is drawn in its place"
        for i in sorted(first.unreadable)
    ]
    scanned = source()
    assert len(scanned.scan.errors) == 3
    scanned.say = pytest.fail  # all of them were known by their headers
    assert scanned.drawn(order)[:, 0, 0, 0].tolist() == drawn
    with pytest.raises(DdimxError, match=r"0[24]\.png: cannot be decoded"):
        scanned.images(order)  # as evaluation has them
    strict = source()
    strict.strict = True
    with pytest.raises(DdimxError, match=r"0[24]\.png: cannot be decoded"):
        strict.drawn(order)
    for path in (tmp_path / "a").iterdir():
        path.write_bytes(b"text")
    assert source().drawn(np.array([0]))[0, 0, 0, 0] == 1  # of the other class: better than an end
    with pytest.raises(DdimxError, match="no picture of the class a can be read"):
        scan_images(tmp_path, workers=1)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"text")
    with pytest.raises(DdimxError, match=r"00.png: cannot be decoded .*; and none of the \d+"):
        source().drawn(np.array([0]))
