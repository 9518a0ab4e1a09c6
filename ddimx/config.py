"""The schema of a configuration: the original's six sections, validated.

Every key that ermongroup/ddim's YAML files use is accepted with its meaning; keys of our own have
defaults that leave the original's behaviour as it was. A combination that cannot work is an error
here, before anything is built. Reading files and ``--set`` live in :mod:`ddimx.config_file`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .errors import UsageError
from .option_values import (
    MOST_REDRAWS,
    guidance_option,
    parse_routing,
    parse_temperature,
    size_text,
    steps_option,
    temperature_option,
)

Prediction = Literal["epsilon", "x0", "v", "flow", "edm"]
Transition = Literal["absorbing", "uniform"]
BetaSchedule = Literal[
    "linear", "quad", "const", "jsd", "sigmoid", "cosine", "scaled-linear", "scaled_linear"
]
TokenSpacing = Literal["linear", "cosine"]
OCTREE_MODELS = ("octree", "discrete")
Spacing = Literal["ddim", "leading", "linspace", "trailing", "quad", "logsnr", "karras"]
# What only networks of these predictions have.
_OF_PREDICTION: dict[str, tuple[str, ...]] = {
    "shift": ("flow",),
    "velocity": ("flow",),
    "sigma_data": ("edm",),
    "sigma_min": ("edm",),
    "sigma_max": ("edm",),
    "rho": ("edm",),
    "p_mean": ("flow", "edm"),
    "p_std": ("flow", "edm"),
    "trained_betas": ("epsilon", "x0", "v"),
    "zero_terminal_snr": ("epsilon", "x0", "v"),
}
MOST_LEVELS = 16  # of a UNet, each of half the size: enough for 65,536 pixels
MOST_PIXELS = 65_536  # of an image's side


class Section(BaseModel):
    """One section of a configuration: unknown keys are errors, values cannot change afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class DataConfig(Section):
    """Which images, and how bytes become the network's numbers."""

    dataset: str
    # Pixels: one number for a square; else [height, width], or as text "WxH", width first.
    image_size: int | tuple[int, int]
    channels: int = Field(ge=1)
    root: str | None = None
    category: str | None = None
    # Ours: the column with the images, where a data set of the hub has several.
    column: str | None = None
    # Ours: what is behind transparent pixels: white, black or #rrggbb.
    background: str = Field(default="white", pattern=r"^(white|black|#[0-9a-fA-F]{6})$")
    # Ours: the value of white in images of more than 8 bits, where their range does not tell it.
    white: float | None = Field(default=None, gt=0.0)
    logit_transform: bool = False
    uniform_dequantization: bool = False
    gaussian_dequantization: bool = False
    rescaled: bool = True
    random_flip: bool = False
    # Ours: classes, or groups of them, that are not flipped: letters, say.
    unflipped: tuple[str, ...] = ()
    # Ours, octrees: each axis of a training shape is scaled by up to 1 +- this.
    random_scale: float = Field(default=0.0, ge=0.0, lt=1.0)
    num_workers: int = Field(default=4, ge=0)
    # "family": variants of one motif (skin tones, say) share one place in an epoch. "class": so do
    # they, and classes are trained on as often as samples draw them.
    balance: Literal["none", "family", "class"] = "none"
    train_split: str = "train"
    test_split: str = "test"
    # Ours, FOLDER, TAR and OCTREE: whether a part is kept from training, to be measured on.
    held_out: bool = True
    return_mask: bool = False
    max_depth: int | None = Field(default=None, ge=1, le=10)

    @field_validator("image_size", mode="before")
    @classmethod
    def _one_or_two_sides(cls, value: Any) -> Any:
        size = value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(x[0-9]{1,9})?", value):
            size = [int(side) for side in reversed(value.split("x"))]
        sides = size if isinstance(size, list | tuple) else (size,)
        whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
        if len(sides) not in (1, 2) or not whole or min(sides) < 1:
            raise ValueError(
                "write pixels as 64 for a square, or as [height, width], or as 64x48, width first"
            )
        if max(sides) > MOST_PIXELS:
            raise ValueError(f"{max(sides)} pixels; {MOST_PIXELS} a side are the most")
        return sides[0] if len(set(sides)) == 1 else tuple(sides)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of an image."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def octrees(self) -> bool:
        """Whether the examples are octrees (``SHAPENET_OCTREE`` is the seed's name), not images."""
        return self.dataset.upper() in ("OCTREE", "SHAPENET_OCTREE")

    @model_validator(mode="after")
    def _one_range(self) -> DataConfig:
        if self.rescaled and self.logit_transform:
            raise ValueError("rescaled and logit_transform exclude each other")
        if self.uniform_dequantization and self.gaussian_dequantization:
            raise ValueError("choose one of uniform_dequantization and gaussian_dequantization")
        if self.logit_transform and self.gaussian_dequantization:
            raise ValueError(
                "logit_transform and gaussian_dequantization exclude each other: the noise leaves "
                "[0, 1], where the logit has no value"
            )
        return self


