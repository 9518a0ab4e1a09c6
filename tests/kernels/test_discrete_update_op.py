"""The update of tokens as PyTorch's operator: its schema, shape rule and place in a graph."""

import itertools

import pytest
import torch

from ddimx.kernels.discrete_update import TokenState, UpdateOptions, discrete_update, preference
from ddimx.kernels.discrete_update.op import discrete_update_op, options
from tests.kernels.discrete_update_cases import TOKEN, make
from tests.kernels.test_discrete_update_kernel import DEVICE

CPU = torch.device("cpu")


def spread(route, want_x0, guided, impl):
    """Return the operator's own arguments."""
    case = make(9, guided=guided)
    state = (torch.from_numpy(v) for v in (case.ids, case.keys, case.samples))
    return (
        torch.from_numpy(case.table).float(),
        torch.tensor(case.row),
        torch.from_numpy(case.logits).float(),
        *state,
        torch.tensor(case.seed),
        torch.from_numpy(case.uncond).float() if guided else None,
        torch.tensor(2.0) if guided else None,
        "uniform",
        TOKEN,
        route,
        want_x0,
        impl,
    )


CALLS = [(True, True, True), (True, False, False), (False, True, False)]


@pytest.mark.parametrize(("call", "impl"), [*itertools.product(CALLS, ["reference", "triton"])])
def test_the_operator_keeps_its_word(call, impl):
    """What PyTorch checks: the schema's mutation and aliasing, the fake's shapes, tracing."""
    arguments = (v.to(DEVICE) if isinstance(v, torch.Tensor) else v for v in spread(*call, impl))
    torch.library.opcheck(discrete_update_op, tuple(arguments))


def test_what_is_not_wanted_is_empty():
    for route, want_x0, guided in CALLS:
        ids, x0, confidence = discrete_update_op(*spread(route, want_x0, guided, "reference"))
        assert ids.shape == (9,)
        assert x0.shape == confidence.shape == ((9,) if want_x0 else (0,))


def test_a_step_is_one_graph():
    """Network and update without a graph break, three rows with the row as a tensor."""
    torch.manual_seed(0)
    network = torch.nn.Embedding(256, 256)
    case = make(20)
    table = torch.from_numpy(case.table).float()
    keys, samples = torch.from_numpy(case.keys), torch.from_numpy(case.samples)
    seed, fixed = torch.tensor(case.seed), UpdateOptions("uniform", TOKEN)

    def step(row, ids):
        logits = network(ids.long())
        return discrete_update(table, row, logits, TokenState(ids, keys, samples), seed, fixed)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    ours = theirs = torch.from_numpy(case.ids)
    with torch.no_grad():
        for i in range(3):
            one, other = compiled(torch.tensor(i), ours), step(torch.tensor(i), theirs)
            for a, b in zip(one, other, strict=True):
                assert torch.equal(a, b)
            ours, theirs = one.ids, other.ids


def test_auto_prefers_the_reference_where_triton_is_only_interpreted():
    names = [(option.impl, option.automatic) for option in options(CPU, torch.float32)]
    assert names == [("triton", False), ("reference", True)]
    assert options(torch.device("cuda"), torch.bfloat16)[0].automatic
    assert "float64" in options(torch.device("cuda"), torch.float64)[0].refusal
    assert preference(CPU)[0] == "reference"
