"""Setting our scheduler in a pipeline that has been made already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ...weights.formats.diffusers.scheduler import BETAS
from .scheduler import DDIMScheduler

_BETAS = BETAS.keys() - {"sigmoid"}  # which the constructor of DDIMScheduler does not have


def attach(
    pipe: Any, *, seed: int | None = None, samples: Sequence[int] | None = None, **changes: Any
) -> DDIMScheduler:
    """Replace a pipeline's scheduler by ours with the same settings, and return it.

    Afterwards, for a pipeline's constructor may put a scheduler of diffusers' own in the place of
    the one that it is given (DDIMPipeline does), or change its settings (Stable Diffusion's does).

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
    _check(type(theirs).__name__, theirs.config, changes)
    # Schedulers without this setting never clip, while DDIM's default would spoil their latents.
    unsaid = {} if "clip_sample" in theirs.config else {"clip_sample": False}
    ours: DDIMScheduler = DDIMScheduler.from_config(theirs.config, **{**unsaid, **changes})
    ours.use_seed(seed, samples)
    pipe.scheduler = ours
    # What save_pretrained writes: a pipeline that everyone can load, with or without ddimx.
    pipe.register_to_config(scheduler=("diffusers", "DDIMScheduler"))
    return ours


def _check(kind: str, config: Any, changes: dict[str, Any]) -> None:
    if kind not in (*DDIMScheduler._compatibles, "DDIMScheduler"):
        raise UsageError(f"{kind} belongs to a model that DDIM cannot sample")
    strange = [key for key in changes if key not in DDIMScheduler().config]
    if strange:
        raise UsageError(f"DDIMScheduler has no setting {', '.join(strange)}")
    if config.get("beta_schedule") not in _BETAS and config.get("trained_betas") is None:
        raise UsageError(f"beta_schedule {config.get('beta_schedule')!r} is not known to DDIM")
    if str(config.get("variance_type", "")).startswith("learned"):
        raise UsageError("the model also predicts its variance, which DDIM does not use")
