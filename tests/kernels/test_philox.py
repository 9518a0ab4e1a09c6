"""Philox-4x32-10 against its published vectors, and its normals against float64 Box-Muller."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ddimx.kernels import philox
from ddimx.kernels.philox import host, reference

WORD = st.integers(0, 2**32 - 1)
SEED = st.integers(0, 2**64 - 1)
DRAWS = 10**6


def scalar_philox(counter, key):
    """Philox-4x32-10 in Python integers, written from the paper."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k0, b % 2**32, (a >> 32) ^ c[3] ^ k1, a % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def box_muller64(w0, w1):
    """Box-Muller in float64, on the float32 uniform that is part of the definition."""
    u = w0.to(torch.float32).double() * 2.0**-32 + 2.0**-33
    radius = (-2.0 * u.float().double().log()).sqrt()
    angle = w1.double() * (2.0 * np.pi / 2**32)
    return radius * angle.cos(), radius * angle.sin()


def edge_words(count, seed):
    """Return words with every power of two, quadrant border and end of the range among them."""
    borders = [k * 2**29 for k in range(9)] + [2**k for k in range(33)]
    near = {b + d for b in borders for d in (*range(-300, 301), -(2**12), 2**12)}
    edges = torch.tensor(sorted(w for w in near if 0 <= w < 2**32))
    generator = torch.Generator().manual_seed(seed)
    fill = torch.randint(0, 2**32, (count - len(edges),), generator=generator)
    return torch.cat((edges, fill))


# Random123 1.14, tests/kat_vectors, lines "philox4x32 10": counter, key, result.
KNOWN = [
    ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox.philox_words(key[1] << 32 | key[0], torch.tensor([counter[0]]), *counter[1:])
    assert " ".join(f"{int(w):08x}" for w in words) == expected
    assert " ".join(f"{w:08x}" for w in scalar_philox(counter, key)) == expected


@given(counters=st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=20), seed=SEED)
def test_words_equal_the_scalar_definition(counters, seed):
    key = (seed % 2**32, seed >> 32)
    got = torch.stack(philox.philox_words(seed, *torch.tensor(counters).unbind(1)), dim=1)
    assert got.dtype == torch.int64
    assert got.tolist() == [scalar_philox(c, key) for c in counters]


@given(seed=SEED, c1=WORD, c2=WORD, c3=WORD)
def test_a_seed_tensor_and_broadcasting_change_nothing(seed, c1, c2, c3):
    c0 = torch.arange(5)
    expected = philox.philox_words(seed, c0, c1, c2, c3)
    signed = torch.tensor(seed - 2**64 if seed >= 2**63 else seed)
    columns = [torch.tensor([[c], [0], [2**32 - 1]]) for c in (c1, c2, c3)]
    seeds = torch.stack((signed, signed ^ 1, ~signed))[:, None]
    for a, b, c, d in zip(
        expected,
        philox.philox_words(signed, c0, c1, c2, c3),
        philox.philox_words(seed, c0, *columns),
        philox.philox_words(seeds, c0, c1, c2, c3),
        strict=True,
    ):
        assert torch.equal(a, b)
        assert torch.equal(a, c[0])
        assert torch.equal(a, d[0])
        assert c.shape == d.shape == (3, 5)


def test_uniform_from_words_is_the_rounded_formula_at_both_ends():
    words = edge_words(100_000, 1)
    got = philox.uniform_from_words(words)
    step = words.numpy().astype(np.float32) * np.float32(2**-32)
    assert np.array_equal(got.numpy(), step + np.float32(2**-33))
    ends = torch.tensor([0, 2**32 - 129, 2**32 - 128, 2**32 - 1])
    assert philox.uniform_from_words(ends).tolist() == [2**-33, 1 - 2**-24, 1.0, 1.0]


def test_normals_agree_with_float64_box_muller():
    w0, w1 = edge_words(DRAWS, 2), edge_words(DRAWS, 3)
    w1 = w1[torch.randperm(DRAWS, generator=torch.Generator().manual_seed(4))]
    for got, want in zip(philox.normal_from_words(w0, w1), box_muller64(w0, w1), strict=True):
        assert got.dtype == torch.float32
        assert (got.double() - want).abs().max() < 1.5e-6


