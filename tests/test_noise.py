"""The noise layer: golden values, stream numbers, shapes and refusals."""

import dataclasses

import pytest
import torch

from ddimx.errors import UsageError
from ddimx.noise import Noise, Stream, dropout_stream

# Recorded once from the definition; a change here changes every sample ever named by a seed.
GOLDEN_INIT = (
    0.9911375642,
    -0.9246625900,
    -0.6176090240,
    -0.4820686281,
    -0.1536381692,
    0.1808258295,
    0.8317351341,
    0.1974397153,
)
GOLDEN_STEP = (0.6967772841, 0.0086623694, -0.8178261518, -1.0239828825)


def test_stream_numbers_are_a_format():
    assert {s.name: s.value for s in Stream} == {
        "INIT": 0,
        "STEP": 1,
        "KNOWN": 2,
        "TOKEN": 3,
        "TRAIN_TIMESTEP": 4,
        "TRAIN_NOISE": 5,
        "TRAIN_FLIP": 6,
        "TRAIN_DROPOUT": 7,
        "TRAIN_ORDER": 8,
        "TRAIN_CLASS": 9,
        "TRAIN_DEQUANTIZE": 10,
        "CATEGORY": 11,
        "TRAIN_SCALE": 12,
        "TRAIN_PARENT": 13,
        "TRAIN_TRANSITION": 14,
        "TRAIN_DRAWING": 15,
        "EVALUATE": 32,
        "POINTS": 33,
        "SUBSET": 34,
        "BOOTSTRAP": 35,
    }
    assert dropout_stream(0) == 2**16 > max(Stream)
    assert dropout_stream(12) == 2**16 + 12
    for layer in (-1, 2**31):
        with pytest.raises(UsageError, match="dropout layer"):
            dropout_stream(layer)


def test_golden_values():
    noise = Noise(0)
    init = noise.normal([0], (2, 2, 2)).flatten()
    assert torch.allclose(init, torch.tensor(GOLDEN_INIT), rtol=0.0, atol=1e-6)
    step = noise.normal([7], (4,), row=3, stream=Stream.STEP)[0]
    assert torch.allclose(step, torch.tensor(GOLDEN_STEP), rtol=0.0, atol=1e-6)
    integers = noise.integers([0], (8,), 1000)[0]
    assert integers.tolist() == [399, 880, 735, 605, 972, 362, 693, 37]
    timesteps = noise.integers([2], (4,), 1000, row=1, stream=Stream.TRAIN_TIMESTEP)[0]
    assert timesteps.tolist() == [270, 401, 411, 656]


def test_shapes_dtypes_and_layout():
    noise = Noise(1)
    x = noise.normal(range(3), (3, 5, 7), dtype=torch.float16)
    assert x.shape == (3, 3, 5, 7)
    assert x.dtype == torch.float16
    assert x.is_contiguous()
    flat = noise.normal(range(3), (105,))
    assert torch.equal(noise.normal(range(3), (3, 5, 7)).flatten(1), flat)
    assert noise.uniform(range(3), ()).shape == (3,)
    assert noise.uniform(range(0), (2, 2)).shape == (0, 2, 2)
    assert noise.normal([4], (0, 8)).shape == (1, 0, 8)
    assert noise.integers([4, 9], (6,), 10).shape == (2, 6)


@pytest.mark.parametrize(
    "samples",
    [
        [6, 4, 2],
        (6, 4, 2),
        range(6, 0, -2),
        torch.tensor([6, 4, 2]),
        torch.tensor([6, 4, 2], dtype=torch.int32),
        torch.tensor([6, 4, 2], dtype=torch.uint8),
        torch.tensor([6, 0, 4, 0, 2])[::2],
    ],
)
def test_samples_of_every_kind(samples):
    expected = torch.cat([Noise(3).normal([i], (2, 3)) for i in (6, 4, 2)])
    assert torch.equal(Noise(3).normal(samples, (2, 3)), expected)


