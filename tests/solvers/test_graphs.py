"""Rows that are captured once and replayed: the same samples as the plain path, bit for bit.

On the CPU a capture is a function that is called again, which proves all but CUDA's own part: the
buffers, the kinds of rows, what a later batch copies. The tests marked gpu take real graphs.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ddimx.errors import DdimxError
from ddimx.models.denoiser import Denoiser
from ddimx.noise import Noise
from ddimx.solvers.executor import Draw, Known, execute
from ddimx.solvers.graphs import AHEAD, RowGraphs
from tests.solvers.test_executor import handmade

SHAPE = (3, 4, 4)
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])


class Net(nn.Module):
    """A convolution that knows time and class; it counts how often it is called."""

    def __init__(self, device):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3, generator=generator).to(device) / 9)
        self.calls = 0

    def forward(self, x, t, labels=None):
        self.calls += 1
        shift = t / 64 if labels is None else t / 64 + labels
        return nn.functional.conv2d(x, self.weight, padding=1) + shift.view(-1, 1, 1, 1).cos()


@dataclass
class Again:
    """What a capture is on a CPU."""

    replay: object


def made_graphs(device):
    return RowGraphs(None if device == "cuda" else Again)


def mixed(**changes):
    """A plan with every kind of row: silent, without guidance, y' = x' and y' beside it."""
    plan = handmade(rows=12, depth=3, silent=(2, 7), **changes)
    for row in (3, 4, 8, 9):
        plan.p[row], plan.q[row] = 1, 0
    plan.g[:] = [1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    return plan


def run(net, device, plan, *, count=5, first=0, guidance=1.0, known=None, graphs=None):
    generator = torch.Generator().manual_seed(first)
    x = torch.randn(count, *SHAPE, generator=generator).to(device)
    labels = (torch.arange(count, device=device) + first) % 3
    denoiser = Denoiser(net, labels=labels, null_label=3, guidance=guidance)
    draw = Draw(Noise(7), torch.arange(first, first + count, device=device))
    return execute(
        plan,
        denoiser,
        x,
        draw,
        guidance=guidance,
        unguided=denoiser.unguided,
        known=known,
        graphs=graphs,
    )


def pixels(device, count=5):
    mask = torch.zeros(1, 1, 4, 4, device=device)
    mask[..., :2] = 1
    return Known(torch.full((count, *SHAPE), 0.5, device=device), mask.expand(count, 1, 4, 4))


def same(steps, others):
    """Whether two runs showed their observers the same, bit for bit."""
    pairs = list(zip(steps, others, strict=True))
    return all(
        torch.equal(one.x, two.x)
        and torch.equal(one.y, two.y)
        and (one.x0 is None) == (two.x0 is None)
        and (one.x0 is None or torch.equal(one.x0, two.x0))
        and (one.row, one.t_to) == (two.row, two.t_to)
        for one, two in pairs
    )


@DEVICES
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("plan", "guidance"),
    [
        (mixed(), 3.0),
        (mixed(history="x0", clip=0.8), 1.0),
        (handmade(rows=9, depth=1, silent=()), 1.0),
    ],
    ids=["guided", "history", "depth 1"],
)
def test_replayed_rows_give_the_same_bits(device, known, plan, guidance):
    net, graphs = Net(device), made_graphs(device)
    for first in (0, 100):  # the second batch has other noise, classes and start
        options = {"first": first, "guidance": guidance}
        options["known"] = pixels(device) if known else None
        plain = list(run(net, device, plan, **options))
        assert same(plain, list(run(net, device, plan, **options, graphs=graphs)))
    assert graphs.replays > len(plan)  # the second batch has nothing to capture any more
    assert graphs.failure is None


@DEVICES
def test_a_smaller_last_batch_has_graphs_of_its_own(device):
    net, graphs, plan = Net(device), made_graphs(device), mixed()
    for count in (5, 2, 5, 2):
        plain = list(run(net, device, plan, count=count, guidance=2.0))
        replayed = list(run(net, device, plan, count=count, guidance=2.0, graphs=graphs))
        assert same(plain, replayed)


@DEVICES
def test_each_kind_is_captured_once_and_each_replay_counted(device):
    net, graphs, plan = Net(device), made_graphs(device), handmade(rows=12, depth=1, silent=())
    seen = []
    graphs.on_replay = lambda: seen.append(1)
    list(run(net, device, plan, graphs=graphs))
    # y is x in the first row alone: two kinds. Each has a plain first row, and a second captured.
    assert (len(seen), graphs.replays) == (10, 10)
    if device == "cuda":
        assert net.calls == 3  # two plain rows and one capture
        assert graphs.seconds is not None
        assert graphs.seconds > 0
    list(run(net, device, plan, graphs=graphs))
    assert (len(seen), graphs.replays) == (22, 22)  # now the first row has its graph too


@DEVICES
def test_observers_live_between_rows_and_may_keep_what_they_see(device):
    net, graphs, plan = Net(device), made_graphs(device), mixed()
    shown = run(net, device, plan, graphs=graphs)
    first = next(shown)
    before = first.x.clone()
    rows = [first.row]
    for step in shown:
        rows.append(step.row)
        if step.row == 2 * AHEAD:
            break  # as Ctrl-C does
    shown.close()
    assert rows == list(range(2 * AHEAD + 1))
    assert torch.equal(first.x, before)
    again = list(run(net, device, plan, graphs=graphs))  # the graphs are free again
    assert same(list(run(net, device, plan)), again)


@DEVICES
def test_two_runs_at_once_do_not_share_buffers(device):
    net, graphs, plan = Net(device), made_graphs(device), mixed()
    runs = [run(net, device, plan, first=first, graphs=graphs) for first in (0, 9)]
    together = [list(steps) for steps in zip(*zip(*runs, strict=True), strict=True)]
    for first, steps in zip((0, 9), together, strict=True):
        assert same(list(run(net, device, plan, first=first)), steps)


def test_a_row_that_cannot_be_captured_runs_plainly_or_is_an_error():
    def refuse(_):
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")

    net, graphs, plan = Net("cpu"), RowGraphs(refuse), mixed()
    assert same(list(run(net, "cpu", plan)), list(run(net, "cpu", plan, graphs=graphs)))
    assert graphs.failure == "operation not permitted when stream is capturing"
    graphs = RowGraphs(refuse)
    graphs.strict = True
    with pytest.raises(DdimxError, match="cannot be captured: operation not permitted"):
        list(run(net, "cpu", plan, graphs=graphs))


def test_memory_that_runs_out_frees_all_graphs():
    def full(_):
        raise torch.cuda.OutOfMemoryError

    net, graphs, plan = Net("cpu"), RowGraphs(full), mixed()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(run(net, "cpu", plan, graphs=graphs))
    assert same(list(run(net, "cpu", plan))[:1], [next(run(net, "cpu", plan, graphs=graphs))])


def test_a_threshold_and_foreign_noise_take_the_plain_path():
    net, plan = Net("cpu"), handmade(rows=6, depth=1, silent=())
    for row in range(6):
        plan.p[row], plan.q[row], plan.b[row] = 1, 0, 0
    graphs = made_graphs("cpu")
    list(run(net, "cpu", replace(plan, threshold=(0.9, 2.0)), graphs=graphs))
    draw = Draw(Noise(0), torch.arange(5), lambda row: torch.zeros(5, *SHAPE))
    list(execute(plan, Denoiser(net), torch.zeros(5, *SHAPE), draw, graphs=graphs))
    assert graphs.replays == 0
