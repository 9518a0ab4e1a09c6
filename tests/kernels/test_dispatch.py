"""The choice between implementations: met, refused, or preferred with a reason."""

import logging

import pytest
import torch

from ddimx.kernels import _dispatch
from ddimx.kernels._dispatch import (
    Candidate,
    choose,
    preferred,
    recorded,
    triton_option,
    triton_refusal,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FAST = Candidate("triton", "a fast device")
SLOW = Candidate("reference", "plain PyTorch")


def test_auto_takes_the_first_that_can():
    assert choose("op", "auto", [FAST, SLOW]) == "triton"
    refused = Candidate("triton", "a fast device", "too slow a device")
    assert choose("op", "auto", [refused, SLOW]) == "reference"
    assert preferred([refused, SLOW]) == ("reference", "too slow a device; plain PyTorch")
    assert preferred([FAST, SLOW]) == ("triton", "a fast device")


def test_auto_passes_over_what_is_not_automatic_but_a_wish_gets_it():
    by_hand = Candidate("triton", "", automatic=False)
    assert choose("op", "auto", [by_hand, SLOW]) == "reference"
    assert choose("op", "triton", [by_hand, SLOW]) == "triton"


def test_a_wish_is_met_or_refused():
    refused = Candidate("triton", "", "no card")
    assert choose("op", "reference", [FAST, SLOW]) == "reference"
    with pytest.raises(
        RuntimeError, match=r"op: impl 'triton' .* \(no card\); what can: reference"
    ):
        choose("op", "triton", [refused, SLOW])
    with pytest.raises(RuntimeError, match="this operation has no such implementation"):
        choose("op", "sdpa", [FAST, SLOW])
    with pytest.raises(ValueError, match="impl 'fast' is not one of auto, triton, sdpa, products"):
        choose("op", "fast", [FAST, SLOW])
    with pytest.raises(ValueError, match="no implementation is left"):
        choose("op", "auto", [refused])


def test_a_choice_is_logged_once(caplog, monkeypatch):
    monkeypatch.setattr(_dispatch, "_logged", set())
    with caplog.at_level(logging.INFO, logger="ddimx.kernels"):
        for _ in range(3):
            choose("op", "auto", [FAST, SLOW])
            choose("op", "reference", [FAST, SLOW])
        choose("other", "auto", [FAST, SLOW])
    assert [record.message for record in caplog.records] == [
        "op: triton (a fast device)",
        "other: triton (a fast device)",
    ]


@pytest.mark.parametrize(
    ("device", "installed", "interpreted", "refusal", "automatic"),
    [
        (CUDA, True, False, None, True),
        (CUDA, False, False, "Triton is not installed", True),
        (CPU, True, False, "Triton kernels do not run on cpu", False),
        (CPU, True, True, None, False),
        (CPU, False, True, "Triton is not installed", False),
    ],
)
def test_where_triton_runs(monkeypatch, device, installed, interpreted, refusal, automatic):
    monkeypatch.setattr(_dispatch, "TRITON_INSTALLED", installed)
    monkeypatch.setattr(_dispatch, "INTERPRETED", interpreted)
    assert triton_refusal(device) == refusal
    option = triton_option(device)
    assert (option.refusal, option.automatic) == (refusal, automatic)
    assert triton_option(device, "of its own").refusal == "of its own"


def test_an_operation_is_an_operator_only_where_somebody_records_it(monkeypatch):
    x, leaf = torch.ones(3), torch.ones(3, requires_grad=True)
    assert not recorded(x)
    assert recorded(x, leaf)
    with torch.no_grad():
        assert not recorded(x, leaf, torch.nn.Parameter(x))
    assert recorded(x.as_subclass(type("Own", (torch.Tensor,), {})))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert recorded(x)
