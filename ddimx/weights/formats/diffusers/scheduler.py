"""diffusers' schedulers whose forward process is a table of betas, from and to a configuration.

A scheduler is a noise schedule and a sampler. The schedule is a fact about the weights and is taken
over, or refused by name; of the sampler what DDIM has too becomes defaults of ``ddimx sample``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ....config import Config
from ....errors import DdimxError, UsageError
from ....solvers.timesteps import BY_LEVEL
from ....untrusted.text import shown
from .settings import is_count, is_number

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
# Where a configuration keeps a spacing that diffusers does not have, beside the nearest one that it
# has. diffusers passes over names that begin with "_" without a warning, and keeps them when the
# configuration is given to another scheduler.
OWN_SPACING = "_ddimx_timestep_spacing"
_SPACINGS_HERE = ("ddim", "quad")
OF_DDIM: dict[str, Any] = {"set_alpha_to_one": True}
OF_DDPM: dict[str, Any] = {"variance_type": "fixed_small"}
# A scheduler that has no such setting never clips, and ends at clean data.
_OTHER = {**SCHEDULER_DEFAULTS, "clip_sample": False, "timestep_spacing": "linspace"}
_KARRAS = {**_OTHER, "beta_start": 0.00085, "beta_end": 0.012}
# Of each class the defaults, as far as they say something here, and the kin among our solvers.
CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "DDIMScheduler": ({**SCHEDULER_DEFAULTS, **OF_DDIM}, "ddim"),
    "DDIMParallelScheduler": ({**SCHEDULER_DEFAULTS, **OF_DDIM}, "ddim"),
    "DDIMInverseScheduler": ({**SCHEDULER_DEFAULTS, **OF_DDIM}, "ddim"),
    "DDPMScheduler": ({**SCHEDULER_DEFAULTS, **OF_DDPM}, "ddpm"),
    "DDPMParallelScheduler": ({**SCHEDULER_DEFAULTS, **OF_DDPM}, "ddpm"),
    "PNDMScheduler": (
        {**_OTHER, "timestep_spacing": "leading", "set_alpha_to_one": False},
        "ipndm:4",
    ),
    "DPMSolverMultistepScheduler": (_OTHER, "dpm++:2"),
    "DPMSolverMultistepInverseScheduler": (_OTHER, "dpm++:2"),
    "DPMSolverSinglestepScheduler": (_OTHER, "dpm++:2"),
    "DPMSolverSDEScheduler": (_KARRAS, "dpm++:2"),
    "SASolverScheduler": (_OTHER, "dpm++:2"),
    "DEISMultistepScheduler": (_OTHER, "ipndm:3"),
    "UniPCMultistepScheduler": (_OTHER, "unipc:2"),
    "EulerDiscreteScheduler": (_OTHER, "ddim"),
    "EulerAncestralDiscreteScheduler": (_OTHER, "ddpm"),
    "HeunDiscreteScheduler": (_KARRAS, "dpm++:2"),
    "KDPM2DiscreteScheduler": (_KARRAS, "dpm++:2"),
    "KDPM2AncestralDiscreteScheduler": (_KARRAS, "ddpm"),
    "LMSDiscreteScheduler": (_OTHER, "ipndm:4"),
    "RePaintScheduler": ({**_OTHER, "clip_sample": True, "timestep_spacing": "leading"}, "ddim"),
}
# Of processes without betas, with their defaults.
_FLOW: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "invert_sigmas": False,
    "stochastic_sampling": False,
}
_EDM: dict[str, Any] = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "rho": 7.0,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
CONTINUOUS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": _EDM,
}
# Of other forward processes, or of networks that are no plain denoisers.
_STRANGERS = {
    "FlowM": "it is of flow matching with rules of its own",
    "LCM": "it is of distilled networks",
    "TCD": "it is of distilled networks",
    "CMS": "it is of consistency models",
    "ScoreSde": "it is of networks that are told a continuous time",
    "KarrasVe": "it is of networks that are told sigma",
}
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


def _laplace(t: float) -> float:
    half_log_snr = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    snr = math.exp(half_log_snr)
    return math.sqrt(snr / (1 + snr))


# Schedules that only a few of its schedulers have, as alpha_bar(t) for t in [0, 1].
_ALPHA_BARS: dict[str, Callable[[float], float]] = {
    "laplace": _laplace,
    "exp": lambda t: math.exp(-12.0 * t),
}
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v_prediction": "v"}
_VARIANCES = {
    "fixed_small": "fixedsmall",
    "fixed_small_log": "fixedsmall",
    "fixed_large": "fixedlarge",
    "fixed_large_log": "fixedlarge",
    # Of what the network learned nothing is made; these are the bounds that it learned between.
    "learned": "fixedsmall",
    "learned_range": "fixedsmall",
}
_MOST_STEPS = 1_000_000  # as in a configuration


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
    if isinstance(kind, str) and kind in CONTINUOUS:
        return _read_continuous({**CONTINUOUS[kind], **settings}, label)
    if not isinstance(kind, str) or kind not in CLASSES:
        reasons = (why for start, why in _STRANGERS.items() if str(kind).startswith(start))
        reason = next(reasons, f"known are {', '.join([*CLASSES, *CONTINUOUS])}")
        raise DdimxError(f"{label}: _class_name is {shown(kind)}; {reason}")
    defaults, kin = CLASSES[kind]
    values = {**defaults, **settings}
    problems = _problems(values)
    if problems:
        lines = "\n".join(f"  {line}" for line in problems)
        raise DdimxError(f"{label}: a noise schedule that cannot be represented\n{lines}")
    steps, name = values["num_train_timesteps"], values["beta_schedule"]
    if values["trained_betas"] is not None:
        curve: dict[str, Any] = {"trained_betas": tuple(map(float, values["trained_betas"]))}
    elif name in _ALPHA_BARS:
        curve = {"trained_betas": _table(_ALPHA_BARS[name], steps)}
    else:
        curve = {
            "beta_schedule": BETAS[name],
            "beta_start": values["beta_start"],
            "beta_end": values["beta_end"],
        }
    variance = values.get("variance_type")
    return Scheduler(
        diffusion={
            "trained_betas": None,
            **curve,
            "num_diffusion_timesteps": steps,
            "prediction": PREDICTIONS[values["prediction_type"]],
            "zero_terminal_snr": bool(values["rescale_betas_zero_snr"]),
        },
        model={"var_type": _VARIANCES[variance]} if variance and kin == "ddpm" else {},
        sampling=_sampling(values),
        notes=_notes(values, kind, kin),
    )


def _read_continuous(values: Mapping[str, Any], label: str) -> Scheduler:
    """Translate the settings of a process without betas: rectified flow, or EDM's.

    Raises:
        DdimxError: settings that cannot be represented, each by name.
    """
    flow = "shift" in values
    numbers = ("shift",) if flow else ("sigma_min", "sigma_max", "sigma_data", "rho")
    problems = [
        f"{key} is {shown(values[key])}, not a number above 0"
        for key in numbers
        if not is_number(values[key]) or values[key] <= 0
    ]
    steps = values["num_train_timesteps"]
    if not is_count(steps) or not 2 <= steps <= _MOST_STEPS:
        problems.append(f"num_train_timesteps is {shown(steps)}; 2 to {_MOST_STEPS} are possible")
    constants: dict[str, Any] = {"prediction_type": "epsilon"}
    if flow:
        constants = dict.fromkeys(
            ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"), False
        )
    problems += [
        f"{key} is {shown(values[key])}; {value!r} is needed"
        for key, value in constants.items()
        if values[key] != value
    ]
    if problems:
        lines = "\n".join(f"  {line}" for line in problems)
        raise DdimxError(f"{label}: a process that cannot be represented\n{lines}")
    diffusion = {
        "prediction": "flow" if flow else "edm",
        "num_diffusion_timesteps": steps,
        # A network of a flow is told its time in 0..T.
        **({"time_scale": float(steps)} if flow else {}),
        **{key: float(values[key]) for key in numbers},
    }
    return Scheduler(diffusion, {}, {"spacing": "linspace"}, ())


def write_scheduler(config: Config, label: str) -> dict[str, Any]:
    """Return DDIMScheduler's settings, those under which it equals ``ddim`` here.

    Raises:
        UsageError: a beta schedule that DDIMScheduler does not have.
    """
    diffusion, sampling = config.diffusion, config.sampling
    if diffusion.trained_betas is None and diffusion.beta_schedule not in _BETAS_THERE:
        raise UsageError(
            f"{label}: diffusers' DDIMScheduler has no diffusion.beta_schedule "
            f"{diffusion.beta_schedule}"
        )
    their_names = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    threshold = sampling.dynamic_threshold or (None, 1.0)
    table = diffusion.trained_betas
    if diffusion.prediction not in their_names:
        raise UsageError(
            f"{label}: diffusers' DDIMScheduler has no diffusion.prediction {diffusion.prediction}"
        )
    if sampling.spacing in BY_LEVEL:
        raise UsageError(
            f"{label}: diffusers' DDIMScheduler has no sampling.spacing {sampling.spacing}"
        )
    return {
        "_class_name": "DDIMScheduler",
        **SCHEDULER_DEFAULTS,
        **OF_DDIM,
        "num_train_timesteps": diffusion.num_diffusion_timesteps,
        "beta_start": diffusion.beta_start,
        "beta_end": diffusion.beta_end,
        "beta_schedule": _BETAS_THERE.get(diffusion.beta_schedule, "linear"),
        "trained_betas": None if table is None else list(table),
        "rescale_betas_zero_snr": diffusion.zero_terminal_snr,
        "prediction_type": their_names[diffusion.prediction],
        **spacing_settings(sampling.spacing),
        "steps_offset": sampling.steps_offset,
        "set_alpha_to_one": not sampling.end_at_zero,
        "thresholding": threshold[0] is not None,
        "dynamic_thresholding_ratio": threshold[0] or 0.995,
        "sample_max_value": threshold[1],
        "clip_sample": sampling.clip is not None,
        "clip_sample_range": sampling.clip or 1.0,
    }


def spacing_of(settings: Mapping[str, Any]) -> Any:
    """Return the spacing that a scheduler's settings mean, as they are read from a file.

    Ours, unless somebody has changed the one that diffusers reads since.
    """
    spacing, own = settings.get("timestep_spacing", "leading"), settings.get(OWN_SPACING)
    return own if spacing == "leading" and own in _SPACINGS_HERE else spacing


def spacing_settings(spacing: str | None) -> dict[str, Any]:
    """Return the settings that stand for a spacing; ``None`` is diffusers' default."""
    if spacing in _SPACINGS_HERE:
        return {"timestep_spacing": "leading", OWN_SPACING: spacing}
    return {"timestep_spacing": spacing or "leading"}


