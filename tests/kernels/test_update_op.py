"""The update as PyTorch's operator: its schema, shape rule and place in a compiled graph."""

import dataclasses

import pytest
import torch

from ddimx.kernels.update import Extras, reference, update
from ddimx.kernels.update.columns import TABLE as COLUMNS
from ddimx.kernels.update.op import options, update_op, wanted
from tests.kernels.test_update_kernel import on_device, plain

CPU = torch.device("cpu")


def spread(arguments, impl="reference"):
    """Return the operator's own arguments."""
    *tensors, extras = arguments
    values = vars(extras)
    first = ("uncond", "guidance", "seed", "samples", "z", "known", "mask")
    then = ("clip", "step_stream", "known_stream", "history_is_x0", "same_point", "want_x0")
    return (*tensors, *(values[name] for name in (*first, *then)), impl)


def smallest():
    x = torch.randn(2, 3, 4, 4)
    table = torch.randn(1, len(COLUMNS) + 2)
    return [table, torch.tensor(0), x, x.clone(), x.clone(), None, Extras()]


CALLS = {
    "every feature": plain(depth=3),
    "no history": plain(depth=1),
    "no network": [*plain()[:4], None, *plain()[5:]],
    "x alone": plain(depth=1, same_point=True, want_x0=False),
    "nothing": smallest(),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_the_operator_keeps_its_word(name, impl):
    """What PyTorch checks: the schema's mutation and aliasing, the fake's shapes, tracing."""
    arguments = [on_device(v.clone()) if isinstance(v, torch.Tensor) else v for v in CALLS[name]]
    arguments[-1] = on_device(arguments[-1])
    torch.library.opcheck(update_op, spread(arguments, impl))


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_wanted_is_empty(name):
    arguments = [v.clone() if isinstance(v, torch.Tensor) else v for v in CALLS[name]]
    extras, x = arguments[-1], arguments[2]
    found = update_op(*spread(arguments))
    exists = [True, *wanted(arguments[4] is not None, extras.same_point, extras.want_x0)]
    assert [value.shape == x.shape for value in found] == exists
    assert [value.numel() == 0 for value in found] == [not is_there for is_there in exists]


def test_a_step_is_one_graph():
    """Network and update, compiled without a graph break, two rows with the row as a tensor."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    table, _, x, _, _, history, extras = plain()
    extras = dataclasses.replace(extras, uncond=None, guidance=None)

    def step(row, x, y, history):
        return update(table, row, x, y, network(y), history, extras)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    ours, theirs = (x, x, history.clone()), (x, x, history.clone())
    with torch.no_grad():
        for i in range(3):
            row = torch.tensor(i)
            one, other = compiled(row, *ours), step(row, *theirs)
            for a, b in zip(one, other, strict=True):
                assert torch.equal(a, b)
            assert torch.equal(ours[2], theirs[2])
            ours, theirs = (one.x, one.y, ours[2]), (other.x, other.y, theirs[2])


def test_auto_prefers_the_reference_where_triton_is_only_interpreted():
    names = [(option.impl, option.automatic) for option in options(CPU, torch.float32)]
    assert names == [("triton", False), ("reference", True)]
    assert options(torch.device("cuda"), torch.float32)[0].automatic
    assert "float64" in options(torch.device("cuda"), torch.float64)[0].refusal


def test_the_reference_is_differentiable_and_the_operator_says_that_it_is_not():
    table, row, x, y, out, _, extras = smallest()
    out.requires_grad_()
    moved = reference.update(table, row, x, y, out, None, extras).x
    moved.sum().backward()
    # x' = a x + w (r y + s out) + b (u y + v out) + ...
    k = dict(zip(COLUMNS, table[0], strict=False))
    expected = k["w"] * k["s"] + table[0, len(COLUMNS)] * k["v"]
    assert torch.allclose(out.grad, expected.expand(out.shape), rtol=1e-5)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        update(table, row, x, y, out).x.sum().backward()


@pytest.mark.parametrize("name", CALLS)
def test_without_gradients_a_cpu_goes_around_the_operator_to_the_same_result(name):
    def call():
        copies = [v.clone() if isinstance(v, torch.Tensor) else v for v in CALLS[name]]
        return update(*copies), copies

    with torch.profiler.profile() as recorder:
        through, first = call()
        with torch.no_grad():
            around, second = call()
    assert [e.name for e in recorder.events()].count("ddimx::update") == 1
    for a, b in zip(around, through, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (torch.equal(a, b) and a.is_contiguous())
    assert (around.y is around.x) == (through.y is through.x)
    for a, b in zip(first, second, strict=True):  # the history, which is changed in place
        assert not isinstance(a, torch.Tensor) or torch.equal(a, b)
