"""Whose checkpoint a file is, by the names of its tensors; what is refused, and the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...untrusted.text import shortened, shown


@dataclass(frozen=True)
class Network:
    """A network that can be read, known by two tensors that no other one has together."""

    name: str
    anchors: tuple[str, str]


NETWORKS = (
    Network("unet", ("conv_in.weight", "temb.dense.0.weight")),
    Network("guided", ("input_blocks.0.0.weight", "time_embed.0.weight")),
    Network("lucidrains", ("init_conv.weight", "time_mlp.1.weight")),
    Network("edm", ("map_layer0.weight", "map_layer1.weight")),
)

# What a file's own names may lie under, whoever wrote it.
_WRAPPED = r"(?:(?:state_dict|model_state_dict|module|_orig_mod)\.)*"
# A pattern that some name has to match from its start, or after a wrapper's, and what is said. The
# first one counts.
_REFUSED: tuple[tuple[str, str], ...] = (
    (
        r".*(\.lora_(A|B|up|down)\.|_lora\.(up|down)\.|\.lora\.(up|down)\.)|lora_(unet|te)",
        "a LoRA file, which changes another model's weights and is none by itself",
    ),
    (
        r"control_model\.|.*controlnet_cond_embedding\.|.*input_hint_block\.",
        "a ControlNet, which steers another model",
    ),
    (
        r"(cond_stage_model|conditioner)\.",
        "a Stable Diffusion checkpoint, whose network sees latents and a text; open it with "
        "diffusers' StableDiffusionPipeline.from_single_file and save_pretrained, and draw from "
        "that folder with --prompt",
    ),
    (
        r"(model\.diffusion_model|first_stage_model)\.|model_ema\.diffusion_model",
        "a checkpoint of latent diffusion (CompVis), whose network sees latents; convert it with "
        "diffusers' scripts/convert_ldm_original_checkpoint_to_diffusers.py",
    ),
    (
        r"(.*\.)?(x_embedder\.proj|blocks\.0\.adaLN_modulation\.1)\.",
        "a DiT or SiT checkpoint, a transformer over latents",
    ),
    (r"(.*\.)?all_modules\.[0-9]+\.", "a checkpoint of score_sde (NCSN++, DDPM++)"),
    (
        r"(.*\.)?(inner_model\.)?(u_net\.d_blocks|mapping\.[0-9]|timestep_embed)\.",
        "a checkpoint of k-diffusion or v-diffusion",
    ),
    (
        r"(.*\.)?classes_mlp\.[0-9]\.|(.*\.)?null_classes_emb$",
        "a checkpoint of denoising-diffusion-pytorch's classifier_free_guidance, whose network has "
        "classes; the one of its main module is read",
    ),
    (
        r"(.*\.)?to_time_emb\.[0-9]\.",
        "a KarrasUnet of denoising-diffusion-pytorch (EDM2's network)",
    ),
    (r"(.*\.)?(double_blocks|joint_blocks)\.0\.", "a Flux or Stable Diffusion 3 transformer"),
    (
        r"(.*\.)?decoder\.up\.0\.block\.0\.",
        "an autoencoder (VAE or VQ model), which turns latents into pictures",
    ),
)

# What a restricted unpickler names, and what is said of it.
_PICKLED: tuple[tuple[str, str], ...] = (
    (
        r"torch_utils.persistence|torch_utils\.|_reconstruct_persistent_obj|GLOBAL dnnlib",
        "the source code of a network of NVIDIA's EDM or StyleGAN. In a checkout of that project "
        "write the tensors alone: torch.save(pickle.load(open(FILE, 'rb'))['ema'].state_dict(), "
        "NEW)",
    ),
    (
        r"GLOBAL (jax|flax|numpy|tensorflow)",
        "arrays of another library (JAX or NumPy); write them as tensors: torch.save({name: "
        "torch.from_numpy(array)}, NEW)",
    ),
    (
        r"GLOBAL (pytorch_lightning|lightning|omegaconf|hydra|argparse|easydict|ml_collections)",
        "settings of the program that wrote it. There, write the weights alone: "
        "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)",
    ),
)


def refused_family(names: Iterable[str], keys: Iterable[str] = ()) -> str | None:
    """Return what a file is that cannot be read as a model, in words, or None.

    ``names`` are those of its tensors, ``keys`` those of its outermost mapping.
    """
    listed = list(names)
    for pattern, words in _REFUSED:
        compiled = re.compile(f"{_WRAPPED}(?:{pattern})")
        if any(compiled.match(name) for name in listed):
            return words
    if {"state", "param_groups"} <= {*keys}:
        return "the state of an optimizer, which holds no weights"
    return None


def consistency_model(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether a UNet in guided-diffusion's names is that of OpenAI's consistency models.

    Their attention has convolutions over two dimensions, guided-diffusion's over one.
    """
    return any(
        re.fullmatch(r".*\.[0-9]+\.qkv\.weight", name) and value.dim() == 4
        for name, value in tensors.items()
    )


def pickled_object(reason: str, start: str = "") -> str:
    """Return what a file holds besides tensors, in words.

    ``reason`` is what the restricted unpickler said; ``start`` the first bytes of a plain pickle,
    in which names stand as text.
    """
    for pattern, words in _PICKLED:
        if re.search(pattern, f"{reason} {start}"):
            return words
    forbidden = re.search(r"unsupported GLOBAL ([A-Za-z_][\w.]*)", reason)
    if forbidden is not None:
        return (
            f"a call of {shortened(forbidden[1])}, which was not made: no file of weights needs "
            "it, so do not trust where it comes from"
        )
    whole = re.search(r"GLOBAL ([A-Za-z_][\w.]*) was not an allowed", reason)
    if whole is None:
        return shortened(reason) or "nothing that can be read: damaged, or of a later format"
    return (
        f"an object of the class {shortened(whole[1])}, so a whole module or more was saved. Where "
        "it was made, write the weights alone: torch.save(model.state_dict(), NEW)"
    )


def unknown_network(names: Iterable[str]) -> str:
    """Return whose tensors these may be, in words; no network that is read has their names."""
    listed = sorted(names)
    if any(re.match(r"(.*\.)?down_blocks\.[0-9]", name) for name in listed):
        return (
            "its names are diffusers': write the network with save_pretrained and give that folder"
        )
    some = ", ".join(map(shortened, listed[:3]))
    return f"its tensors begin {some}, which no network that is known has"


def outline(content: Any) -> str:
    """Return what a file holds, in a few words."""
    if isinstance(content, Mapping):
        if not content:
            return "holds an empty dict"
        names = ", ".join(
            shortened(key) if isinstance(key, str) else shown(key) for key in list(content)[:4]
        )
        return f"holds a dict with {names}"
    if isinstance(content, list | tuple):
        kinds = ", ".join(type(part).__name__ for part in list(content)[:5])
        return f"holds a {type(content).__name__} of {kinds}"
    return f"holds a {type(content).__name__}"