@pytest.mark.parametrize("w1", [0, 1, 2**29 - 1, 2**29, 2**30, 2**31, 3 * 2**30, 2**32 - 1])
@pytest.mark.parametrize("w0", [0, 1, 2**31, 2**32 - 129, 2**32 - 1])
def test_normals_at_the_extremes(w0, w1):
    words = torch.tensor([w0]), torch.tensor([w1])
    for got, want in zip(philox.normal_from_words(*words), box_muller64(*words), strict=True):
        assert got.isfinite().all()
        assert abs(float(got) - float(want)) < 1.5e-6


def test_logarithm_is_relatively_accurate_also_next_to_one():
    below = torch.tensor(1.0).view(torch.int32) - torch.arange(200_000)
    dense = torch.linspace(2.0**-33, 1.0, 500_000)
    u = torch.cat((below.to(torch.int32).view(torch.float32), dense, 2.0 ** -torch.arange(34.0)))
    want = u.double().log()
    error = (reference._log(u).double() - want).abs()
    assert bool((error <= 2.5e-7 * want.abs()).all())


def test_sine_and_cosine_over_the_whole_turn():
    words = edge_words(DRAWS, 5)
    angle = words.double() * (2.0 * np.pi / 2**32)
    cos, sin = reference._cos_sin(words)
    assert (cos.double() - angle.cos()).abs().max() < 1.5e-7
    assert (sin.double() - angle.sin()).abs().max() < 1.5e-7
    assert (cos.square() + sin.square() - 1.0).abs().max() < 4e-7


def test_elements_are_laid_out_as_stated():
    w0, w1, w2, w3 = philox.philox_words(5, torch.arange(3), 9, 2, 7)
    n0, n1 = philox.normal_from_words(w0, w1)
    n2, n3 = philox.normal_from_words(w2, w3)
    normals = torch.stack((n0, n1, n2, n3), 1).flatten()
    words = torch.stack((w0, w1, w2, w3), 1).flatten()
    sample = torch.tensor([9])
    assert torch.equal(philox.normal(5, sample, 2, 7, 12)[0], normals)
    assert torch.equal(philox.uniform(5, sample, 2, 7, 12)[0], philox.uniform_from_words(words))
    assert torch.equal(philox.randint(5, sample, 2, 7, 12, 2**32)[0], words)


@given(seed=SEED, numel=st.integers(0, 70), shorter=st.integers(0, 70))
def test_an_element_does_not_depend_on_how_many_are_drawn(seed, numel, shorter):
    sample = torch.tensor([3, 2**32 - 1])
    for draw in (philox.normal, philox.uniform):
        full = draw(seed, sample, 4, 1, max(numel, shorter))
        part = draw(seed, sample, 4, 1, min(numel, shorter))
        assert part.is_contiguous()
        assert torch.equal(part, full[:, : part.shape[1]])


@given(data=st.data(), seed=SEED, start=st.integers(0, 2**32 - 40), count=st.integers(1, 40))
def test_any_split_start_and_order_gives_the_same_bits(data, seed, start, count):
    index = torch.arange(start, start + count)
    whole = philox.normal(seed, index, 11, 3, 13)
    order = torch.tensor(data.draw(st.permutations(range(count))))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    parts = torch.tensor_split(order, cuts)
    shuffled = torch.cat([philox.normal(seed, index[p], 11, 3, 13) for p in parts])
    assert torch.equal(shuffled.view(torch.int32), whole[order].view(torch.int32))


def test_a_large_draw_equals_its_single_samples():
    whole = philox.normal(1, torch.arange(64), 0, 0, 3072)
    for i in (0, 17, 63):
        assert torch.equal(philox.normal(1, torch.tensor([i]), 0, 0, 3072)[0], whole[i])


