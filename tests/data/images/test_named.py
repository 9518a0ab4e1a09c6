"""What a person's words for images stand for: paths by what is there, data sets by name."""

import numpy as np
import pytest
from PIL import Image

from ddimx.config import DataConfig
from ddimx.data.images.named import data_at, is_packed, named_data, place_of, stored_pixels
from ddimx.data.images.packed import OLD_MAGIC
from ddimx.errors import DdimxError, UsageError
from tests.data.images.official import celeba, cifar10

PIXELS = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)


def own(dataset, **keys):
    fields = {"dataset": dataset, "image_size": 8, "channels": 3, "balance": "family"}
    return DataConfig(**fields | keys)


@pytest.mark.parametrize(
    ("model", "name", "dataset"),
    [
        ("NPZ", "pictures", "FOLDER"),
        ("NPZ", "pictures.zip", "FOLDER"),
        ("FOLDER", "a.npz", "NPZ"),
        ("FOLDER", "a.NPY", "PACKED"),
        ("CELEBA", "pictures", "FOLDER"),
        ("CELEBA", "celeba", "CELEBA"),
        ("CELEBA", "celeba/img_align_celeba.zip", "CELEBA"),
        ("FOLDER", "celeba", "FOLDER"),
        ("CIFAR10", "cifar", "CIFAR10"),
        ("CIFAR10", "cifar/cifar-10-python.tar.gz", "CIFAR10"),
        ("LSUN", "lsun", "LSUN"),
        ("LSUN", "pictures", "FOLDER"),
    ],
)
def test_the_data_at_a_path(tmp_path, model, name, dataset):
    (tmp_path / "pictures").mkdir()
    celeba(tmp_path / "celeba", count=1)
    cifar10(tmp_path / "cifar", count=1)
    (tmp_path / "lsun" / "bedroom_train_lmdb").mkdir(parents=True)
    for file in ("pictures.zip", "a.npz", "a.NPY", "lsun/bedroom_train_lmdb/data.mdb"):
        (tmp_path / file).touch()
    data = data_at(str(tmp_path / name), own(model, rescaled=False))
    assert (data.dataset, data.root) == (dataset, str(tmp_path / name))
    assert (data.image_size, data.rescaled, data.balance) == (8, False, "none")


def test_the_data_of_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = data_at("bedroom", own("NPZ", root="x", category="y"))
    assert (data.dataset, data.category, data.root, data.image_size) == ("LSUN", "bedroom", None, 8)
    (tmp_path / "own.yml").write_text(
        "data: {dataset: FOLDER, root: here, image_size: 4, channels: 1}\n"
    )
    data = data_at("own.yml", own("NPZ"))
    assert (data.dataset, data.root, data.image_size, data.channels) == ("FOLDER", "here", 8, 3)
    (tmp_path / "bedroom").mkdir()
    assert data_at("bedroom", own("NPZ")).dataset == "FOLDER"


def test_that_nothing_was_held_out_is_said_of_the_own_data_only():
    small = own("FOLDER", root=".", held_out=False)
    assert data_at(".", small).held_out is False
    assert data_at("..", small).held_out is True
    assert data_at("celeba", small).held_out is True


def test_names_are_known_or_refused():
    assert place_of("CelebA") is None
    assert named_data("ffhq", ["data.root=x"]).root == "x"
    with pytest.raises(DdimxError, match=r"no such file: ffhw; did you mean 'ffhq'\?"):
        place_of("ffhw")
    with pytest.raises(UsageError, match="furniture: a data set of octrees"):
        named_data("furniture")


def test_arrays_of_pixels(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    np.savez(tmp_path / "a.npz", images=PIXELS)
    for name in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(stored_pixels(tmp_path / name), PIXELS)
        assert not is_packed(tmp_path / name)
    (tmp_path / "a.npy.json").write_text("{}")
    assert is_packed(tmp_path / "a.npy")
    np.save(tmp_path / "old.npy", PIXELS)
    with (tmp_path / "old.npy").open("ab") as stream:
        stream.write(b"{}" + bytes(8) + OLD_MAGIC)
    assert is_packed(tmp_path / "old.npy")
    np.save(tmp_path / "floats.npy", PIXELS.astype(np.float32))
    with pytest.raises(DdimxError, match=r"float32 \[2, 3, 4, 3\], but pixels are uint8"):
        stored_pixels(tmp_path / "floats.npy")
    Image.fromarray(PIXELS[0]).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.npy")
    for read in (is_packed, stored_pixels):
        with pytest.raises(DdimxError, match="not a readable array file"):
            read(tmp_path / "b.npy")
