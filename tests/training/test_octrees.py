"""Octrees through the one training loop: learning, stopping and going on, shipped configs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ddimx
from ddimx.config_file import dump_yaml, load_config, override
from ddimx.data.examples import open_batches, open_examples
from ddimx.discrete.cells import octrees
from ddimx.discrete.executor import sample_levels
from ddimx.discrete.solvers import make_token_plan
from ddimx.models.factory import build
from ddimx.noise import Noise
from ddimx.training import preview
from ddimx.training.loop import Trainer
from ddimx.training.state import TrainState
from ddimx.weights.formats.native import read_header, read_tensors
from tests.data.shapes.prepared import chair, write_set, write_split
from tests.models.octree.small import octree_config
from tests.sampling import invoke

# All that draws: dropout, augmentation, misread and drawn parents, two kinds of noise, classes.
ALL = {
    "data": {"random_flip": True, "random_scale": 0.1},
    "model": {"dropout": 0.1, "num_layers": 2},
    "diffusion": {"transitions": ["absorbing", "uniform"]},
    "training": {"parent_corruption": 0.1, "parent_drawing": 0.5, "class_dropout": 0.2},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run ``ddimx train`` in this process, in an empty folder, with few pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "SAMPLES", 2)

    def run(*args, config=None):
        if config is not None:
            (tmp_path / "own.yml").write_text(dump_yaml(config))
            args = ("-c", "own.yml", *args)
        done = invoke("train", "-q", "--device", "cpu", *args)
        assert done.code == 0, done.err

    return run


def checkpoint(folder, step):
    return folder / "checkpoints" / f"checkpoint-{step:08d}.safetensors"


def trainer_of(config, folder):
    torch.manual_seed(0)
    network, process = build(config)
    parts = [open_examples(config, held_out=held_out) for held_out in (False, True)]
    state = TrainState.fresh(network, config)
    return Trainer(config, state, process, *parts, folder, Noise(0), torch.device("cpu"))


def take(trainer, steps):
    """Do some steps and return their losses."""
    training = trainer.config.training
    batches = open_batches(trainer.source, trainer.config.data, trainer.noise, training.batch_size)
    return [
        trainer.step(step, positions, batch, steps)[0]
        for step, positions, batch in batches.steps(0, steps)
    ]


def test_a_run_leaves_checkpoints_curves_pictures_and_a_model(train, root, tmp_path):
    config = override(octree_config(root, **ALL), ["training.snapshot_freq=6"])
    train("-o", "run", "--seed", 4, config=config)
    folder = tmp_path / "run"
    header = read_header(checkpoint(folder, 6))
    assert (header.kind, header.info["step"], header.info["seed"]) == ("checkpoint", 6, 4)
    assert header.info["data_sha256"] == open_examples(octree_config(root)).fingerprint
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "validation_held_out" in line] == [3, 6]
    # Of 255 ids an untrained network knows little: log 255 = 5.54, less where the root counts half.
    assert all(3 < line["validation_train"] < 6 for line in lines if "validation_train" in line)
    with Image.open(folder / "samples" / "step-00000006.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6)) > 16  # shapes, and not an empty sheet

    model = ddimx.load_model(checkpoint(folder, 6), device="cpu", dtype="fp32")
    assert model.classes == ("chair", "table")
    average = read_tensors(checkpoint(folder, 6), "ema.")
    state = model.network.state_dict()
    assert average.keys() == state.keys()
    assert all(torch.equal(average[name], state[name]) for name in state)
    (tree,) = ddimx.sample_shapes(model, count=1)
    assert tree.depth == 3


@pytest.mark.parametrize("cut", [2, 3])
def test_a_resumed_run_ends_with_the_same_bits(train, root, tmp_path, monkeypatch, cut):
    monkeypatch.setattr("ddimx.training.loop.draw_samples", lambda *_: None)
    config = octree_config(root, **ALL)
    train("-o", "whole", config=config)
    train("-o", "halves", "--set", f"training.n_iters={cut}", config=config)
    train("--resume", "halves", "--set", "training.n_iters=6")
    for prefix in ("model.", "ema.", "optim."):
        whole, halves = (
            read_tensors(checkpoint(tmp_path / name, 6), prefix) for name in ("whole", "halves")
        )
        assert whole.keys() == halves.keys()
        assert [name for name in whole if not torch.equal(whole[name], halves[name])] == []
    start = read_tensors(checkpoint(tmp_path / "halves", cut), "model.")
    end = read_tensors(checkpoint(tmp_path / "halves", 6), "model.")
    assert all(not torch.equal(start[name], end[name]) for name in start)


def test_one_shape_is_learnt_by_heart(tmp_path):
    """Its tokens have no entropy: the loss falls to nearly 0, and what is drawn is the shape."""
    write_split(tmp_path, "train", [("chair", "c", chair(5))])
    write_split(tmp_path, "val", [("chair", "c", chair(5))])
    config = octree_config(
        tmp_path,
        model={"classes": [], "hidden_dim": 32, "ema": False},
        training={"batch_size": 4},
        optim={"lr": 0.01, "warmup_steps": 10, "decay_steps": 40, "grad_clip": 1.0},
    )
    trainer = trainer_of(config, tmp_path)
    losses = take(trainer, 80)
    assert losses[0] > 4
    assert np.mean(losses[-5:]) < 0.1
    assert trainer.validate()["held_out"] < 0.1
    plan = make_token_plan(trainer.process.schedule, 3, steps=4, temperature=0.0)
    network = trainer.state.network.eval()
    steps = trainer.process.run(network, plan, torch.arange(3), Noise(0))
    for drawn in octrees(sample_levels(steps)):
        assert np.array_equal(drawn.leaves, chair(5).coarser(3).leaves)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_what_the_configuration_says(root, tmp_path, precision):
    config = override(octree_config(root), [f"training.precision={precision}"])
    trainer, seen = trainer_of(config, tmp_path), []
    trainer.state.network.head.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    (loss,) = take(trainer, 1)
    assert set(seen) == {torch.float32 if precision == "fp32" else torch.bfloat16}
    assert np.isfinite(loss)
    assert all(p.dtype == torch.float32 for p in trainer.state.network.parameters())


def test_validation_uses_no_dropout_and_the_same_draws(root, tmp_path):
    trainer = trainer_of(octree_config(root, **ALL), tmp_path)
    before = trainer.validate()
    assert before == trainer.validate()
    take(trainer, 1)
    assert trainer.validate() != before


SMALL = ("model.hidden_dim=24", "model.num_layers=1", "model.num_heads=2", "data.max_depth=3")


@pytest.mark.parametrize(
    ("name", "items"),
    [("shapenet_chair", ()), ("furniture", ("model.classes=[chair, table]",))],
)
def test_shipped_configurations_take_a_step(root, tmp_path, name, items):
    config = load_config(name, [f"data.root={root}", *SMALL, *items])
    trainer = trainer_of(config, tmp_path)
    before = [p.clone() for p in trainer.state.network.parameters()]
    (loss,) = take(trainer, 1)
    assert 1 < loss < 6
    after = trainer.state.network.parameters()
    moved = [not torch.equal(p, q) for p, q in zip(after, before, strict=True)]
    assert all(moved)


@pytest.mark.parametrize("name", ["shapenet_chair", "furniture"])
def test_shipped_configurations_build_in_full_size_and_keep_the_seeds_meaning(name):
    config = load_config(name)
    network, process = build(config)
    assert network.depth == process.depth == config.data.max_depth
    assert process.schedule.alpha_bars[-1] == 0.0
    assert process.num_classes == len(config.model.classes)
    assert len(network.blocks) == config.model.num_layers == 6
