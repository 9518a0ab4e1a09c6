"""The wrapper between solvers and networks: dtype, classes, and the second call of guidance."""

import pytest
import torch
from torch import nn

from ddimx.errors import UsageError
from ddimx.models.denoiser import Denoiser

Y = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4) / 96
T = torch.tensor([7.0, 7.5])
LABELS = torch.tensor([0, 2])


class Spy(nn.Module):
    """A network that notes how it is called; its output tells time and label."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))
        self.calls = []

    def forward(self, y, t, labels=None):
        self.calls.append((y, t, labels))
        offset = t if labels is None else t + 100 * labels
        return self.weight * y + offset.to(y.dtype).view(-1, 1, 1, 1)


def test_without_classes_the_network_gets_none():
    spy = Spy()
    raw = Denoiser(spy)(Y, T)
    assert torch.equal(raw.out, spy(Y, T))
    assert raw.uncond is None
    assert spy.calls[0][2] is None


def test_with_classes_one_call_is_enough():
    spy = Spy()
    raw = Denoiser(spy, labels=LABELS, null_label=3)(Y, T)
    assert torch.equal(raw.out, spy(Y, T, LABELS))
    assert raw.uncond is None
    assert len(spy.calls[0][0]) == 2


@pytest.mark.parametrize("guidance", [0.0, 2.5, -1.0])
def test_guidance_calls_once_with_both(guidance):
    spy = Spy()
    denoiser = Denoiser(spy, labels=LABELS, null_label=3, guidance=guidance)
    raw = denoiser(Y, T)
    assert denoiser.guidance == guidance
    assert len(spy.calls) == 1
    assert spy.calls[0][2].tolist() == [0, 2, 3, 3]
    assert torch.equal(raw.out, spy(Y, T, LABELS))
    assert torch.equal(raw.uncond, spy(Y, T, torch.tensor([3, 3])))


def test_the_null_label_may_be_zero():
    spy = Spy()
    Denoiser(spy, labels=LABELS, null_label=0, guidance=2.0)(Y, T)
    assert spy.calls[0][2].tolist() == [0, 2, 0, 0]


@pytest.mark.parametrize("options", [{}, {"labels": LABELS}, {"null_label": 3}])
def test_guidance_needs_classes(options):
    with pytest.raises(UsageError, match="guidance needs a class-conditional model"):
        Denoiser(Spy(), guidance=2.0, **options)
    Denoiser(Spy(), guidance=1.0, **options)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_network_computes_in_its_own_dtype(dtype):
    spy = Spy(dtype)
    raw = Denoiser(spy)(Y, T)
    y, t, _ = spy.calls[0]
    assert raw.out.dtype == y.dtype == dtype
    assert t.dtype == torch.float32  # bfloat16 cannot hold 999


def test_images_are_handed_on_in_nhwc():
    spy = Spy()
    Denoiser(spy)(Y, T)
    assert spy.calls[0][0].is_contiguous(memory_format=torch.channels_last)


def test_states_that_are_no_images_pass_too():
    class Flat(Spy):
        def forward(self, y, t, labels=None):
            return y + t[:, None]

    y = torch.zeros(2, 5)
    assert torch.equal(Denoiser(Flat())(y, T).out, T[:, None].expand(2, 5))
