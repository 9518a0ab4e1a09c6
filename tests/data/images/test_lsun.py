"""LSUN and FFHQ as LMDBs: keys, order, parts, and the original's geometry."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images.encoded import scaled_center
from ddimx.data.images.ffhq import FfhqSource, part_of
from ddimx.data.images.lmdb_pages import check_lmdb
from ddimx.data.images.lsun import LsunSource
from ddimx.errors import DdimxError, UsageError
from tests.data.images.official import encoded, ffhq, lmdb_of, lsun, smooth


def bedroom(root, *, size=256, held_out=False, category="bedroom", workers=2):
    return LsunSource(root, category, size=size, held_out=held_out, workers=workers)


def faces(root, *, size=16, held_out=False):
    return FfhqSource(root, size=size, held_out=held_out, workers=2)


def places(part):
    return [part.place(i).rpartition(": ")[2] for i in range(len(part))]


# --- LSUN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("category", ["bedroom", "church_outdoor", "cat"])
def test_training_and_validation_in_the_order_of_their_keys(tmp_path, category):
    parts = lsun(tmp_path, category)
    for held_out, split in ((False, "train"), (True, "val")):
        part = bedroom(tmp_path, held_out=held_out, category=category, size=280)
        keys = sorted(parts[split])
        assert places(part) == [key.decode() for key in keys]
        for i, key in enumerate(keys):
            with Image.open(io.BytesIO(parts[split][key])) as image:
                pixels = np.asarray(image)
            # 341 - 280 = 61: the margin 30.5 is rounded to the even 30, as torchvision does.
            assert np.array_equal(part.images(np.array([i]))[0], pixels[:, 30:310])


def test_the_shorter_side_is_resized_and_the_center_cropped():
    """280x341 to 256: the longer side is int(256 * 341 / 280) = 311, the margin 27.5 to 28."""
    pixels = np.random.default_rng(1).integers(0, 256, (280, 341, 3), dtype=np.uint8)
    resized = Image.fromarray(pixels).resize((311, 256), Image.Resampling.BILINEAR)
    expected = np.asarray(resized)[:, 28:284]
    assert np.array_equal(scaled_center(Image.fromarray(pixels), 256), expected)
    turned = Image.fromarray(pixels.transpose(1, 0, 2).copy())
    expected = np.asarray(turned.resize((256, 311), Image.Resampling.BILINEAR))[28:284]
    assert np.array_equal(scaled_center(turned, 256), expected)


def test_an_image_whose_shorter_side_fits_is_not_resized():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 260, 3), dtype=np.uint8)
    assert np.array_equal(scaled_center(Image.fromarray(pixels), 256), pixels[:, 2:258])


def test_objects_without_a_validation_part(tmp_path):
    entries = {b"%040x" % i: b"" for i in range(400)}
    lmdb_of(tmp_path / "cat", entries)
    for root in (tmp_path, tmp_path / "cat"):
        train = bedroom(root, category="cat")
        held_out = bedroom(root, category="cat", held_out=True)
        assert len(train) + len(held_out) == 400
        assert 8 <= len(held_out) <= 34  # one in twenty, three standard deviations
        assert not set(places(train)) & set(places(held_out))


def test_many_threads_read_what_one_reads(tmp_path):
    lsun(tmp_path, count=40, height=40, width=50)
    many, one = bedroom(tmp_path, size=32, workers=8), bedroom(tmp_path, size=32, workers=1)
    order = np.random.default_rng(0).integers(0, 40, 200)
    assert np.array_equal(many.images(order), one.images(order))


def test_a_broken_value_is_named(tmp_path):
    lmdb_of(tmp_path / "bedroom_train_lmdb", {b"abc": b"RIFF....WEBP"})
    lmdb_of(tmp_path / "bedroom_val_lmdb", {b"abc": b""})
    for held_out in (False, True):
        with pytest.raises(DdimxError, match="_lmdb: abc: cannot be decoded"):
            bedroom(tmp_path, held_out=held_out).images(np.array([0]))


def test_no_lmdb_there_or_none_at_all(tmp_path):
    with pytest.raises(DdimxError, match=r"no LSUN bedroom in .*bedroom_train_lmdb\.zip"):
        bedroom(tmp_path)
    (tmp_path / "bedroom_train_lmdb").mkdir()
    (tmp_path / "bedroom_train_lmdb" / "data.mdb").write_bytes(b"no such thing" * 1000)
    with pytest.raises(DdimxError, match="not a readable LMDB"):
        bedroom(tmp_path)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    lsun(tmp_path, count=1)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match=r"pip install 'ddimx\[lsun\]'"):
        bedroom(tmp_path)


# --- FFHQ -----------------------------------------------------------------------------------------


def test_the_originals_split():
    """By the original's own two lines."""
    order = [*part_of(10, False), *part_of(10, True)]
    np.random.seed(2019)  # noqa: NPY002 - the original's own lines are the reference
    expected = list(range(10))
    np.random.shuffle(expected)  # noqa: NPY002
    assert order == expected
    assert len(part_of(70000, False)) == 63000
    assert len(part_of(11, True)) == 2  # 11 - int(9.9)


