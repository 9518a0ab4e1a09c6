"""CelebA: the original's crop to the pixel, its splits, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from ddimx.data.images.celeba import CelebASource
from ddimx.errors import DdimxError, UsageError
from tests.data.images.official import celeba, encoded, smooth


def source(root, *, size=64, held_out=False, split=None, workers=2):
    split = split or ("test" if held_out else "train")
    return CelebASource(root, size=size, held_out=held_out, split=split, workers=workers)


def all_of(part):
    return part.images(np.arange(len(part)))


def png_celeba(folder, pixels):
    """A folder with one image whose pixels survive its encoding, whatever its name says."""
    (folder / "img_align_celeba").mkdir(parents=True)
    (folder / "img_align_celeba" / "000001.jpg").write_bytes(encoded(pixels))
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    return folder


def test_the_crop_is_rows_57_to_184_and_columns_25_to_152(tmp_path):
    """At 128 pixels nothing is resized, so that the crop shows itself."""
    y, x = np.mgrid[:218, :178]
    pixels = np.stack([y, x, 0 * x], axis=-1).astype(np.uint8)
    (image,) = all_of(source(png_celeba(tmp_path, pixels), size=128))
    assert np.array_equal(image, pixels[57:185, 25:153])
    assert image[0, 0].tolist() == [57, 25, 0]
    assert image[-1, -1].tolist() == [184, 152, 0]


def halved(pixels):
    """Halve an axis by Pillow's bilinear filter: a triangle of support 2 about each center.

    Weights 1, 3, 3, 1 of 8; at the borders what lies outside is left out and the rest rescaled.
    """
    pixels = np.asarray(pixels, dtype=np.float64)
    padded = np.pad(pixels, [(1, 1), (0, 0), (0, 0)])
    counted = np.pad(np.ones(len(pixels)), 1)
    weights = (1, 3, 3, 1)
    total = sum(w * counted[k : k + len(pixels) : 2] for k, w in enumerate(weights))
    mean = sum(w * padded[k : k + len(pixels) : 2] for k, w in enumerate(weights))
    return mean / total[:, None, None]


def test_the_resize_is_bilinear_over_the_whole_support(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    (image,) = all_of(source(png_celeba(tmp_path, pixels), size=64))
    rows = halved(pixels[57:185, 25:153])
    expected = halved(rows.transpose(1, 0, 2)).transpose(1, 0, 2)
    # Pillow rounds to bytes after each of the two passes: half a level each, the second averages.
    assert np.abs(image - expected).max() <= 1.0 + 1e-2


@pytest.mark.parametrize("archive", [True, False])
def test_the_splits_are_those_of_the_list(tmp_path, archive):
    celeba(tmp_path, count=8, archive=archive)  # 0 train, 1 valid, 2 test, 0, 1, 2, 0, 1
    train, held_out = source(tmp_path), source(tmp_path, held_out=True)
    assert [train.place(i)[-10:] for i in range(3)] == ["000001.jpg", "000004.jpg", "000007.jpg"]
    assert [held_out.place(i)[-10:] for i in range(2)] == ["000003.jpg", "000006.jpg"]
    valid = source(tmp_path, held_out=True, split="valid")
    assert [valid.place(i)[-10:] for i in range(3)] == ["000002.jpg", "000005.jpg", "000008.jpg"]
    assert (len(train), len(held_out), len(valid)) == (3, 2, 3)
    crop = smooth(3, 218, 178)[57:185, 25:153].reshape(64, 2, 64, 2, 3).mean((1, 3))
    image = train.images(np.array([1]))[0]
    assert np.abs(image - crop).mean() < 3  # JPEG's loss
    assert train.fingerprint != held_out.fingerprint


def test_archive_and_folder_are_the_same_data(tmp_path):
    celeba(tmp_path / "zip")
    celeba(tmp_path / "dir", archive=False)
    one, other = source(tmp_path / "zip"), source(tmp_path / "dir")
    assert np.array_equal(all_of(one), all_of(other))


@pytest.mark.parametrize("inner", ["img_align_celeba", "img_align_celeba.zip", ""])
def test_the_list_is_found_beside_the_images(tmp_path, inner):
    celeba(tmp_path, archive=inner.endswith("zip"))
    assert len(source(tmp_path / inner)) == 2


def test_the_archive_is_read_by_several_threads(tmp_path):
    celeba(tmp_path, count=60)
    part = source(tmp_path, workers=8)
    again = source(tmp_path, workers=1)
    order = np.random.default_rng(0).permutation(len(part))
    assert np.array_equal(part.images(order), again.images(order))


def test_without_the_list_it_is_refused(tmp_path):
    celeba(tmp_path, partition=False)
    with pytest.raises(DdimxError, match=r"without its list of splits: put list_eval_partition"):
        source(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("1.jpg 0\n")
    with pytest.raises(DdimxError, match="its list of splits names none of the 6 images"):
        source(tmp_path)


def authors_tree(folder):
    celeba(folder / "Img", partition=False)
    (folder / "Eval").mkdir()
    (folder / "Img" / "img_celeba.7z").mkdir()  # the parts of another archive
    return folder / "Eval" / "list_eval_partition.txt", "", " "


def kaggle_tree(folder):
    celeba(folder / "img_align_celeba", archive=False, partition=False)
    return folder / "list_eval_partition.csv", "image_id,partition\n", ","


@pytest.mark.parametrize("make", [authors_tree, kaggle_tree])
def test_the_trees_in_which_it_is_distributed(tmp_path, make):
    """The splits are those of the list wherever it lies; it is not the hash's by chance."""
    path, header, between = make(tmp_path)
    lines = [f"{i:06d}.jpg{between}{i % 2 * 2}\n" for i in range(1, 7)]
    path.write_text(header + "".join(lines))
    inner = ["", "Img"] if make is authors_tree else ["", "img_align_celeba"]
    for root in (tmp_path / name for name in inner):
        for held_out, numbers in ((False, (2, 4, 6)), (True, (1, 3, 5))):
            part = source(root, held_out=held_out)
            assert [int(part.place(i)[-10:-4]) for i in range(len(part))] == [*numbers]