def test_a_row_may_differ_from_sample_to_sample():
    noise, rows = Noise(3), torch.tensor([5, 0, 5])
    together = noise.uniform([1, 1, 2], (4,), row=rows, stream=Stream.TRAIN_FLIP)
    for b, (i, row) in enumerate(zip([1, 1, 2], rows.tolist(), strict=True)):
        alone = noise.uniform([i], (4,), row=row, stream=Stream.TRAIN_FLIP)
        assert torch.equal(together[b : b + 1], alone)
    step = noise.uniform([1, 1, 2], (4,), row=torch.tensor(5))
    assert torch.equal(step, noise.uniform([1, 1, 2], (4,), row=5))


def test_every_part_of_the_address_matters():
    base = Noise(0).normal([0], (64,))
    others = [
        Noise(1).normal([0], (64,)),
        Noise(2**32).normal([0], (64,)),
        Noise(0).normal([1], (64,)),
        Noise(0).normal([0], (64,), row=1),
        Noise(0).normal([0], (64,), stream=Stream.STEP),
        Noise(0).normal([0], (64,), stream=dropout_stream(0)),
    ]
    every = torch.cat([base, *others])
    assert len(torch.unique(every)) == every.numel()


def test_the_ends_of_the_ranges_work():
    noise = Noise(2**64 - 1)
    last = 2**32 - 1
    x = noise.normal([0, last], (8,), row=last, stream=last)
    assert x.isfinite().all()
    assert not torch.equal(x[0], x[1])
    assert noise.integers([last], (8,), 2**32).max() < 2**32


def test_noise_is_a_frozen_value():
    assert Noise(3) == Noise(3) != Noise(4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Noise(3).seed = 4


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match="seed"):
        Noise(seed)


@pytest.mark.parametrize(
    "samples",
    [[-1], [2**32], [2**64], range(-1, 3), torch.tensor([0, -1]), torch.tensor([2**32])],
)
def test_a_sample_out_of_range_is_refused(samples):
    for draw in (Noise(0).normal, Noise(0).uniform):
        with pytest.raises(UsageError, match=r"sample index is .* outside 0\.\.2\^32-1"):
            draw(samples, (4,))
    with pytest.raises(UsageError, match="sample index"):
        Noise(0).integers(samples, (4,), 3)


def test_sample_tensors_of_the_wrong_kind_are_refused():
    for bad in (torch.tensor([0.0]), torch.tensor([True])):
        with pytest.raises(UsageError, match="dtype"):
            Noise(0).normal(bad, (4,))
    for bad in (torch.tensor(3), torch.zeros(2, 2, dtype=torch.int64)):
        with pytest.raises(UsageError, match="one dimension"):
            Noise(0).normal(bad, (4,))


@pytest.mark.parametrize("row", [-1, 2**32, torch.tensor([0, -1]), torch.tensor(2**32)])
def test_a_row_out_of_range_is_refused(row):
    with pytest.raises(UsageError, match="row is"):
        Noise(0).normal([0, 1], (4,), row=row)


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(UsageError, match="row has shape"):
        Noise(0).normal([0, 1], (4,), row=torch.arange(3))


def test_other_arguments_out_of_range_are_refused():
    noise = Noise(0)
    for stream in (-1, 2**32):
        with pytest.raises(UsageError, match="stream is"):
            noise.normal([0], (4,), stream=stream)
    for shape in ((-1, 4), (2**18, 2**18)):
        with pytest.raises(UsageError, match="shape"):
            noise.normal([0], shape)
    for high in (0, 2**32 + 1):
        with pytest.raises(UsageError, match="high"):
            noise.integers([0], (4,), high)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_device_draws_the_same_words_and_normals():
    noise = Noise(9)
    for device_samples in (range(8), torch.arange(8, device="cuda")):
        words = noise.integers(device_samples, (1000,), 2**32, device="cuda")
        assert torch.equal(words.cpu(), noise.integers(range(8), (1000,), 2**32))
        x = noise.normal(device_samples, (1000,), device="cuda")
        assert x.device.type == "cuda"
        assert (x.cpu() - noise.normal(range(8), (1000,))).abs().max() < 1e-5
