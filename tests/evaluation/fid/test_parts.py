"""Features part by part: one result whoever computed which part, in whatever order, and when."""

import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ddimx
from ddimx.errors import DdimxError
from ddimx.evaluation.fid import parts
from ddimx.evaluation.fid.compare import compare
from ddimx.evaluation.fid.images import Images, Pixels, open_images
from ddimx.evaluation.fid.parts import Parts
from ddimx.progress import Progress
from tests.conftest import examples
from tests.evaluation.fid.tiny_features import MeanColors

QUIET = Progress(quiet=True)
COUNT, SIDE, FEATURES = 23, 2, 20  # fewer images than a covariance of 20 features needs at times
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


class Projected:
    """Random combinations of the pixels, float32 [B, 20]; counts the images that it has seen."""

    def __init__(self):
        self.about = {"network": "projected"}
        self.seen = 0
        self.left = COUNT * 100  # images until it is interrupted
        weights = np.random.default_rng(1).normal(size=(12, FEATURES)).astype(np.float32)
        self.weights = torch.from_numpy(weights)

    def __call__(self, pixels):
        if self.left < len(pixels):
            raise KeyboardInterrupt
        self.left -= len(pixels)
        self.seen += len(pixels)
        return torch.sin(pixels.flatten(1).float() / 64) @ self.weights


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Parts of at most 5 images: 4, 5, 4, 5 and 5."""
    monkeypatch.setattr(parts, "MOST", 5)


@pytest.fixture
def where(tmp_path):
    np.save(tmp_path / "images.npy", PIXELS)
    return tmp_path / "images.npy"


def parts_of(where, features=None, *, folder=None, batch_size=3, say=QUIET, **options):
    made = Parts(open_images(str(where)), features or Projected(), batch_size, say, **options)
    if folder is not None:
        made.keep(folder, "samples", str(where), optional=False)
    return made


def is_same(a, b):
    """Whether two statistics are equal to the last bit, in all that they hold."""
    return (
        (a.mean == b.mean).all()
        and (a.covariance == b.covariance).all()
        and (a.features == b.features).all()
        and (a.count, a.about) == (b.count, b.about)
    )


@given(st.integers(1, 3_000_000))
def test_parts_are_of_one_size_and_depend_on_the_number_of_images_alone(count):
    array = np.broadcast_to(PIXELS[:1], (count, SIDE, SIDE, 3))
    images = Images("x", Pixels(array), (SIDE, SIDE), {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "MOST", 1000)
        ranges = Parts(images, Projected(), 50, QUIET).ranges
    sizes = {len(part) for part in ranges}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 1000
    assert len(sizes) == 1 == len(ranges) or min(sizes) >= 50
    assert ranges[0].start == 0
    assert ranges[-1].stop == count
    assert all(a.stop == b.start for a, b in pairwise(ranges))
    assert len(ranges) >= min(16, count // 100)


@examples(12)
@given(data=st.data(), count=st.integers(6, COUNT), ranks=st.sampled_from([1, 2, 4, 7]))
def test_the_figure_is_the_same_for_any_number_of_processes(tmp_path_factory, data, count, ranks):
    """Equal to the last bit, so that all that is computed of it is; and right."""
    folder = tmp_path_factory.mktemp("parts")
    where = folder / "images.npy"
    np.save(where, PIXELS[:count])
    alone = parts_of(where).statistics()
    number = len(parts_of(where))
    order = data.draw(st.permutations(range(ranks)))
    for rank in order:  # each process knows the folder alone
        mine = range(number * rank // ranks, number * (rank + 1) // ranks)
        parts_of(where, folder=folder).fill(mine)
    last = Projected()
    merged = parts_of(where, last, folder=folder).statistics()
    assert last.seen == 0
    assert is_same(merged, alone)
    other = parts_of(where, batch_size=50).statistics()
    features = Projected()(torch.from_numpy(PIXELS[:count]).permute(0, 3, 1, 2)).double().numpy()
    for found in (merged, other):
        np.testing.assert_allclose(found.mean, features.mean(0), rtol=1e-5, atol=1e-6)
    # The features are the network's in float32; of them the sums are float64's: 23 roundings of
    # 1e-16 of values up to 10.
    kept = merged.features.astype(np.float64)
    np.testing.assert_allclose(merged.mean, kept.mean(0), atol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(kept, rowvar=False), atol=1e-12)
    assert compare(merged, other)["fid"] == compare(alone, other)["fid"]


def test_what_was_interrupted_is_gone_on_with(where, tmp_path):
    alone = parts_of(where).statistics()
    seen = []
    for _ in range(9):
        features = Projected()
        features.left = 6  # one part of images, and not the next one's
        try:
            found = parts_of(where, features, folder=tmp_path / "parts").statistics()
            break
        except KeyboardInterrupt:
            continue
        finally:
            seen.append(features.seen)
    assert seen == [4, 5, 4, 5, 5]
    assert is_same(found, alone)


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def rewritten(path, **changes):
    with np.load(path) as file:
        np.savez(path, **(dict(file) | changes))


DAMAGE = {
    "a flipped bit": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "nothing": lambda path: path.write_bytes(b""),
    "another file": lambda path: path.write_bytes(b"hello"),
    "no JSON": lambda path: rewritten(path, about=np.array("{")),
    "no mapping": lambda path: rewritten(path, about=np.array('{"identity": 1, "unreadable": 2}')),
    "too few": lambda path: rewritten(path, features=np.zeros((3, FEATURES), np.float32)),
    "whole numbers": lambda path: rewritten(path, features=np.zeros((4, FEATURES), np.int64)),
    "other images": lambda path: rewritten(path, numbers=np.arange(4)),
    "one number": lambda path: rewritten(path, numbers=np.array(10)),
    "numbers as text": lambda path: rewritten(path, numbers=np.array(["a"] * 4)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_part_is_made_again(where, tmp_path, capsys, damage):
    alone = parts_of(where).statistics()
    folder = tmp_path / "parts"
    parts_of(where, folder=folder).fill(range(5))
    path = folder / "samples-00003-of-00005.npz"
    damage(path)
    features = Projected()
    found = parts_of(where, features, folder=folder, say=Progress()).statistics()
    assert features.seen == 4
    assert is_same(found, alone)
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: ")
    assert "this part is made again" in said
    again = Projected()
    parts_of(where, again, folder=folder).fill(range(5))
    assert again.seen == 0


def test_parts_of_features_of_other_lengths_are_refused(where, tmp_path):
    """Which only somebody can have made on purpose: nothing else says that they are wrong."""
    parts_of(where, folder=tmp_path).fill(range(5))
    path = tmp_path / "samples-00002-of-00005.npz"
    rewritten(path, features=np.zeros((5, FEATURES + 1), np.float32))
    with pytest.raises(DdimxError, match=rf"{path.name}: features of 21 numbers, .* have 20"):
        parts_of(where, folder=tmp_path).statistics()


def test_parts_of_other_images_another_network_or_version_are_made_again(
    where, tmp_path, capsys, monkeypatch
):
    folder = tmp_path / "parts"
    parts_of(where, folder=folder).fill(range(5))

    def seen(what, **about):
        """How many images are computed now; the message has to name what differs."""
        features = Projected()
        features.about |= about
        parts_of(where, features, folder=folder, say=Progress()).fill(range(5))
        said = capsys.readouterr().err
        assert said.count(f"of another measurement ({what} differ)") == 5
        return features.seen

    assert seen("network", weights_sha256="another") == COUNT
    assert seen("network") == COUNT
    os.utime(where, ns=(1, 1))  # as of a file that was copied over it
    assert seen("files") == COUNT
    monkeypatch.setattr(parts, "__version__", "0.0.1")
    assert seen("ddimx") == COUNT


@pytest.fixture
def pictures(tmp_path):
    """23 PNGs, of which number 2 and all of the second part cannot be decoded."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(PIXELS):
        path = folder / f"{i:06d}.png"
        Image.fromarray(image).save(path)
        if i in UNREADABLE:
            whole = path.read_bytes()
            place = whole.index(b"IDAT") + 6
            path.write_bytes(whole[:place] + bytes(4) + whole[place + 4 :])
    return folder


