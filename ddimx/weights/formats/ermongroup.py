"""Which models ermongroup/ddim's own code can run."""

from __future__ import annotations

from ...config import Config
from .diffusers.settings import refuse

_BETAS = ("linear", "quad", "const", "jsd", "sigmoid")
_GROUPS = 32


def check_ddim(config: Config, label: str) -> None:
    """Refuse what the original does not have, each setting by name.

    Raises:
        UsageError: such settings.
    """
    model, diffusion = config.model, config.diffusion
    refuse(
        label,
        {
            "model.name": model.name != "unet",
            "model.classes": bool(model.classes),
            "model.patch_size": model.patch_size != 1,
            "model.norm_groups": model.norm_groups != _GROUPS,
            "diffusion.prediction": diffusion.prediction != "epsilon",
            "diffusion.beta_schedule": diffusion.beta_schedule not in _BETAS,
        },
        config,
        "ermongroup/ddim",
    )
