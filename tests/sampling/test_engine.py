"""Engines: what "auto" decides by which figures, what is refused, and that samples stay the same.

Compiling takes seconds and a compiler, so that all tests but one put a function of their own in its
place. It calls the network, and says at which sizes.
"""

import dataclasses
import json
import re
import shutil
import signal
import stat
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ddimx
from ddimx.errors import DdimxError, UsageError
from ddimx.options import Options
from ddimx.pixels import to_bytes
from ddimx.sampling import compiled, costs, engine, memory, packed
from ddimx.sampling.batch import finish_all
from ddimx.sampling.engine import choose_engine
from ddimx.sampling.manifest import engine_for, identity, names_engine
from ddimx.sampling.settings import resolve
from ddimx.weights.model import load_model
from tests.sampling import manifest_of, sample, sampled


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own, and no compiled code of the user's."""
    monkeypatch.setenv("DDIMX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(compiled.CACHE, raising=False)
    return tmp_path / "cache" / "engines"


@pytest.fixture
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture
def sizes(monkeypatch):
    """The sizes of batch at which the compiled network was called; compiling costs nothing."""
    calls = []

    def plain(network):
        def call(*arguments):
            calls.append(len(arguments[0]))
            return network(*arguments)

        return call

    monkeypatch.setattr(compiled, "compiled", plain)
    monkeypatch.setattr(compiled, "refusal", lambda _: None)
    monkeypatch.setattr(packed, "refusal", lambda *_: "not in this test")
    return calls


@pytest.fixture
def clock(monkeypatch):
    """A clock of which every look takes one second."""
    seconds = iter(range(10**6))
    monkeypatch.setattr(engine.time, "perf_counter", lambda: float(next(seconds)))


def settings_of(model, **options):
    return resolve(Options.of({"steps": 4, "count": 5, "batch_size": 2, **options}), model)


def close(samples, others):
    """Whether pixels are the same to float32's rounding, which the size of a product decides: some
    hundred sums in each of four rows, of values of about 1.
    """
    return torch.allclose(torch.stack(samples), torch.stack(others), rtol=0, atol=400 * 2**-23)


def test_a_tail_is_filled_up_and_the_surplus_dropped(model, sizes):
    plain = finish_all(model, settings_of(model, engine="eager"), range(5))
    drawn = finish_all(model, settings_of(model, engine="compile"), range(5))
    assert close(plain, drawn)
    assert sizes == [2] * 12  # three batches of four rows, the last of one sample


@pytest.mark.parametrize(
    ("guidance", "size", "calls"), [("2", 4, 8), ("2@0-0.5", 2, 12)], ids=["all rows", "some rows"]
)
def test_guidance_doubles_the_size_or_takes_two_calls(model, sizes, guidance, size, calls):
    options = {"guidance": guidance, "count": 4}
    plain = finish_all(model, settings_of(model, engine="eager", **options), range(4))
    drawn = finish_all(model, settings_of(model, engine="compile", **options), range(4))
    assert close(plain, drawn)
    assert sizes == [size] * calls


def test_a_second_call_finds_the_network_compiled(model, sizes):
    settings = settings_of(model, engine="compile")
    one, two = choose_engine(model, settings), choose_engine(model, settings)
    assert one is two
    other = choose_engine(model, settings_of(model, engine="compile", batch_size=1))
    assert other is not one
    finish_all(model, settings, range(2))
    assert one.record()["name"] == "compile"
    again = choose_engine(model, settings_of(model))  # "auto", of a run too short to compile for
    assert again.record() == {"name": "compile", "reason": "compiled already"}
    finish_all(model, settings_of(model, engine="eager"), range(2))
    assert len(sizes) == 4


def test_auto_compiles_once_a_run_is_long_enough(model, sizes, clock, cache):
    """Each call takes a second by this clock; compiling takes one and is expected to take 0.8 s
    for each layer, and to save a twentieth.
    """
    bf16 = dataclasses.replace(model, precision=engine_precision(torch.bfloat16))
    said = []
    settings = settings_of(bf16, steps=4, count=2000)
    chosen = choose_engine(bf16, settings)
    chosen.say = said.append
    x, t = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    for _ in range(4):
        chosen.network(x, t, torch.zeros(2, dtype=torch.int64))
    assert (chosen.name, sizes) == ("compile", [2])
    expected = costs.COLD_PER_LAYER["cpu"] * costs.layers_of(model.network)
    left = 4000 - 3
    saved = left * (1 - costs.RATIO["cpu bf16"]) - expected
    assert said == [f"engine: compile (saves about {saved:.0f} s of {left} s; compiled in 1.0 s)"]
    assert chosen.record()["compile_seconds"] == 1.0
    entry = next(iter(costs.read().values()))
    assert (entry.cold, entry.warm, entry.layers) == (1.0, None, costs.layers_of(model.network))
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def engine_precision(dtype):
    from ddimx.device import Precision

    return Precision(dtype, "a test")


def test_the_outlook_says_what_is_known_before_a_run(model, sizes, monkeypatch):
    expected = costs.COLD_PER_LAYER["cpu"] * costs.layers_of(model.network)
    said = choose_engine(model, settings_of(model)).outlook()
    assert said.startswith("engine: eager; compile as soon as that pays")
    assert f"about {expected:.0f} s" in said
    chosen = choose_engine(model, settings_of(model, engine="compile"))
    assert chosen.outlook() == "engine: compile (asked for)"
    monkeypatch.setattr(compiled, "refusal", lambda _: "no compiler")
    chosen = choose_engine(model, settings_of(model, batch_size=3))
    assert chosen.outlook() == "engine: eager (no compiler)"


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (2, "the run is too short for compiling to pay"),
        (100, r"compiling would take about \d+ s and save \d+ s of 197 s"),
    ],
)
def test_auto_leaves_a_short_run_alone(model, sizes, clock, count, reason):
    bf16 = dataclasses.replace(model, precision=engine_precision(torch.bfloat16))
    chosen = choose_engine(bf16, settings_of(bf16, count=count))
    x, t = torch.zeros(2, 3, 8, 8), torch.zeros(2)
    for _ in range(5):
        chosen.network(x, t, torch.zeros(2, dtype=torch.int64))
    assert (chosen.name, sizes) == ("eager", [])
    assert re.fullmatch(reason, chosen.reason)


