"""``ddimx.inpaint``, ``ddimx.encode`` and ``ddimx.interpolate``: the verbs as functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..data.images.picture import picture_array
from ..errors import UsageError
from ..noise import Noise
from ..option_values import check_number
from ..options import Options
from ..sampling.batch import checked_state, finish_all
from ..sampling.settings import SampleOptions
from ..weights.model import Model, load_model
from .encode import make_codec, run_all
from .inpaint import VARIANTS, Edit, inpaint_inputs, inpaint_settings
from .interpolate import check_ends, interpolation_settings
from .interpolate import interpolate as interpolation
from .masks import black_or_white
from .pictures import Picture, as_states, fitted, picture_of, read_picture

if TYPE_CHECKING:
    from typing_extensions import Unpack

ImageLike = Tensor | npt.NDArray[Any] | Image.Image | str | Path


def inpaint(
    model: Model | str | Path,
    image: ImageLike,
    mask: Tensor | npt.NDArray[Any] | Image.Image | None = None,
    *,
    count: int = VARIANTS,
    jump: int | None = None,
    resample: int | None = None,
    strength: float | None = None,
    resize: bool = False,
    **options: Unpack[SampleOptions],
) -> Tensor:
    """Paint part of an image anew, or change all of it; return variants float32 [count, C, H, W].

    Args:
        model: a model of images, or what :func:`ddimx.load_model` takes.
        image: a PIL image, a file's path, or uint8 [H, W] or [H, W, C] pixels; or floating point
            [C, H, W] in the network's range ([-1, 1] for the shipped model).
        mask: true, or white, where to paint: bool [H, W], a PIL image or uint8 [H, W]; elsewhere
            the variants equal the image exactly. Without mask and strength, what is transparent
            in the image is painted.
        count: how many variants; variant i does not depend on it.
        jump, resample: RePaint's jump in steps and passes over it; ``resample`` = 1 is plain
            replacement of the known pixels.
        strength: start from the image, noised (SDEdit), in (0, 1]; required without a mask.
        resize: cut pixels to the model's proportions and scale them.
        **options: ``steps``, ``eta``, ``solver``, ``spacing``, ``category``, ``guidance``,
            ``seed``, ``start_index``, ``batch_size`` and so on, as for :func:`ddimx.sample`; the
            default is to use no class.

    Raises:
        UsageError: shapes that do not fit, a mask that is all true or all false, neither mask nor
            strength, or an option unknown or out of range.
    """
    request = Options.of({**options, "count": count})
    model = _image_model(model, "ddimx.inpaint")
    state, picture = _read(image, model, resize)
    if mask is None and strength is None:
        if picture is None or picture.alpha is None:
            raise UsageError(
                "give a mask of what to paint, or a strength to change all of the image"
            )
        mask = 255 - picture.alpha
    paint = None if mask is None else _mask(mask, model, resize)[None]
    check_number("jump", jump, whole=True)
    check_number("resample", resample, whole=True)
    check_number("strength", strength, whole=False)
    edit = Edit(jump, resample, strength)
    settings = inpaint_settings(request, model, edit, images=1, masked=paint is not None)
    inputs = inpaint_inputs(settings, model, state[None], paint, edit)
    return torch.stack(finish_all(model, settings, settings.indices, inputs=inputs))


def encode(
    model: Model | str | Path,
    images: ImageLike | Sequence[ImageLike],
    *,
    refine: int | None = None,
    resize: bool = False,
    **options: Unpack[SampleOptions],
) -> Tensor:
    """Return the latents that DDIM without noise decodes to these images, float32 [N, C, H, W].

    ``ddimx.sample(model, start=latents, count=N, eta=0, guidance=1, category="none", ...)`` with
    the same steps decodes them.

    Args:
        model: a model of images, or what :func:`ddimx.load_model` takes.
        images: one image or several, each as :func:`inpaint` takes it; several may be one array,
            floating point [N, C, H, W] or uint8 [N, H, W, C].
        refine: corrections of every step (default 2), see
            :func:`ddimx.solvers.inversion.ddim_inversion`.
        resize: as for :func:`inpaint`.
        **options: ``steps``, ``spacing``, ``category``, ``guidance`` (default 1), ``batch_size``.

    Raises:
        UsageError: a shape that does not fit, another solver than ddim, or eta above 0.
    """
    _refuse(options, ("count", "seed", "start_index", "clip"), "ddimx.encode")
    check_number("refine", refine, whole=True)
    model = _image_model(model, "ddimx.encode")
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    each: Any = images if several else [images]
    if not len(each):
        raise UsageError("give at least one image to encode")
    codec = make_codec(Options.of({**options, "count": len(each)}), model, refine)
    return run_all(model, codec.up, torch.stack([_read(image, model, resize)[0] for image in each]))


def interpolate(
    model: Model | str | Path,
    *ends: int | Tensor | npt.NDArray[np.floating[Any]],
    frames: int | None = None,
    **options: Unpack[SampleOptions],
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
    _refuse(options, ("count", "start_index"), "ddimx.interpolate")
    check_number("frames", frames, whole=True)
    model = _image_model(model, "ddimx.interpolate")
    number = check_ends(len(ends), frames)
    shape = model.process.shape
    latents = [
        Noise(int(end)).normal([0], shape)[0]
        if isinstance(end, Integral) and not isinstance(end, bool)
        else checked_state(end, shape, "latent")
        for end in ends
    ]
    settings, _ = interpolation_settings(Options.of(options), model, pictures=False, refine=None)
    frames_of = interpolation(latents, number, model, settings, lambda images: images)
    return run_all(model, frames_of.settings, frames_of.states)


def _image_model(model: Model | str | Path, function: str) -> Model:
    """Return the model, loaded if it is named.

    Raises:
        UsageError: it draws something else than images.
    """
    loaded = model if isinstance(model, Model) else load_model(model)
    if loaded.process.draws != "images":
        draws = loaded.process.draws
        raise UsageError(f"{function} needs a model of images, and '{loaded.name}' draws {draws}")
    return loaded


def _refuse(options: Mapping[str, Any], names: Sequence[str], function: str) -> None:
    """Raise UsageError for options that would change nothing."""
    for name in names:
        if options.get(name) is not None:
            raise UsageError(f"{function} has no option '{name}'")


def _read(image: ImageLike, model: Model, resize: bool) -> tuple[Tensor, Picture | None]:
    """Return an image in the network's range, float32 [C, H, W], and as pixels if it was such."""
    if isinstance(image, np.ndarray) and image.dtype != np.uint8:
        image = torch.tensor(image)
    if isinstance(image, Tensor):
        return checked_state(image, model.process.shape, "image"), None
    if isinstance(image, str | Path):
        picture = read_picture(Path(image), model, resize=resize)
    else:
        image_file = image if isinstance(image, Image.Image) else _from_pixels(image)
        try:
            picture = picture_of(image_file, model, name="image", what="the image", resize=resize)
        except ValueError as error:
            raise UsageError(f"the image cannot be read: it {error}") from None
    return as_states([picture], model)[0], picture