@pytest.mark.parametrize("size", [8, 16])
def test_an_lmdb_of_several_resolutions(tmp_path, size):
    ffhq(tmp_path / "ffhq")
    train = faces(tmp_path / "ffhq", size=size)
    held_out = faces(tmp_path / "ffhq", size=size, held_out=True)
    numbers = [*part_of(10, False), *part_of(10, True)]
    assert places(train) + places(held_out) == [f"{size}-{i:05d}" for i in numbers]
    assert (len(train), len(held_out)) == (9, 1)
    for i, image in enumerate(train.images(np.arange(9))):
        assert np.abs(image.astype(int) - smooth(numbers[i], size, size)).max() < 8  # JPEG's loss


def test_a_resolution_that_was_not_made(tmp_path):
    ffhq(tmp_path / "ffhq")
    with pytest.raises(UsageError, match=r"no images of 32 pixels \(there are \[8, 16\]\)"):
        faces(tmp_path / "ffhq", size=32)


def test_a_folder_of_pngs(tmp_path):
    for i in range(10):
        path = tmp_path / "00000" / f"{i:05d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(smooth(i, 16, 16)))
    numbers = part_of(10, False)
    images = faces(tmp_path).images(np.arange(9))
    assert all(np.array_equal(images[i], smooth(n, 16, 16)) for i, n in enumerate(numbers))


def test_no_ffhq(tmp_path):
    with pytest.raises(DdimxError, match="no FFHQ in"):
        faces(tmp_path / "absent")
    lmdb_of(tmp_path / "other", {b"key": b"value"})
    with pytest.raises(DdimxError, match="no entry 'length'"):
        faces(tmp_path / "other")


# --- LMDBs that are cut or damaged ----------------------------------------------------------------
# liblmdb would map more than there is, or follow what a page says: the process ends by a signal.


def changed(path, change):
    """Write a damaged copy of an LMDB's file and return its folder."""
    data = bytearray((path / "data.mdb").read_bytes())
    result = change(data)
    (path / "data.mdb").write_bytes(data if result is None else result)
    return path


def page_of(data, flags):
    """Return where the last page of a kind begins: 1 branches, 2 entries."""
    starts = range(2 * 4096, len(data), 4096)
    return [s for s in starts if int.from_bytes(data[s + 10 : s + 12], "little") == flags][-1]


def put(data, place, value, length):
    data[place : place + length] = value.to_bytes(length, "little")


def first_node(data, page):
    return page + int.from_bytes(data[page + 16 : page + 18], "little")


LEAF, BRANCH = 2, 1
DAMAGED = {
    "cut": (lambda d: d[:-4096], "it was cut"),
    "two pages": (lambda d: d[:8192], "it was cut"),
    "less than two pages": (lambda d: d[:5000], "is shorter|not an LMDB's"),
    "empty": (lambda d: b"", "shorter than two pages"),
    "page size 0": (lambda d: [put(d, p + 24, 0, 4) for p in (16, 4112)] and d, "first page"),
    "fixed address": (lambda d: [put(d, p + 8, 1, 8) for p in (16, 4112)] and d, "fixed address"),
    "duplicates": (lambda d: [put(d, p + 76, 4, 2) for p in (16, 4112)] and d, "another kind"),
    "depth": (lambda d: [put(d, p + 78, 60000, 2) for p in (16, 4112)] and d, "60000 levels"),
    "root": (lambda d: [put(d, p + 112, 2**40, 8) for p in (16, 4112)] and d, "not in the file"),
    "entries": (lambda d: [put(d, p + 104, 10**15, 8) for p in (16, 4112)] and d, "says 10{15}"),
    "a loop": (
        lambda d: put(d, first_node(d, page_of(d, BRANCH)), page_of(d, BRANCH) // 4096, 4),
        "in the tree twice",
    ),
    "offsets": (lambda d: put(d, page_of(d, LEAF) + 16, 65534, 2), "is damaged"),
    "long value": (
        lambda d: put(d, first_node(d, page_of(d, LEAF)), 2**31, 4),
        "is damaged|not in the file",
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_lmdb_is_refused_before_it_is_mapped(tmp_path, name):
    entries = {b"%040x" % i: bytes(i % 300 * 20) for i in range(300)}
    path = tmp_path / "cat"
    lmdb_of(path, entries)
    with (path / "data.mdb").open("rb") as stream:
        assert check_lmdb(stream) == 300
    change, reason = DAMAGED[name]
    changed(path, change)
    with pytest.raises(DdimxError, match=rf"cat: not a readable LMDB \(.*({reason})"):
        bedroom(tmp_path, category="cat")


@pytest.mark.parametrize("count", [0, 1, 40, 3000])
def test_the_entries_of_a_whole_lmdb_are_counted(tmp_path, count):
    lmdb_of(tmp_path, {b"%040x" % i: b"v" * (i % 50) for i in range(count)})
    with (tmp_path / "data.mdb").open("rb") as stream:
        assert check_lmdb(stream) == count


@pytest.mark.parametrize("length", [b"12", b"9" * 5000])
def test_an_ffhq_that_says_more_images_than_it_holds(tmp_path, length):
    lmdb_of(tmp_path / "ffhq", {b"length": length, b"16-00000": b""})
    with pytest.raises(DdimxError, match="says more images than its 2 entries"):
        faces(tmp_path / "ffhq")
