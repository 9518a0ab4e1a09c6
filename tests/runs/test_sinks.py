"""Files of samples are whole or absent, and every format holds the same numbers."""

import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ddimx.config import DataConfig
from ddimx.errors import DdimxError, UsageError
from ddimx.runs.image_sink import ImageSink
from ddimx.runs.pictures import as_image, facts_of
from ddimx.runs.sinks import ArraySink, open_sink, remove_parts
from tests.sampling import names_in

RGB = DataConfig(dataset="NPZ", image_size=2, channels=3)
GRAY = DataConfig(dataset="NPZ", image_size=2, channels=1)
GRAY_ALPHA = DataConfig(dataset="NPZ", image_size=2, channels=2)
RGBA = DataConfig(dataset="NPZ", image_size=2, channels=4)
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def levels(count, channels=3):
    """Pixels [N, H, W, C] of which no two images are alike, and the same as samples in [-1, 1]."""
    pixels = (np.arange(count * 4 * channels) * 7 % 256).astype(np.uint8)
    pixels = pixels.reshape(count, 2, 2, channels)
    samples = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    return pixels, samples


def test_formats_by_name(tmp_path):
    assert isinstance(open_sink("webp", tmp_path, RGB, ()), ImageSink)
    assert isinstance(open_sink("adm", tmp_path, RGB, ()), ArraySink)
    with pytest.raises(UsageError, match="unknown format 'pgn'; did you mean 'png'"):
        open_sink("pgn", tmp_path, RGB, ())
    five = DataConfig(dataset="NPZ", image_size=2, channels=5)
    assert isinstance(open_sink("npy", tmp_path, five, ()), ArraySink)
    with pytest.raises(UsageError, match="at most 4 channels and these images have 5: choose --fo"):
        open_sink("webp", tmp_path, five, ())


# --- images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("png", RGB),
        ("webp", RGB),
        ("png", GRAY),
        ("png", RGBA),
        ("webp", RGBA),
        ("png", GRAY_ALPHA),
    ],
)
def test_images_are_named_by_their_index_and_lossless(tmp_path, kind, data):
    pixels, samples = levels(3, data.channels)
    sink = open_sink(kind, tmp_path, data, ())
    assert sink.done() == set()
    sink.write([5, 1_000_000, 7], samples, None)
    assert names_in(tmp_path) == [f"000005.{kind}", f"000007.{kind}", f"1000000.{kind}"]
    assert sink.done() == {5, 7, 1_000_000}
    assert (sink.pixels(range(7, 8)) == pixels[2:]).all()
    assert sink.finish(range(5, 6)) == [f"000005.{kind}"]
    with Image.open(tmp_path / f"000005.{kind}") as picture:
        assert picture.format == kind.upper()
        assert picture.mode == MODES[data.channels]
        assert (np.asarray(picture).reshape(2, 2, -1) == pixels[0]).all()


def test_pictures_say_where_they_come_from(tmp_path):
    """PNGs in text chunks, which any reader shows; what is long is compressed."""
    about = {"seed": "3", "solver": "ddim", "times": str(list(range(1000))), "prompt": "Ein Bär ☃"}
    pixels, samples = levels(2)
    for kind in ("png", "webp"):
        sink = open_sink(kind, tmp_path, RGB, ("cat", "dog"), about)
        sink.write([7, 8], samples, torch.tensor([1, 2]))
        for index, name in ((7, "dog"), (8, "none")):
            with Image.open(tmp_path / f"{index:06d}.{kind}") as picture:
                assert facts_of(picture) == {"index": str(index), "class": name, **about}
        assert (sink.pixels(range(7, 9)) == pixels).all()
    with Image.open(tmp_path / "000007.png") as picture:
        assert picture.text == {
            "ddimx index": "7", "ddimx class": "dog", **{f"ddimx {k}": v for k, v in about.items()}
        }  # fmt: skip
    assert (tmp_path / "000007.png").stat().st_size < len(about["times"])
    as_image(pixels[0]).save(tmp_path / "other.png")
    as_image(pixels[0]).save(tmp_path / "other.webp")
    for kind in ("png", "webp"):
        with Image.open(tmp_path / f"other.{kind}") as picture:
            assert facts_of(picture) == {}


