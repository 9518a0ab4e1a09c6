"""Which run is exported when none is named."""

import numpy as np
import pytest

from ddimx.errors import DdimxError
from ddimx.exporting import shipped
from ddimx.exporting.shipped import sample_one
from ddimx.exporting.sources import newest_run
from ddimx.octree.file import holds_tokens
from ddimx.progress import Progress
from tests.exporting import write


def test_the_newest_run_with_tokens_is_taken(tmp_path):
    runs = tmp_path / "runs"
    assert newest_run(runs) is None
    for name in ("0002-sample-furniture", "0010-sample-furniture", "0009-sample-furniture"):
        (runs / name).mkdir(parents=True)
        write(runs / name / "000000.npz")
    (runs / "0011-sample-emoji").mkdir()
    np.save(runs / "0011-sample-emoji" / "samples.npy", np.zeros((4, 3, 8, 8), np.float32))
    np.savez(runs / "0011-sample-emoji" / "samples.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    (runs / "0012-train-furniture").mkdir()
    (runs / "0013-sample-x").touch()  # a file, no run
    assert newest_run(runs) == runs / "0010-sample-furniture"


def test_without_any_shapes_there_is_nothing_to_take(tmp_path):
    (tmp_path / "0001-sample-emoji").mkdir()
    assert newest_run(tmp_path) is None


def test_what_looks_like_tokens(tmp_path):
    assert holds_tokens(write(tmp_path / "a.npz"))
    np.save(tmp_path / "tokens.npy", np.ones(9, np.int64))
    assert holds_tokens(tmp_path / "tokens.npy")
    np.save(tmp_path / "floats.npy", np.ones(9))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    for name in ("floats.npy", "broken.npz", "broken.npy", "absent.npz"):
        assert not holds_tokens(tmp_path / name)


def test_without_a_shipped_model_the_message_says_what_to_give(monkeypatch):
    monkeypatch.setattr(shipped, "shipped_models", lambda: ["emoji"])
    with pytest.raises(DdimxError, match="give a token file"):
        sample_one(Progress(quiet=True))
