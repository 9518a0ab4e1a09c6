"""Sampling settings as editing verbs resolve them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import UsageError
from ..options import Options
from ..sampling.settings import Settings, resolve
from ..weights.model import Model, refuse_latents


def resolve_editing(options: Options, model: Model) -> Settings:
    """Resolve options as sampling does, but with no class unless one is named.

    A mix of classes is what samples should show; a picture to be edited is of one kind, and the
    model knows it from the pixels. Without a class there is nothing to guide towards, so that
    guidance is then 1 unless the options set it.

    Raises:
        UsageError: as :func:`ddimx.sampling.settings.resolve`.
    """
    refuse_latents(model, "editing and encoding")
    if options.category is not None and not isinstance(options.category, str):
        raise UsageError("category must be one name here, for all pictures and variants")
    if model.classes and options.category is None:
        if not model.config.model.null_class:
            classes = ", ".join(model.classes[:4]) + (", ..." if len(model.classes) > 4 else "")
            raise UsageError(
                f"model '{model.name}' was never trained without a class: give --category, one of "
                f"{classes}"
            )
        options = replace(options, category="none")
    if options.category == "none" and options.guidance is None:
        options = replace(options, guidance=1.0)
    return resolve(options, model)


def shortened(options: Options, model: Model, strength: float) -> Settings:
    """Resolve options and keep the last ``strength`` of the steps, at least one.

    Raises:
        UsageError: a strength outside (0, 1].
    """
    if not 0 < strength <= 1:
        raise UsageError(
            f"strength must lie in (0, 1], got {strength:g}; 0 would return the image as it is"
        )
    if options.solver == "auto" or options.plan is not None:
        raise UsageError("strength walks a part of the plan; name a solver, no plan and not auto")
    settings = resolve_editing(options, model)
    times = np.unique(settings.image_plan.t_from)
    count = max(1, round(strength * len(times)))
    if count == len(times):
        return settings
    shorter = replace(options, timesteps=times[:count].tolist(), steps=None, nfe=None, spacing=None)
    return replace(resolve_editing(shorter, model), notes=settings.notes)
