"""``ddimx.inpaint``, ``ddimx.encode`` and ``ddimx.interpolate``: the verbs on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..noise import Noise
from ..sampling.batch import finish_all
from ..sampling.settings import Asked
from ..weights.model import Model
from .encode import make_codec, run_all
from .inpaint import VARIANTS, Edit, inpaint_given, inpaint_settings
from .interpolate import check_ends, interpolation_settings
from .interpolate import interpolate as interpolation


def inpaint(
    model: Model,
    image: Tensor,
    mask: Tensor | None = None,
    *,
    count: int = VARIANTS,
    jump: int | None = None,
    resample: int | None = None,
    strength: float | None = None,
    **options: Any,
) -> Tensor:
    """Paint part of an image anew, or change all of it; return variants [count, C, H, W].

    Args:
        model: a model of images.
        image: float [C, H, W] in the network's range ([-1, 1] for the shipped model).
        mask: bool [H, W], true where to paint; elsewhere the variants equal the image exactly.
        count: how many variants; variant i does not depend on it.
        jump, resample: RePaint's jump in steps and passes over it; ``resample`` = 1 is plain
            replacement of the known pixels.
        strength: start from the image, noised (SDEdit), in (0, 1]; needed where there is no mask.
        **options: ``steps``, ``eta``, ``solver``, ``spacing``, ``category``, ``guidance``,
            ``seed``, ``start_index``, ``batch_size`` and so on, as for :func:`ddimx.sample`; the
            default is no class.

    Raises:
        UsageError: shapes that do not fit, a mask that is all true or all false, neither mask nor
            strength, or an option out of range.
    """
    _check(image, model.process.shape, "image")
    if mask is None and strength is None:
        raise UsageError("give a mask of what to paint, or a strength to change all of the image")
    if mask is not None:
        _check_mask(mask, model)
    edit = Edit(jump, resample, strength)
    asked = Asked(count=count, **options)
    settings = inpaint_settings(asked, model, edit, images=1, masked=mask is not None)
    paint = None if mask is None else mask[None].cpu()
    states = image[None].to("cpu", torch.float32)
    given = inpaint_given(settings, model, states, paint, edit)
    return finish_all(model, settings, settings.indices, given=given)


def encode(model: Model, images: Tensor, *, refine: int | None = None, **options: Any) -> Tensor:
    """Return the latents that DDIM without noise decodes to these images, float32 [N, C, H, W].

    ``ddimx.sample(model, start=latents, count=N, eta=0, guidance=1, category="none", ...)`` with
    the same steps decodes them.

    Args:
        model: a model of images.
        images: float [N, C, H, W] in the network's range.
        refine: corrections of every step (default 2), see
            :func:`ddimx.solvers.inversion.ddim_inversion`.
        **options: ``steps``, ``spacing``, ``category``, ``guidance`` (default 1), ``batch_size``.

    Raises:
        UsageError: a shape that does not fit, another solver than ddim, or eta above 0.
    """
    for image in images if images.dim() == len(model.process.shape) + 1 else [images[None]]:
        _check(image, model.process.shape, "image")
    codec = make_codec(Asked(count=len(images), **options), model, refine)
    return run_all(model, codec.up, images.to("cpu", torch.float32))


def interpolate(
    model: Model, *ends: int | Tensor, frames: int | None = None, **options: Any
) -> Tensor:
    """Decode the way between two ends, or the square between four corners.

    Args:
        model: a model of images.
        *ends: each a seed, which stands for the noise of its sample 0, or a latent [C, H, W] such
            as :func:`encode` returns.
        frames: from end to end (default 11, in a square 7).
        **options: as for :func:`ddimx.sample`; defaults are eta 0 and no class.

    Returns:
        float32 [frames, C, H, W], or [frames^2, C, H, W] row by row.

    Raises:
        UsageError: a number of ends other than 2 or 4, or one of another shape.
    """
    number = check_ends(len(ends), frames)
    shape = model.process.shape
    states = [Noise(e).normal([0], shape)[0] if isinstance(e, int) else e for e in ends]
    for state in states:
        _check(state, shape, "latent")
    settings, _ = interpolation_settings(Asked(**options), model, pictures=False, refine=None)
    given = [state.to("cpu", torch.float32) for state in states]
    found = interpolation(given, number, model, settings, lambda images: images)
    return run_all(model, found.settings, found.states)


def _check(state: Tensor, shape: tuple[int, ...], what: str) -> None:
    if state.shape != shape:
        raise UsageError(f"{what} has shape {tuple(state.shape)}, expected {shape}")
    if not state.is_floating_point() or not bool(torch.isfinite(state).all()):
        raise UsageError(f"{what} must hold finite floating point numbers")


def _check_mask(mask: Tensor, model: Model) -> None:
    expected = model.process.shape[1:]
    if mask.shape != expected or mask.dtype != torch.bool:
        raise UsageError(f"mask is {mask.dtype} {tuple(mask.shape)}, expected bool {expected}")
    if bool(mask.all()) or not bool(mask.any()):
        raise UsageError("mask leaves nothing to keep or nothing to paint")
