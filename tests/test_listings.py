"""Which files of a folder are its shapes or its images: every verb says the same."""

import pytest
from PIL import Image

from ddimx.data.images.listing import list_images
from ddimx.editing.pictures import find_pictures
from ddimx.evaluation.fid.images import open_images
from ddimx.evaluation.shapes.sets import find
from ddimx.exporting.sources import items_of
from ddimx.octree.describe import shapes_in
from tests.exporting import write


@pytest.fixture
def names():
    return ["B.{}", "a.{}", "below/c.{}", ".d.{}", ".hidden/e.{}", "below/.f/g.{}"]


def test_token_files(tmp_path, names):
    for name in names:
        path = tmp_path / name.format("NPZ" if name[0] == "B" else "npz")
        path.parent.mkdir(exist_ok=True, parents=True)
        write(path)
    expected = [tmp_path / name for name in ("B.NPZ", "a.npz", "below/c.npz")]
    assert shapes_in(tmp_path) == expected
    assert list(find(tmp_path).files) == expected
    assert [item.source for item in items_of(tmp_path, None)] == expected
    assert items_of(tmp_path / "B.NPZ", None)[0].source == expected[0]


def test_images(tmp_path, names):
    for name in names:
        path = tmp_path / name.format("PNG" if name[0] == "B" else "png")
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.new("RGB", (2, 2)).save(path)
    expected = ["B.PNG", "a.png", "below/c.png"]
    assert list(list_images(tmp_path).names) == expected
    assert list(open_images(str(tmp_path)).source.names) == expected
    assert find_pictures(tmp_path) == [tmp_path / name for name in expected[:2]]
