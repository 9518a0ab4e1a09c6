"""Data set files: what is read, and what is refused in words that help."""

import zipfile

import numpy as np
import pytest

from ddimx.config_file import override
from ddimx.data.images.npz import NpzSource
from ddimx.data.images.sources import JoinedSource, open_source
from ddimx.errors import DdimxError, UsageError
from ddimx.files import sha256_file

IMAGES = np.arange(6 * 4 * 4 * 3, dtype=np.uint8).reshape(6, 4, 4, 3)
ALL = np.arange(6)


@pytest.fixture
def npz(tmp_path):
    """Return a function that writes arrays to an .npz and returns its path."""

    def write(**arrays):
        path = tmp_path / "set.npz"
        np.savez(path, **arrays)
        return path

    return write


def test_images_alone(npz):
    path = npz(images=IMAGES)
    source = NpzSource(path, held_out=False)
    assert len(source) == 6
    assert source.image_shape == (4, 4, 3)
    assert (source.labels, source.families, source.classes) == (None, None, ())
    assert source.fingerprint == sha256_file(path)
    picked = source.images(np.array([4, 0, 4]))
    assert picked.dtype == np.uint8
    assert np.array_equal(picked, IMAGES[[4, 0, 4]])
    assert len(NpzSource(path, held_out=True)) == 0


def test_guided_diffusions_name_for_the_images(npz):
    source = NpzSource(npz(arr_0=IMAGES), held_out=False)
    assert np.array_equal(source.images(ALL), IMAGES)


def test_both_parts_of_a_split_with_their_companions(npz):
    held_out = np.array([0, 1, 0, 0, 1, 0], dtype=bool)
    labels = np.array([0, 1, 2, 0, 1, 2], dtype=np.int8)
    families = np.array([5, 5, 7, 7, 9, 9], dtype=np.uint16)
    path = npz(
        images=IMAGES, held_out=held_out, labels=labels, families=families, groups=["a", "b", "c"]
    )
    for wanted in (False, True):
        source = NpzSource(path, held_out=wanted)
        chosen = held_out == wanted
        assert np.array_equal(source.images(np.arange(len(source))), IMAGES[chosen])
        assert source.labels.dtype == source.families.dtype == np.int64
        assert source.labels.tolist() == labels[chosen].tolist()
        assert source.families.tolist() == families[chosen].tolist()
        assert source.classes == ("a", "b", "c")


def test_the_fingerprint_is_that_of_the_bytes(npz):
    before = NpzSource(npz(images=IMAGES), held_out=False).fingerprint
    assert NpzSource(npz(images=IMAGES + 1), held_out=False).fingerprint != before


NOT_IMAGES = {
    "no array of that name": {"pictures": IMAGES},
    "float": {"images": IMAGES.astype(np.float32)},
    "one image": {"images": IMAGES[0]},
    "flat": {"images": IMAGES.reshape(6, -1)},
}


@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_images_of_another_form(npz, kind):
    with pytest.raises(DdimxError, match=r"set\.npz: needs an array 'images', uint8 \[N, H, W, C"):
        NpzSource(npz(**NOT_IMAGES[kind]), held_out=False)


NOT_COMPANIONS = {
    "labels": [np.arange(5), np.arange(6.0), np.array(list("abcdef")), np.zeros((6, 1), int)],
    "families": [np.arange(7), np.array(3)],
    "held_out": [np.zeros(5, bool), np.zeros(7, bool), np.zeros((6, 2), bool), np.arange(6.0)],
}
CASES = [(key, array) for key, arrays in NOT_COMPANIONS.items() for array in arrays]


@pytest.mark.parametrize(("key", "array"), CASES)
def test_companions_that_do_not_fit(npz, key, array):
    with pytest.raises(DdimxError, match=rf"set\.npz: '{key}' is .*expected (bool|integers) \[6\]"):
        NpzSource(npz(images=IMAGES, **{key: array}), held_out=False)


