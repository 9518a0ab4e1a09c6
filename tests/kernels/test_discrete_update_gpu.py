"""The update of tokens on a CUDA device: the definition's band, replayed graphs, large sizes."""

import pytest
import torch

from ddimx.kernels.discrete_update import TokenState, UpdateOptions, discrete_update
from tests.kernels.discrete_update_cases import TOKEN, make

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_ids_are_the_definitions(transition, dtype, scale):
    case = make(20_000, UpdateOptions(transition, TOKEN), scale=scale, guided=True)
    case.check(*case.call(dtype, "cuda", impl="triton"))


def test_routes_and_noise_are_the_hosts_bit_for_bit():
    case = make(20_000, UpdateOptions("uniform", TOKEN, route=False))
    assert (case.call(device="cuda", impl="triton")[0] == case.call()[0]).all()


def on_card(case):
    table = torch.from_numpy(case.table).float().cuda()
    state = TokenState(*(torch.from_numpy(v).cuda() for v in (case.ids, case.keys, case.samples)))
    return table, torch.from_numpy(case.logits).cuda().bfloat16(), state


def test_a_captured_row_is_replayed_for_every_row():
    """One graph of one row; adding 1 to the row's tensor makes it the next."""
    case = make(1000)
    table, logits, state = on_card(case)
    seed, fixed = torch.tensor(5, device="cuda"), UpdateOptions("absorbing", TOKEN)
    expected, ids = [], state.ids
    for i in range(3):
        row = torch.tensor(i, device="cuda")
        tokens = TokenState(ids, state.keys, state.samples)
        ids = discrete_update(table, row, logits, tokens, seed, fixed).ids
        expected.append(ids.clone())

    row, held = torch.tensor(0, device="cuda"), state.ids.clone()
    tokens = TokenState(held, state.keys, state.samples)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held.copy_(discrete_update(table, row, logits, tokens, seed, fixed).ids)
        row.add_(1)
    held.copy_(state.ids), row.zero_()
    for exact in expected:
        graph.replay()
        assert torch.equal(held, exact)


def test_more_than_2_31_logits():
    """The last tokens of a batch past 2^31 logits, against the same tokens alone."""
    n = 8_400_000
    free, _ = torch.cuda.mem_get_info()
    if free < 8 * 2**30:
        pytest.skip("needs 8 GiB of free device memory")
    logits = torch.zeros(n, 256, device="cuda", dtype=torch.float16)
    logits[-100:].normal_()
    assert logits.numel() > 2**31
    index = torch.arange(n, device="cuda")
    state = TokenState(torch.zeros(n, device="cuda", dtype=torch.uint8), index, index)
    table = torch.tensor([[0.1, 0.2, 1.0, 0.0]], device="cuda")
    row, seed = torch.tensor(0, device="cuda"), torch.tensor(1, device="cuda")
    fixed = UpdateOptions("uniform", TOKEN)
    whole = discrete_update(table, row, logits, state, seed, fixed)
    last = TokenState(*(value[-100:].clone() for value in vars(state).values()))
    alone = discrete_update(table, row, logits[-100:].clone(), last, seed, fixed)
    for a, b in zip(whole, alone, strict=True):
        assert torch.equal(a[-100:], b)
