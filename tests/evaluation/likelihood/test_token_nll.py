"""Nats per shape of token models: known answers, independence of the batch, unbiased draws."""

import json
import math

import numpy as np
import pytest
import torch

from ddimx.data.shapes.octrees import ShapeSource
from ddimx.discrete.cells import levels_of
from ddimx.discrete.elbo import elbo_terms, grid
from ddimx.errors import DdimxError, UsageError
from ddimx.evaluation.likelihood.token_nll import TokenSettings, token_nll
from ddimx.models.octree.sampler import joined
from ddimx.progress import Progress
from tests.evaluation.likelihood.token_models import DEPTH, Equal, OfUniform, model, saved, trees
from tests.evaluation.shapes import prepared
from tests.sampling import invoke

QUIET = Progress(quiet=True)
COUNT = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared set; its held-out shapes are one level deeper than the model."""
    root = tmp_path_factory.mktemp("octrees")
    return prepared(root, train=trees(4), val=trees(COUNT, 1, DEPTH + 1), test=trees(2, 2))


@pytest.fixture(scope="module")
def source(data):
    return ShapeSource(data, "val", classes=("chair", "table"))


def measure(of, source, **options):
    settings = TokenSettings(**{"count": COUNT, "terms": 4, **options})
    return token_nll(of, source, settings, QUIET)


def test_a_network_that_knows_nothing_pays_ln_255_a_token_in_every_sum_over_all_steps(source):
    """With one masked step everything is masked; then the bound is that exactly, without noise."""
    found = measure(model(Equal(), steps=1), source)
    assert found.nats == pytest.approx(found.tokens * math.log(255), rel=1e-12)
    counts = [tree.coarser(DEPTH).counts for tree in source.trees]
    assert found.tokens.tolist() == [list(c[:-1]) for c in counts]
    assert found.leaves.tolist() == [c[-1] for c in counts]
    columns = found.columns()
    bits = found.tokens.sum(axis=1) * math.log2(255)
    assert columns["nats_per_token"] == pytest.approx(np.full(COUNT, math.log(255)))
    assert columns["bits_per_leaf"] == pytest.approx(bits / found.leaves)
    assert columns["bits_per_voxel"] == pytest.approx(bits / 4**3)
    assert found.figures()["nats"].mean == pytest.approx(found.nats.sum() / COUNT)


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_the_mean_over_seeds_is_the_likelihood_by_a_perfect_network_of_uniform_data(
    source, transition
):
    """Its reverse chain has uniform data, whose likelihood is 255^-1 a token."""
    of = model(OfUniform(model(steps=10).process.schedule), steps=10)
    for terms in (3, 10):
        nats = [
            measure(of, source, terms=terms, seed=seed, transition=transition).nats.sum()
            for seed in range(40)
        ]
        tokens = measure(of, source).tokens.sum()
        error = np.std(nats, ddof=1) / math.sqrt(len(nats))
        assert abs(np.mean(nats) - tokens * math.log(255)) < 4 * error
        assert 0 < error / np.mean(nats) < 0.05


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_draws_estimate_the_sum_over_all_steps(source, transition):
    of = model(steps=8)
    whole = [measure(of, source, terms=8, seed=s, transition=transition).nats for s in range(12)]
    drawn = [measure(of, source, terms=2, seed=s, transition=transition).nats for s in range(48)]
    whole, drawn = (np.array(n).sum(axis=(1, 2)) for n in (whole, drawn))
    error = math.hypot(*(x.std(ddof=1) / math.sqrt(len(x)) for x in (whole, drawn)))
    assert abs(whole.mean() - drawn.mean()) < 4 * error
    assert error < 0.1 * whole.mean()


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_the_batch_changes_nothing(source, transition):
    of = model()
    alone = measure(of, source, batch_size=1, transition=transition).nats
    for batch_size in (2, COUNT):
        found = measure(of, source, batch_size=batch_size, transition=transition).nats
        np.testing.assert_allclose(found, alone, rtol=1e-4)
    few = measure(of, source, count=2, transition=transition)
    np.testing.assert_allclose(few.nats, alone[few.shapes], rtol=1e-4)
    other = measure(of, source, seed=1, transition=transition).nats
    assert not np.allclose(other, alone, rtol=1e-3)


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
def test_the_network_sees_what_it_sees_in_training(source, transition):
    """Every level noised at a time of its own, the true coarser levels, class and noise."""
    network = Equal()
    of = model(network, steps=20)
    found = measure(of, source, terms=3, transition=transition)
    truth = joined(levels_of([tree.coarser(DEPTH) for tree in source.trees]))
    assert len(network.seen) == 3
    for noised, clean, condition in network.seen:
        assert torch.equal(noised.layout.keys, truth.layout.keys)
        assert torch.equal(clean.ids, truth.ids[truth.layout.level < DEPTH - 1])
        assert condition.label.tolist() == source.labels.tolist()
        assert condition.transition.tolist() == [("absorbing", "uniform").index(transition)] * COUNT
        hidden = noised.ids == 0
        assert hidden.any() == (transition == "absorbing")
        assert torch.equal(noised.ids[~hidden], truth.ids[~hidden]) == (transition == "absorbing")
    times = torch.stack([noised.t for noised, *_ in network.seen])  # [draw, shape, level]
    steps = 19 - times
    # One of each third of the twenty steps, in their order.
    assert ((steps * 3 / 20).floor() <= torch.arange(3)[:, None, None] + 0.1).all()
    assert ((steps + 1) * 3 / 20 > torch.arange(3)[:, None, None]).all()
    assert (times[..., 0] != times[..., 1]).any()
    # The record is the sum of what elbo_terms makes of these.
    at = grid(of.process.schedule)
    total = 0.0
    for noised, _, _ in network.seen:
        place = (19 - noised.t).long().flatten()[noised.layout.row]
        a, b = (torch.from_numpy(x)[place] for x in (at.alpha_from, at.alpha_to))
        logits = torch.zeros(len(truth.ids), 256)
        total += elbo_terms(logits, truth.ids, noised.ids, a, b, transition).sum() * 20 / 3
    assert found.nats.sum() == pytest.approx(float(total), rel=1e-9)


def test_wrong_settings_and_broken_networks(source, tmp_path):
    for options in ({"terms": 0}, {"count": 0}, {"batch_size": 0}, {"transition": "absorb"}):
        with pytest.raises(UsageError):
            measure(model(), source, **options)

    class Broken(Equal):
        def forward(self, *args):
            return super().forward(*args) * torch.nan

    with pytest.raises(DdimxError, match=r"shape 0 is not finite"):
        measure(model(Broken()), source)


def test_the_verb(data, tmp_path):
    weights, out = saved(tmp_path / "tiny.safetensors"), tmp_path / "out"
    args = ("evaluate", "nll", "-m", weights, "--data", data, "--device", "cpu", "--terms", 2)
    done = invoke(*args, "--out", out)
    assert done.code == 0, done.err
    record = json.loads((out / "nll.json").read_text())
    assert (record["count"], record["split"], record["transition"]) == (
        COUNT,
        "held-out",
        "absorbing",
    )
    rows = [line.split(",") for line in (out / "nll.csv").read_text().splitlines()]
    column = [float(row[rows[0].index("nats")]) for row in rows[1:]]
    figure = record["bound"]["nats"]
    assert np.mean(column) == pytest.approx(figure["mean"], rel=1e-5)
    levels = [record["bound"][f"nats_level_{d}"]["mean"] for d in range(DEPTH)]
    assert sum(levels) == pytest.approx(figure["mean"])
    assert f"{figure['mean']:.1f} ± {figure['standard_error']:.1f} nats per shape" in done.out
    test = invoke(*args, "--split", "test", "--transition", "uniform", "--json", "-q", "--out", out,
                  "--overwrite")  # fmt: skip
    record = json.loads(test.out)
    assert (record["count"], record["split"], record["transition"]) == (2, "test", "uniform")
    for extra, message in {
        ("--flow-steps", 0): "--flow-steps: for models of images",
        ("--clip", 1): "--clip: for models of images",
        ("--transition", "unifrm"): "did you mean 'uniform'",
        ("--data", tmp_path / "none"): "no list of shapes",
    }.items():
        failed = invoke(*args, *extra, "--out", tmp_path / "no")
        assert (failed.code, failed.out) == (2, "")
        assert message in failed.err
    assert not (tmp_path / "no").exists()


def test_as_a_program(data, tmp_path, run_cli):
    weights = saved(tmp_path / "tiny.safetensors")
    args = ("--data", data, "--split", "test", "--terms", 1, "--json", "-q", "--device", "cpu")
    done = run_cli("evaluate", "nll", "-m", weights, *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["bound"]["nats"]["mean"] > 0
