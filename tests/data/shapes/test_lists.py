"""The lists of a prepared set: found under ~ as well, and read in their order."""

import pytest

from ddimx.data.shapes.lists import Entry, lists_of, read_list
from ddimx.errors import DdimxError


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "set"
    folder.mkdir()
    lines = '{"file": "shapes/b.npz", "category": "chair"}\n\n{"file": "shapes/a.npz"}\n'
    for part in ("val", "train"):
        (folder / f"{part}.jsonl").write_text(lines)
    return folder


def test_the_lists_that_are_there_also_below_home(prepared):
    assert lists_of(prepared) == ["train", "val"]
    assert lists_of(type(prepared)("~/set")) == ["train", "val"]
    assert lists_of(prepared / "train.jsonl") == []
    assert lists_of(prepared / "absent") == []


def test_a_list_keeps_its_order_and_names_files_from_its_folder(prepared):
    assert read_list(prepared / "val.jsonl") == [
        Entry(prepared / "shapes" / "b.npz", "chair"),
        Entry(prepared / "shapes" / "a.npz", ""),
    ]


def test_a_list_that_cannot_be_read(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("train.jsonl", "absent.jsonl"):
        with pytest.raises(DdimxError, match=rf"{name}: cannot be read"):
            read_list(tmp_path / name)
