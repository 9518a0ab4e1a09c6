"""What the tests of attention share: exact answers, inputs that punish a stray access, the budget.

The budget of every kernel test is relative: against float64 a kernel may err twice as much as eager
PyTorch does in the same precision (another order of the same sums), and by one rounding of the
largest result more (the store). To this comes a floor, what float32 may lose where eager PyTorch
loses nothing, by its formula or by luck. Nothing in it was tuned.

The floor's errors are propagated as variances, counted in those of one rounding of a number of size
1: uniform within u, half of float32's epsilon, so u^2 / 3. A rounding of x counts x^2, and so on:

- A sum of n products rounds each of them, and n partial sums, whose squares are in the mean over
  all orders at most half of (the sum of the products' squares + the square of the sum).
- The exponent of a weight P loses the sum over D in scale q k^T and two roundings of it, two of the
  difference from lse (one is the product with log2(e)), and exp2 may be off by 4 u.
- lse loses, for its whole row, a mean of the scores' losses and three roundings.

Six standard deviations are allowed: once in 5e8 elements, were the errors normal.
"""

import numpy as np
import torch

GENERATOR_SEED = 0


def exact(q, k, v, scale):
    """The definition in NumPy float64, one query at a time; output and logsumexp."""
    q, k, v = (t.detach().cpu().double().numpy() for t in (q, k, v))
    out, lse = np.zeros(q.shape), np.zeros(q.shape[:2])
    for b, i in np.ndindex(*q.shape[:2]):
        scores = scale * (k[b] @ q[b, i])
        top = scores.max()
        weights = np.exp(scores - top)
        out[b, i] = weights @ v[b] / weights.sum()
        lse[b, i] = top + np.log(weights.sum())
    return torch.from_numpy(out), torch.from_numpy(lse)


def exact_gradients(grad, q, k, v, scale):
    """Automatic differentiation of the definition in float64."""
    leaves = [t.detach().cpu().double().requires_grad_() for t in (q, k, v)]
    scores = torch.einsum("bnd,bmd->bnm", leaves[0], leaves[1]).mul(scale)
    weights = (scores - scores.detach().amax(2, keepdim=True)).exp()
    out = torch.einsum("bnm,bmd->bnd", weights / weights.sum(2, keepdim=True), leaves[2])
    return torch.autograd.grad(out, leaves, grad.cpu().double())


def within_budget(ours, eager, expected, extra=0.0):
    """Assert the budget of this module, against a float64 ``expected``.

    ``extra``, a number or one for each element, is an error that eager PyTorch does not make and
    that the caller has derived.
    """
    assert torch.isfinite(ours).all()
    error = (ours.cpu().double() - expected).abs()
    allowed = 2 * (eager.cpu().double() - expected).abs().max()
    allowed = allowed + torch.finfo(ours.dtype).eps * expected.abs().max() + extra
    worst = (error - allowed).argmax()
    allowed = allowed.expand_as(error).flatten()[worst]
    assert error.flatten()[worst] <= allowed, (
        f"error {error.flatten()[worst]:.3g}, allowed {allowed:.3g}"
    )


ALLOWED = 6 * torch.finfo(torch.float32).eps / 2 / 3**0.5  # six deviations of a rounding of 1


def _of_sums(squares, total, n):
    """The variance of a sum of ``n`` products from the sum of their squares and their sum."""
    return (n / 2 + 1) * squares + n / 2 * total.square()


def _weights(q, k, scale, unseen):
    """Return P, lse [B, N, 1] and the variances of what P's exponents and lse lose."""
    scores = torch.where(unseen, float("-inf"), scale * (q @ k.mT))  # [B, N, M]
    lse = scores.logsumexp(dim=2, keepdim=True)
    weights, scores = (scores - lse).exp(), torch.where(unseen, 0.0, scores)
    squares = scale**2 * (q.square() @ k.mT.square())
    in_scores = _of_sums(squares, scores, q.shape[2]) + 2 * scores.square()
    in_lse = (weights * in_scores).sum(dim=2, keepdim=True) + 3 * lse.square()
    return weights, in_scores + 2 * (scores - lse).square() + 16, in_lse


SEEN = torch.zeros(1, dtype=torch.bool)


