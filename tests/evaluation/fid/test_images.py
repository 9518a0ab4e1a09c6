"""Which images a set has, and with which pixels they are measured."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images.folder import FolderSource
from ddimx.data.images.named import data_sets
from ddimx.data.images.pack import Packing
from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.fid.images import open_images
from ddimx.progress import Progress
from tests.data.images.official import celeba, cifar10, encoded, lsun, smooth

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def save(folder, pixels=PIXELS, suffix="png", **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.{suffix}", **options)
    return folder


def read(where, **options):
    images = open_images(str(where), **options)
    return images.read(range(len(images)))


def test_a_zip_is_its_folder(tmp_path):
    save(tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in sorted((tmp_path / "a").iterdir()):
            archive.write(path, f"x/{path.name}")
        archive.writestr("__MACOSX/x/._0.png", b"no picture")
    np.testing.assert_array_equal(read(tmp_path / "a.zip"), PIXELS)


@pytest.mark.parametrize("name", ["images.npz", "adm.npz", "plain.npy"])
def test_arrays_are_taken_whole(tmp_path, name):
    path = tmp_path / name
    if name == "plain.npy":
        np.save(path, PIXELS)
    else:
        np.savez(path, **{"images" if name == "images.npz" else "arr_0": PIXELS})
    np.testing.assert_array_equal(read(path), PIXELS)
    with pytest.raises(UsageError, match="an array has its size; --size and --set are for"):
        open_images(str(path), size=(4, 4))


def test_of_a_packed_set_the_training_images_are_taken(tmp_path):
    save(tmp_path / "a", smooth_set(40))
    parts = [
        FolderSource(tmp_path / "a", size=4, held_out=held_out, workers=1)
        for held_out in (False, True)
    ]
    Packing((parts[0], parts[1]), {"dataset": "FOLDER"}, tmp_path / "p.npy").run(
        Progress(quiet=True)
    )
    images = open_images(str(tmp_path / "p.npy"))
    assert len(parts[1]) > 0
    np.testing.assert_array_equal(
        images.read(range(len(images))), parts[0].images(np.arange(len(parts[0])))
    )
    assert images.about["packed"] == "'FOLDER': center crop, Lanczos"
    assert images.label == f"{tmp_path / 'p.npy'} ({len(parts[0])} training images)"


def smooth_set(count):
    return [smooth(i, 6, 8) for i in range(count)]


@pytest.mark.parametrize("archive", ["samples.npz", "samples.npy"])
def test_of_a_run_in_one_file_its_array_is_taken(tmp_path, archive):
    (tmp_path / "manifest.json").write_text("{}")
    Image.new("RGB", (40, 40)).save(tmp_path / "grid.png")
    if archive.endswith(".npz"):
        np.savez(tmp_path / archive, images=PIXELS)
        np.testing.assert_array_equal(read(tmp_path), PIXELS)
        return
    np.save(tmp_path / archive, np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(DdimxError, match=r"float32 \[2, 3, 4, 4\], but pixels are uint8"):
        open_images(str(tmp_path))


def test_of_a_run_of_pictures_only_its_own_are_taken(tmp_path):
    save(tmp_path)
    save(tmp_path / "below", PIXELS[:1])
    (tmp_path / "manifest.json").write_text("{}")
    np.testing.assert_array_equal(read(tmp_path), PIXELS)


def test_celeba_by_name_is_cropped_as_the_original_does(tmp_path):
    files = celeba(tmp_path, count=4)
    settings = [f"data.root={tmp_path}"]
    images = open_images("celeba", samples_size=(16, 16), settings=settings)
    expected = []
    for name in ("000001.jpg", "000004.jpg"):  # the training split
        picture = Image.open(io.BytesIO(files[name])).crop((25, 57, 153, 185))
        expected.append(np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR)))
    np.testing.assert_array_equal(images.read(range(2)), expected)
    assert images.label == f"celeba (2 training images of {tmp_path})"
    assert images.about == {
        "preprocessing": "8-bit RGB, 16x16: 128x128 round column 89 and row 121, bilinear",
        "size": [16, 16],
    }
    assert open_images("CelebA", settings=settings).size == (64, 64)  # the configuration's
    chosen = open_images("celeba", samples_size=(16, 16), size=(32, 32), settings=settings)
    assert chosen.size == (32, 32)


def test_other_data_sets_by_name(tmp_path):
    lsun(tmp_path / "lsun", count=3, height=40, width=50)
    settings = [f"data.root={tmp_path / 'lsun'}"]
    bedroom = open_images("bedroom", samples_size=(8, 8), settings=settings)
    assert (len(bedroom), bedroom.size) == (3, (8, 8))
    own = open_images("lsun", size=(8, 8), settings=[*settings, "data.category=bedroom"])
    np.testing.assert_array_equal(own.read(range(3)), bedroom.read(range(3)))
    with pytest.raises(UsageError, match="must name LSUN's category"):
        open_images("lsun", settings=settings)
    pixels, _ = cifar10(tmp_path / "cifar", count=2)
    settings = [f"data.root={tmp_path / 'cifar'}"]
    cifar = open_images("cifar10", samples_size=(16, 16), settings=settings)
    np.testing.assert_array_equal(cifar.read(range(10)), pixels[:10])
    with pytest.raises(UsageError, match="cifar10: its images are 32x32 as stored"):
        open_images("cifar10", size=(16, 16), settings=settings)
    save(tmp_path / "ffhq", [smooth(i, 10, 10) for i in range(10)])
    ffhq = open_images("ffhq", samples_size=(5, 5), settings=[f"data.root={tmp_path / 'ffhq'}"])
    assert (len(ffhq), ffhq.size) == (9, (5, 5))


def test_names_that_are_no_data_set(tmp_path):
    assert data_sets() == ["bedroom", "celeba", "church", "cifar10", "emoji", "ffhq", "lsun"]
    with pytest.raises(DdimxError, match=r"no such file: celebs; did you mean 'celeba'\? Data"):
        open_images("celebs")
    with pytest.raises(UsageError, match="only keys of data count here"):
        open_images("celeba", settings=["training.batch_size=3"])


def test_a_name_of_a_folder_that_is_there_is_the_folder(tmp_path, monkeypatch):
    save(tmp_path / "celeba")
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(read("celeba"), PIXELS)
    assert "--set data.root=celeba takes it for the data set" in open_images("celeba").notes[0]
    with pytest.raises(UsageError, match=r"data\.root is for data sets by name: bedroom"):
        open_images("./celeba", settings=["data.root=elsewhere"])


def test_a_place_makes_a_name_that_of_the_data_set(tmp_path, monkeypatch):
    """Also beside a folder of that name, which the data may well lie in."""
    celeba(tmp_path / "celeba", count=4)
    monkeypatch.chdir(tmp_path)
    images = open_images("celeba", samples_size=(16, 16), settings=["data.root=celeba"])
    assert (len(images), images.size, images.notes) == (2, (16, 16), ())


def test_pictures_are_cut_and_scaled_as_for_training(tmp_path):
    save(tmp_path, [smooth(0, 20, 30), smooth(1, 30, 20)])
    with pytest.raises(DdimxError, match=r"1\.png: is 20x30, most .* are 30x20; --size 30x20 cuts"):
        open_images(str(tmp_path))
    images = open_images(str(tmp_path), size=(8, 6))
    squeezed = [
        Image.fromarray(smooth(i, *shape)).resize((6, 8), Image.Resampling.LANCZOS, box)
        for i, shape, box in ((0, (20, 30), (7, 0, 22, 20)), (1, (30, 20), (0, 1, 20, 28)))
    ]
    # A cut to whole pixels moves an edge by half of one.
    np.testing.assert_allclose(images.read([0]), [np.asarray(squeezed[0])], atol=2)
    assert images.about["preprocessing"] == "8-bit RGB, 8x6: center crop, Lanczos"
    assert images.size == (8, 6)


def test_pictures_are_decoded_as_for_training(tmp_path):
    """16-bit gray is not saturated, transparency is put on white, and cameras' turns are made."""
    gray = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / "a.png")
    clear = Image.new("RGBA", (6, 4), (10, 20, 30, 0))
    clear.save(tmp_path / "b.png")
    turned = Image.fromarray(np.ascontiguousarray(PIXELS[0].transpose(1, 0, 2)))
    exif = Image.Exif()
    exif[0x112] = 5  # transposed
    turned.save(tmp_path / "c.png", exif=exif)
    pixels = read(tmp_path)
    np.testing.assert_array_equal(pixels[0], np.repeat(gray[..., None], 3, axis=2))
    assert (pixels[1] == 255).all()
    np.testing.assert_array_equal(pixels[2], PIXELS[0])
    dark = open_images(str(tmp_path), settings=["data.background=black"])
    assert (dark.read([1]) == 0).all()
    assert dark.about["decoding"] == "upright by EXIF, transparency on black"