def broken(message):
    def compile_network(network):
        def call(*_):
            raise RuntimeError(message)

        return call

    return compile_network


def test_what_fails_to_compile_runs_plainly_with_the_reason(model, monkeypatch, clock):
    """The first failure may be that of a damaged cache, which is removed before a second try."""
    forgotten = []
    monkeypatch.setattr(compiled, "refusal", lambda _: None)
    monkeypatch.setattr(packed, "refusal", lambda *_: "not in this test")
    monkeypatch.setattr(compiled, "compiled", broken("\n  no such header\nmore"))
    monkeypatch.setattr(compiled, "forget_code", lambda: forgotten.append(1))
    bf16 = dataclasses.replace(model, precision=engine_precision(torch.bfloat16))
    chosen = choose_engine(bf16, settings_of(bf16, count=10_000))
    arguments = torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.int64)
    outs = [chosen.network(*arguments) for _ in range(6)]
    assert all(torch.equal(out, outs[0]) for out in outs)
    reason = "compiling failed: RuntimeError: no such header"
    assert chosen.record() == {"name": "eager", "reason": reason}
    assert forgotten == [1]
    assert costs.read() == {}
    strict = choose_engine(model, settings_of(model, engine="compile"))
    with pytest.raises(DdimxError, match="no such header; --engine eager does without"):
        strict.network(*arguments)


def test_a_damaged_cache_is_rebuilt(model, monkeypatch, sizes):
    tries = []

    def second_time(network):
        tries.append(1)
        return broken("file too short")(network) if len(tries) == 1 else network

    monkeypatch.setattr(compiled, "compiled", second_time)
    with compiled.code_folder():
        (costs.compiled_code() / "damaged.so").write_bytes(b"")
    drawn = finish_all(model, settings_of(model, engine="compile"), range(2))
    assert close(finish_all(model, settings_of(model, engine="eager"), range(2)), drawn)
    assert len(tries) == 2
    assert not (costs.compiled_code() / "damaged.so").exists()