def errors_of_output(q, k, v, scale, unseen=SEEN):
    """How far float32 may move the output though eager PyTorch errs not at all, [B, N, D] float64.

    ``q`` [B, N, D], ``k``, ``v`` [B, M, D]; ``unseen`` [B or 1, N, M] is true where a query does
    not look. The output is sum P' v / sum P', with P' the weights before the division: a weight
    that is off moves it towards v; both sums are rounded, the quotient and its store.
    """
    q, k, v = (t.detach().cpu().double() for t in (q, k, v))
    weights, in_exponents, _ = _weights(q, k, scale, unseen)
    out, m = weights @ v, k.shape[1]
    squares = weights.square() * in_exponents
    apart = squares @ v.square() - 2 * out * (squares @ v) + out.square() * squares.sum(2, True)
    of_total = _of_sums(weights.square().sum(dim=2, keepdim=True), torch.ones(1), m)
    of_mixed = _of_sums(weights.square() @ v.square(), out, m)
    return ALLOWED * (apart.clamp(min=0) + of_mixed + (of_total + 2) * out.square()).sqrt()


def errors_of_gradients(grad, q, k, v, scale, unseen=SEEN):
    """The same for the gradients of q, k and v, in their shapes; ``grad`` is the output's.

    The kernels compute P = exp(scale q k^T - lse) and dS = P (dP - delta), where dP = grad v^T and
    delta, the row sums of grad * out, are sums of D products each, rounded on their own. Eager
    PyTorch takes delta from the dP that it has, so that what both lost cancels: with a single key
    its dS is exactly 0, as it should be, and twice its error is 0 too. Ours is then as large as the
    errors of dP and delta. What is lost in delta and lse is the same for all keys of a query, and
    all else independent.
    """
    grad, q, k, v = (t.detach().cpu().double() for t in (grad, q, k, v))
    weights, in_exponents, in_lse = _weights(q, k, scale, unseen)
    out, products, d = weights @ v, grad @ v.mT, q.shape[2]
    delta = (grad * out).sum(dim=2, keepdim=True)
    slopes = weights * (products - delta)

    in_products = _of_sums(grad.square() @ v.mT.square(), products, d)
    in_out = _of_sums(weights.square() @ v.square(), out, k.shape[1]) + 2 * out.square()
    in_delta = _of_sums((grad * out).square().sum(dim=2, keepdim=True), delta, d)
    in_delta = in_delta + (grad.square() * in_out).sum(dim=2, keepdim=True)

    alone = weights.square() * in_products + slopes.square() * in_exponents
    by_row = weights.square() * in_delta + slopes.square() * in_lse
    in_q = alone @ k.square() + in_delta * (weights @ k).square() + in_lse * (slopes @ k).square()
    in_k = (alone + by_row).mT @ q.square()
    in_v = (weights.square() * (in_exponents + in_lse)).mT @ grad.square()
    return [ALLOWED * part.sqrt() for part in (scale**2 * in_q, scale**2 * in_k, in_v)]


def guarded(tensor, layout="rows"):
    """A copy of a [B, N, D] tensor inside storage that is NaN everywhere else.

    ``layout``: "rows" has contiguous rows (a channels_last feature map's tokens), "columns"
    contiguous columns (a contiguous one's), "gaps" neither. A read outside meets NaN.
    """
    b, n, d = tensor.shape
    nan = float("nan")
    if layout == "rows":
        view = tensor.new_full((b + 2, n + 3, d), nan)[1:-1, 2:-1]
    elif layout == "columns":
        view = tensor.new_full((b + 2, d, n + 3), nan)[1:-1, :, 2:-1].transpose(1, 2)
    else:
        view = tensor.new_full((b + 2, 3 * n, 2 * d + 1), nan)[1:-1, ::3, 1::2]
    return view.copy_(tensor)


class Poisoned:
    """A contiguous result to be written, all NaN, in storage that is NaN on both sides of it."""

    MARGIN = 4096  # elements: some rows of any tile

    def __init__(self, shape, dtype, device):
        count = torch.Size(shape).numel()
        self.storage = torch.full((count + 2 * self.MARGIN,), float("nan"), dtype=dtype,
                                  device=device)  # fmt: skip
        self.tensor = self.storage[self.MARGIN : self.MARGIN + count].view(shape)

    def filled(self):
        """Return the tensor; it must be finite and everything around it untouched."""
        margins = self.storage[: self.MARGIN], self.storage[-self.MARGIN :]
        assert all(margin.isnan().all() for margin in margins)
        assert torch.isfinite(self.tensor).all()
        return self.tensor


def normal(*shape, seed=GENERATOR_SEED, dtype=torch.float32, device="cpu"):
    """Standard normal values, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device, dtype)


def problem(b, n, m, d, *, dtype=torch.float32, device="cpu"):
    """q [b, n, d], k and v [b, m, d] and a gradient of the output."""
    sizes = (n, m, m, n)
    return [
        normal(b, rows, d, seed=seed, dtype=dtype, device=device) for seed, rows in enumerate(sizes)
    ]
