"""A model ready to sample from, found by name or path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..config import OCTREE_MODELS, Config
from ..config_file import load_config
from ..device import Precision, choose_device, choose_precision, forbid_tf32, without_memory
from ..errors import DdimxError, UsageError
from ..files import sha256_files
from ..models.factory import build
from ..models.gaussian import GaussianProcess
from ..models.latent import LatentProcess
from ..models.process import Process
from ..progress import Progress
from ..untrusted.text import shown
from .architecture import check_counts, from_config
from .formats.diffusers.decoder import Decoder
from .locate.source import SUFFIX, Source, read_source
from .tensors import check_shapes, load_into
from .weight_set import SetName, WeightSet, Which


@dataclass(frozen=True, eq=False)
class Model:
    """A network with its process, and where both came from.

    Attributes:
        sha256: of the file that holds the tensors.
        weights: which of two sets was taken, or "unstated" if the file does not say.
        form: the file's format, "ddimx model" for instance.
        info: how it was trained, as far as the file says.
        notes: what of the configuration was inferred or not taken over.
        which_is_noted: whether one of them says which set of weights was taken.
        engines: what :mod:`ddimx.sampling.engine` keeps from call to call: graphs, compiled code.
    """

    network: nn.Module
    process: Process
    config: Config
    name: str
    sha256: str
    weights: SetName
    form: str
    info: dict[str, Any]
    notes: tuple[str, ...]
    device: torch.device
    precision: Precision
    which_is_noted: bool = False
    engines: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        """Return what the model is, in three lines."""
        draws, shape = self.process.draws, "x".join(map(str, self.process.shape))
        classes = ", ".join(self.classes[:4]) + (", ..." if len(self.classes) > 4 else "")
        count = sum(p.numel() for p in self.network.parameters())
        return (
            f"Model '{self.name}': {draws} {shape}".rstrip()
            + (f", {len(self.classes)} classes ({classes})" if classes else ", no classes")
            + f"\n  {type(self.network).__name__}, {count / 1e6:.1f} M parameters, "
            f"{self.weights} weights, {self.form}, sha256 {self.sha256[:12]}"
            f"\n  on {self.device} in {self.precision.name} ({self.precision.reason})"
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.config.model.classes


def load_model(
    name: str | Path = "emoji",
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: Which | None = None,
    config: str | Path | None = None,
    offline: bool = False,
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Model:
    """Load a model for sampling.

    Args:
        name: a shipped or published model, a file or folder of any format that
            :func:`ddimx.weights.locate.source.read_any` knows, or an id of the Hugging Face hub.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        dtype: "auto" (bf16 where it is fast; for a token network from outside the package fp32),
            "fp32", "bf16" or "fp16". With "fp32", TF32 is off.
        weights: where there are several sets, the averaged ("ema", the default), those of a second
            average ("ema2") or the last ("raw").
        config: a configuration's name or file, for weights that come without one.
        offline: refuse to download.
        trust_code: import the network's class where a file names it as ``package.module:Class``;
            to import is to run that module. Without it such a file is refused. Classes that an
            installed package registers need no trust.
        progress: where to show a download; by default on stderr.

    Raises:
        UsageError: an unknown model, device or dtype, a configuration that does not fit, or a class
            that is not trusted.
        DdimxError: a file that is damaged or cannot be represented, a download that failed.
    """
    config_tree = None if config is None else load_config(config)
    source = Source(str(name), weights, config_tree, offline)
    weight_set, whole = read_source(source, progress, latents=True)
    where = choose_device(device)
    precision = choose_precision(dtype, where)
    if dtype == "fp32":
        forbid_tf32()
    check_fits(whole, weight_set.tensors, str(weight_set.file))
    named_in = config if config is not None else weight_set.config_file or weight_set.file
    network, process = build(whole, trust_code=trust_code, named_in=named_in)
    if dtype == "auto" and not process_is_image(process) and whole.model.name not in OCTREE_MODELS:
        # It is given ids, cells and times; what floats it makes of them we cannot know.
        precision = Precision(torch.float32, "a token network from outside the package")
    load_into(network, weight_set.tensors, str(weight_set.file))
    if weight_set.decoder is not None:
        gaussian = cast(GaussianProcess, process)  # what a pipeline with a decoder holds is a UNet
        decoder = Decoder(weight_set.decoder, whole.data.channels, where)
        process = cast(Process, LatentProcess.of(gaussian, decoder))
    network.to(where, precision.dtype).eval().requires_grad_(False)
    if process_is_image(process):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(
        network=network,
        process=process,
        config=whole,
        name=_shown(str(name), weight_set),
        sha256=sha256_files(weight_set.files),
        weights=weight_set.which,
        form=weight_set.form,
        info=weight_set.info,
        notes=weight_set.notes,
        device=where,
        precision=precision,
        which_is_noted=weight_set.which_is_noted,
    )


def check_fits(config: Config, tensors: Mapping[str, Tensor], label: str) -> None:
    """Refuse tensors that are not those of the configured network, before it is built.

    A header's word that a network has a billion layers costs nothing but this check. A network
    from outside the package is built as its own code wants.

    Raises:
        DdimxError: names or shapes that do not fit.
    """
    model = config.model
    if model.name == "unet":
        check_counts(from_config(config), tensors, label, model.patch_size, model.time_dim)
    elif model.name in OCTREE_MODELS:
        widest = max((n for value in tensors.values() for n in value.shape), default=0)
        layers, width = model.num_layers or 0, model.hidden_dim or 0
        if layers > len(tensors) or width > widest or (model.num_heads or 0) > widest:
            raise DdimxError(
                f"{label}: {layers} layers of width {width}, in a file of {len(tensors)} tensors "
                f"of at most {widest}"
            )
    elif model.name in ("guided", "lucidrains", "song", "dhariwal"):
        widest = max((n for value in tensors.values() for n in value.shape), default=0)
        blocks = 1 if model.name == "lucidrains" else model.num_res_blocks
        wide = (max(model.widths), (model.heads or 1) * (model.head_dim or 1))
        # A block has more than eight tensors, and there are twice as many on the way up.
        if len(model.ch_mult) * blocks * 16 > len(tensors) or max(wide) > widest:
            raise DdimxError(
                f"{label}: {shown(blocks)} blocks on each of {len(model.ch_mult)} levels, "
                f"{shown(max(wide))} wide, in a file of {len(tensors)} tensors of at most {widest}"
            )
    else:
        return
    with without_memory():
        network, _ = build(config)
    check_shapes(network, tensors, label)


def process_is_image(process: Process) -> bool:
    """Return whether samples are [C, H, W], for which NHWC memory is the faster layout."""
    return len(process.shape) == 3


def refuse_latents(model: Model, what: str) -> None:
    """Refuse a model whose states are no samples, for what compares its states with pictures.

    Raises:
        UsageError: such a model; ``what`` is what was wanted.
    """
    decoder = model.process.decoder_name
    if decoder is not None:
        raise UsageError(
            f"{what}: model '{model.name}' draws latents, which its {decoder} turns into pictures "
            "at the end; ddimx sample and evaluate fid take such models, and nothing else"
        )


def _shown(name: str, weight_set: WeightSet) -> str:
    """Return the name for records: as given, but of a run's folder the checkpoint's."""
    of_run = (
        weight_set.config is not None and Path(name).is_dir() and weight_set.file.suffix == SUFFIX
    )
    return weight_set.file.stem if of_run and weight_set.architecture is None else name
