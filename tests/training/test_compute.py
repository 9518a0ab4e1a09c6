"""How a network is computed in training: which precision, and whether it is compiled."""

import math

import pytest
import torch

from ddimx.config_file import dump_yaml, override
from ddimx.data.images.sources import open_source
from ddimx.errors import DdimxError, UsageError
from ddimx.models.factory import build
from ddimx.models.unet import UNet
from ddimx.noise import Noise
from ddimx.signals import Stop
from ddimx.training import compute
from ddimx.training.compute import choose_compute
from ddimx.training.loop import Trainer
from ddimx.training.state import TrainState, checkpoints, restore
from ddimx.weights.formats.native import read_header, read_tensors
from tests.models.octree.small import octree_config
from tests.sampling import invoke
from tests.training.small import Notes

OURS = UNet.__new__(UNet)  # only its class is looked at


@pytest.fixture
def trainer(tiny_config, formula_weights, tmp_path, monkeypatch):
    """Return a function that makes a trainer with fixed weights, without pictures."""
    monkeypatch.setattr(Trainer, "draw_grid", lambda self: None)

    def make(name="run", items=(), device="cpu"):
        config = override(tiny_config, items)
        network, process = build(config)
        network = formula_weights(network).to(device).to(memory_format=torch.channels_last)
        parts = [open_source(config, held_out=held_out) for held_out in (False, True)]
        state = TrainState.fresh(network, config)
        folder = tmp_path / name
        return Trainer(config, state, process, *parts, folder, Noise(0), torch.device(device))

    return make


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes this a machine where compiling pays from some steps on."""

    def be(*, refusal=None, steps=2000):
        monkeypatch.setattr(compute.compiled, "refusal", lambda device: refusal)
        monkeypatch.setattr(compute, "WORTH_COMPILING", {} if steps is None else {"cpu": steps})

    return be


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wish", "device", "fast", "history", "expected"),
    [
        ("auto", "cpu", True, None, "bf16"),
        ("auto", "cpu", False, None, "fp32"),
        ("auto", "cuda", False, None, "bf16"),
        ("auto", "mps", True, None, "fp32"),
        ("fp32", "cuda", True, None, "fp32"),
        ("bf16", "cpu", False, None, "bf16"),
        # A run goes on as it began, in version 0.1 in fp32 on a CPU, unless it is told otherwise.
        ("auto", "cpu", True, {"device": "cpu (some)"}, "fp32"),
        ("auto", "cpu", True, {"device": "cuda (some)"}, "bf16"),
        ("auto", "cpu", True, {"device": "cpu (some)", "precision": "bf16"}, "bf16"),
        ("auto", "cpu", False, {"device": "cpu (some)", "precision": "bf16"}, "fp32"),
        ("auto", "cuda", True, {"device": "cpu (some)", "precision": "fp32"}, "fp32"),
        ("bf16", "cpu", True, {"device": "cpu (some)", "precision": "fp32"}, "bf16"),
    ],
)
def test_the_precision_of_a_run(tiny_config, monkeypatch, wish, device, fast, history, expected):
    monkeypatch.setattr(compute, "cpu_has_bf16", lambda: fast)
    config = override(tiny_config, [f"training.precision={wish}"])
    choice = choose_compute(config, torch.device(device), OURS, history)
    assert choice.precision == expected
    assert choice.reason


# --- compiling ------------------------------------------------------------------------------------

SHORT, LONG = "training.n_iters=1999", "training.n_iters=2000"


@pytest.mark.parametrize(
    ("items", "here", "history", "expected", "why"),
    [
        ([LONG], {}, None, True, "long run"),
        ([SHORT], {}, None, False, "too short"),
        ([LONG], {"steps": None}, None, False, "not been measured to pay on CPU"),
        ([LONG], {"refusal": "there is no compiler"}, None, False, "there is no compiler"),
        ([LONG], {}, {"precision": "fp32"}, False, "as the run began"),
        ([SHORT], {}, {"compiled": True}, False, "too short"),
        ([LONG], {}, {"compiled": True}, True, "long run"),
        ([LONG, "training.compile=off"], {}, {"compiled": True}, False, "asked for"),
        ([SHORT, "training.compile=on"], {"steps": None}, None, True, "asked for"),
    ],
)
def test_whether_a_run_is_compiled(tiny_config, machine, items, here, history, expected, why):
    machine(**here)
    choice = choose_compute(override(tiny_config, items), torch.device("cpu"), OURS, history)
    assert choice.compiled is expected
    assert why in choice.compiled_reason


def test_what_is_never_compiled(tiny_config, machine):
    machine()
    octrees = octree_config(training={"n_iters": 9999})
    assert not choose_compute(octrees, torch.device("cpu"), OURS).compiled
    elsewhere = choose_compute(override(tiny_config, [LONG]), torch.device("cpu"), Notes())
    assert elsewhere.compiled_reason == "a network from outside the package"
    on = override(octrees, ["training.compile=on"])
    with pytest.raises(UsageError, match="octrees have other shapes in every step"):
        choose_compute(on, torch.device("cpu"), OURS)


def test_compiling_changes_neither_weights_nor_draws(trainer, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    plain, run = trainer("plain"), trainer("run")
    assert run.compile() > 0
    assert all(p.grad is None for p in run.state.network.parameters())
    losses = []
    for each in (plain, run):
        notes = Notes()
        each.run(Stop(), notes)
        losses.append(notes.losses)
    assert losses[0] == losses[1]
    one, two = (read_tensors(checkpoints(each.folder / "checkpoints")[-1]) for each in (plain, run))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_compiler_that_fails(tiny_config, machine, monkeypatch, tmp_path):
    def fail(network, dynamic):
        raise RuntimeError("no linker\nand much more")

    machine(steps=1)
    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(Trainer, "draw_grid", lambda self: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yml").write_text(dump_yaml(override(tiny_config, ["training.n_iters=1"])))
    options = ("train", "--device", "cpu", "-c", "own.yml")
    done = invoke(*options, "-o", "auto")
    assert done.code == 0, done.err
    assert "cannot be compiled here: no linker; training without" in done.err
    (path,) = checkpoints(tmp_path / "auto" / "checkpoints")
    assert read_header(path).info["compiled"] is False
    done = invoke(*options, "-o", "on", "--set", "training.compile=on")
    assert done.code == 1
    assert "no linker; --set training.compile=off does without" in done.err
    machine(refusal="there is no compiler")
    done = invoke(*options, "-o", "none", "--set", "training.compile=on")
    assert done.code == 2
    assert "training.compile on: there is no compiler" in done.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        pytest.param("cpu", "fp32", marks=pytest.mark.full),
        pytest.param("cpu", "bf16", marks=pytest.mark.full),
        pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
    ],
)
def test_a_compiled_network_trains_as_the_plain_one(
    trainer, device, precision, tmp_path, monkeypatch
):
    if compute.compiled.refusal(torch.device(device)) is not None:
        pytest.skip(compute.compiled.refusal(torch.device(device)))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    items = [f"training.precision={precision}"]
    runs = {name: trainer(name, items, device) for name in ("plain", "whole", "first", "second")}
    losses, stop = {}, Stop()
    for name, run in runs.items():
        if name != "plain":
            run.compile()
        compilations = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        if name == "second":
            stop = Stop()
            restore(checkpoints(tmp_path / "first" / "checkpoints")[-1], run.state)
        notes = Notes(stop, 3 if name == "first" else None)
        run.run(stop, notes)
        losses[name] = notes.losses
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compilations
    # A last bit of each of some thirty layers, in each of six steps; bfloat16 has 8 bits.
    bound = 1e-3 if precision == "fp32" else 0.1
    assert losses["whole"] == pytest.approx(losses["plain"], rel=bound)
    assert all(math.isfinite(loss) for loss in losses["whole"])
    ends = [
        read_tensors(checkpoints(tmp_path / n / "checkpoints")[-1]) for n in ("whole", "second")
    ]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.full
def test_a_failure_names_its_reason(trainer, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(DdimxError, match="the network cannot be compiled here: "):
        trainer().compile()