def damaged_files(folder):
    """Write files that are no .npz of plain arrays and return their names."""
    np.savez_compressed(folder / "whole.npz", images=IMAGES)
    whole = (folder / "whole.npz").read_bytes()
    (folder / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytes(b ^ 255 if 90 <= i < 110 else b for i, b in enumerate(whole))
    (folder / "flipped.npz").write_bytes(flipped)
    (folder / "empty.npz").write_bytes(b"")
    (folder / "text.npz").write_text("not an archive")
    np.save(folder / "single.npy", IMAGES)
    np.savez(folder / "object.npz", images=IMAGES, groups=np.array(["a", None], dtype=object))
    with zipfile.ZipFile(folder / "other.npz", "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY but no more")
    return sorted(p.name for p in folder.iterdir() if p.name != "whole.npz")


def test_damaged_files_and_pickles_are_refused_by_name(tmp_path):
    names = damaged_files(tmp_path)
    assert len(names) == 7
    for name in names:
        with pytest.raises(DdimxError) as error:
            NpzSource(tmp_path / name, held_out=False)
        assert f"{name}: not a readable .npz of plain arrays" in str(error.value), name


def test_nothing_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    np.savez(tmp_path / "evil.npz", images=np.array([Evil()], dtype=object))
    with pytest.raises(DdimxError, match="plain arrays"):
        NpzSource(tmp_path / "evil.npz", held_out=False)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(DdimxError, match=r"no data file .*absent\.npz.*ddimx prepare emoji"):
        NpzSource(tmp_path / "absent.npz", held_out=False)


# --- what the configuration says against what the data set is -------------------------------------


def test_open_source_gives_the_two_parts(tiny_config):
    train, held_out = open_source(tiny_config), open_source(tiny_config, held_out=True)
    assert (len(train), len(held_out)) == (14, 2)
    assert set(train.labels) == {0, 1}


REFUSED = [
    ("data.dataset=CIFAR100", r"unknown data\.dataset 'CIFAR100'; did you mean 'CIFAR10'\?"),
    ("data.dataset=LSUN", r"data\.category must name LSUN's category"),
    ("data.root=null", r"data\.root must name the npz to train on"),
    ("data.image_size=16", r"images are 8x8x3 but the configuration says 16x16x3"),
    ("model.classes=[square, round]", r"its groups .* are not model\.classes"),
    ("model.classes=[round]", r"its groups .* are not model\.classes"),
]


@pytest.mark.parametrize(("item", "message"), REFUSED)
def test_a_data_set_that_does_not_fit(tiny_config, item, message):
    extra = ["model.attn_resolutions=[]"] if "image_size" in item else []
    with pytest.raises(UsageError, match=message):
        open_source(override(tiny_config, [item, *extra]))


def test_a_data_set_of_another_size_is_refused_even_if_a_part_is_empty(tiny_config, npz):
    config = override(tiny_config, [f"data.root={npz(images=IMAGES)}", "data.balance=none"])
    for held_out in (False, True):
        with pytest.raises(UsageError, match="images are 4x4x3"):
            open_source(config, held_out=held_out)


EIGHT = np.zeros((4, 8, 8, 3), np.uint8)
UNFIT = [
    ({}, "model.classes are set but there are no labels"),
    ({"labels": np.array([0, 1, 2, 0])}, "label 2 is not one of the 2 model.classes"),
    ({"labels": np.array([0, -1, 1, 0])}, "label -1 is not one of the 2 model.classes"),
]


@pytest.mark.parametrize(("arrays", "message"), UNFIT)
def test_labels_that_do_not_fit_the_classes(tiny_config, npz, arrays, message):
    path = npz(images=EIGHT, **arrays)
    with pytest.raises(UsageError) as error:
        open_source(override(tiny_config, [f"data.root={path}", "data.balance=none"]))
    assert message in str(error.value)


def test_families_that_are_asked_for_and_are_not_there(tiny_config, npz):
    path = npz(images=EIGHT, labels=np.zeros(4, int))
    with pytest.raises(UsageError, match=r"data\.balance is 'family' but there are no families"):
        open_source(override(tiny_config, [f"data.root={path}"]))


def test_a_folder_of_any_number_of_channels_without_classes(tiny_config, tmp_path):
    from PIL import Image

    for i in range(3):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    folder = ["data.dataset=FOLDER", f"data.root={tmp_path}", "data.balance=none"]
    with pytest.raises(UsageError, match="no labels"):
        open_source(override(tiny_config, folder))
    plain = override(tiny_config, [*folder, "model.classes=[]"])
    assert open_source(plain).images(np.array([0])).shape == (1, 8, 8, 3)
    for channels in (1, 4):
        sides = [f"data.channels={channels}", "data.image_size=8x16", "model.attn_resolutions=[4]"]
        widths = [f"model.in_channels={channels}", f"model.out_ch={channels}"]
        other = override(plain, [*sides, *widths])
        assert open_source(other).images(np.array([0])).shape == (1, 16, 8, channels)
    two = override(plain, ["data.channels=2", "model.in_channels=2", "model.out_ch=2"])
    with pytest.raises(UsageError, match=r"data\.channels is 2; images have 1 \(gray\), 3"):
        open_source(two)


def test_joined_parts_are_the_whole_set(npz):
    """Training images first, then those held out; any order of numbers, also those of one part."""
    held_out = np.array([0, 1, 0, 0, 1, 0], dtype=bool)
    labels = np.array([0, 1, 2, 0, 1, 2])
    path = npz(images=IMAGES, held_out=held_out, labels=labels)
    parts = (NpzSource(path, held_out=False), NpzSource(path, held_out=True))
    whole, order = JoinedSource(parts), [0, 2, 3, 5, 1, 4]
    assert len(whole) == 6
    np.testing.assert_array_equal(whole.labels, labels[order])
    assert whole.families is None
    for numbers in ([5, 0, 4, 1], [0, 1], [4, 5], []):
        chosen = np.array(numbers, dtype=np.int64)
        np.testing.assert_array_equal(whole.images(chosen), IMAGES[order][chosen])
    empty = JoinedSource((parts[0], NpzSource(npz(images=IMAGES), held_out=True)))
    assert (len(empty), empty.labels) == (4, None)
