"""What the tests of segment attention share: tables of segments, inputs, exact answers.

The budget of every test in low precision is that of ``attention_cases``.
"""

import torch

from ddimx.kernels.segment_attention import reference
from tests.kernels import attention_cases
from tests.kernels.attention_cases import normal

SHAPES = ((1, 5, 20), (1, 8, 0, 33), (2,), (1, 70))  # tokens per level


def noised(shapes, base=0):
    """Every level sees itself and, as context, the coarser levels of its shape."""
    rows = []
    for levels in shapes:
        first = base
        for count in levels:
            rows.append((base, base + count, base, base + count, first, base))
            base += count
    return rows


def clean(shapes, base=0):
    """Every level sees itself and the coarser levels, all of them own keys; no context."""
    return [(a, b, c, b, 0, 0) for a, b, _, _, c, _ in noised(shapes, base)]


# Own keys alone, context alone, both, out of order, shared, unread between (7..9) and at the end.
ODD = [
    (0, 3, 0, 7, 0, 0),
    (3, 3, 0, 0, 0, 0),
    (3, 9, 0, 0, 12, 30),
    (9, 80, 9, 80, 0, 12),
    (80, 81, 2, 3, 29, 30),
    (81, 90, 0, 7, 0, 12),
    (90, 94, 60, 79, 0, 1),
]
TABLES = {"noised": noised(SHAPES), "clean": clean(SHAPES), "odd": ODD}


def problem(rows, heads, columns, *, dtype=torch.float32, device="cpu", spare=2):
    """q, k, v, context_k, context_v and a gradient of the output; ``spare`` keys nobody reads."""
    queries, own, context = (max(row[i] for row in rows) for i in (1, 3, 5))
    counts = (queries, *[own + spare] * 2, *[context + spare] * 2, queries)
    return [
        normal(count, heads, columns, seed=seed, dtype=dtype, device=device)
        for seed, count in enumerate(counts)
    ]


def joined(tensors):
    """q and all keys and values, own ones first, in float64."""
    q, k, v, context_k, context_v = (t.cpu().double() for t in tensors)
    return q, torch.cat((k, context_k)), torch.cat((v, context_v))


def exact(tensors, rows, scale):
    """The definition in float64, one dense mask over all keys; [Nq, H, D] and lse [H, Nq]."""
    scores, values = _scores(tensors, rows, scale)
    lse = scores.logsumexp(dim=2)
    out = torch.einsum("hnm,mhd->nhd", (scores - lse[:, :, None]).exp(), values)
    return out, lse


def _scores(tensors, rows, scale):
    """All scores [H, Nq, Nk + Nc], -inf where a query does not look, and all values."""
    q, keys, values = joined(tensors)
    unseen = torch.ones(len(q), len(keys), dtype=torch.bool)
    for q_start, q_end, own_start, own_end, ctx_start, ctx_end in rows:
        unseen[q_start:q_end, own_start:own_end] = False
        unseen[q_start:q_end, len(tensors[1]) + ctx_start : len(tensors[1]) + ctx_end] = False
    scores = torch.einsum("nhd,mhd->hnm", q, keys) * scale
    return scores.masked_fill(unseen, float("-inf")), values


def exact_gradients(grad, tensors, rows, scale):
    """Automatic differentiation of the definition in float64."""
    leaves = [t.detach().cpu().double().requires_grad_() for t in tensors]
    return torch.autograd.grad(exact(leaves, rows, scale)[0], leaves, grad.cpu().double())


def errors_of_output(tensors, rows, scale):
    """``attention_cases.errors_of_output``, [Nq, H, D]."""
    unseen = _scores(tensors, rows, scale)[0].isneginf()
    q, keys, values = (t.transpose(0, 1) for t in joined(tensors))
    return attention_cases.errors_of_output(q, keys, values, scale, unseen).transpose(0, 1)


def errors_of_gradients(grad, tensors, rows, scale):
    """``attention_cases.errors_of_gradients`` of each tensor, in the tensors' shapes."""
    unseen, own = _scores(tensors, rows, scale)[0].isneginf(), len(tensors[1])
    turned = (t.cpu().transpose(0, 1) for t in (grad, *joined(tensors)))
    parts = attention_cases.errors_of_gradients(*turned, scale, unseen)
    by_query, by_key, by_value = (part.transpose(0, 1) for part in parts)
    return by_query, by_key[:own], by_value[:own], by_key[own:], by_value[own:]


def eager(tensors, segments, scale):
    """The reference in the precision of its inputs."""
    return reference.segment_attention(*tensors, segments, scale)


def eager_gradients(grad, tensors, segments, scale):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    out = eager(leaves, segments, scale)
    return torch.autograd.grad(out, leaves, grad, materialize_grads=True)


def unread(rows, column, count):
    """Whether each of ``count`` keys is read by no query; column 2 for own keys, 4 for context."""
    alone = torch.ones(count, dtype=torch.bool)
    for row in rows:
        if row[0] < row[1]:
            alone[row[column] : row[column + 1]] = False
    return alone
