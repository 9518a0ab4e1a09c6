"""What is launched for given tensors: kernels, programs, arguments and tile.

The same description is run on a device and compiled ahead of time by the tests, so that what they
count is what runs. Nothing here imports Triton until a launch is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from .._launch import StagedLaunch, run
from .tiles import CACHED, NormTile, covering, tile


@dataclass(frozen=True)
class NormLaunch(StagedLaunch):
    """One launch of a kernel of this operation.

    ``registers`` is a thread's limit, 0 for none. It holds for tiles without a mask (FULL), for
    masks take some themselves.
    """

    module: ClassVar[str] = "ddimx.kernels.group_norm_silu.kernel"

    registers: int = 0

    @property
    def options(self) -> dict[str, int]:
        """Triton's options; AMD's compiler knows no limit of registers."""
        options = {"num_warps": self.warps, "num_stages": self.stages}
        if self.registers and self.constants["FULL"] and not torch.version.hip:
            options["maxnreg"] = self.registers
        return options

    def __call__(self) -> None:
        """Run it on its tensors' device."""
        function = getattr(import_module(self.module), self.kernel)
        run(function, self.programs, self.arguments, self.constants, **self.options)


class GradientLaunch(NormLaunch):
    """One launch of a kernel of the gradients."""

    module = "ddimx.kernels.group_norm_silu.gradient"


class Forward(NamedTuple):
    """The launches of a forward pass in their order, and what they fill.

    out: [B, C, H, W] in NHWC and x's dtype; mean, rstd (1 / deviation): float32 [B, groups].
    """

    steps: list[NormLaunch]
    out: Tensor
    mean: Tensor
    rstd: Tensor


class Backward(NamedTuple):
    """The launches of a backward pass in their order, and what they fill.

    d_x: [B, C, H, W] in NHWC and x's dtype; sums: float32 [B, parts, 2, C], of which the gradients
    of weight and bias are the sums over B and parts; d_add: float32 [B, parts, C] or None, of which
    that of ``add`` is the sum over parts.
    """

    steps: list[NormLaunch]
    d_x: Tensor
    sums: Tensor
    d_add: Tensor | None


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    add: Tensor | None,
    arch: str,
    tiling: NormTile | None = None,
) -> Forward:
    """Return the forward launches for x [B, C, H, W] in NHWC; the rest as in the reference.

    ``arch``: as :func:`ddimx.kernels._launch.architecture` returns it; ``tiling``: another tile
    than the table's.
    """
    batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    tiling = tiling or tile(arch, "forward", x.dtype, pixels, channels, groups)
    out = torch.empty_like(x, memory_format=torch.channels_last)
    mean, rstd = (x.new_empty((batch, groups), dtype=torch.float32) for _ in range(2))
    split, constants, blocks = _division(tiling, x, groups, add)
    steps: list[NormLaunch] = []
    for own in _images(x, tiling):
        part = _of(x, own)
        shared: dict[str, Any] = {"x": part, "add": part if add is None else _of(add, own)}
        shared |= {"pixels": pixels, **split}
        rest: dict[str, Any] = {"weight": weight, "bias": bias, "out": _of(out, own)}
        rest |= {"mean_to": _of(mean, own), "rstd_to": _of(rstd, own), "eps": eps}
        programs, after = len(part) * blocks * split.get("parts", 1), {"SILU": int(silu)}
        if split:
            shape = (len(part), split["parts"], 2, groups)
            shared["work"] = x.new_empty(shape, dtype=torch.float32)
            after["PARTS"] = covering(split["parts"])
            launch = NormLaunch("part_forward", programs, shared, constants, *tiling.options)
            steps.append(launch)
        else:
            after["LOOP"] = int(tiling.pixels < pixels)
        name = "rest_forward" if split else "whole_forward"
        launch = NormLaunch(name, programs, shared | rest, constants | after, *tiling.options)
        steps.append(launch)
    return Forward(steps, out, mean, rstd)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    silu: bool,
    add: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    arch: str,
    tiling: NormTile | None = None,
) -> Backward:
    """Return the backward launches for x and grad [B, C, H, W] in NHWC, mean and rstd [B, groups].

    ``arch`` and ``tiling`` as in :func:`forward`.
    """
    batch, channels, pixels = x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
    tiling = tiling or tile(arch, "backward", x.dtype, pixels, channels, groups)
    split, constants, blocks = _division(tiling, x, groups, add)
    constants["SILU"] = int(silu)
    parts = split.get("parts", 1)
    d_x = torch.empty_like(x, memory_format=torch.channels_last)
    sums = x.new_empty((batch, parts, 2, channels), dtype=torch.float32)
    d_add = None if add is None else x.new_empty((batch, parts, channels), dtype=torch.float32)
    steps: list[NormLaunch] = []
    for own in _images(x, tiling):
        part = _of(x, own)
        shared: dict[str, Any] = {"grad": _of(grad, own), "x": part, "weight": weight, "bias": bias}
        shared |= {"add": part if add is None else _of(add, own), "mean": _of(mean, own)}
        shared |= {"rstd": _of(rstd, own), "sums": _of(sums, own), "pixels": pixels, **split}
        rest = {"d_x": _of(d_x, own), "d_add": sums if d_add is None else _of(d_add, own)}
        programs = len(part) * blocks * parts
        if split:
            after = {"PARTS": covering(parts)}
            options = tiling.options
            steps.append(GradientLaunch("part_backward", programs, shared, constants, *options))
        else:
            after = {"LOOP": int(tiling.pixels < pixels)}
        name = "rest_backward" if split else "whole_backward"
        after |= constants
        steps.append(GradientLaunch(name, programs, shared | rest, after, *tiling.options))
    return Backward(steps, d_x, sums, d_add)


def _division(
    tiling: NormTile, x: Tensor, groups: int, add: Tensor | None
) -> tuple[dict[str, int], dict[str, int], int]:
    """Return how an image is divided into parts, what is compiled in, programs for its channels.

    Parts are whole tiles of pixels; the first dictionary is empty for images that are not divided.
    """
    channels, pixels = x.shape[1], x.shape[2] * x.shape[3]
    split, even = {}, pixels % tiling.pixels == 0
    if tiling.parts > 1:
        tiles = -(-pixels // tiling.pixels)
        of_part = -(-tiles // tiling.parts) * tiling.pixels
        split = {"parts": -(-pixels // of_part), "of_part": of_part}
        even = pixels % of_part == 0
    width, own = channels // groups, min(tiling.groups, groups)
    lanes = covering(own * width)
    constants = {
        "C": channels,
        "WIDTH": width,
        "OWN": own,
        "HAS_ADD": int(add is not None),
        "FULL": int(even and lanes == own * width and channels % lanes == 0),
        "PIXELS": tiling.pixels,
        "CHANNELS": lanes,
        "GROUPS": covering(own),
    }
    return split, constants, -(-groups // own)


def _images(x: Tensor, tiling: NormTile) -> list[slice | None]:
    """Return which images are launched together, None for all of them.

    Two passes take no more than the cache holds; what an image gets does not depend on it.
    """
    count = len(x)
    if tiling.parts > 1:
        count = max(1, CACHED // (x[:1].numel() * x.element_size() or 1))
    if count >= len(x):
        return [None]
    return [slice(start, start + count) for start in range(0, len(x), count)]


def _of(tensor: Tensor, images: slice | None) -> Tensor:
    return tensor if images is None else tensor[images]