def test_without_classes_none_is_said(tmp_path):
    ImageSink(tmp_path, GRAY, "png").write([0], levels(1, 1)[1], None)
    with Image.open(tmp_path / "000000.png") as picture:
        assert facts_of(picture) == {"index": "0"}


def test_what_is_out_of_range_is_clamped(tmp_path):
    sink = ImageSink(tmp_path, GRAY, "png")
    sink.write([0], torch.tensor([[[[-5.0, 5.0], [-1.0, 1.0]]]]), None)
    assert sink.pixels(range(1)).flatten().tolist() == [0, 255, 0, 255]


def test_other_files_are_no_samples(tmp_path):
    for name in ("grid.png", "00001.png", "000001.jpg", "000001.png.bak", ".000001.png.x.part"):
        (tmp_path / name).touch()
    assert ImageSink(tmp_path, RGB, "png").done() == set()
    assert ImageSink(tmp_path / "absent", RGB, "png").done() == set()


def test_an_image_is_whole_or_absent(tmp_path, monkeypatch):
    sink = ImageSink(tmp_path, RGB, "png")

    def half(_self, path, **_):
        path.write_bytes(b"\x89PNG half")
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", half)
        with pytest.raises(OSError, match="disk"):
            sink.write([0], levels(1)[1], None)
    assert names_in(tmp_path) == []
    sink.write([0], levels(1)[1], None)
    assert sink.done() == {0}


# --- arrays -------------------------------------------------------------------------------------


def written(folder, kind, labels=(0, 1, 0, 1, 1), classes=("a", "b")):
    """Samples 10 to 14, written in parts whose order is not that of the indices."""
    pixels, samples = levels(5)
    sink = ArraySink(folder, RGB, kind, classes)
    given = None if labels is None else torch.tensor(labels)
    for part in ([3, 4], [0, 2], [1]):
        sink.write([10 + i for i in part], samples[part], None if given is None else given[part])
    assert sink.done() == set(range(10, 15))
    return sink, pixels, samples


def test_npy_is_float32_and_not_clamped(tmp_path):
    sink, _, samples = written(tmp_path, "npy")
    extra = torch.full((1, 3, 2, 2), 3.5)
    sink.write([15], extra, torch.tensor([0]))
    assert sink.finish(range(10, 16)) == ["samples.npy"]
    assert names_in(tmp_path) == ["parts", "samples.npy"]  # until the record says "complete"
    sink.tidy()
    assert names_in(tmp_path) == ["samples.npy"]
    values = np.load(tmp_path / "samples.npy")
    assert values.dtype == np.float32
    assert (values == torch.cat([samples, extra]).numpy()).all()
    assert (sink.pixels(range(10, 16))[5] == 255).all()
    assert sink.done() == set()  # the parts are gone
    assert sink.finish(range(10, 16), whole=True) == ["samples.npy"]
    assert (sink.pixels(range(10, 16))[5] == 255).all()


def test_npz_has_labels_and_groups(tmp_path):
    sink, pixels, _ = written(tmp_path, "npz")
    assert sink.finish(range(10, 15)) == ["samples.npz"]
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as archive:
        assert (archive["images"] == pixels).all()
        assert archive["labels"].tolist() == [0, 1, 0, 1, 1]
        assert archive["groups"].tolist() == ["a", "b"]
    assert (sink.pixels(range(10, 12)) == pixels[:2]).all()


@pytest.mark.parametrize("labels", [None, (2, 2, 2, 2, 2)])
def test_npz_without_classes_has_no_labels(tmp_path, labels):
    sink, _, _ = written(tmp_path, "npz", labels)
    sink.finish(range(10, 15))
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive.files == ["images"]


