"""What training carries along: the average, the optimizer, and checkpoints of it all."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddimx.config import OptimConfig
from ddimx.config_file import override
from ddimx.errors import DdimxError, UsageError
from ddimx.models.factory import build
from ddimx.training.state import (
    TrainState,
    _restore_optimizer,
    build_optimizer,
    checkpoints,
    restore,
    save_checkpoint,
    step_of,
)
from ddimx.weights.formats.native import Header, read_header, read_native, read_tensors, save


@pytest.fixture
def state(tiny_config, formula_weights):
    """A state after two steps with made-up gradients."""
    state = TrainState.fresh(formula_weights(build(tiny_config)[0]), tiny_config)
    train(state, 2)
    return state


def train(state, steps):
    for _ in range(steps):
        for i, parameter in enumerate(state.network.parameters()):
            parameter.grad = torch.sin(parameter.detach() * (i + state.step + 1))
        state.optimizer.step()
        state.step += 1
        state.seconds += 0.5
        if state.ema:
            state.update_ema(0.9)


def everything(state):
    """All tensors of a state by name."""
    optimizer = {
        f"optim.{key}.{name}": value
        for name, parameter in state.network.named_parameters()
        for key, value in state.optimizer.state[parameter].items()
    }
    model = {f"model.{n}": v for n, v in state.network.state_dict().items()}
    return model | {f"ema.{n}": v for n, v in state.ema.items()} | optimizer


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# --- the average ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "rate", "expected"),
    [(0, 0.9999, 1 / 10), (1, 0.9999, 2 / 11), (90, 0.9999, 91 / 100), (90, 0.5, 0.5)],
)
def test_the_average_moves_by_its_rate(step, rate, expected):
    layer = nn.Linear(2, 2)
    weights = {n: v.clone() for n, v in layer.state_dict().items()}
    old = {n: torch.full_like(v, 7.0) for n, v in weights.items()}
    state = TrainState(layer, {n: v.clone() for n, v in old.items()}, None, step)
    state.update_ema(rate)
    for name, value in state.ema.items():
        mixed = expected * old[name] + (1 - expected) * weights[name]
        assert torch.allclose(value, mixed, rtol=0.0, atol=1e-5)
        assert torch.equal(layer.state_dict()[name], weights[name])


def test_a_fresh_average_is_a_copy_of_the_weights(tiny_config):
    network, _ = build(tiny_config)
    state = TrainState.fresh(network, tiny_config)
    assert same(state.ema, network.state_dict())
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    assert not same(state.ema, network.state_dict())
    assert TrainState.fresh(network, override(tiny_config, ["model.ema=false"])).ema == {}


# --- the optimizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_three_steps_are_the_formula(kind, amsgrad):
    optim = OptimConfig(
        optimizer=kind, lr=0.1, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.3, amsgrad=amsgrad
    )
    layer = nn.Linear(1, 1, bias=False).double()
    w = layer.weight.item()
    m = v = top = 0.0
    optimizer = build_optimizer(layer, optim)
    for t, gradient in enumerate([2.0, -0.1, 0.3], start=1):
        layer.weight.grad = torch.tensor([[gradient]]).double()
        optimizer.step()
        if kind == "AdamW":
            w -= 0.1 * 0.3 * w
        else:
            gradient += 0.3 * w
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        top = max(top, v)
        second = (top if amsgrad else v) / (1 - 0.9**t)
        w -= 0.1 * m / (1 - 0.8**t) / (second**0.5 + 1e-3)
        assert layer.weight.item() == pytest.approx(w, rel=1e-7)


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_fused_is_plain_to_rounding_and_passes_over_a_step_that_is_marked(kind):
    optim = OptimConfig(optimizer=kind, lr=0.01, weight_decay=0.1)
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    plain = copy.deepcopy(layer)
    optimizer, other = build_optimizer(layer, optim), build_optimizer(plain, optim)
    assert optimizer.defaults["fused"]
    other.param_groups[0]["fused"] = False
    for step in range(6):
        for one, two in zip(layer.parameters(), plain.parameters(), strict=True):
            one.grad = torch.sin(one.detach() * (step + 9))
            two.grad = one.grad.clone()
            if step == 3:
                one.grad.fill_(torch.nan)
        optimizer.found_inf = torch.tensor(float(step == 3))
        optimizer.step()
        if step != 3:
            other.step()
    for one, two in zip(layer.parameters(), plain.parameters(), strict=True):
        # A step moves a weight by about lr at most, which is rounded some 8 times.
        assert torch.allclose(one, two, rtol=0.0, atol=5 * 8 * 0.01 * 2**-23)
        assert optimizer.state[one]["step"] == other.state[two]["step"] == 5


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", ["Adam", "Muon"])
def test_moments_are_restored_in_the_layout_of_their_weights(
    tiny_config, formula_weights, tmp_path, device, kind
):
    """Fused Adam goes through weights and moments as they lie in memory, whatever their strides."""
    config = override(tiny_config, [f"optim.optimizer={kind}"])

    def fresh():
        network = formula_weights(build(config)[0]).to(device)
        return TrainState.fresh(network.to(memory_format=torch.channels_last), config)

    whole, halves = fresh(), fresh()
    train(whole, 2)
    restore(save_checkpoint(tmp_path, whole, config, {}, keep=1), halves)
    for state in (whole, halves):
        train(state, 1)
    assert same(everything(whole), everything(halves))


def test_a_checkpoint_restores_everything(tiny_config, formula_weights, state, tmp_path):
    state.losses, state.norm = [0.1, 1 / 3], 2 / 7
    state.time_sums, state.time_counts = [0.5, 2 / 3], [1, 7]
    path = save_checkpoint(tmp_path, state, tiny_config, {"seed": 5, "note": "Ä"}, keep=3)
    assert path == tmp_path / "checkpoint-00000002.safetensors"
    other = TrainState.fresh(build(tiny_config)[0], tiny_config)
    assert not same(everything(other), everything(state))
    info = restore(path, other)
    unlogged = {"losses": [0.1, 1 / 3], "grad_norm": 2 / 7, "learning_rate": 0.002}
    unlogged |= {"time_sums": [0.5, 2 / 3], "time_counts": [1, 7]}
    assert info == {"seed": 5, "note": "Ä", "step": 2, "seconds": 1.0, **unlogged}
    assert (other.step, other.seconds) == (2, 1.0)
    assert (other.losses, other.norm) == ([0.1, 1 / 3], 2 / 7)
    assert same(everything(other), everything(state))
    train(state, 2)
    train(other, 2)
    assert same(everything(other), everything(state))


def test_moments_go_where_the_weights_are_and_the_counter_stays():
    """Adam keeps its counter on the CPU; "meta" stands for a card here."""
    layer = nn.Linear(2, 1, device="meta")
    state = SimpleNamespace(network=layer, optimizer=torch.optim.AdamW(layer.parameters()))
    moments = {"exp_avg.weight": torch.ones(1, 2), "step.weight": torch.tensor(3.0)}
    _restore_optimizer(state, moments, "a checkpoint")
    found = state.optimizer.state[layer.weight]
    assert found["exp_avg"].device.type == "meta"
    assert found["step"].device.type == "cpu"


def test_a_checkpoint_describes_itself(tiny_config, state, tmp_path):
    path = save_checkpoint(tmp_path, state, tiny_config, {}, keep=3)
    header = read_header(path)
    assert (header.kind, header.config) == ("checkpoint", tiny_config)
    assert same(read_tensors(path), everything(state))


def test_the_newest_are_kept(tiny_config, state, tmp_path):
    (tmp_path / "checkpoint-1.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    for step in (8, 9, 10, 123456789):
        state.step = step
        save_checkpoint(tmp_path, state, tiny_config, {}, keep=2)
    names = ["checkpoint-00000010.safetensors", "checkpoint-123456789.safetensors"]
    assert [p.name for p in checkpoints(tmp_path)] == names
    others = {"checkpoint-1.safetensors", "notes.txt"}
    assert {p.name for p in tmp_path.iterdir()} == {*names, *others}
    assert checkpoints(tmp_path / "absent") == []


def test_those_of_some_steps_stay_for_ever(tiny_config, state, tmp_path):
    for step in range(2, 21, 2):
        state.step = step
        save_checkpoint(tmp_path, state, tiny_config, {}, keep=2, keep_every=6)
    assert [step_of(path) for path in checkpoints(tmp_path)] == [6, 12, 18, 20]


def test_steps_to_keep_must_have_checkpoints(tiny_config):
    items = ["training.snapshot_freq=500", "training.keep_every=750"]
    with pytest.raises(UsageError, match="keep_every 750 is not a multiple of snapshot_freq 500"):
        override(tiny_config, items)


def test_a_second_average_comes_back_and_begins_as_the_first_where_there_was_none(
    tiny_config, state, tmp_path
):
    two = override(tiny_config, ["model.ema2_rate=0.5"])
    before = save_checkpoint(tmp_path, state, tiny_config, {}, keep=3)
    state = TrainState.fresh(build(two)[0], two)
    restore(before, state)
    assert same(state.ema2, state.ema)
    assert state.remarks == [
        f"{before.name} holds no second average (model.ema2_rate): it begins as a copy of the "
        "first one"
    ]
    train(state, 1)
    state.update_ema(0.9, 0.5)
    assert not same(state.ema2, state.ema)
    path = save_checkpoint(tmp_path, state, two, {}, keep=3)
    again = TrainState.fresh(build(two)[0], two)
    restore(path, again)
    assert same(again.ema2, state.ema2)
    assert same(again.ema, state.ema)
    assert again.remarks == []
    # It can be chosen where weights are, and one that is no longer wanted is left out.
    weights = read_native(path, "ema2")
    assert (weights.which, weights.sets) == ("ema2", ("ema", "ema2", "raw"))
    assert same(weights.tensors, state.ema2)
    assert read_native(path).which == "ema"
    plain = TrainState.fresh(build(tiny_config)[0], tiny_config)
    restore(path, plain)
    assert plain.ema2 == {}


def test_a_second_average_needs_a_first(tiny_config):
    with pytest.raises(UsageError, match="ema2_rate is of a second average, and ema is false"):
        override(tiny_config, ["model.ema=false", "model.ema2_rate=0.5"])


def test_saving_the_same_step_again_replaces_it(tiny_config, state, tmp_path):
    for _ in range(2):
        save_checkpoint(tmp_path, state, tiny_config, {}, keep=1)
    assert len(checkpoints(tmp_path)) == 1


def test_without_an_average(tiny_config, state, tmp_path):
    plain = override(tiny_config, ["model.ema=false"])
    bare = TrainState.fresh(state.network, plain)
    train(bare, 1)
    path = save_checkpoint(tmp_path, bare, plain, {}, keep=3)
    assert not read_tensors(path, "ema.")
    # An average that begins with the resumed run begins at the resumed weights.
    resumed = TrainState.fresh(build(tiny_config)[0], tiny_config)
    restore(path, resumed)
    assert same(resumed.ema, bare.network.state_dict())
    # And one that is no longer wanted is left out.
    path = save_checkpoint(tmp_path, state, tiny_config, {}, keep=3)
    without = TrainState.fresh(build(plain)[0], plain)
    restore(path, without)
    assert without.ema == {}
    assert same(without.network.state_dict(), state.network.state_dict())


def test_a_model_is_no_checkpoint(tiny_config, tiny_model):
    state = TrainState.fresh(build(tiny_config)[0], tiny_config)
    with pytest.raises(DdimxError, match="a model, not a checkpoint; start from it with --init"):
        restore(tiny_model, state)


def test_a_checkpoint_of_another_network(tiny_config, state, tmp_path):
    path = save_checkpoint(tmp_path, state, tiny_config, {}, keep=3)
    wider = override(tiny_config, ["model.ch=12"])
    with pytest.raises(DdimxError, match="do not fit the configuration: of another shape"):
        restore(path, TrainState.fresh(build(wider)[0], wider))


def test_a_spoilt_checkpoint(tiny_config, state, tmp_path):
    tensors = everything(state)
    tensors["model.conv_in.bias"] = torch.full((8,), torch.nan)
    path = tmp_path / "checkpoint-00000001.safetensors"
    save(path, tensors, Header("checkpoint", tiny_config, {"step": 1}))
    with pytest.raises(DdimxError, match=r"not finite in conv_in\.bias"):
        restore(path, TrainState.fresh(build(tiny_config)[0], tiny_config))