def test_rows_and_streams_may_differ_within_a_batch():
    sample, row, stream = torch.tensor([5, 5, 6]), torch.tensor([0, 8, 8]), torch.tensor([1, 1, 4])
    together = philox.normal(2, sample, row, stream, 10)
    for b in range(3):
        alone = philox.normal(2, sample[b : b + 1], int(row[b]), int(stream[b]), 10)
        assert torch.equal(together[b : b + 1], alone)
    assert torch.equal(
        philox.normal(2, sample, torch.tensor(8), 1, 10), philox.normal(2, sample, 8, 1, 10)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_casts_of_float32(dtype):
    sample = torch.arange(4)
    for draw in (philox.normal, philox.uniform):
        got = draw(0, sample, 0, 0, 30, dtype=dtype)
        assert got.dtype == dtype
        assert torch.equal(got, draw(0, sample, 0, 0, 30).to(dtype))


def test_any_integer_index_tensor_works():
    expected = philox.normal(0, torch.tensor([0, 2, 4]), 0, 0, 9)
    assert torch.equal(philox.normal(0, torch.arange(6)[::2], 0, 0, 9), expected)
    assert torch.equal(philox.normal(0, torch.arange(6, dtype=torch.int32)[::2], 0, 0, 9), expected)


@pytest.fixture(scope="module")
def draws():
    """Return a million normals of seed 2024."""
    return philox.normal(2024, torch.arange(1000), 3, 1, DRAWS // 1000).flatten().double()


def test_moments_are_those_of_the_normal(draws):
    # Standard errors of the sample moments of n normals: 1, sqrt 2, sqrt 6 and sqrt 24 over sqrt n.
    values = draws.numpy()
    bound = 5.0 / np.sqrt(DRAWS)
    assert abs(values.mean()) < bound
    assert abs(values.var() - 1.0) < bound * np.sqrt(2)
    assert abs(stats.skew(values)) < bound * np.sqrt(6)
    assert abs(stats.kurtosis(values)) < bound * np.sqrt(24)


def test_distributions_pass_kolmogorov_smirnov(draws):
    assert stats.kstest(draws.numpy(), "norm").pvalue > 1e-3
    flat = philox.uniform(2024, torch.arange(1000), 3, 1, DRAWS // 1000).flatten()
    assert flat.min() > 0.0
    assert flat.max() <= 1.0
    assert stats.kstest(flat.double().numpy(), "uniform").pvalue > 1e-3


def test_the_four_normals_of_a_counter_are_uncorrelated(draws):
    lanes = draws.view(-1, 4).numpy().T
    for values in (lanes, lanes**2):
        correlation = np.corrcoef(values) - np.eye(4)
        assert np.abs(correlation).max() < 5.0 / np.sqrt(lanes.shape[1])


@pytest.mark.parametrize("other", ["seed low", "seed high", "sample", "row", "stream"])
def test_neighbouring_addresses_are_uncorrelated(other, draws):
    seed = {"seed low": 2025, "seed high": 2024 + 2**32}.get(other, 2024)
    sample = torch.arange(1000) + (1000 if other == "sample" else 0)
    row, stream = 4 if other == "row" else 3, 2 if other == "stream" else 1
    second = philox.normal(seed, sample, row, stream, DRAWS // 1000).flatten().double()
    for a, b in ((draws, second), (draws.square(), second.square())):
        correlation = float(torch.corrcoef(torch.stack((a, b)))[0, 1])
        assert abs(correlation) < 5.0 / np.sqrt(DRAWS)


def test_neighbouring_samples_and_elements_are_uncorrelated(draws):
    grid = draws.view(1000, -1)
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1]), (grid[:, 4:], grid[:, :-4])):
        pair = torch.stack((a.flatten(), b.flatten()))
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 5.0 / np.sqrt(pair.shape[1])


def test_no_block_of_words_occurs_twice():
    """Four words are a bijection of the counter: no two addresses of one seed may share a block."""
    sample, row, stream = torch.meshgrid(
        torch.arange(20), torch.arange(10), torch.tensor([0, 1, 2, 5, 2**16]), indexing="ij"
    )
    words = philox.philox_words(
        7, torch.arange(50), *(c.reshape(-1, 1) for c in (sample, row, stream))
    )
    blocks = torch.stack([w.flatten() for w in words], dim=1)
    assert len(torch.unique(blocks, dim=0)) == len(blocks) == 50_000


@pytest.mark.parametrize("high", [1, 2, 10, 1000, 2**31 + 1, 2**32])
def test_randint_stays_in_range_and_is_uniform(high):
    values = philox.randint(3, torch.arange(100), 0, 4, 2000, high).flatten()
    assert values.dtype == torch.int64
    assert values.min() >= 0
    assert values.max() < high
    cells = min(high, 1000)
    edges = np.arange(cells + 1) * (high / cells) - 0.5
    counts = np.histogram(values.numpy(), bins=edges)[0]
    expected = np.diff(np.ceil(edges)) * (len(values) / high)
    if high > 1:
        assert stats.chisquare(counts, expected).pvalue > 1e-3


@given(seed=SEED, high=st.integers(1, 2**32))
def test_randint_is_the_upper_half_of_the_exact_product(seed, high):
    sample = torch.tensor([1])
    words = philox.randint(seed, sample, 0, 0, 8, 2**32)[0].tolist()
    got = philox.randint(seed, sample, 0, 0, 8, high)[0].tolist()
    assert got == [w * high >> 32 for w in words]


def test_torch_compile_sees_one_graph():
    """Tracing without a backend compiler: no graph break, the same bits."""
    compiled = torch.compile(philox.normal, fullgraph=True, backend="eager")
    sample = torch.arange(3)
    assert torch.equal(compiled(1, sample, 0, 0, 10), philox.normal(1, sample, 0, 0, 10))


# --- the fast form for CPUs ---------------------------------------------------------------------


def bits(tensor):
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor


@pytest.mark.parametrize(
    ("count", "numel"), [(1, 1), (1, 3072), (5, 7), (3, 130), (2, 4 * 67), (3, 0), (0, 5)]
)
@pytest.mark.parametrize("piece", [100, 16384])
def test_the_host_draws_the_references_bits(count, numel, piece, monkeypatch):
    """Whole samples in a piece, and several pieces of a sample."""
    monkeypatch.setattr(host, "PIECE", piece)
    sample = torch.arange(count) + 2**32 - 5
    seed = 2**64 - 3
    for row, stream in ((2**32 - 1, 7), (torch.tensor(3), torch.tensor(2**16)), (sample, 0)):
        where = (seed, sample, row, stream, numel)
        for name in ("normal", "uniform"):
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                fast = getattr(host, name)(*where, dtype=dtype)
                slow = getattr(reference, name)(*where, dtype=dtype)
                assert (fast.dtype, fast.shape) == (dtype, (count, numel))
                assert fast.is_contiguous()
                assert torch.equal(bits(fast), bits(slow))
        for high in (1, 255, 2**31 + 5, 2**32):
            assert torch.equal(host.randint(*where, high), reference.randint(*where, high))


@pytest.mark.parametrize("piece", [1000, 16384])
def test_the_host_mixes_the_references_words(piece, monkeypatch):
    monkeypatch.setattr(host, "PIECE", piece)
    keys, samples = edge_words(40_000, 1), edge_words(40_000, 2).roll(7)
    seed = torch.tensor(-(2**62) - 5)
    for counters in ((keys, samples, 3, 4), (keys[:40, None], samples[:9], torch.tensor(5), 6)):
        fast = host.philox_words(seed, *counters)
        slow = reference.philox_words(seed, *counters)
        assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


def test_the_hosts_box_muller_has_the_references_bits_at_every_edge():
    words = edge_words(40_000, 3)
    unsigned = words.numpy().view(np.uint64)
    pairs = [
        (host._log(host._uniform(unsigned)), reference._log(reference.uniform_from_words(words))),
        *zip(host._cos_sin(unsigned), reference._cos_sin(words), strict=True),
    ]
    assert all(torch.equal(bits(torch.from_numpy(a)), bits(b)) for a, b in pairs)


def test_the_host_serves_tensors_of_a_cpu_and_one_seed():
    index = torch.arange(3)
    assert host.serves(5, index, 1, 2)
    assert host.serves(torch.tensor(5), index, index, 2)
    assert not host.serves(5, index.to("meta"), 1, 2)
    assert not host.serves(torch.tensor([5, 6, 7]), index, 1, 2)
    meta = philox.normal(5, index.to("meta"), 1, 2, 8)  # which the reference takes
    assert (meta.device.type, meta.shape) == ("meta", (3, 8))
