"""Data sets of the hub, from local folders through the real package, where it is installed."""

import sys

import numpy as np
import pytest

from ddimx.config import DataConfig
from ddimx.data.images.hub import HubSource
from ddimx.errors import DdimxError, UsageError
from tests.data.images.official import encoded, smooth


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The package, kept from the network and from the home folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    found = pytest.importorskip("datasets", reason="the extra [hub] is not installed")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "home")
    monkeypatch.setattr(found.config, "HF_HUB_OFFLINE", True)
    found.disable_progress_bars()
    return found


def source(root, *, held_out=False, size=16, **changes):
    data = DataConfig(dataset="HUB", root=str(root), image_size=size, channels=3, **changes)
    return HubSource(str(root), data, held_out=held_out)


def imagefolder(root, splits=("train", "test"), count=4):
    """``<split>/<class>/<n>.png``, as the hub's image folders are laid out."""
    for s, split in enumerate(splits):
        for c, kind in enumerate(("cat", "dog")):
            for i in range(count):
                path = root / split / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded(smooth(100 * s + 10 * c + i, 16, 16)))


def test_an_image_folder_with_classes_and_two_splits(datasets, tmp_path):
    imagefolder(tmp_path / "set")
    for s, held_out in enumerate((False, True)):
        part = source(tmp_path / "set", held_out=held_out)
        assert part.classes == ("cat", "dog")
        assert part.labels.tolist() == [0] * 4 + [1] * 4
        order = np.array([7, 0, 4])
        expected = [smooth(100 * s + n, 16, 16) for n in (13, 0, 10)]
        assert np.array_equal(part.images(order), np.stack(expected))


def saved(datasets, path, rows, **features):
    """A data set with one split, on disk as ``save_to_disk`` leaves it."""
    columns = {"image": [{"bytes": encoded(smooth(i, 16, 16))} for i in range(rows)]}
    columns |= {name: [0] * rows for name in features}
    table = datasets.Dataset.from_dict(
        columns, datasets.Features({"image": datasets.Image(), **features})
    )
    datasets.DatasetDict({"train": table}).save_to_disk(str(path))


def test_without_a_test_split_one_in_twenty_is_held_out(datasets, tmp_path):
    saved(datasets, tmp_path / "set", 60)
    train, held_out = source(tmp_path / "set"), source(tmp_path / "set", held_out=True)
    assert train.labels is None
    rows = [int(p.place(i).split()[-1]) for p in (train, held_out) for i in range(len(p))]
    assert sorted(rows) == list(range(60))
    assert len(held_out) > 0
    images = held_out.images(np.arange(len(held_out)))
    for row, image in zip(rows[len(train) :], images, strict=True):
        assert np.array_equal(image, smooth(row, 16, 16))


def test_parquet_files_in_a_folder_on_the_way_to_the_hub(datasets, tmp_path):
    """What a data set's repository usually holds, loaded by the same call as an id."""
    saved(datasets, tmp_path / "set", 8)
    table = datasets.load_from_disk(str(tmp_path / "set"))["train"]
    (tmp_path / "repository" / "data").mkdir(parents=True)
    table.to_parquet(str(tmp_path / "repository" / "data" / "train-00000-of-00001.parquet"))
    part = source(tmp_path / "repository")
    assert np.array_equal(part.images(np.array([0]))[0], smooth(int(part._rows[0]), 16, 16))


def test_columns_and_splits_that_are_not_there(datasets, tmp_path):
    saved(datasets, tmp_path / "set", 3, number=datasets.Value("int64"))
    with pytest.raises(UsageError, match=r"unknown split of .* 'trian'; did you mean 'train'"):
        source(tmp_path / "set", train_split="trian")
    with pytest.raises(UsageError, match=r"unknown data\.column of .* 'number'"):
        source(tmp_path / "set", column="number")
    assert len(source(tmp_path / "set", column="image"))
    table = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(UsageError, match="no column of images among text"):
        source(tmp_path / "texts")


def test_a_broken_image_is_named(datasets, tmp_path):
    saved(datasets, tmp_path / "set", 2)
    broken = datasets.Dataset.from_dict(
        {"image": [{"bytes": b"no"}, None]}, datasets.Features({"image": datasets.Image()})
    )
    datasets.DatasetDict({"train": broken}).save_to_disk(str(tmp_path / "broken"))
    for row in (0, 1):
        with pytest.raises(DdimxError, match=rf"broken: row {row}: cannot be decoded"):
            source(tmp_path / "broken").images(np.array([row]))


def test_no_such_data_set(datasets, tmp_path):
    with pytest.raises(DdimxError, match="data set nobody/nothing: cannot be loaded"):
        source("nobody/nothing")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'ddimx\[hub\]'"):
        source("some/thing")