class ModelConfig(Section):
    """The network. ``name`` chooses the factory; the other keys are the UNet's or the octree's."""

    name: str = "unet"
    type: Literal["simple"] = "simple"
    in_channels: int = Field(default=3, ge=1)
    out_ch: int = Field(default=3, ge=1)
    ch: int = Field(default=128, ge=2)
    # A level's width is ch times this; fractions are ours (48 and 80 channels: 1 and 5/3).
    ch_mult: tuple[int | float, ...] = (1, 2, 2, 2)
    num_res_blocks: int = Field(default=2, ge=1)
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    var_type: Literal["fixedlarge", "fixedsmall"] = "fixedlarge"
    ema: bool = True
    ema_rate: float = Field(default=0.9999, gt=0.0, lt=1.0)
    # Ours: the rate of a second average, kept beside the first (--weights ema2).
    ema2_rate: float | None = Field(default=None, gt=0.0, lt=1.0)
    resamp_with_conv: bool = True
    # Ours: the UNet sees patch_size x patch_size pixels as channels of one position.
    patch_size: int = Field(default=1, ge=1)
    norm_groups: int = Field(default=32, ge=1)
    # Ours: class names in the order of their labels; empty means unconditional. Without a null
    # class there is no prediction without a class, which guidance needs.
    classes: tuple[str, ...] = ()
    null_class: bool = True
    # The network predicts a variance too (Improved DDPM), of which nothing is made.
    predicts_variance: bool = False
    # What diffusers' UNet2DModel can be set to; the defaults are the original's.
    attn_resolutions_up: tuple[int, ...] | None = None  # of the way up; None: as attn_resolutions
    mid_block: Literal["attention", "plain", "none"] = "attention"
    # Groups of the norm before the middle's attention; 0 is no norm, None norm_groups.
    mid_norm_groups: int | None = Field(default=None, ge=0)
    head_dim: int | None = Field(default=None, ge=1)  # of attention; None: one head of all channels
    norm_eps: float = Field(default=1e-6, gt=0.0)
    activation: Literal["silu", "mish", "gelu", "relu"] = "silu"
    scale_shift: bool = False  # the time scales and shifts what the second norm returns
    time_dim: int | None = Field(default=None, ge=1)  # of the embedded time; None: 4 ch
    cosine_first: bool = False  # of the sinusoidal embedding (flip_sin_to_cos)
    freq_shift: float = Field(default=1.0, ge=0.0)
    downsample_padding: Literal[0, 1] = 0  # 0: right and below only
    # Levels (0 the finest) that a residual block halves, or doubles, instead of a convolution.
    resblock_down: tuple[int, ...] = ()
    resblock_up: tuple[int, ...] = ()
    # Ours, "guided": heads of attention (head_dim goes before), other ones on the way up;
    # residual blocks that halve and double; which columns of qkv are whose.
    heads: int | None = Field(default=None, ge=1)
    heads_up: int | None = Field(default=None, ge=1)
    resblock_updown: bool = False
    new_attention_order: bool = False
    # Ours, "lucidrains": levels (0 the finest) with full attention instead of linear; the last
    # level alone by default. The first layer's width, None for ch. Fourier features of the time.
    full_attention: tuple[int, ...] | None = None
    init_dim: int | None = Field(default=None, ge=1)
    fourier_dim: int | None = Field(default=None, ge=2)
    embedding_theta: float = Field(default=10000.0, gt=1.0)
    # Ours, "song" and "dhariwal": widths of the time's embedding (None for ch), its kind, the other
    # ways through song's encoder and decoder, and the filter that halves and doubles.
    noise_dim: int | None = Field(default=None, ge=2)
    fourier_time: bool = False
    encoder: Literal["standard", "skip", "residual"] = "standard"
    decoder: Literal["standard", "skip"] = "standard"
    resample_filter: tuple[int, ...] = Field(default=(1, 1), min_length=2, max_length=8)
    # The octree model's keys, as the seed project names them.
    vocab_size: int | None = Field(default=None, ge=2)
    hidden_dim: int | None = Field(default=None, ge=1)
    num_layers: int | None = Field(default=None, ge=1)
    num_heads: int | None = Field(default=None, ge=1)
    # Ours: a token attends to its run of this many tokens of its level, and half of each next one.
    window: int = Field(default=128, ge=2)

    @field_validator("ch_mult")
    @classmethod
    def _some_levels(cls, value: tuple[int | float, ...]) -> tuple[int | float, ...]:
        if not value or min(value) <= 0:
            raise ValueError("needs at least one multiplier, each above 0")
        if len(value) > MOST_LEVELS:
            raise ValueError(f"has {len(value)} levels; {MOST_LEVELS} are the most")
        return value

    @model_validator(mode="after")
    def _groups_divide(self) -> ModelConfig:
        if self.ema2_rate is not None and not self.ema:
            raise ValueError("ema2_rate is of a second average, and ema is false")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes holds a name twice")
        try:
            least = min(self.widths)
        except OverflowError:
            raise ValueError("ch times ch_mult is too large a number") from None
        if self.name != "unet":
            return self
        broken = [m for m in self.ch_mult if abs(self.ch * m - round(self.ch * m)) > 1e-6 * self.ch]
        if broken or least < 1:
            raise ValueError(f"ch {self.ch} times {broken or min(self.ch_mult)} is no width")
        bad = [w for w in sorted({*self.widths}) if w % self.norm_groups]
        if bad:
            raise ValueError(
                f"widths {bad} (ch * ch_mult) are not divisible by norm_groups={self.norm_groups}"
            )
        if self.mid_norm_groups and self.widths[-1] % self.mid_norm_groups:
            raise ValueError(
                f"mid_norm_groups {self.mid_norm_groups} does not divide width {self.widths[-1]}"
            )
        places = range(len(self.ch_mult))
        if not {*self.resblock_down} <= {*places[:-1]} or not {*self.resblock_up} <= {*places[1:]}:
            raise ValueError(
                f"resblock_down {list(self.resblock_down)} and resblock_up "
                f"{list(self.resblock_up)}: levels {list(places[:-1])} are halved, "
                f"{list(places[1:])} doubled"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels of a network of images, finest first."""
        return tuple(round(self.ch * m) for m in self.ch_mult)


class DiffusionConfig(Section):
    """The forward process and what the network predicts."""

    beta_schedule: BetaSchedule = "linear"
    beta_start: float = Field(default=1e-4, gt=0.0, lt=1.0)
    beta_end: float = Field(default=0.02, gt=0.0, lt=1.0)
    # Ours: the table itself, which then counts instead of the three keys above.
    trained_betas: tuple[float, ...] | None = None
    # Ours: the table is changed so that nothing of the image is left at its end.
    zero_terminal_snr: bool = False
    # DDPM's 1,000, continuous-time models' 100,000; every schedule is a table of that length.
    num_diffusion_timesteps: int = Field(default=1000, ge=1, le=1_000_000)
    # Ours: "flow" and "edm" are networks of other processes, for which beta_* say nothing.
    prediction: Prediction = "epsilon"
    # Ours: what multiplies the time that the network is given: the index of the step (default 1),
    # of a flow t in [0, 1] (default 1000), of EDM ln(sigma) / 4 (default 1).
    time_scale: float | None = Field(default=None, gt=0.0)
    # Ours, flow: times are shift t / (1 + (shift - 1) t); whether the velocity is noise - data,
    # with t = 0 at the data, or data - noise, with t = 1 there.
    shift: float = Field(default=1.0, gt=0.0)
    velocity: Literal["to_noise", "to_data"] = "to_noise"
    # Ours, edm: its paper's (table 1).
    sigma_data: float = Field(default=0.5, gt=0.0)
    sigma_min: float = Field(default=0.002, gt=0.0)
    sigma_max: float = Field(default=80.0, gt=0.0)
    rho: float = Field(default=7.0, ge=1.0)
    # Ours: the mean and deviation of ln(sigma) in training; of a flow that of logit(t), without
    # which its times are even.
    p_mean: float | None = None
    p_std: float | None = Field(default=None, gt=0.0)
    # Ours, tokens: the kinds of noise to train on; the first is sampling's default.
    transitions: tuple[Transition, ...] = ("absorbing",)

    @field_validator("trained_betas")
    @classmethod
    def _in_range(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and not (
            value and all(0 < beta < 1 for beta in value[:-1]) and 0 < value[-1] <= 1
        ):
            raise ValueError("each must lie in (0, 1), the last one may be 1")
        return value

    @field_validator("transitions")
    @classmethod
    def _some_transition(cls, value: tuple[Transition, ...]) -> tuple[Transition, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("needs absorbing, uniform, or both, each once")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> DiffusionConfig:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} exceeds beta_end {self.beta_end}")
        steps = self.num_diffusion_timesteps
        if self.trained_betas is not None and len(self.trained_betas) != steps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} numbers, for {steps} timesteps"
            )
        if self.zero_terminal_snr and steps < 2:
            raise ValueError("zero_terminal_snr needs num_diffusion_timesteps of 2 or more")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min} is not below sigma_max {self.sigma_max}")
        if self.prediction == "edm" and self.num_diffusion_timesteps < 2:
            raise ValueError("prediction edm needs num_diffusion_timesteps of 2 or more")
        if self.prediction == "flow" and (self.p_mean is None) != (self.p_std is None):
            raise ValueError("p_mean and p_std belong together")
        return self

    @model_validator(mode="after")
    def _keys_of_the_prediction(self) -> DiffusionConfig:
        for key, predictions in _OF_PREDICTION.items():
            changed = getattr(self, key) != type(self).model_fields[key].default
            if changed and self.prediction not in predictions:
                owners = " and ".join(predictions)
                raise ValueError(f"{key} is for prediction {owners}, not {self.prediction}")
        return self


class TrainingConfig(Section):
    """The training loop."""

    batch_size: int = Field(default=128, ge=1)
    n_epochs: int = Field(default=10000, ge=1)
    n_iters: int = Field(default=5_000_000, ge=1)
    snapshot_freq: int = Field(default=5000, ge=1)
    validation_freq: int = Field(default=2000, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)  # the newest so many
    # Ours: checkpoints of steps that are multiples of this are never removed.
    keep_every: int | None = Field(default=None, ge=1)
    # Ours, images: how often, in steps, the Fréchet distance of so many samples of the averaged
    # weights to the training images is measured, and on features of which network: "inception"
    # (FID's), its file, or "efficientnet-lite0".
    fid_every: int | None = Field(default=None, ge=1)
    fid_samples: int = Field(default=2000, ge=2)
    fid_features: str = Field(default="inception", min_length=1)
    antithetic: bool = True
    # Ours: an error of x0 counts its signal-to-noise ratio times, but no less than the first and no
    # more than the second of these: [0, 5] is min-SNR. None: the prediction's error as it is.
    snr_clip: tuple[float, float] | None = None
    # Share of examples trained without their class, so that guidance has its second prediction.
    class_dropout: float = Field(default=0.1, ge=0.0, le=1.0)
    # Ours, octrees: share of the coarser levels' tokens that are shown with one wrong bit.
    parent_corruption: float = Field(default=0.0, ge=0.0, lt=1.0)
    # Ours, octrees: share of examples whose coarser levels are shown as the model draws them.
    parent_drawing: float = Field(default=0.0, ge=0.0, le=1.0)
    # Ours: "bf16" computes the network in bfloat16 (autocast); "auto" does so on CUDA and on CPUs
    # that multiply bfloat16 in hardware.
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    # Ours: whether torch.compile makes the network's code; "auto" does so where that was measured
    # to pay.
    compile: Literal["auto", "on", "off"] = "auto"
    # Ours: the parts in which each process computes its examples of a step, one after the other,
    # so that larger batches fit into memory. It changes no result beyond the order of sums.
    accumulate: int = Field(default=1, ge=1)
    # Ours: the UNet's blocks keep their inputs alone and are computed again for the gradient.
    activation_checkpointing: bool = False
    # Ours, several processes: what sums their gradients; "auto" is NCCL on CUDA, else gloo.
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    # Ours, several processes: seconds without a sign of one of them until the others give up.
    rank_timeout: float = Field(default=600.0, ge=1.0)

    @model_validator(mode="after")
    def _checkpoints_to_keep(self) -> TrainingConfig:
        every, freq = self.keep_every, self.snapshot_freq
        if every is not None and every % freq:
            raise ValueError(
                f"keep_every {every} is not a multiple of snapshot_freq {freq}, the steps between "
                "two checkpoints"
            )
        return self

    @field_validator("snr_clip")
    @classmethod
    def _two_bounds(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (0 <= value[0] < value[1]):
            raise ValueError("needs two bounds, the first from 0 and below the second")
        return value

    @field_validator("compile", mode="before")
    @classmethod
    def _yaml_words(cls, value: Any) -> Any:
        """Read what YAML makes of the words on and off."""
        return ("on" if value else "off") if isinstance(value, bool) else value


def _as_option(check: Callable[[Any], Any], value: Any) -> Any:
    """Return a value as an option of the command line has it; its errors as pydantic wants them."""
    try:
        return None if value is None else check(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


class SamplingConfig(Section):
    """Defaults of ``ddimx sample`` for this model; the command line overrides each of them."""

    batch_size: int = Field(default=64, ge=1)
    last_only: bool = True
    steps: int | tuple[int, ...] | None = None  # octrees: per level, one number or one for each
    eta: float | None = Field(default=None, ge=0.0, le=1.0)
    solver: str | None = None
    spacing: Spacing | TokenSpacing | None = None
    guidance: float | str | None = None  # "3@0.2-0.8" is an interval of the rows
    clip: float | None = Field(default=None, gt=0.0)
    # Ours, for ddim and ddpm, as a scheduler of diffusers has them. Instead of a clip: the share
    # of x0's values that the bound is drawn from, and the bound's most (dynamic thresholding).
    dynamic_threshold: tuple[float, float] | None = None
    steps_offset: int = Field(default=0, ge=0)  # added to the times of spacing "leading"
    end_at_zero: bool = False  # ddim's last step ends at time 0, not at clean data
    # Ours, tokens: the kind of noise, of the draw of x0, and how places are chosen.
    transition: Transition | None = None
    temperature: float | str | None = None  # "1-0.6" falls within a level; "1,1,0.8": by level
    routing: str | None = None
    # Ours, tokens: how often, at most, a level that breaks a shape into pieces is drawn again.
    redraw: int | None = Field(default=None, ge=0, le=MOST_REDRAWS)
    # Ours, octrees: whether crumbs are removed and holes of one cell filled.
    clean: bool = False

    @field_validator("guidance")
    @classmethod
    def _weight_and_interval(cls, value: float | str | None) -> float | str | None:
        try:
            return None if value is None else guidance_option(value)
        except UsageError:
            raise ValueError("write a weight, as 3, or 3@0.2-0.8 for a part of the rows") from None

    @field_validator("steps", mode="before")
    @classmethod
    def _one_number_or_several(cls, value: Any) -> Any:
        return _as_option(steps_option, value)

    @field_validator("temperature", mode="before")
    @classmethod
    def _of_levels(cls, value: Any) -> Any:
        pairs = _as_option(parse_temperature, value) or ()
        if any(end == 0 for pair in pairs for end in pair):
            raise ValueError("must be greater than 0")
        return _as_option(temperature_option, value)

    @field_validator("routing")
    @classmethod
    def _name_and_bound(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                parse_routing(value)
        except UsageError:
            raise ValueError(
                "must be 'random' or 'confidence' or 'entropy', which takes a bound: 'entropy:2'"
            ) from None
        return value

    @field_validator("dynamic_threshold")
    @classmethod
    def _share_and_bound(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not (0 < value[0] <= 1 and value[1] >= 1):
            raise ValueError("needs a share in (0, 1] and a bound of 1 or more")
        return value


class OptimConfig(Section):
    """The optimizer and its learning rate."""

    # Ours: Muon trains matrices and filters of hidden layers, AdamW the rest, at one rate.
    optimizer: Literal["Adam", "AdamW", "Muon"] = "Adam"
    lr: float = Field(default=2e-4, gt=0.0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    momentum: float = Field(default=0.95, ge=0.0, lt=1.0)  # ours: Muon's
    eps: float = Field(default=1e-8, gt=0.0)
    amsgrad: bool = False
    weight_decay: float = Field(default=0.0, ge=0.0)
    grad_clip: float | None = Field(default=None, gt=0.0)
    # Ours: the rate rises linearly over the first steps and falls linearly to 0 over the last.
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int = Field(default=0, ge=0)

    def learning_rate(self, step: int, n_iters: int) -> float:
        """Return the learning rate of step ``step`` (from 0) of ``n_iters``."""
        rise = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        fall = min(1.0, (n_iters - step) / self.decay_steps) if self.decay_steps else 1.0
        return self.lr * min(rise, max(fall, 0.0))


class Config(Section):
    """A whole configuration."""

    data: DataConfig
    model: ModelConfig
    diffusion: DiffusionConfig
    training: TrainingConfig
    sampling: SamplingConfig
    optim: OptimConfig

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        try:
            (self.data.root or "").encode()
        except UnicodeEncodeError:  # Python's way to hold such bytes, which no YAML or JSON holds
            raise ValueError(
                "data.root holds bytes that are no UTF-8, which a configuration cannot hold; "
                "rename the folder, or name a link to it"
            ) from None
        clip, prediction = self.training.snr_clip, self.diffusion.prediction
        if clip is not None and prediction not in ("epsilon", "x0", "v"):
            raise ValueError(f"training.snr_clip is for epsilon, x0 and v, not {prediction}")
        if clip is not None and prediction == "epsilon" and clip[0] > 0:
            raise ValueError(
                f"training.snr_clip: the first bound is {clip[0]:g}, but with prediction epsilon, "
                "whose error says nothing of x0 in pure noise, it is 0"
            )
        if self.training.activation_checkpointing and self.model.name != "unet":
            raise ValueError(
                "training.activation_checkpointing is for model.name 'unet', not "
                f"'{self.model.name}'"
            )
        if self.model.name == "unet":
            self._check_unet()
        if self.model.name in OCTREE_MODELS:
            self._check_octree()
        self._check_spacing()
        return self

    def _check_octree(self) -> None:
        if self.training.fid_every is not None:
            raise ValueError("training.fid_every is for images")
        if self.diffusion.prediction in ("flow", "edm"):
            raise ValueError(f"diffusion.prediction {self.diffusion.prediction} is for images")
        if self.data.max_depth is None:
            raise ValueError(f"model.name '{self.model.name}' needs data.max_depth")
        if self.model.vocab_size not in (None, 256):
            raise ValueError(
                f"model.vocab_size is {self.model.vocab_size}, but a token is a byte of child "
                "bits: 256"
            )

    def _check_spacing(self) -> None:
        spacing, octrees = self.sampling.spacing, self.model.name in OCTREE_MODELS
        if spacing is None or self.model.name not in ("unet", *OCTREE_MODELS):
            return
        if (spacing in get_args(TokenSpacing)) != octrees:
            allowed = ", ".join(get_args(TokenSpacing if octrees else Spacing))
            raise ValueError(
                f"sampling.spacing '{spacing}' is not for model.name '{self.model.name}'. "
                f"Allowed: {allowed}"
            )

    def _check_unet(self) -> None:
        data, model = self.data, self.model
        if isinstance(self.sampling.steps, tuple):
            raise ValueError("sampling.steps: one number for each level is for octrees")
        for key in ("in_channels", "out_ch"):
            if getattr(model, key) != data.channels:
                raise ValueError(
                    f"model.{key} is {getattr(model, key)} but data.channels is {data.channels}"
                )
        halvings = 2 ** (len(model.ch_mult) - 1) * model.patch_size
        if any(side % halvings for side in data.sides):
            raise ValueError(
                f"data.image_size {size_text(data.sides)} is not divisible by {halvings} "
                f"(patch_size {model.patch_size}, {len(model.ch_mult)} levels of model.ch_mult)"
            )
        sizes = self.resolutions
        for key in ("attn_resolutions", "attn_resolutions_up"):
            strange = [r for r in getattr(model, key) or () if r not in sizes]
            if strange:
                raise ValueError(f"model.{key} {strange} never occur; the UNet's are {list(sizes)}")
        attending = {*model.attn_resolutions, *(model.attn_resolutions_up or ())}
        widths = {w for w, size in zip(model.widths, sizes, strict=True) if size in attending}
        widths |= {model.widths[-1]} if model.mid_block == "attention" else set()
        narrow = [width for width in sorted(widths) if width < (model.head_dim or 1)]
        if narrow:
            raise ValueError(
                f"model.head_dim {model.head_dim} is wider than a level with attention: {narrow}"
            )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Feature map sizes (the longer side) of the UNet's levels, finest first."""
        finest = max(self.data.sides) // self.model.patch_size
        return tuple(finest // 2**i for i in range(len(self.model.ch_mult)))

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.data.channels, *self.data.sides)