def test_only_squares(tmp_path):
    celeba(tmp_path)
    with pytest.raises(UsageError, match=r"data\.image_size is 48x64, and CelebA's images are squ"):
        source(tmp_path, size=(64, 48))


def test_an_image_of_another_size_is_named(tmp_path):
    celeba(tmp_path, archive=False)
    Image.new("RGB", (178, 178)).save(tmp_path / "img_align_celeba" / "000004.jpg")
    with pytest.raises(DdimxError, match=r"000004\.jpg: .*178x178, aligned images are 178x218"):
        all_of(source(tmp_path))


def test_a_damaged_archive(tmp_path):
    celeba(tmp_path)
    path = tmp_path / "img_align_celeba.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xd8") + 300] ^= 255  # in the first image, whose checksum then fails
    path.write_bytes(data)
    with pytest.raises(DdimxError, match=r"000001\.jpg: cannot be decoded"):
        all_of(source(tmp_path))
    path.write_bytes(b"<html>Google Drive - Quota exceeded</html>")
    with pytest.raises(DdimxError, match="not a readable zip"):
        source(tmp_path)


def test_a_damaged_list_names_the_line(tmp_path):
    celeba(tmp_path)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n\n000002.jpg 3\n")
    with pytest.raises(DdimxError, match=r"list_eval_partition\.txt, line 3: expected"):
        source(tmp_path)


def test_nothing_there_and_no_such_split(tmp_path):
    with pytest.raises(DdimxError, match=r"no CelebA in .*put img_align_celeba\.zip there"):
        source(tmp_path)
    celeba(tmp_path)
    with pytest.raises(UsageError, match="unknown split 'val'; did you mean 'valid'"):
        source(tmp_path, split="val")
