"""Which models ermongroup/ddim's own code can run."""

from __future__ import annotations

from ...config import Config, ModelConfig
from ...models.unet import NOT_ORIGINAL
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
            "model.ch_mult": any(width % model.ch for width in model.widths),
            "data.image_size": not isinstance(config.data.image_size, int),
            **{
                f"model.{key}": getattr(model, key) != ModelConfig.model_fields[key].default
                for key in NOT_ORIGINAL
            },
            "diffusion.prediction": diffusion.prediction != "epsilon",
            "diffusion.beta_schedule": diffusion.beta_schedule not in _BETAS,
        },
        config,
        "ermongroup/ddim",
    )