def test_arrays_with_alpha_are_put_on_white_as_pictures_are(tmp_path):
    pixels = np.concatenate([PIXELS, PIXELS[..., :1]], axis=3)
    np.savez(tmp_path / "a.npz", arr_0=pixels)
    save(tmp_path / "a", pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), read(tmp_path / "a"))


def test_what_cannot_be_read_is_left_out_or_refused(tmp_path):
    save(tmp_path)
    (tmp_path / "9.png").write_bytes(b"no picture")
    images = open_images(str(tmp_path))
    assert (len(images), images.about["unreadable"]) == (5, 1)
    assert "1 left out, unreadable: 9.png" in images.notes[0]
    with pytest.raises(DdimxError, match=r"9\.png"):
        open_images(str(tmp_path), strict=True)


def test_the_record_tells_formats_and_gray(tmp_path):
    save(tmp_path / "a", suffix="jpg")
    assert open_images(str(tmp_path / "a")).about["files"] == {"JPEG": 5}
    save(tmp_path / "b", PIXELS[..., 0])
    assert open_images(str(tmp_path / "b")).about["gray"] is True
    Image.fromarray(PIXELS[0]).save(tmp_path / "b" / "0.png")
    assert "gray" not in open_images(str(tmp_path / "b")).about
    np.savez(tmp_path / "c.npz", arr_0=PIXELS[..., :1])
    images = open_images(str(tmp_path / "c.npz"))
    assert images.about["gray"] is True
    np.testing.assert_array_equal(images.read([1]), PIXELS[1:2, ..., :1].repeat(3, axis=3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.tar", "not a readable tar of images"),
        ("a.tar.gz", r"compressed, so that no member .*; unpack it to a plain \.tar"),
        ("a.7z", "of archives zips and plain tars are read"),
        ("a.png", "zip of images"),
        ("empty.npy", "not a readable array file"),
        ("lmdb", "an LMDB; name the data set"),
        ("none.npz", "holds no images"),
    ],
)
def test_what_is_no_set_says_what_to_do(tmp_path, name, message):
    for archive in ("a.tar", "a.tar.gz", "a.7z"):
        (tmp_path / archive).write_bytes(b"x")
    (tmp_path / "a.png").write_bytes(encoded(PIXELS[0]))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "lmdb").mkdir()
    (tmp_path / "lmdb" / "data.mdb").write_bytes(b"x")
    np.savez(tmp_path / "none.npz", arr_0=PIXELS[:0])
    with pytest.raises(DdimxError, match=message):
        open_images(str(tmp_path / name))
