"""Weights of networks that are not ermongroup/ddim's: which file of which program they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ...errors import DdimxError
from ..tensors import check_plain
from ..weight_set import WeightSet
from .contents import Part
from .edm import OF_TRAINING, read_edm
from .guided import read_guided
from .lucidrains import BUFFERS, read_lucidrains


def of_other_network(weights: WeightSet, part: Part, tensors: Mapping[str, Tensor]) -> WeightSet:
    """Return weights with the facts about their network.

    Args:
        weights: as read; their tensors bear the network's own names.
        part: where in the file they are.
        tensors: all of the file's, for what lies beside the network.

    Raises:
        DdimxError: a network that cannot be represented.
    """
    label = str(weights.file)
    if part.network.name == "guided":
        facts = read_guided(weights.tensors, label)
    elif part.network.name == "lucidrains":
        parent = part.prefix.removesuffix("model.")
        buffers = {name: tensors[parent + name] for name in BUFFERS if parent + name in tensors}
        check_plain(buffers, label)
        facts = read_lucidrains(weights.tensors, buffers, label)
        # A process of theirs has its network under "model", and the Trainer all that under "model".
        if "betas" not in buffers and part.prefix.endswith(("model.model.", "ema_model.model.")):
            raise DdimxError(
                f"{label}: a checkpoint of denoising-diffusion-pytorch whose process has no betas: "
                "this is its ContinuousTimeGaussianDiffusion or another in continuous time, whose "
                "network is given the noise's logarithmic SNR; known are GaussianDiffusion and "
                "ElucidatedDiffusion"
            )
    else:
        facts = read_edm(weights.tensors, label)
        own = {n: value for n, value in weights.tensors.items() if n not in OF_TRAINING}
        weights = replace(weights, tensors=own)
    return replace(weights, facts=facts, form=facts.form)