UNREADABLE = (2, 4, 5, 6, 7, 8)


def test_what_cannot_be_decoded_is_counted_whoever_met_it(pictures, tmp_path):
    alone = parts_of(pictures).statistics()
    parts_of(pictures, folder=tmp_path / "parts").fill(range(5))
    features = Projected()
    merged = parts_of(pictures, features, folder=tmp_path / "parts").statistics()
    assert features.seen == 0
    assert is_same(merged, alone)
    assert (merged.count, merged.about["unreadable"]) == (COUNT - 6, 6)
    good = np.delete(PIXELS, UNREADABLE, axis=0)
    expected = Projected()(torch.from_numpy(good).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(merged.features, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(DdimxError, match=r"000002\.png: cannot be decoded"):
        parts_of(pictures, folder=tmp_path / "parts", strict=True).fill(range(5))


def test_a_picture_that_was_changed_or_added_makes_other_images(pictures, tmp_path):
    folder = tmp_path / "parts"
    parts_of(pictures, folder=folder).fill(range(5))

    def seen():
        features = Projected()
        parts_of(pictures, features, folder=folder).fill(range(5))
        return features.seen

    assert seen() == 0
    (pictures / "notes.txt").write_text("of no interest")
    assert seen() == 0
    os.utime(pictures / "000020.png", ns=(1, 1))
    assert seen() == COUNT - 6
    (pictures / "000022.png").rename(pictures / "000099.png")
    assert seen() == COUNT - 6


def test_of_a_large_set_the_same_features_are_kept(where, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "KEPT", 4)
    parts_of(where, folder=tmp_path / "parts").fill(range(5))
    kept = parts_of(where, folder=tmp_path / "parts").statistics().features
    every = Projected()(torch.from_numpy(PIXELS).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(kept, every[[0, 7, 15, 22]], rtol=1e-5, atol=1e-5)


def test_statistics_say_what_they_hold(where):
    about = parts_of(where, MeanColors()).statistics().about
    assert about == {
        "images": str(where),
        "preprocessing": "8-bit RGB, 2x2 as stored",
        "size": [2, 2],
        "network": "mean colors",
        "library": "none 1",
        "parts": 5,
        "ddimx": ddimx.__version__,
    }


def test_a_folder_that_cannot_be_written(where, tmp_path, capsys):
    alone = parts_of(where).statistics()
    (tmp_path / "parts").write_text("a file where the folder would be")
    with pytest.raises(
        DdimxError, match=r"cannot write .*samples-00001-of-00005\.npz.*DDIMX_CACHE"
    ):
        parts_of(where, folder=tmp_path / "parts").fill(range(5))
    optional = parts_of(where, say=Progress())
    optional.keep(tmp_path / "parts", "samples", str(where), optional=True)
    assert is_same(optional.statistics(), alone)
    assert capsys.readouterr().err.count("going on without") == 1
