"""Which device and which precision are chosen, and how a wish that cannot be met is refused."""

import sys

import pytest
import torch

from ddimx import device as chosen
from ddimx.device import choose_device, choose_precision, forbid_tf32, without_memory
from ddimx.errors import UsageError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch):
    """Return a function that pretends a number of GPUs and whether there is an Apple one."""

    def pretend(gpus=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("gpus", "mps", "kind"), [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda")]
)
def test_auto_takes_the_fastest(machine, gpus, mps, kind):
    machine(gpus, mps)
    assert choose_device("auto").type == kind


def test_a_device_that_is_there(machine):
    machine(gpus=2)
    assert choose_device("cpu") == CPU
    assert choose_device("cuda") == CUDA
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "xpu", "meta"])
def test_a_device_that_is_not_there(machine, name):
    machine()
    with pytest.raises(UsageError, match=f"device '{name}' is not available here"):
        choose_device(name)


def test_a_gpu_beyond_the_last(machine):
    machine(gpus=2)
    with pytest.raises(UsageError, match="device 'cuda:2' is not available here"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_an_unknown_device(name):
    with pytest.raises(UsageError, match=r"unknown device .*Allowed: auto, cpu, cuda, cuda:N, mps"):
        choose_device(name)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_precision_by_name(name, dtype):
    precision = choose_precision(name, CPU)
    assert (precision.dtype, precision.name) == (dtype, name)
    assert precision.reason == "asked for"


def test_an_unknown_precision():
    with pytest.raises(UsageError, match=r"unknown dtype 'float32'\. Allowed: auto, fp32, bf16"):
        choose_precision("float32", CPU)


@pytest.mark.parametrize(("has", "name"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_a_cpu_goes_by_its_instructions(monkeypatch, has, name):
    monkeypatch.setattr(chosen, "cpu_has_bf16", lambda: has)
    precision = choose_precision("auto", CPU)
    assert precision.name == name
    assert "bf16" in precision.reason


@pytest.mark.parametrize(("native", "name"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu_takes_bf16_only_if_it_is_native(monkeypatch, native, name):
    supported = lambda including_emulation=True: native or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", CUDA).name == name


def test_auto_elsewhere_is_fp32():
    precision = choose_precision("auto", torch.device("mps"))
    assert (precision.name, precision.reason) == ("fp32", "no fast bf16 on this MPS")


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16"])
def test_either_instruction_counts(monkeypatch, capability):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    for there in (True, False):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda there=there: {capability: there}, raising=False
        )
        assert chosen.cpu_has_bf16() is there


def test_a_network_without_memory_has_shapes_and_nothing_to_set(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._refs", None)  # what fills such tensors cannot run
    with without_memory():
        layer = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Embedding(5, 6))
    assert [(p.is_meta, *p.shape) for p in layer.parameters()] == [
        (True, 4, 3),
        (True, 4),
        (True, 5, 6),
    ]
    assert torch.nn.Linear(3, 4).weight.abs().sum() > 0


def test_fp32_forbids_tf32():
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [b.allow_tf32 for b in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = True
        forbid_tf32()
        assert [b.allow_tf32 for b in backends] == [False, False]
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_a_dtype_that_a_device_has_no_product_in_is_refused(monkeypatch):
    def ones(*_, dtype, **__):
        raise RuntimeError('"addmm" not implemented for bf16\nmore of it')

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(UsageError, match=r"this CPU cannot compute in bf16 \(\"addmm\" not impl"):
        choose_precision("bf16", CPU)
