"""Attention in Triton: forward with exact or online softmax, and the gradients of all inputs.

Up to 256 keys (``strip``) a block of queries sees all its scores at once: the softmax is exact and
the output is made in chunks of columns from the same weights, so that D costs no registers. With
more keys (``online``) the softmax is rescaled from block to block; a program holds BLOCK_O columns
of the output, and programs that share the rest compute the scores again.

The gradients have one pair of kernels for queries and for keys. A program answers for a block of
its ``own`` rows and meets the ``other`` ones: dQ is own queries against all keys, dK and dV are own
keys against all queries. Weights are recomputed from the saved logsumexp,
P = exp(scale q k^T - lse), and dS = P (grad v^T - delta) with delta the row sums of grad * out.
Again up to 256 other rows are met at once (``gradient_strip``) or in blocks (``gradient_online``).

Scores, softmax and sums are float32; P and dS take the inputs' dtype for the products.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def tile(base, rows, n_rows, row_stride, columns, n_columns, column_stride):
    """Load base[rows, columns] as [len(rows), len(columns)], zeros outside; 64-bit offsets."""
    down = rows.to(tl.int64) * row_stride
    along = columns.to(tl.int64) * column_stride
    mask = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    return tl.load(base + down[:, None] + along[None, :], mask=mask, other=0.0)


@triton.jit
def product(a, rows, n_rows, a_row, a_dim, b, columns, n_columns, b_row, b_dim,
            D: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """Return a[rows] @ b[columns].T as float32 [len(rows), len(columns)], D summed in chunks."""
    total = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, D, BLOCK_D):
        dims = start + tl.arange(0, BLOCK_D)
        left = tile(a, rows, n_rows, a_row, dims, D, a_dim)  # [rows, BLOCK_D]
        right = tile(b, dims, D, b_dim, columns, n_columns, b_row)  # [BLOCK_D, columns]
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit
def strip(q, k, v, out, lse, scale, n_queries, n_keys,
          q_batch, q_row, q_dim, k_batch, k_row, k_dim, v_batch, v_row, v_dim,
          D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
          BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr):  # fmt: skip
    """All keys at once: n_keys <= BLOCK_K. Grid: batch x query blocks."""
    blocks = tl.cdiv(n_queries, BLOCK_Q)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    rows = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    keys = tl.arange(0, BLOCK_K)
    scores = product(q + batch * q_batch, rows, n_queries, q_row, q_dim,
                     k + batch * k_batch, keys, n_keys, k_row, k_dim, D, BLOCK_D)  # fmt: skip
    scores = tl.where((keys < n_keys)[None, :], scores * (scale * LOG2_E), float("-inf"))
    highest = tl.max(scores, 1)
    weights = tl.exp2(scores - highest[:, None])  # [BLOCK_Q, BLOCK_K]
    total = tl.sum(weights, 1)
    tl.store(lse + batch * n_queries + rows, (highest + tl.log2(total)) * LN_2,
             mask=rows < n_queries)  # fmt: skip
    weights = weights.to(v.dtype.element_ty)
    for start in range(0, D, BLOCK_O):
        columns = start + tl.arange(0, BLOCK_O)
        values = tile(v + batch * v_batch, keys, n_keys, v_row, columns, D, v_dim)
        acc = tl.dot(weights, values, input_precision="ieee")  # [BLOCK_Q, BLOCK_O]
        write(out + batch * n_queries * D, rows, n_queries, columns, D, acc / total[:, None])


@triton.jit
def online(q, k, v, out, lse, scale, n_queries, n_keys,
           q_batch, q_row, q_dim, k_batch, k_row, k_dim, v_batch, v_row, v_dim,
           D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
           BLOCK_D: tl.constexpr, BLOCK_O: tl.constexpr):  # fmt: skip
    """Keys in blocks, rescaled. Grid: batch x splits of the columns x query blocks."""
    blocks = tl.cdiv(n_queries, BLOCK_Q)
    splits: tl.constexpr = (D + BLOCK_O - 1) // BLOCK_O
    batch = (tl.program_id(0) // (blocks * splits)).to(tl.int64)
    split = tl.program_id(0) // blocks % splits
    rows = tl.program_id(0) % blocks * BLOCK_Q + tl.arange(0, BLOCK_Q)
    columns = split * BLOCK_O + tl.arange(0, BLOCK_O)
    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, BLOCK_O], tl.float32)
    whole: tl.constexpr = BLOCK_D >= D
    q += batch * q_batch
    k += batch * k_batch
    v += batch * v_batch
    dims = tl.arange(0, BLOCK_D)
    if whole:
        queries = tile(q, rows, n_queries, q_row, dims, D, q_dim)  # [BLOCK_Q, BLOCK_D], kept
    for start in range(0, n_keys, BLOCK_K):
        keys = start + tl.arange(0, BLOCK_K)
        if whole:
            keys_t = tile(k, dims, D, k_dim, keys, n_keys, k_row)  # [BLOCK_D, BLOCK_K]
            scores = tl.dot(queries, keys_t, input_precision="ieee")
        else:
            scores = product(q, rows, n_queries, q_row, q_dim,
                             k, keys, n_keys, k_row, k_dim, D, BLOCK_D)  # fmt: skip
        scores = tl.where((keys < n_keys)[None, :], scores * (scale * LOG2_E), float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])  # [BLOCK_Q, BLOCK_K]
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        values = tile(v, keys, n_keys, v_row, columns, D, v_dim)  # [BLOCK_K, BLOCK_O]
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v.dtype.element_ty), values, acc, input_precision="ieee")
        highest = higher
    write(out + batch * n_queries * D, rows, n_queries, columns, D, acc / total[:, None])
    if split == 0:
        tl.store(lse + batch * n_queries + rows, (highest + tl.log2(total)) * LN_2,
                 mask=rows < n_queries)  # fmt: skip


@triton.jit
def write(base, rows, n_rows, columns, D: tl.constexpr, block):
    """Store a block into the contiguous base [n_rows, D], in its dtype."""
    offsets = rows.to(tl.int64)[:, None] * D + columns[None, :]
    mask = (rows < n_rows)[:, None] & (columns < D)[None, :]
    tl.store(base + offsets, block.to(base.dtype.element_ty), mask=mask)


@triton.jit
def weights_and_slopes(a, oa, b, ob, lse, delta, scale, own, n_own, other, n_other,
                       a_row, a_dim, oa_row, oa_dim, b_row, b_dim, ob_row, ob_dim,
                       D: tl.constexpr, BLOCK_D: tl.constexpr, FOR_KEYS: tl.constexpr):  # fmt: skip
    """Return P and dS / scale, each float32 [own, other] (transposed if own are keys)."""
    scores = product(a, own, n_own, a_row, a_dim, oa, other, n_other, oa_row, oa_dim, D, BLOCK_D)
    slopes = product(b, own, n_own, b_row, b_dim, ob, other, n_other, ob_row, ob_dim, D, BLOCK_D)
    if FOR_KEYS:
        # Queries outside have an infinite logsumexp and so no weight.
        level = tl.load(lse + other, mask=other < n_other, other=float("inf"))[None, :]
        mean = tl.load(delta + other, mask=other < n_other, other=0.0)[None, :]
        is_key = (own < n_own)[:, None]
    else:
        level = tl.load(lse + own, mask=own < n_own, other=float("inf"))[:, None]
        mean = tl.load(delta + own, mask=own < n_own, other=0.0)[:, None]
        is_key = (other < n_other)[None, :]
    weights = tl.exp2((scores * scale - level) * LOG2_E)
    weights = tl.where(is_key, weights, 0.0)
    return weights, weights * (slopes - mean)


@triton.jit
def gradient_strip(a, oa, b, ob, lse, delta, d_a, d_b, scale, n_own, n_other, n_queries,
                   a_batch, a_row, a_dim, oa_batch, oa_row, oa_dim,
                   b_batch, b_row, b_dim, ob_batch, ob_row, ob_dim,
                   D: tl.constexpr, FOR_KEYS: tl.constexpr, BLOCK_OWN: tl.constexpr,
                   BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
                   BLOCK_O: tl.constexpr):  # fmt: skip
    """All other rows at once: n_other <= BLOCK_OTHER. Grid: batch x own blocks."""
    blocks = tl.cdiv(n_own, BLOCK_OWN)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    own = tl.program_id(0) % blocks * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    other = tl.arange(0, BLOCK_OTHER)
    oa += batch * oa_batch
    ob += batch * ob_batch
    weights, slopes = weights_and_slopes(
        a + batch * a_batch, oa, b + batch * b_batch, ob,
        lse + batch * n_queries, delta + batch * n_queries, scale, own, n_own, other, n_other,
        a_row, a_dim, oa_row, oa_dim, b_row, b_dim, ob_row, ob_dim,
        D, BLOCK_D, FOR_KEYS)  # fmt: skip
    slopes = slopes.to(oa.dtype.element_ty)  # [BLOCK_OWN, BLOCK_OTHER]
    weights = weights.to(ob.dtype.element_ty)
    for start in range(0, D, BLOCK_O):
        columns = start + tl.arange(0, BLOCK_O)
        block = tile(oa, other, n_other, oa_row, columns, D, oa_dim)  # [BLOCK_OTHER, BLOCK_O]
        result = tl.dot(slopes, block, input_precision="ieee") * scale
        write(d_a + batch * n_own * D, own, n_own, columns, D, result)
        if FOR_KEYS:
            block = tile(ob, other, n_other, ob_row, columns, D, ob_dim)
            result = tl.dot(weights, block, input_precision="ieee")
            write(d_b + batch * n_own * D, own, n_own, columns, D, result)


@triton.jit
def gradient_online(a, oa, b, ob, lse, delta, d_a, d_b, scale, n_own, n_other, n_queries,
                    a_batch, a_row, a_dim, oa_batch, oa_row, oa_dim,
                    b_batch, b_row, b_dim, ob_batch, ob_row, ob_dim,
                    D: tl.constexpr, FOR_KEYS: tl.constexpr, BLOCK_OWN: tl.constexpr,
                    BLOCK_OTHER: tl.constexpr, BLOCK_D: tl.constexpr,
                    BLOCK_O: tl.constexpr):  # fmt: skip
    """Other rows in blocks. Grid: batch x splits of the columns x own blocks."""
    blocks = tl.cdiv(n_own, BLOCK_OWN)
    splits: tl.constexpr = (D + BLOCK_O - 1) // BLOCK_O
    batch = (tl.program_id(0) // (blocks * splits)).to(tl.int64)
    own = tl.program_id(0) % blocks * BLOCK_OWN + tl.arange(0, BLOCK_OWN)
    columns = tl.program_id(0) // blocks % splits * BLOCK_O + tl.arange(0, BLOCK_O)
    a += batch * a_batch
    oa += batch * oa_batch
    b += batch * b_batch
    ob += batch * ob_batch
    lse += batch * n_queries
    delta += batch * n_queries
    first = tl.zeros([BLOCK_OWN, BLOCK_O], tl.float32)
    second = tl.zeros([BLOCK_OWN, BLOCK_O], tl.float32)
    for start in range(0, n_other, BLOCK_OTHER):
        other = start + tl.arange(0, BLOCK_OTHER)
        weights, slopes = weights_and_slopes(
            a, oa, b, ob, lse, delta, scale, own, n_own, other, n_other,
            a_row, a_dim, oa_row, oa_dim, b_row, b_dim, ob_row, ob_dim,
        D, BLOCK_D, FOR_KEYS)  # fmt: skip
        block = tile(oa, other, n_other, oa_row, columns, D, oa_dim)  # [BLOCK_OTHER, BLOCK_O]
        first = tl.dot(slopes.to(oa.dtype.element_ty), block, first, input_precision="ieee")
        if FOR_KEYS:
            block = tile(ob, other, n_other, ob_row, columns, D, ob_dim)
            second = tl.dot(weights.to(ob.dtype.element_ty), block, second, input_precision="ieee")
    write(d_a + batch * n_own * D, own, n_own, columns, D, first * scale)
    if FOR_KEYS:
        write(d_b + batch * n_own * D, own, n_own, columns, D, second)
