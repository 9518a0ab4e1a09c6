"""Every kernel once against its reference, and both models against the CPU, on one device.

A first look at a card that nobody has tried yet, in a minute: ``python -m benchmarks check`` prints
a line per check as soon as it is known and goes on after a failure. The tests marked ``gpu`` say
the same more thoroughly.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import ddimx
from ddimx.config_file import load_config
from ddimx.data.shapes.batches import packed
from ddimx.device import choose_device, describe, forbid_tf32
from ddimx.files import write_json
from ddimx.kernels._dispatch import Impl
from ddimx.kernels.attention import attention
from ddimx.kernels.discrete_update import IDS, TokenState, UpdateOptions, discrete_update
from ddimx.kernels.group_norm_silu import group_norm_silu
from ddimx.kernels.octree_decode import octree_decode
from ddimx.kernels.segment_attention import Segments, segment_attention
from ddimx.kernels.update import Extras, update
from ddimx.kernels.update.columns import TABLE
from ddimx.models.factory import build
from ddimx.models.process import Draws
from ddimx.noise import Noise, Stream

from .attention import REFUSALS
from .machine import describe as machine
from .octree import shapes

# Largest error over the largest value. float32: sums of some hundred terms in another order. The
# rounding of one value in bfloat16 is 4e-3, and gradients are made of several.
ERRORS = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
PIXELS = 1e-2  # of a sample in [-1, 1], from a network with 5 calls in float32
OVERLAP = 0.9  # of two octrees: a token drawn at the very edge of two ids may fall to the other

Check = Callable[[], str]


class Failed(RuntimeError):
    """A result that is not what it must be."""


def main(arguments: Sequence[str]) -> int:
    """Run all checks; 0 if none failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks check", description=__doc__)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:N] or mps")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the results as JSON")
    args = parser.parse_args(arguments)
    device = choose_device(args.device)
    forbid_tf32()
    results: list[dict[str, Any]] = []
    record = {"machine": machine(device, ["check", *arguments]), "checks": results}
    print(f"checks on {describe(device)}")
    for name, check in checks(device).items():
        begun = time.perf_counter()
        try:
            found, passed = check(), True
        except REFUSALS as error:
            found, passed = f"{type(error).__name__}: {error}".splitlines()[0], False
        seconds = round(time.perf_counter() - begun, 2)
        results.append({"name": name, "passed": passed, "found": found, "seconds": seconds})
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {found} ({seconds} s)", flush=True)
        if args.out is not None:
            write_json(args.out, record)
    failed = sum(not result["passed"] for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


def checks(device: torch.device) -> dict[str, Check]:
    """Return every check by its name; the kernels are Triton's, in the interpreter on a CPU."""
    dtypes = [torch.float32, torch.float16]
    if device.type == "cuda":
        dtypes.append(torch.bfloat16)  # the interpreter computes it wrongly
    found: dict[str, Check] = {"noise": partial(noise, device)}
    found |= {
        f"{what} {model}": partial(check, device, model)
        for model in ("emoji", "furniture")
        for what, check in (("loss and gradient of", loss), ("samples of", samples))
    }
    found["update"] = partial(row, device)
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for columns in (256, 512):
            found[f"attention, {columns} columns, {name}"] = partial(
                unet_attention, device, dtype, columns
            )
        found[f"group_norm_silu, {name}"] = partial(norm, device, dtype)
        found[f"segment_attention, {name}"] = partial(octree_attention, device, dtype)
    found["octree_decode"] = partial(decode, device)
    found |= {
        f"discrete_update, {kind}": partial(tokens, device, kind)
        for kind in ("absorbing", "uniform")
    }
    return found


def noise(device: torch.device) -> str:
    """Words are the CPU's bit for bit, normals to 1e-5."""
    drawn = Noise(7).integers(range(8), (1000,), 2**32, device=device).cpu()
    if not torch.equal(drawn, Noise(7).integers(range(8), (1000,), 2**32)):
        raise Failed("words differ from the CPU's")
    normals = Noise(7).normal(range(8), (1000,), device=device).cpu()
    error = (normals - Noise(7).normal(range(8), (1000,))).abs().max().item()
    return _within(error, 1e-5)


def row(device: torch.device) -> str:
    """A guided, clipped row with noise, known pixels and a history, against the reference."""
    shape = (3, 3, 32, 32)
    x, y, out, uncond, known, past = _normal(6, *shape)
    table = _normal(1, 2, len(TABLE) + 6)[0].abs()
    table[:, TABLE.index("calls")] = 1.0  # network calls before the row

    def stepped(impl: Impl, place: torch.device | str, dtype: torch.dtype) -> list[Tensor]:
        def at(t: Tensor) -> Tensor:
            return t.to(place, dtype, copy=True)

        extras = Extras(
            uncond=at(uncond),
            guidance=torch.tensor(2.0, device=place, dtype=dtype),
            clip=1.0,
            seed=torch.tensor(5, device=place),
            samples=torch.arange(3, device=place),
            step_stream=int(Stream.STEP),
            known=at(known),
            mask=at((known > 0).double()),
            known_stream=int(Stream.KNOWN),
        )
        history = at(past)[None].repeat(2, 1, 1, 1, 1)
        state = at(x), at(y), at(out)
        one = torch.tensor(1, device=place)
        stepped = update(at(table), one, *state, history, extras, impl=impl)
        return [t for t in (*stepped, history) if t is not None]

    exact = stepped("reference", "cpu", torch.float64)
    return _agree(stepped("triton", device, torch.float32), exact, torch.float32)


def unet_attention(device: torch.device, dtype: torch.dtype, columns: int) -> str:
    """Forward and the kernels' own backward, against float64."""
    count = 256 if device.type == "cuda" else 40  # the interpreter is slow
    *inputs, grad = [t.to(dtype).double() for t in _normal(4, 2, count, columns)]
    exact = _derived(partial(attention, impl="reference"), inputs, grad)
    ours = _derived(
        partial(attention, impl="triton", backward="triton"),
        [t.to(device, dtype) for t in inputs],
        grad.to(device, dtype),
    )
    return _agree(ours, exact, dtype)


def norm(device: torch.device, dtype: torch.dtype) -> str:
    """Forward and backward of a map that fits on chip and of one that does not, in NHWC."""
    worst = ""
    for size in (16, 64) if device.type == "cuda" else (8,):
        x, grad = [t.to(dtype).double() for t in _normal(2, 2, 64, size, size)]
        weight, bias = [t[0].to(dtype).double() for t in _normal(2, 1, 64)]

        def of(impl: Impl, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return group_norm_silu(x, weight, bias, 32, 1e-6, impl=impl)

        exact = _derived(partial(of, "reference"), [x, weight, bias], grad)
        moved = [t.to(device, dtype) for t in (weight, bias)]
        near, near_grad = (
            t.to(device, dtype).contiguous(memory_format=torch.channels_last) for t in (x, grad)
        )
        ours = _derived(partial(of, "triton"), [near, *moved], near_grad)
        worst = max(worst, _agree(ours, exact, dtype))
    return worst


def octree_attention(device: torch.device, dtype: torch.dtype) -> str:
    """Forward and backward over two shapes' levels with context, against float64."""
    segments = Segments([(0, 40, 0, 40, 0, 30), (40, 41, 40, 41, 30, 50), (41, 70, 41, 70, 50, 90)])
    *inputs, grad = [t.to(dtype).double() for t in _normal(4, 70, 3, 32)]
    inputs += [t.to(dtype).double() for t in _normal(2, 90, 3, 32)]

    def of(impl: Impl, q: Tensor, k: Tensor, v: Tensor, *context: Tensor) -> Tensor:
        return segment_attention(q, k, v, segments, *context, impl=impl)

    exact = _derived(partial(of, "reference"), inputs, grad)
    moved = [t.to(device, dtype) for t in inputs]
    return _agree(_derived(partial(of, "triton"), moved, grad.to(device, dtype)), exact, dtype)


def decode(device: torch.device) -> str:
    """Keys, centers and extents of a few spheres, bit for bit."""
    trees = shapes.spheres(5, 4)
    streams = [torch.from_numpy(tree.tokens()) for tree in trees]
    offsets = torch.tensor([0, *torch.tensor([len(s) for s in streams]).cumsum(0).tolist()])
    stream = torch.cat(streams)
    ours = octree_decode(stream.to(device), offsets.to(device), 4, impl="triton")
    for mine, exact in zip(ours, octree_decode(stream, offsets, 4, impl="reference"), strict=True):
        if not torch.equal(mine.cpu(), exact):
            raise Failed("differs from the reference")
    return f"{len(ours.keys):,} leaves equal"


def tokens(device: torch.device, transition: Any) -> str:
    """Ids of a guided row, against the reference in float64 with the same draws."""
    count = 20_000 if device.type == "cuda" else 500
    logits, uncond = _normal(2, count, IDS)
    keys = torch.arange(count)
    state = TokenState((keys % IDS).to(torch.uint8), keys, torch.zeros_like(keys))
    table = torch.tensor([[0.3, 0.2, 1.25, 0.0]])
    guidance, fixed = torch.tensor(2.0), UpdateOptions(transition, int(Stream.TOKEN))

    def drawn(impl: Impl, place: torch.device | str, dtype: torch.dtype) -> Tensor:
        moved = TokenState(*(value.to(place) for value in vars(state).values()))
        zero, seed = torch.tensor(0, device=place), torch.tensor(3, device=place)
        weights = {"uncond": uncond.to(place, dtype), "guidance": guidance.to(place, dtype)}
        row = table.to(place, dtype), zero, logits.to(place, dtype)
        return discrete_update(*row, moved, seed, fixed, **weights, impl=impl).ids.cpu()

    exact = drawn("reference", "cpu", torch.float64)
    different = (drawn("triton", device, torch.float32) != exact).double().mean().item()
    # A cumulative sum of 255 terms errs by some 1e-5 in float32, and so many draws fall there.
    if not different <= 1e-3:
        raise Failed(f"{different:.2%} of the ids differ")
    return f"{different:.2%} of {count:,} ids differ, allowed 0.10%"


def loss(device: torch.device, name: str) -> str:
    """One training step's loss and gradient in float32, against the CPU's."""
    config = load_config(name)

    def derived(place: torch.device | str) -> list[Tensor]:
        torch.manual_seed(0)
        network, process = build(config)
        with torch.no_grad():  # the last layers begin at zero, and with them most gradients
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape))
        network.to(place).eval()
        draws = Draws(Noise(3), torch.arange(4), 0, 4)
        batch = {key: value.to(place) for key, value in _batch(name, config).items()}
        value = process.loss(network, batch, draws).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return [value.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]

    return _agree(derived(device), derived("cpu"), torch.float32, scale=10)


