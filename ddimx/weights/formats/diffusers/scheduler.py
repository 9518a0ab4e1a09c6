"""diffusers' DDIMScheduler and DDPMScheduler settings, from and to a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ....config import Config
from ....errors import DdimxError, UsageError
from ....untrusted.text import shown

# The parameters of DDIMScheduler and DDPMScheduler and their defaults (diffusers 0.42.1).
SCHEDULER_DEFAULTS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "clip_sample": True,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "clip_sample_range": 1.0,
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
OF_DDIM: dict[str, Any] = {"set_alpha_to_one": True}
OF_DDPM: dict[str, Any] = {"variance_type": "fixed_small"}
_CLASSES = ("DDIMScheduler", "DDPMScheduler")
BETAS = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "sigmoid": "sigmoid",
}
# DDIMScheduler, which DDIMPipeline makes of any scheduler, has no sigmoid.
_BETAS_THERE = {
    "linear": "linear",
    "quad": "scaled_linear",
    "scaled-linear": "scaled_linear",
    "scaled_linear": "scaled_linear",
    "cosine": "squaredcos_cap_v2",
}
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "fixedsmall",
    "fixed_small_log": "fixedsmall",
    "fixed_large": "fixedlarge",
    "fixed_large_log": "fixedlarge",
}


@dataclass(frozen=True)
class Scheduler:
    """What a scheduler says: facts (``diffusion``, ``model``) and sampling defaults."""

    diffusion: dict[str, Any]
    model: dict[str, Any]
    sampling: dict[str, Any]
    notes: tuple[str, ...]


def read_scheduler(settings: Mapping[str, Any], label: str) -> Scheduler:
    """Translate a scheduler's settings.

    Raises:
        DdimxError: settings of the forward process that cannot be represented, each by name.
    """
    kind = settings.get("_class_name")
    if kind not in _CLASSES:
        raise DdimxError(
            f"{label}: _class_name is {shown(kind)}; known are {' and '.join(_CLASSES)}"
        )
    own = OF_DDIM if kind == "DDIMScheduler" else OF_DDPM
    values = {**SCHEDULER_DEFAULTS, **own, **settings}
    problems = _problems(values)
    if problems:
        lines = "\n".join(f"  {line}" for line in problems)
        raise DdimxError(f"{label}: a noise schedule that cannot be represented\n{lines}")
    variance = values.get("variance_type")
    return Scheduler(
        diffusion={
            "beta_schedule": BETAS[values["beta_schedule"]],
            "beta_start": values["beta_start"],
            "beta_end": values["beta_end"],
            "num_diffusion_timesteps": values["num_train_timesteps"],
            "prediction": PREDICTIONS[values["prediction_type"]],
        },
        model={"var_type": _VARIANCES[variance]} if variance else {},
        sampling=_sampling(values),
        notes=_notes(values),
    )


def write_scheduler(config: Config, label: str) -> dict[str, Any]:
    """Return DDIMScheduler's settings, those under which it equals ``ddim`` here.

    Raises:
        UsageError: a beta schedule that DDIMScheduler does not have.
    """
    diffusion, sampling = config.diffusion, config.sampling
    if diffusion.beta_schedule not in _BETAS_THERE:
        raise UsageError(
            f"{label}: diffusers' DDIMScheduler has no diffusion.beta_schedule "
            f"{diffusion.beta_schedule}"
        )
    their_names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if diffusion.prediction not in their_names:
        raise UsageError(
            f"{label}: diffusers' DDIMScheduler has no diffusion.prediction {diffusion.prediction}"
        )
    spacing = sampling.spacing if sampling.spacing in ("linspace", "trailing") else "leading"
    return {
        "_class_name": "DDIMScheduler",
        **SCHEDULER_DEFAULTS,
        **OF_DDIM,
        "num_train_timesteps": diffusion.num_diffusion_timesteps,
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "beta_schedule": _BETAS_THERE[diffusion.beta_schedule],
        "prediction_type": their_names[diffusion.prediction],
        "timestep_spacing": spacing,
        "clip_sample": sampling.clip is not None,
        "clip_sample_range": sampling.clip or 1.0,
    }


def _problems(values: Mapping[str, Any]) -> list[str]:
    problems = []
    if values["trained_betas"] is not None:
        problems.append("trained_betas are given; a named beta_schedule is needed")
    if values["rescale_betas_zero_snr"]:
        problems.append("rescale_betas_zero_snr is True; the schedule cannot be rescaled")
    if not isinstance(values["clip_sample_range"], int | float):
        problems.append(f"clip_sample_range is {shown(values['clip_sample_range'])}, not a number")
    tables = {"beta_schedule": BETAS, "prediction_type": PREDICTIONS}
    if "variance_type" in values:
        tables["variance_type"] = _VARIANCES
    return problems + [
        f"{key} is {shown(values[key])}; known are {', '.join(table)}"
        for key, table in tables.items()
        if values[key] not in list(table)
    ]


def _sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of ``ddimx sample`` under which it does what DDIMPipeline does."""
    clips = values["clip_sample"] and not values["thresholding"]
    return {
        "spacing": values["timestep_spacing"],
        **({"clip": float(values["clip_sample_range"])} if clips else {}),
    }


def _notes(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What the scheduler asks of sampling beyond the paper, and what of it is not taken over."""
    notes = []
    if values["thresholding"]:
        notes.append("the model's scheduler has thresholding=True, which is not taken over")
    elif values["clip_sample"]:
        notes.append(
            f"the model's scheduler clips x0 to {float(values['clip_sample_range']):g} "
            "(clip_sample=True); --clip none samples as the paper does"
        )
    if values["steps_offset"]:
        notes.append(
            f"the model's scheduler has steps_offset={shown(values['steps_offset'])}, which is not "
            "taken over: timesteps begin at 0"
        )
    if not values.get("set_alpha_to_one", True):
        notes.append(
            "the model's scheduler has set_alpha_to_one=False, which is not taken over: the last "
            "step ends at clean data"
        )
    return tuple(notes)
