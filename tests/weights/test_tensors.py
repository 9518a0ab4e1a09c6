"""Loading into a network: every misfit is named, nothing is loaded by halves."""

import pytest
import torch
from torch import nn

from ddimx.errors import DdimxError
from ddimx.weights.tensors import load_into


def fitting():
    return {"weight": torch.full((2, 3), 2.0), "bias": torch.full((2,), 3.0)}


def test_tensors_are_copied_and_cast():
    network = nn.Linear(3, 2)
    load_into(network, {name: value.half() for name, value in fitting().items()}, "x")
    assert network.weight.dtype == torch.float32
    assert (network.weight == 2).all()
    assert (network.bias == 3).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "missing: bias"),
        ({"extra": torch.zeros(1)}, "not part of this model: extra"),
        ({"weight": torch.zeros(3, 3)}, r"of another shape: weight \[3, 3\] instead of \[2, 3\]"),
        ({"bias": torch.tensor([1.0, float("nan")])}, "not finite in bias"),
        ({"bias": torch.tensor([1.0, float("inf")])}, "not finite in bias"),
    ],
)
def test_a_misfit_is_named_and_changes_nothing(change, message):
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    tensors = {k: v for k, v in (fitting() | change).items() if v is not None}
    with pytest.raises(DdimxError, match=f"file: .*{message}"):
        load_into(network, tensors, "file")
    assert torch.equal(network.weight, before)


def test_many_misfits_are_counted():
    extra = {f"x{i}": torch.zeros(1) for i in range(5)}
    with pytest.raises(DdimxError, match="x0, x1, x2 and 2 more"):
        load_into(nn.Linear(3, 2), fitting() | extra, "file")