@pytest.mark.parametrize("labels", [None, (0, 1, 0, 1, 1)])
def test_adm_is_what_guided_diffusion_reads(tmp_path, labels):
    sink, pixels, _ = written(tmp_path, "adm", labels)
    sink.finish(range(10, 15))
    with np.load(tmp_path / "samples.npz") as archive:
        assert (archive["arr_0"].dtype, archive["arr_0"].shape) == (np.uint8, (5, 2, 2, 3))
        assert (archive["arr_0"] == pixels).all()
        assert archive.files == (["arr_0"] if labels is None else ["arr_0", "arr_1"])
        assert labels is None or archive["arr_1"].tolist() == list(labels)
    assert (sink.pixels(range(10, 13)) == pixels[:3]).all()


def test_samples_beyond_the_run_are_left_out(tmp_path):
    sink, pixels, _ = written(tmp_path, "adm")
    sink.finish(range(11, 14))
    with np.load(tmp_path / "samples.npz") as archive:
        assert (archive["arr_0"] == pixels[1:4]).all()


def test_an_array_is_whole_or_absent_and_its_parts_stay(tmp_path, monkeypatch):
    sink, pixels, _ = written(tmp_path, "adm")

    def half(stream, *_, **__):
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", half)  # of a part
        patch.setattr(shutil, "copyfileobj", half)  # of the whole
        for act in (
            lambda: sink.finish(range(10, 15)),
            lambda: sink.write([20], levels(1)[1], None),
        ):
            with pytest.raises(OSError, match="disk"):
                act()
    assert names_in(tmp_path) == ["parts"]
    assert sink.done() == set(range(10, 15))
    sink.finish(range(10, 15))
    sink.tidy()
    assert names_in(tmp_path) == ["samples.npz"]
    assert (sink.pixels(range(10, 15)) == pixels).all()


def test_what_no_part_holds_is_told_and_nothing_is_written(tmp_path):
    sink, _, _ = written(tmp_path, "npz")
    with pytest.raises(DdimxError, match="no part holds sample 15"):
        sink.finish(range(10, 17))
    assert names_in(tmp_path) == ["parts"]


@pytest.mark.parametrize("kind", ["npz", "adm"])
def test_a_joined_zip_is_what_numpy_writes(tmp_path, kind):
    sink, pixels, _ = written(tmp_path, kind)
    sink.finish(range(10, 15))
    labels = np.array([0, 1, 0, 1, 1])
    arrays = {"arr_0": pixels, "arr_1": labels}
    if kind == "npz":
        arrays = {"images": pixels, "labels": labels, "groups": np.array(["a", "b"])}
    with np.load(tmp_path / "samples.npz") as archive:
        assert archive.files == [*arrays]
        for name, array in arrays.items():
            assert archive[name].dtype == array.dtype
    np.savez(tmp_path / "numpy.npz", **arrays)
    found = []
    for name in ("samples.npz", "numpy.npz"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            found.append({member: archive.read(member) for member in archive.namelist()})
    assert found[0] == found[1]


def test_the_contact_sheets_samples_are_all_that_is_read_of_a_zip(tmp_path, monkeypatch):
    sink, pixels, _ = written(tmp_path, "npz")
    sink.finish(range(10, 15))
    read = []
    frombuffer = np.frombuffer
    monkeypatch.setattr(np, "frombuffer", lambda *a: read.append(a[2]) or frombuffer(*a))
    assert (sink.pixels(range(11, 13)) == pixels[1:3]).all()
    assert read == [3 * pixels[0].size]


def test_only_our_parts_are_removed(tmp_path):
    sink, _, _ = written(tmp_path, "npy")
    (tmp_path / "parts" / "mine.npz").write_bytes(b"mine")
    (tmp_path / "parts" / ".00000001-1.npz.abcd1234.part").write_bytes(b"left by a killed process")
    assert sink.done() == set(range(10, 15))
    sink.finish(range(10, 15))
    sink.tidy()
    assert names_in(tmp_path) == ["parts", "samples.npy"]
    assert names_in(tmp_path / "parts") == ["mine.npz"]
    remove_parts(tmp_path)
    remove_parts(tmp_path / "absent")
    assert (tmp_path / "parts" / "mine.npz").read_bytes() == b"mine"


def test_pixels_become_a_gray_or_a_color_image():
    assert as_image(np.zeros((2, 3, 1), np.uint8)).mode == "L"
    assert as_image(np.zeros((2, 3, 3), np.uint8)).size == (3, 2)
