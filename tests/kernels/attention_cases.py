"""What the tests of attention share: exact answers, inputs that punish a stray access, the budget.

The budget of every kernel test is relative: against float64 a kernel may err twice as much as eager
PyTorch does in the same precision (another order of the same sums), and by one rounding of the
largest result more (the store). Nothing in it was tuned.
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

    ``extra`` is an error that eager PyTorch does not make and that the caller has derived.
    """
    assert torch.isfinite(ours).all()
    error = (ours.cpu().double() - expected).abs().max().item()
    allowed = 2 * (eager.cpu().double() - expected).abs().max().item()
    allowed += torch.finfo(ours.dtype).eps * expected.abs().max().item() + extra
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


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