def test_a_compilation_that_ctrl_c_ended_is_not_tried_again(tiny_model, tmp_path, monkeypatch):
    """A terminal sends it to the C++ compiler too, which then fails."""
    tries = []

    def killed(*_):
        tries.append(1)
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("the compiler was killed")

    monkeypatch.setattr(compiled, "compiled", lambda _: killed)
    monkeypatch.setattr(compiled, "refusal", lambda _: None)
    out = tmp_path / "r"
    done = sample(tiny_model, "-n", 1, "--steps", 1, "--engine", "compile", "--out", out)
    assert (done.code, tries) == (130, [1])
    assert "stopping once the network is compiled; Ctrl-C again ends the run at once" in done.err
    assert manifest_of(out)["status"] == "interrupted"


REFUSALS = [
    ({"platform": "win32"}, "cpu", "not tried on Windows"),
    ({}, "mps", "not tried on MPS"),
    ({"missing": "torch._inductor"}, "cpu", "comes without its compiler"),
    ({"missing": "triton"}, "cuda", "Triton is not installed"),
    ({"tools": ()}, "cpu", r"no C\+\+ compiler \(no-such; CXX names another\)"),
    ({"tools": ("no-such",)}, "cpu", None),
    ({"tools": ()}, "cuda", r"no C compiler \(gcc or clang; CC names another\)"),
    ({"tools": ("clang",)}, "cuda", None),
]


@pytest.mark.parametrize(("machine", "device", "reason"), REFUSALS)
def test_what_cannot_compile_here_is_refused_with_the_reason(
    monkeypatch, tmp_path, machine, device, reason
):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(compiled.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(sys, "platform", machine.get("platform", "linux"))
    missing, tools = machine.get("missing"), machine.get("tools", ("no-such", "gcc"))
    monkeypatch.setattr(compiled, "find_spec", lambda name: None if name == missing else 1)
    monkeypatch.setattr(shutil, "which", lambda name: name if name in tools else None)
    monkeypatch.setenv("CXX", "no-such")
    monkeypatch.delenv("CC", raising=False)
    refusal = compiled.refusal(torch.device(device))
    assert refusal is None if reason is None else re.search(reason, refusal)


def test_an_engine_that_cannot_run_is_refused_by_name_and_passed_over_by_auto(model, monkeypatch):
    monkeypatch.setattr(compiled, "refusal", lambda _: "there is no C++ compiler")
    with pytest.raises(UsageError, match=r"--engine compile: there is no C\+\+ compiler; --engine"):
        ddimx.sample(model, count=1, steps=1, engine="compile")
    with pytest.raises(UsageError, match="--engine graph: CUDA graphs need a CUDA device"):
        ddimx.sample(model, count=1, steps=1, engine="graph")
    chosen = choose_engine(model, settings_of(model))
    assert chosen.record() == {"name": "eager", "reason": "there is no C++ compiler"}
    with pytest.raises(UsageError, match="fast"):
        ddimx.sample(model, count=1, engine="fast")


def test_packed_weights_draw_the_same_pictures(model):
    """They are packed once for each shape of input, in a network beside the model's own."""
    if (reason := packed.refusal(model.network, torch.device("cpu"))) is not None:
        pytest.skip(reason)
    plain = finish_all(model, settings_of(model, engine="eager"), range(5))
    settings = settings_of(model, engine="pack")
    drawn = finish_all(model, settings, range(5))
    assert close(plain, drawn)
    chosen = choose_engine(model, settings)
    assert chosen.record() == {"name": "pack", "reason": "asked for"}
    twins = [m for m in chosen._network.modules() if isinstance(m, packed._Packed)]
    assert len(twins) == sum(type(m) is nn.Conv2d for m in model.network.modules())
    assert {len(twin.__dict__["_packed"]) for twin in twins} == {packed.KEPT}
    shared = zip(chosen._network.parameters(), model.network.parameters(), strict=True)
    assert all(one is two for one, two in shared)


def test_what_is_packed_by_default(model, monkeypatch):
    monkeypatch.setattr(compiled, "refusal", lambda _: "no compiler")
    monkeypatch.setattr(packed, "refusal", lambda *_: None)
    bf16 = dataclasses.replace(model, precision=engine_precision(torch.bfloat16), engines={})
    record = choose_engine(bf16, settings_of(bf16)).record()
    assert record == {"name": "pack", "reason": "no compiler"}
    assert choose_engine(model, settings_of(model)).name == "eager"
    assert choose_engine(bf16, settings_of(bf16, invariant=True)).name == "eager"
    monkeypatch.setattr(packed, "refusal", lambda *_: "weights are not packed on riscv64")
    with pytest.raises(UsageError, match="--engine pack: weights are not packed on riscv64"):
        choose_engine(bf16, settings_of(bf16, engine="pack"))
    assert choose_engine(bf16, settings_of(bf16, batch_size=1)).name == "eager"


def test_weights_that_would_not_fit_twice_are_not_compiled(model, monkeypatch, sizes, clock):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 1 << 20)
    with pytest.raises(UsageError, match=r"compile: it needs 0\.3 GB, and 0\.0 GB are free"):
        choose_engine(model, settings_of(model, engine="compile"))
    bf16 = dataclasses.replace(model, precision=engine_precision(torch.bfloat16))
    chosen = choose_engine(bf16, settings_of(bf16, count=10_000))
    for _ in range(4):
        chosen.network(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert (chosen.name, sizes) == ("eager", [])
    assert chosen.reason == "compiling needs 0.3 GB, and 0.0 GB are free"


def test_invariant_runs_compile_on_demand_alone_and_say_so_in_their_identity(model, sizes):
    settings = settings_of(model, invariant=True)
    assert "--invariant" in choose_engine(model, settings).reason
    assert "engine" not in identity(model, settings, "png", None)
    compiling = settings_of(model, invariant=True, engine="compile")
    assert identity(model, compiling, "png", None)["engine"] == "compile"
    assert not names_engine(settings_of(model, engine="compile"))
    alone = finish_all(model, compiling, [4])
    together = finish_all(model, compiling, [3, 4, 12])
    assert torch.equal(alone[0], together[1])
    assert {*sizes} == {model.process.micro_batch}


def test_a_run_goes_on_with_the_engine_that_its_identity_names(tmp_path):
    manifest = {"schema": 2, "status": "interrupted", "count": 1, "identity": {"engine": "compile"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert engine_for(None, tmp_path) == engine_for("auto", tmp_path) == "compile"
    assert engine_for("eager", tmp_path) == "eager"
    assert engine_for(None, None) == "auto"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"identity": {"engine": "x"}}))
    assert engine_for(None, tmp_path) == "auto"


