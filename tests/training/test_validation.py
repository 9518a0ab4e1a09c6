"""Validation and grids: what they measure, and that they leave the run as it is."""

import pytest
import torch

from ddimx.training.loop import Trainer
from tests.training.small import finish, newest, open_source_part, same_tensors


def snapshot(run):
    state = run.state
    tensors = [*state.network.state_dict().values(), *state.ema.values()]
    for parameter in state.network.parameters():
        tensors += list(state.optimizer.state[parameter].values())
    return [t.clone() for t in tensors], state.step, torch.get_rng_state()


@pytest.mark.parametrize("what", ["validate", "draw_grid"])
def test_looking_changes_nothing(trainer, what):
    run = trainer()
    finish(run)
    (before, step, generator), result = snapshot(run), getattr(run, what)()
    assert result
    after, step_after, generator_after = snapshot(run)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert step == step_after
    assert torch.equal(generator, generator_after)


def test_how_often_one_looks_does_not_change_the_result(trainer):
    often = trainer("often", ["training.validation_freq=1", "training.snapshot_freq=1"])
    seldom = trainer("seldom", ["training.validation_freq=6", "training.snapshot_freq=6"])
    finish(often)
    finish(seldom)
    assert same_tensors(newest(often), newest(seldom)) == []


def test_validation_measures_the_average_without_dropout(trainer):
    run = trainer(items=["model.dropout=0.9"])
    first = run.validate()
    assert set(first) == {"train", "held_out"}
    assert first == run.validate()
    with torch.no_grad():  # the raw weights do not enter
        for parameter in run.state.network.parameters():
            parameter.mul_(1.5)
    assert run.validate() == first
    for value in run.state.ema.values():
        value.mul_(1.5)
    assert run.validate() != first


def test_validation_without_an_average_measures_the_weights(trainer):
    run = trainer(items=["model.ema=false"])
    with_average = trainer().validate()
    assert run.validate() == with_average
    with torch.no_grad():
        next(run.state.network.parameters()).mul_(1.5)
    assert run.validate() != with_average


def test_a_second_average_is_measured_beside_the_first(trainer):
    run = trainer(items=["model.ema2_rate=0.5"])
    first = run.validate()
    assert list(first) == ["train", "held_out", "train_ema2", "held_out_ema2"]
    assert first["train_ema2"] == first["train"]  # at the beginning it is the same
    for value in run.state.ema2.values():
        value.mul_(1.5)
    second = run.validate()
    assert [second[name] == first[name] for name in first] == [True, True, False, False]


def test_both_parts_are_measured_with_the_same_draws(trainer):
    run = trainer()
    run.held_out = run.source
    losses = run.validate()
    assert losses["train"] == losses["held_out"]


def test_a_data_set_without_a_held_out_part(trainer):
    run = trainer()
    run.held_out = open_source_part(run, 0)
    losses = run.validate()
    assert set(losses) == {"train"}


def test_no_example_is_measured_twice(trainer, monkeypatch):
    """Of a set without a held-out part as many as there are, not as many as there could be."""
    run = trainer()
    run.held_out, measured = open_source_part(run, 0), []
    monkeypatch.setattr(Trainer, "_loss", lambda self, part, count: measured.append(count) or 0.0)
    run.validate()
    run.held_out = open_source_part(run, 3)
    run.validate()
    assert measured == [len(run.source), 3, 3]
