"""Triton kernels of segment attention: softmax(scale q k^T) v over own and context keys, gradients.

A program answers for one head and one block of a table: queries that share their ranges of keys, or
keys that share their ranges of queries. The tables hold 64-bit integers, offsets are 64-bit, the
last dimension is contiguous. Scores, softmax and sums are float32, exponents to the base 2; P and
dS take the inputs' dtype for the products.

Forward, the softmax is rescaled from block to block of keys, first the own, then the context ones.
The gradients compute the weights again from the saved logsumexp: P = exp(scale q k^T - lse), and
dS = P (grad v^T - delta) with delta the row sums of grad * out. Keys sum over their readers in the
table's order, in one program: every run gives the same bits.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def place(table, n_blocks, WIDTH: tl.constexpr, PARTS: tl.constexpr):
    """Return this program's head, its row of the table, and which part of the block it has."""
    head = (tl.program_id(0) // (n_blocks * PARTS)).to(tl.int64)
    rest = (tl.program_id(0) % (n_blocks * PARTS)).to(tl.int64)
    return head, table + rest // PARTS * WIDTH, rest % PARTS


@triton.jit
def tile(base, rows, end, stride, D: tl.constexpr):
    """Load base[rows] as [len(rows), D], zeros from ``end`` on; 64-bit offsets."""
    offsets = rows.to(tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(base + offsets, mask=(rows < end)[:, None], other=0.0)


@triton.jit
def write(base, rows, end, stride, block, D: tl.constexpr):
    """Store a block [len(rows), D] into base[rows], in its dtype."""
    offsets = rows.to(tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(base + offsets, block.to(base.dtype.element_ty), mask=(rows < end)[:, None])


@triton.jit
def attend(queries, k, v, start, end, k_row, v_row, factor, highest, total, acc,
           D: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Let the queries [BLOCK_Q, D] meet the keys start..end: go on with the rescaled softmax."""
    for first in range(start, end, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        keys_t = tile(k, keys, end, k_row, D).trans()  # [D, BLOCK_K]
        scores = tl.dot(queries, keys_t, input_precision="ieee") * factor  # [BLOCK_Q, BLOCK_K]
        scores = tl.where((keys < end)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(highest - higher)
        total = total * shrink + tl.sum(weights, 1)
        values = tile(v, keys, end, v_row, D)  # [BLOCK_K, D]
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(values.dtype), values, acc, input_precision="ieee")
        highest = higher
    return highest, total, acc


@triton.jit
def forward(q, k, v, context_k, context_v, out, lse, blocks, scale, n_blocks, n_queries,
            q_row, q_head, k_row, k_head, v_row, v_head,
            context_k_row, context_k_head, context_v_row, context_v_head, out_row, out_head,
            D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
            PARTS: tl.constexpr):  # fmt: skip
    """Write out [Nq, H, D] and lse [H, Nq]. Grid: heads x blocks of queries x PARTS."""
    head, row, part = place(blocks, n_blocks, 6, PARTS)
    start = tl.load(row) + part * BLOCK_Q
    end = tl.load(row + 1)
    rows = start + tl.arange(0, BLOCK_Q)
    queries = tile(q + head * q_head, rows, end, q_row, D)  # [BLOCK_Q, D]
    highest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    acc = tl.zeros([BLOCK_Q, D], tl.float32)
    factor = scale * LOG2_E
    highest, total, acc = attend(
        queries, k + head * k_head, v + head * v_head, tl.load(row + 2), tl.load(row + 3),
        k_row, v_row, factor, highest, total, acc, D, BLOCK_K)  # fmt: skip
    highest, total, acc = attend(
        queries, context_k + head * context_k_head, context_v + head * context_v_head,
        tl.load(row + 4), tl.load(row + 5), context_k_row, context_v_row,
        factor, highest, total, acc, D, BLOCK_K)  # fmt: skip
    write(out + head * out_head, rows, end, out_row, acc / total[:, None], D)
    level = (highest + tl.log2(total)) * LN_2
    tl.store(lse + head * n_queries + rows, level, mask=rows < end)


@triton.jit
def slope(queries, d_out, level, mean, k, v, start, end, k_row, v_row, scale, d_q,
          D: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Add dS k over the keys start..end to d_q, [BLOCK_Q, D]."""
    for first in range(start, end, BLOCK_K):
        keys = first + tl.arange(0, BLOCK_K)
        key_tile = tile(k, keys, end, k_row, D)  # [BLOCK_K, D]
        values = tile(v, keys, end, v_row, D)  # [BLOCK_K, D]
        scores = tl.dot(queries, key_tile.trans(), input_precision="ieee")  # [BLOCK_Q, BLOCK_K]
        weights = tl.exp2((scores * scale - level[:, None]) * LOG2_E)
        weights = tl.where((keys < end)[None, :], weights, 0.0)
        d_weights = tl.dot(d_out, values.trans(), input_precision="ieee")
        d_scores = (weights * (d_weights - mean[:, None])).to(key_tile.dtype)
        d_q = tl.dot(d_scores, key_tile, d_q, input_precision="ieee")
    return d_q


@triton.jit
def gradient_of_queries(
        q, k, v, context_k, context_v, grad, lse, delta, d_q, blocks, scale, n_blocks, n_queries,
        q_row, q_head, k_row, k_head, v_row, v_head,
        context_k_row, context_k_head, context_v_row, context_v_head,
        grad_row, grad_head, d_q_row, d_q_head,
        D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
        PARTS: tl.constexpr):  # fmt: skip
    """Write d_q [Nq, H, D]. Grid: heads x blocks of queries x PARTS."""
    head, row, part = place(blocks, n_blocks, 6, PARTS)
    start = tl.load(row) + part * BLOCK_Q
    end = tl.load(row + 1)
    rows = start + tl.arange(0, BLOCK_Q)
    queries = tile(q + head * q_head, rows, end, q_row, D)  # [BLOCK_Q, D]
    d_out = tile(grad + head * grad_head, rows, end, grad_row, D)  # [BLOCK_Q, D]
    # Queries outside have an infinite logsumexp and so no weight.
    level = tl.load(lse + head * n_queries + rows, mask=rows < end, other=float("inf"))
    mean = tl.load(delta + head * n_queries + rows, mask=rows < end, other=0.0)
    result = tl.zeros([BLOCK_Q, D], tl.float32)
    result = slope(
        queries, d_out, level, mean, k + head * k_head, v + head * v_head,
        tl.load(row + 2), tl.load(row + 3), k_row, v_row, scale, result, D, BLOCK_K)  # fmt: skip
    result = slope(
        queries, d_out, level, mean, context_k + head * context_k_head,
        context_v + head * context_v_head, tl.load(row + 4), tl.load(row + 5),
        context_k_row, context_v_row, scale, result, D, BLOCK_K)  # fmt: skip
    write(d_q + head * d_q_head, rows, end, d_q_row, result * scale, D)


@triton.jit
def gradient_of_keys(
        q, k, v, grad, lse, delta, d_k, d_v, blocks, readers, scale, n_blocks, n_queries,
        q_row, q_head, k_row, k_head, v_row, v_head, grad_row, grad_head,
        d_k_row, d_k_head, d_v_row, d_v_head,
        D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
        PARTS: tl.constexpr):  # fmt: skip
    """Write the rows of d_k and d_v that the blocks name. Grid: heads x blocks of keys x PARTS."""
    head, row, part = place(blocks, n_blocks, 4, PARTS)
    start = tl.load(row) + part * BLOCK_K
    end = tl.load(row + 1)
    keys = start + tl.arange(0, BLOCK_K)
    key_tile = tile(k + head * k_head, keys, end, k_row, D)  # [BLOCK_K, D]
    values = tile(v + head * v_head, keys, end, v_row, D)  # [BLOCK_K, D]
    by_scores = tl.zeros([BLOCK_K, D], tl.float32)
    by_weights = tl.zeros([BLOCK_K, D], tl.float32)
    for reader in range(tl.load(row + 2), tl.load(row + 3)):
        last = tl.load(readers + reader * 2 + 1)
        for first in range(tl.load(readers + reader * 2), last, BLOCK_Q):
            rows = first + tl.arange(0, BLOCK_Q)
            queries = tile(q + head * q_head, rows, last, q_row, D)  # [BLOCK_Q, D]
            d_out = tile(grad + head * grad_head, rows, last, grad_row, D)  # [BLOCK_Q, D]
            level = tl.load(lse + head * n_queries + rows, mask=rows < last, other=float("inf"))
            mean = tl.load(delta + head * n_queries + rows, mask=rows < last, other=0.0)
            scores = tl.dot(key_tile, queries.trans(), input_precision="ieee")
            weights = tl.exp2((scores * scale - level[None, :]) * LOG2_E)  # [BLOCK_K, BLOCK_Q]
            by_weights = tl.dot(weights.to(d_out.dtype), d_out, by_weights, input_precision="ieee")
            d_weights = tl.dot(values, d_out.trans(), input_precision="ieee")
            d_scores = (weights * (d_weights - mean[None, :])).to(queries.dtype)
            by_scores = tl.dot(d_scores, queries, by_scores, input_precision="ieee")
    write(d_k + head * d_k_head, keys, end, d_k_row, by_scores * scale, D)
    write(d_v + head * d_v_head, keys, end, d_v_row, by_weights, D)
