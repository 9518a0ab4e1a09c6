"""Octrees on a card: the host does not wait within a level, and draws what the CPU draws."""

import warnings

import numpy as np
import pytest
import torch

from ddimx.discrete.cells import octrees
from ddimx.discrete.solvers import make_token_plan
from ddimx.models.octree.process import DiscreteProcess
from ddimx.noise import Noise
from ddimx.solvers.schedule import Schedule, betas

from .small import network

pytestmark = pytest.mark.gpu
LINEAR = Schedule(betas("jsd", 0, 0, 50))
DEPTH = 4


def steps(device, plan, **options):
    # Heads of 16 columns, which the kernels take.
    net = network(DEPTH, window=32, width=32).to(device)
    process = DiscreteProcess(LINEAR, DEPTH, num_classes=3)
    index = torch.arange(4, device=device)
    return process.run(net, plan, index, Noise(5), labels=index % 3, **options)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("routing", ["random", "confidence"])
def test_the_host_waits_once_a_level_and_never_within_one(routing, guidance):
    plan = make_token_plan(LINEAR, DEPTH, steps=3, transition="uniform", routing=routing)
    list(steps("cuda", plan, guidance=guidance))  # compiles the kernels
    run = steps("cuda", plan, guidance=guidance)
    waits = []
    try:
        for row in range(len(plan)):
            enters = row in [plan.rows_of(level).start for level in range(DEPTH)]
            ends = row == len(plan) - 1
            torch.cuda.set_sync_debug_mode("warn" if enters or ends else "error")
            with warnings.catch_warnings(record=True) as record:
                warnings.simplefilter("always")
                next(run)
            if enters and row:
                waits.append(sum("synchroniz" in str(w.message) for w in record))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == [1] * (DEPTH - 1)


@pytest.mark.parametrize("transition", ["absorbing", "uniform"])
@pytest.mark.parametrize("routing", ["random", "confidence"])
def test_a_card_draws_what_the_cpu_draws(routing, transition):
    """In float32, whose sums differ by 1e-6 or so: one draw in 10^5 may fall to another id.

    There are some 2,000, so that one of the four trees may differ, and no other.
    """
    plan = make_token_plan(LINEAR, DEPTH, steps=3, transition=transition, routing=routing)
    ours, theirs = (octrees(list(steps(d, plan))[-1].levels) for d in ("cuda", "cpu"))
    equal = [np.array_equal(a.tokens(), b.tokens()) for a, b in zip(ours, theirs, strict=True)]
    assert sum(equal) >= len(equal) - 1
