"""What the tests of group normalization share: the definition in float64 and the budget of errors.

The budget of a result in float32: the normalized value x^ = (x - mean) / std loses the rounding of
x - mean and the errors of mean and deviation, which are sums of n terms: in a tree of sums each
loses at most log2(n) + 2 roundings. SiLU and its slope are at most 1.1, and change by at most 0.5
per unit. So a result of size 1 loses some dozen roundings, and every part of it is bounded by the
largest |w x^| and |b|. A 16-bit result is rounded once more at the end.
"""

import numpy as np
import torch

ROUNDINGS = 32  # of float32, of the largest result


def normal(*shape, seed=0, dtype=torch.float32, device="cpu", mean=0.0):
    """Normal values of deviation 1, the same on every device, rounded to a dtype."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator) + mean).to(device, dtype)


def problem(b, c, h, w, *, dtype=torch.float32, device="cpu", mean=0.0, add=True, params=None):
    """x and a gradient [b, c, h, w] in NHWC, weight and bias [c], add [b, c] or None."""
    layout = {"memory_format": torch.channels_last}
    options = {"dtype": dtype, "device": device}
    x = normal(b, c, h, w, mean=mean, **options).contiguous(**layout)
    grad = normal(b, c, h, w, seed=1, **options).contiguous(**layout)
    options["dtype"] = params or dtype
    weight, bias = normal(c, seed=2, mean=1.0, **options), normal(c, seed=3, **options)
    return x, weight, bias, normal(b, c, seed=4, dtype=dtype, device=device) if add else None, grad


def exact(x, weight, bias, groups, eps, silu, add=None):
    """The definition in NumPy float64, one group at a time."""
    x, weight, bias = (t.detach().cpu().double().numpy() for t in (x, weight, bias))
    x = x if add is None else x + add.detach().cpu().double().numpy()[:, :, None, None]
    out, width = np.empty(x.shape), x.shape[1] // groups
    for b, g in np.ndindex(len(x), groups):
        own = slice(g * width, (g + 1) * width)
        part = x[b, own]
        part = (part - part.mean()) / np.sqrt(part.var() + eps)
        part = part * weight[own, None, None] + bias[own, None, None]
        out[b, own] = part / (1 + np.exp(-part)) if silu else part
    return torch.from_numpy(out)


def exact_gradients(grad, x, weight, bias, groups, eps, silu, add=None):
    """Automatic differentiation of the definition in float64: of x, weight, bias and add."""
    leaves = [t if t is None else t.detach().cpu().double().requires_grad_()
              for t in (x, weight, bias, add)]  # fmt: skip
    values, weight, bias, add = leaves
    values = values if add is None else values + add[:, :, None, None]
    parts = values.reshape(len(x), groups, -1)
    centered = parts - parts.mean(2, keepdim=True)
    parts = centered / (centered.square().mean(2, keepdim=True) + eps).sqrt()
    out = parts.view(x.shape) * weight[:, None, None] + bias[:, None, None]
    out = out * torch.sigmoid(out) if silu else out
    return torch.autograd.grad(out, [t for t in leaves if t is not None], grad.cpu().double())


def sizes_of_gradients(grad, x, weight, groups, eps, add=None):
    """The largest term of which each gradient of :func:`exact_gradients` is a sum, times how many.

    That of x is r (w dy - m1 - x^ m2) with r = 1 / std, dy at most 1.1 grad, and m1 and m2 means of
    w dy and w dy x^. Those of weight and bias add dy x^ and dy up, that of ``add`` adds that of x.
    """
    x, largest, w = x.double().cpu(), 1.1 * grad.abs().max().item(), weight.abs().max().item()
    x = x if add is None else x + add.detach().double().cpu()[:, :, None, None]
    parts = x.reshape(len(x), groups, -1)
    inverse = (parts.var(2, correction=0, keepdim=True) + eps).rsqrt()
    top = ((parts - parts.mean(2, keepdim=True)) * inverse).abs().max().item()
    pixels = x[0, 0].numel()
    of_x = inverse.max().item() * largest * w * (2 + top)
    sizes = [of_x, len(x) * pixels * largest * top, len(x) * pixels * largest]
    return sizes if add is None else [*sizes, pixels * of_x]


def within_budget(ours, expected, size=None, mean=0.0):
    """Assert the budget of this module against a float64 ``expected``.

    ``size``: of the terms of which a result is a sum, by default the largest result; ``mean``: that
    of the inputs in deviations, whose last bit is so much larger.
    """
    assert torch.isfinite(ours).all()
    error = (ours.detach().cpu().double() - expected).abs().max()
    largest = expected.abs().max()
    wide = torch.promote_types(ours.dtype, torch.float32)
    allowed = ROUNDINGS * (1 + abs(mean)) * torch.finfo(wide).eps * (size or largest)
    if ours.dtype != wide:
        allowed += torch.finfo(ours.dtype).eps / 2 * largest
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
