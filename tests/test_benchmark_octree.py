"""The octree suite in miniature: peers agree, a wrong one is seen, every table has its rows."""

import sys

import numpy as np
import pytest
import torch

from benchmarks import octree, seed, show
from benchmarks.octree import codec, export, levels, peers, shapes, tokens
from benchmarks.runner import Absent, Budget, Contender
from ddimx.config_file import load_config
from ddimx.octree import reference
from tests.octree import shapes as test_shapes

CPU = torch.device("cpu")


def test_the_sphere_is_the_tests_sphere_and_has_as_many_tokens_as_is_said():
    ours, other = shapes.sphere(5, 0.5), test_shapes.sphere(5)
    np.testing.assert_array_equal(ours.leaves, other.leaves)
    assert sum(shapes.sphere(8).counts) == 213_521


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Shapes, batches and a network of a size for tests; nothing is repeated to be measured."""
    config = load_config("furniture", ["model.hidden_dim=16", "model.num_heads=2"])
    config = config.model_copy(
        update={
            "data": config.data.model_copy(update={"max_depth": 3}),
            "model": config.model.model_copy(update={"num_layers": 1}),
        }
    )
    sphere = shapes.sphere
    monkeypatch.setattr(shapes, "sphere", lambda depth, radius=0.36: sphere(min(depth, 3), radius))
    monkeypatch.setattr(shapes.spheres, "__defaults__", (4, 3))
    monkeypatch.setattr(levels, "load_config", lambda name: config)
    monkeypatch.setattr(tokens, "COUNTS", (64,))
    monkeypatch.setattr(tokens, "DRAWS", 5000)
    monkeypatch.setattr("benchmarks.runner.measure.__kwdefaults__", {"wait": None, "shortest": 0.0})
    monkeypatch.setitem(sys.modules, "ocnn", None)  # as where it is not installed


def test_every_table_has_its_rows(small):
    tables = [job() for job in octree.jobs(CPU, 2)]
    rows = {table["title"].split(",")[0]: table["rows"] for table in tables}
    assert [table["title"].replace(",", "").split()[0] for table in tables] == [
        *("level", "discrete", "discrete"),
        *("decode", "encode", "decode", "encode", "export"),
    ]
    for job, table in zip(octree.jobs(CPU, 2), tables, strict=True):  # a record is found by it
        if not job.title.startswith(("decode", "encode")):  # their shapes are smaller here
            assert f"{table['title']}, ".startswith(f"{job.title}, ")
        assert table["rows"][0]["name"] == table["baseline"]
        for row in table["rows"]:
            assert row["name"] == "ocnn" or row["median_ms"] > 0
    assert [row["name"] for row in rows["decode"]] == [
        "Python list as queue",
        "Python deque",
        "eager PyTorch by level",
        "ddimx.octree (NumPy)",
        "ddimx octree_decode",
        "ocnn",
    ]
    assert "ocnn" in rows["decode"][-1]["absent"]
    sizes = {row["name"]: row["bytes_per_splat"] for row in rows["export"]}
    assert set(sizes) == {"text PLY, a line at a time"} | {f"ddimx {n}" for n in export.FORMATS}
    shown = show.text(
        {
            "machine": {"device": "x", "versions": {"torch": "2"}, "load_average": None},
            "tables": tables,
        }
    )
    assert "M tokens/s" in shown
    assert "B/splat" in shown


@pytest.mark.parametrize("decode", [seed.list_decode, seed.deque_decode])
def test_the_queues_are_the_reference(decode):
    tree = test_shapes.sphere(3)
    stream = tree.tokens().tolist()
    cells = np.array([leaf[:3] for leaf in decode(stream, 3)]) * 8 + 3.5
    np.testing.assert_array_equal(cells, reference.decode(stream, 3))


def test_a_peer_that_is_wrong_is_seen(monkeypatch):
    trees = [shapes.sphere(2), shapes.sphere(2)]
    assert all(isinstance(peer, Contender | Absent) for peer in codec.decoders(trees, CPU))
    monkeypatch.setattr(peers, "torch_decode", lambda tokens, depth: torch.zeros(8, 3))
    with pytest.raises(RuntimeError, match="eager PyTorch by level decodes to other leaves"):
        codec.decoders(trees, CPU)
    monkeypatch.setattr(peers, "torch_encode", lambda cells, depth: torch.ones(9))
    with pytest.raises(RuntimeError, match="eager PyTorch by level encodes to other tokens"):
        codec.encoders(trees, CPU)


def test_a_step_that_draws_otherwise_is_seen(monkeypatch):
    eager = tokens.eager_step
    monkeypatch.setattr(tokens, "DRAWS", 20_000)
    row = tokens.Row("uniform")
    tokens.check(row, CPU)
    monkeypatch.setattr(tokens, "eager_step", lambda row: eager(tokens.Row("uniform", keep=0.46)))
    with pytest.raises(RuntimeError, match="eager: draws do not follow"):
        tokens.check(row, CPU)


def test_a_cache_that_changes_the_logits_is_seen(small, monkeypatch):
    drawer = levels.drawer

    def shifted(network, depth, device, *, cached):
        draw = drawer(network, depth, device, cached=cached)
        return (lambda: draw() + 0.01) if cached else draw

    monkeypatch.setattr(levels, "drawer", shifted)
    with pytest.raises(RuntimeError, match=r"cached and uncached logits differ by 0\.01"):
        levels.jobs(CPU, 2, Budget())[0]()