def _from_pixels(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Return uint8 pixels [H, W] or [H, W, C] as an image."""
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4)):
        raise UsageError(f"pixels have shape {pixels.shape}, expected [H, W] or [H, W, 1, 3 or 4]")
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _mask(mask: Tensor | npt.NDArray[Any] | Image.Image, model: Model, resize: bool) -> Tensor:
    """Return a mask as bool [H, W], true where to paint; of gray values, from 128 on."""
    expected = model.process.shape[1:]
    if isinstance(mask, Image.Image) or (isinstance(mask, np.ndarray) and mask.dtype == np.uint8):
        image = mask if isinstance(mask, Image.Image) else _from_pixels(mask)
        try:
            opaque = image.convert("RGB") if image.has_transparency_data else image
            levels = picture_array(opaque, 1)[..., 0]
        except ValueError as error:
            raise UsageError(f"the mask cannot be read: it {error}") from None
        if resize:
            size = (expected[1], expected[0])
            levels = np.asarray(fitted(Image.fromarray(levels), size, Image.Resampling.NEAREST))
        if levels.max(initial=0) == 1:
            raise UsageError(
                "this mask has levels 0 and 1; uint8 masks have 0 and 255, or use bool"
            )
        mask = black_or_white(levels)[0]
    paint = torch.as_tensor(mask).cpu()
    if paint.shape != expected or paint.dtype != torch.bool:
        raise UsageError(f"mask is {paint.dtype} {tuple(paint.shape)}, expected bool {expected}")
    if bool(paint.all()) or not bool(paint.any()):
        raise UsageError("mask leaves nothing to keep or nothing to paint")
    return paint
