"""Choosing tiles: wrong ones are seen, the table is written as Python, and kernels read it."""

import runpy

import pytest
import torch

from benchmarks import tune
from benchmarks.__main__ import main
from ddimx.kernels import _tuned
from ddimx.kernels.attention import tiles as attention_tiles
from ddimx.kernels.segment_attention import tiles as segment_tiles

CPU = torch.device("cpu")


class Problem:
    """Two columns of a table: a tile multiplies, and one does it wrongly."""

    operation = "attention"

    def name(self, dtype):
        return "strip, 32 bits, 64 columns"

    def candidates(self, arch, dtype):
        tile = attention_tiles.AttentionTile
        return [tile(64, 256, n, 64, 8, 2) for n in (64, 128, 32, 16)]

    def prepare(self, device, dtype):
        out = torch.zeros(4)

        def launched(tile):
            if tile.dims == 16:
                raise RuntimeError("out of shared memory")
            return lambda: out.fill_(2.0 if tile.dims == 32 else 1.0)

        return tune.Case(launched, lambda: out, torch.ones(4, dtype=torch.float64))


@pytest.fixture
def times(monkeypatch):
    """Let the measurement say that a tile takes as many seconds as a test wants."""
    seconds = {"64, 256, 64": 2.0, "64, 256, 128": 1.0}

    def measure(contenders, rounds, **_):
        return {
            c.name: torch.full((5,), next(t for k, t in seconds.items() if k in c.name)).numpy()
            for c in contenders
        }

    monkeypatch.setattr(tune, "measure", measure)
    monkeypatch.setattr(tune, "FEW", 3)
    tune.prepared.cache_clear()
    return seconds


def test_the_fastest_right_tile_is_best(times):
    found = tune.tuned(Problem(), CPU, torch.float32, 60, None)
    assert found["best"] == (64, 256, 128, 64, 8, 2)
    rows = {row["tile"][2]: row for row in found["tiles"]}
    assert rows[128]["times_as_fast"] == 2.0
    assert "errs by 1" in rows[32]["wrong"]
    assert rows[16]["refused"] == "out of shared memory"
    assert "ms" not in rows[32]
    assert "(64, 256, 128, 64, 8, 2) takes 1000 ms instead of 2000, 2 times" in tune._line(found)


def test_a_tile_that_is_hardly_faster_changes_nothing(times):
    times["64, 256, 128"] = 1.98
    found = tune.tuned(Problem(), CPU, torch.float32, 60, None)
    assert found["best"] == found["own"]
    assert "the table's own stays" in tune._line(found)


def test_the_table_is_python_that_the_kernels_read(times, tmp_path, monkeypatch):
    monkeypatch.setattr(_tuned, "TILES", {"sm_75": {"attention": {"x": (1,)}}})
    found = tune.tuned(Problem(), CPU, torch.float32, 60, None)
    found["problem"] = attention_tiles.problem("strip", torch.float32, 60)
    tune.write_table(tmp_path / "tuned.py", "sm_90", found)
    written = runpy.run_path(str(tmp_path / "tuned.py"))
    assert written["TILES"] == _tuned.TILES
    assert written["TILES"]["sm_75"] == {"attention": {"x": (1,)}}
    assert written["measured"]("sm_75", "attention", "x") == (1,)
    chosen = attention_tiles.tile("sm_90", "strip", torch.float32, 200, 200, 60)
    assert chosen == attention_tiles.AttentionTile(64, 256, 64, 64, 8, 2)  # dims cut to the columns
    other = attention_tiles.tile("sm_80", "strip", torch.float32, 200, 200, 60)
    assert other.own == 16

    row = {
        "segment_attention": {segment_tiles.problem("forward", torch.bfloat16, 32): (32, 16, 8, 4)}
    }
    monkeypatch.setattr(_tuned, "TILES", {"sm_90": row})
    tile = segment_tiles.SegmentTile(32, 16, 8, 4)
    assert segment_tiles.tile("forward", torch.bfloat16, 32, "sm_90") == tile
    assert segment_tiles.tile("forward", torch.bfloat16, 32) != tile


@pytest.mark.parametrize("problem", tune.PROBLEMS, ids=str)
def test_every_candidate_can_be_launched(problem):
    """Powers of two from 16, and the table's own first; a batch is no part of the class."""
    tiles = problem.candidates("sm_90", torch.bfloat16)
    assert len(tiles) > 5
    assert len(set(tiles)) == len(tiles)
    for tile in tiles:
        sizes = [
            v for k, v in vars(tile).items() if k not in ("warps", "stages", "parts", "groups")
        ]
        assert all(size & (size - 1) == 0 for size in sizes)
    assert type(problem)(**{**vars(problem), **_other_batch(problem)}).name(torch.bfloat16) == (
        problem.name(torch.bfloat16)
    )


def _other_batch(problem):
    return {"shapes": 3} if hasattr(problem, "shapes") else {"batch": 3}


def test_only_a_card_is_tuned(capsys, monkeypatch):
    monkeypatch.setattr(tune, "INTERPRETED", False)
    assert main(["tune", "--device", "cpu"]) == 2
    assert "tune needs a CUDA device" in capsys.readouterr().err