def _table(alpha_bar: Callable[[float], float], steps: int) -> tuple[float, ...]:
    """Return the betas of alpha_bar(t), t in [0, 1], each at most 0.999: ``steps`` numbers."""
    values = [alpha_bar(i / steps) for i in range(steps + 1)]
    return tuple(min(1 - values[i + 1] / values[i], 0.999) for i in range(steps))


def _problems(values: Mapping[str, Any]) -> list[str]:
    problems = []
    steps, betas = values["num_train_timesteps"], values["trained_betas"]
    if not is_count(steps) or steps > _MOST_STEPS:
        problems.append(f"num_train_timesteps is {shown(steps)}; 1 to {_MOST_STEPS} are possible")
    if betas is not None and not (isinstance(betas, list) and all(map(is_number, betas))):
        problems.append(f"trained_betas is {shown(betas)}; a list of numbers is needed")
    elif betas is not None and len(betas) != steps:
        problems.append(f"trained_betas has {len(betas)} numbers, for {shown(steps)} timesteps")
    for key in ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"):
        if not is_number(values[key]):
            problems.append(f"{key} is {shown(values[key])}, not a number")
    offset = values["steps_offset"]
    if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
        problems.append(f"steps_offset is {shown(offset)}; a whole number from 0 on is needed")
    if values.get("use_flow_sigmas"):
        problems.append("use_flow_sigmas is True: the model is one of flow matching")
    tables: dict[str, Any] = {"prediction_type": PREDICTIONS}
    if betas is None:
        tables["beta_schedule"] = {**BETAS, **_ALPHA_BARS}
    if values.get("variance_type") is not None:
        tables["variance_type"] = _VARIANCES
    return problems + [
        f"{key} is {shown(values[key])}; known are {', '.join(table)}"
        for key, table in tables.items()
        if values[key] not in list(table)
    ]