def test_the_command_line_records_the_engine_and_resumes_with_it(
    tiny_model, tmp_path, monkeypatch, sizes
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    options = ("--invariant", "--out", "run")
    done = sampled(tiny_model, "-n", 3, "--engine", "compile", *options)
    record = manifest_of(folder)
    assert record["engine"].keys() == {"name", "reason", "compile_seconds"}
    assert record["identity"]["engine"] == record["engine"]["name"] == "compile"
    assert record["network_calls"] == len(sizes) == 3  # one micro-batch
    assert "engine: compile (asked for; compiled in" in done.err
    # The same folder again, without the option: its identity names the engine.
    sampled(tiny_model, "-n", 9, *options)
    assert manifest_of(folder)["identity"]["engine"] == "compile"
    assert {*sizes} == {8}
    refused = sample(tiny_model, "-n", 9, "--engine", "eager", *options)
    assert refused.code == 2
    assert "engine: compile" in refused.err
    assert "engine" not in sampled(tiny_model, "-n", 1, "--engine", "eager").err


def test_compiled_calls_are_recorded_without_plain_ones_and_no_pair_is_torn(model, sizes, clock):
    def run():
        chosen = choose_engine(model, settings_of(model, engine="compile"))
        chosen._function = None
        chosen._compiled.clear()
        finish_all(model, settings_of(model, engine="compile", count=4), range(4))
        return next(iter(costs.read().values()))

    entry = run()
    assert (entry.plain, entry.compiled, entry.cold, entry.warm) == (None, 1.0, 1.0, None)
    key = next(iter(costs.read()))
    costs.remember(key, dataclasses.replace(entry, plain=5.0, compiled=4.0))
    assert (run().plain, run().compiled) == (5.0, 4.0)


def test_the_cost_beside_code_without_a_record_is_not_called_cold(model, sizes, clock):
    with compiled.code_folder():
        (costs.compiled_code() / "code.so").touch()
    finish_all(model, settings_of(model, engine="compile"), range(2))
    key, entry = next(iter(costs.read().items()))
    assert (entry.cold, entry.warm) == (None, None)
    assert costs.code_is_held(costs.read(), key) is True
    assert costs.code_is_held(costs.read(), "another") is False


@pytest.mark.parametrize("wish", ["compile", "graph"])
def test_octrees_run_plainly(model, wish):
    """Their shapes differ from call to call."""
    process = SimpleNamespace(draws="octrees")
    shapes = dataclasses.replace(model, process=process)
    settings = settings_of(model)
    reason = "the shapes of octrees vary from call to call"
    assert choose_engine(shapes, settings).record() == {"name": "eager", "reason": reason}
    with pytest.raises(UsageError, match=f"--engine {wish}: {reason}"):
        choose_engine(shapes, dataclasses.replace(settings, engine=wish))


class Small(nn.Module):
    """A convolution and what the compiler fuses behind it, in one loop."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t, labels):
        shift = (t / 1000 + labels).view(-1, 1, 1, 1)
        return nn.functional.silu(self.conv(x)) - shift.cos()


COMPILES = pytest.mark.skipif(
    compiled.refusal(torch.device("cpu")) is not None, reason="nothing compiles here"
)


@pytest.mark.full
@COMPILES
def test_a_compiled_network_draws_the_same_pictures(model, cache):
    """Float32 is rounded alike, up to a few last bits."""
    from torch._inductor import config

    small = Small().eval().requires_grad_(False)
    options = {"count": 3, "guidance": "2"}
    alike = dataclasses.replace(model, network=small, engines={})
    plain = finish_all(alike, settings_of(alike, engine="eager", **options), range(3))
    # Code without vector instructions is the same on every CPU, and the compiler need not try them.
    # monkeypatch would remove the settings afterwards, as they are no attributes of an object.
    with config.patch({"cpp.simdlen": 1, "cpp.vec_isa_ok": True}):
        drawn = finish_all(alike, settings_of(alike, engine="compile", **options), range(3))
    assert close(plain, drawn)
    (entry,) = costs.read().values()
    assert entry.cold is not None
    assert stat.S_IMODE((cache / "code").stat().st_mode) == 0o700
    assert any((cache / "code").rglob("*.so"))


@COMPILES
@pytest.mark.full
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_compiled_unet_draws_the_same_pictures(tiny_model, dtype):
    """In bfloat16 what is fused is rounded less often: each of some 60 roundings of a call differs
    by 2^-9 at most, and errors add up like steps of a random walk, over four rows.
    """
    unet = load_model(tiny_model, device="cpu", dtype=dtype)
    plain = finish_all(unet, settings_of(unet, engine="eager"), range(5))
    drawn = finish_all(unet, settings_of(unet, engine="compile"), range(5))
    bound = 4 * 60**0.5 * 2**-9 if dtype == "bf16" else 400 * 2**-23
    gap = (torch.stack(plain) - torch.stack(drawn)).abs().max()
    assert gap <= bound * max(1.0, float(torch.stack(plain).abs().max()))
    levels = [to_bytes(torch.stack(value), unet.config.data).int() for value in (plain, drawn)]
    assert (levels[0] - levels[1]).abs().max() <= (1 if dtype == "fp32" else 255 * bound)


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{}, {"guidance": "3@0-0.5"}, {"solver": "dpm++:3"}])
def test_graphs_draw_the_same_bits_on_a_card(tiny_model, options):
    card = load_model(tiny_model, device="cuda", dtype="bf16")
    rows = {"steps": 8, "count": 5, **options}
    plain = ddimx.sample(card, engine="eager", batch_size=2, **rows)
    drawn = ddimx.sample(card, engine="graph", batch_size=2, **rows)
    assert torch.equal(plain, drawn)
    chosen = list(card.engines.values())[-1]
    graphs = chosen.network.graphs
    assert graphs.failure is None
    assert graphs.replays > 0
    assert choose_engine(card, settings_of(card)).name == "graph"


@pytest.mark.gpu
def test_compiled_code_within_a_graph_draws_the_same_pictures_on_a_card(tiny_model):
    card = load_model(tiny_model, device="cuda", dtype="fp32")
    rows = {"steps": 8, "count": 3, "batch_size": 2}
    plain = ddimx.sample(card, engine="eager", **rows)
    drawn = ddimx.sample(card, engine="compile", **rows)
    # TF32 is off with fp32. Eight rows of some hundred sums, of values up to a few units.
    assert (plain - drawn).abs().max() <= 8 * 100 * 2**-23 * float(plain.abs().max() + 1)
    chosen = list(card.engines.values())[-1]
    assert chosen.network.graphs.replays > 0
