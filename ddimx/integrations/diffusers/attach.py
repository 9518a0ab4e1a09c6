"""Setting our scheduler in a pipeline that has been made already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import UsageError
from ...weights.formats.diffusers.scheduler import BETAS, CLASSES, PREDICTIONS
from .scheduler import DDIMScheduler

_BETAS = BETAS.keys() - {"sigmoid"}  # which the constructor of DDIMScheduler does not have


def attach(
    pipe: Any, *, seed: int | None = None, samples: Sequence[int] | None = None, **changes: Any
) -> DDIMScheduler:
    """Replace a pipeline's scheduler by ours with the same settings, and return it.

    Afterwards, for a pipeline's constructor may put a scheduler of diffusers' own in the place of
    the one that it is given (DDIMPipeline does), or change its settings (Stable Diffusion's does).

    A setting that the old scheduler has from its class's defaults counts as much as one that was
    given to it, unlike in diffusers' ``from_config``: HeunDiscreteScheduler's betas and clip are
    not DDIM's. For a setting that it does not have stands what it does: it clips nothing.

    Args:
        pipe: any diffusers pipeline whose scheduler is of the DDPM kind.
        seed, samples: as :meth:`DDIMScheduler.use_seed`.
        changes: settings to change, ``timestep_spacing="trailing"`` for instance.

    Raises:
        UsageError: no scheduler, one whose model DDIM cannot sample, or an unknown setting.
    """
    theirs = getattr(pipe, "scheduler", None)
    if theirs is None:
        raise UsageError(f"{type(pipe).__name__} has no scheduler")
    kind = type(theirs).__name__
    if kind not in CLASSES:
        raise UsageError(f"{kind} belongs to a model that DDIM cannot sample")
    # diffusers keeps the names of the settings that nobody gave, and from_config drops them.
    own = {key: value for key, value in theirs.config.items() if key != "_use_default_values"}
    settings = {**CLASSES[kind][0], **own}
    _check(kind, settings, changes)
    ours: DDIMScheduler = DDIMScheduler.from_config(settings, **changes)
    ours.use_seed(seed, samples)
    pipe.scheduler = ours
    return ours


def _check(kind: str, settings: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Raise UsageError unless DDIM can sample the model of a scheduler of this class."""
    strange = changes.keys() - DDIMScheduler().config.keys()
    if strange:
        raise UsageError(f"DDIMScheduler has no setting {', '.join(sorted(strange))}")
    beta_schedule, prediction = (
        changes.get(key, settings.get(key)) for key in ("beta_schedule", "prediction_type")
    )
    if settings.get("use_flow_sigmas") or prediction == "flow_prediction":
        raise UsageError(f"{kind} is set for flow matching, which DDIM cannot sample")
    if beta_schedule not in _BETAS and settings.get("trained_betas") is None:
        raise UsageError(f"beta_schedule {beta_schedule!r} is not known to DDIM")
    if prediction not in PREDICTIONS:
        raise UsageError(f"prediction_type {prediction!r} is not known to DDIM")
    if str(settings.get("variance_type", "")).startswith("learned"):
        raise UsageError("the model also predicts its variance, which DDIM does not use")