def _sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of ``ddimx sample`` under which it does what DDIMPipeline does."""
    sampling: dict[str, Any] = {"spacing": spacing_of(values)}
    if values["thresholding"]:
        ratio, most = values["dynamic_thresholding_ratio"], values["sample_max_value"]
        sampling["dynamic_threshold"] = [float(ratio), float(most)]
    elif values["clip_sample"]:
        sampling["clip"] = float(values["clip_sample_range"])
    if values["steps_offset"]:
        sampling["steps_offset"] = values["steps_offset"]
    if not values.get("set_alpha_to_one", True):
        sampling["end_at_zero"] = True
    return sampling


def _notes(values: Mapping[str, Any], kind: str, kin: str) -> tuple[str, ...]:
    """What the scheduler asks of sampling beyond the paper, and what of it is not taken over."""
    notes = []
    if kin not in ("ddim", "ddpm") or kind.startswith("Euler"):
        like = "" if kin == "ddim" else f"; --solver {kin} is nearest to it"
        notes.append(
            f"the model's scheduler is {kind}, of which the noise schedule is taken over and not "
            f"the solver: by default ddim samples{like}"
        )
    if values["thresholding"]:
        notes.append(
            "the model's scheduler thresholds x0 (thresholding=True, share "
            f"{values['dynamic_thresholding_ratio']:g}, at most {values['sample_max_value']:g}); "
            "--clip none samples as the paper does"
        )
    elif values["clip_sample"]:
        notes.append(
            f"the model's scheduler clips x0 to {float(values['clip_sample_range']):g} "
            "(clip_sample=True); --clip none samples as the paper does"
        )
    if values["steps_offset"] and spacing_of(values) == "leading":
        notes.append(
            f"the model's scheduler moves timesteps by {values['steps_offset']} (steps_offset); "
            "--spacing ddim begins at 0"
        )
    if not values.get("set_alpha_to_one", True):
        notes.append(
            "with ddim the last step ends at time 0, not at clean data, as the model's scheduler "
            "has it (set_alpha_to_one=False)"
        )
    return tuple(notes)