def samples(device: torch.device, name: str) -> str:
    """Samples of a shipped model in float32, from the same noise, against the CPU's."""
    found: list[Any] = []
    for place in (str(device), "cpu"):
        model = ddimx.load_model(name, device=place, dtype="fp32")
        if name == "emoji":
            found.append(ddimx.sample(model, count=2, steps=5, eta=1.0, seed=3).cpu())
        else:
            found.append(ddimx.sample_shapes(model, count=2, steps=2, seed=3))
    ours, exact = found
    if isinstance(ours, Tensor):
        return _within((ours - exact).abs().max().item(), PIXELS)
    both = [
        len(set(a.leaves.tolist()) & set(b.leaves.tolist())) for a, b in zip(*found, strict=True)
    ]
    either = [len(a.leaves) + len(b.leaves) for a, b in zip(*found, strict=True)]
    overlap = min(2 * b / e for b, e in zip(both, either, strict=True))
    if not overlap >= OVERLAP:
        raise Failed(f"octrees overlap by {overlap:.3f}, less than {OVERLAP}")
    return f"octrees overlap by {overlap:.3f}"


def _batch(name: str, config: Any) -> dict[str, Tensor]:
    labels = torch.arange(4) % len(config.model.classes)
    if name == "emoji":
        return {"x": _normal(1, 4, 3, 32, 32)[0].clamp(-1, 1).float(), "label": labels}
    return {**packed([shapes.sphere(5, r) for r in (0.1, 0.15, 0.2, 0.25)]), "label": labels}


def _normal(count: int, *shape: int) -> list[Tensor]:
    """Return tensors of normal values that float32 holds exactly, in float64."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).double() for _ in range(count)]


def _derived(call: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def _agree(
    ours: Sequence[Tensor], exact: Sequence[Tensor], dtype: torch.dtype, scale: float = 1.0
) -> str:
    """Return the largest error over the largest value, of all tensors."""
    largest = 0.0
    for mine, due in zip(ours, exact, strict=True):
        error = (mine.cpu().double() - due.double()).abs().max() / due.abs().max().clamp_min(1e-6)
        largest = max(largest, error.item() if torch.isfinite(error) else float("inf"))
    return _within(largest, scale * ERRORS[dtype])


def _within(error: float, allowed: float) -> str:
    if not error <= allowed:
        raise Failed(f"error {error:.3g}, allowed {allowed:.3g}")
    return f"error {error:.2g}, allowed {allowed:.2g}"
