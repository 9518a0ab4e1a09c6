"""The options of a run, declared once.

Every option is a field of :class:`Options` (what decides the samples, from Python and from the
command line) or of :class:`RunOptions` (model, files and machine: the command line only). A field
carries its help, its kind of value and the verbs that have it. From these fields are made: the
command line (:mod:`ddimx.cli.options`), what ``--resume`` remembers, the check of values that
needs no model, and the keyword arguments of ``ddimx.sample`` (``SampleOptions`` in
:mod:`ddimx.sampling.settings`; a test holds it equal to the dataclass).

A new option is one field here, and the code that uses it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import UsageError, nearest
from .launch import parse_shard
from .option_values import (
    MOST_REDRAWS,
    ROUTINGS,
    SPACINGS,
    TOKEN_SPACINGS,
    Kind,
    Option,
    Panel,
    checked,
)
from .solvers.registry import AUTO, SolverChoice, check_options, name_forms, parse_solver

if TYPE_CHECKING:
    from typing_extensions import Self

ENGINES = ("auto", "eager", "pack", "graph", "compile")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
# Options that do not apply to a text-to-image pipeline.
WITHOUT_PROMPT = ("nfe", "variance", "plan", "category", "config", "weights", "export")
SHARDED_VERBS = ("sample", "inpaint", "encode")  # whose run several processes may make
OPTION = "ddimx option"  # the key of an Option in a field's metadata


def _option(
    flags: str, kind: Kind, panel: Panel, help: str, default: Any = None, **more: Any
) -> Any:
    metadata = {OPTION: Option(help, kind, panel, tuple(flags.split()), **more)}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Everything that decides the samples of a model; None means the model's default, then ours.

    Values are checked as far as that needs no model.

    Raises:
        UsageError: a value of another type, out of range or unknown; it names the option, the
            value and what is allowed.
    """

    steps: int | Sequence[int] | None = _option(
        "--steps",
        "steps",
        "How",
        "Number of steps (default: the model's, else 50); octrees: per level, 4 or 1,8,6,4,4.",
        metavar="N[,N...]",
    )
    nfe: int | None = _option(
        "--nfe",
        "whole",
        "How",
        "As many steps as give exactly this many evaluations.",
        verbs=("sample",),
        least=1,
    )
    solver: str | None = _option(
        "--solver",
        "text",
        "How",
        f"{', '.join(name_forms())}, or {AUTO}, which chooses by the number of evaluations "
        "(default: the model's, else ddim).",
        metavar="NAME[:ARGS]",
        verbs=("sample", "inpaint", "sequence", "interpolate"),
    )
    eta: float | None = _option(
        "--eta",
        "number",
        "How",
        "Noise of the steps: 0 none, 1 as DDPM (default: of ddim the model's, else 0; of sde-dpm++ "
        "and sa 1).",
        verbs=("sample", "inpaint", "sequence", "interpolate"),
        least=0,
        most=1,
    )
    variance: Literal["large", "small"] | None = _option(
        "--variance",
        "text",
        "How",
        "ddpm's variance.",
        metavar="large|small",
        verbs=("sample",),
        draws="images",
        choices=("large", "small"),
    )
    spacing: str | None = _option(
        "--spacing",
        "text",
        "How",
        "Which timesteps to visit: ddim, leading, linspace, trailing, quad, logsnr or karras[:RHO] "
        "(default: the model's, else ddim); octrees: linear or cosine.",
        metavar="NAME",
        choices=SPACINGS + TOKEN_SPACINGS,
    )
    timesteps: Sequence[float] | None = _option(
        "--timesteps",
        "times",
        "How",
        "The timesteps themselves: 999,749,499.",
        metavar="T,T,...",
        verbs=("sample",),
        draws="images",
    )
    plan: Any = _option(  # a plan, or the path of a plan's file
        "--plan",
        "path",
        "How",
        "A plan of 'evaluate solvers --search'.",
        metavar="FILE.json",
        verbs=("sample",),
        draws="images",
    )
    clip: float | Literal["none"] | None = _option(
        "--clip",
        "clip",
        "How",
        "Bound of the predicted x0 (ddpm: 1, else none).",
        metavar="none|V",
        verbs=("sample",),
        draws="images",
    )
    transition: Literal["absorbing", "uniform"] | None = _option(
        "--transition",
        "text",
        "Octrees",
        "Noise hides tokens or replaces them (default: the model's).",
        metavar="absorbing|uniform",
        verbs=("sample",),
        draws="octrees",
        choices=("absorbing", "uniform"),
    )
    routing: str | None = _option(
        "--routing",
        "text",
        "Octrees",
        "Which tokens are settled first (default: the model's).",
        metavar="random|confidence|entropy[:NATS]",
        verbs=("sample",),
        draws="octrees",
        choices=ROUTINGS,
    )
    temperature: float | str | None = _option(
        "--temperature",
        "temperature",
        "Octrees",
        "Of the draw of each token: 0.8; 1-0.6 falls within a level; with commas, one for each "
        "level (default: the model's, else 1).",
        metavar="T[-T][,...]",
        verbs=("sample",),
        draws="octrees",
    )
    redraw: int | None = _option(
        "--redraw",
        "whole",
        "Octrees",
        "How often, at most, a level that breaks a shape into pieces is drawn again "
        "(default: the model's, else 0).",
        verbs=("sample",),
        draws="octrees",
        least=0,
        most=MOST_REDRAWS,
    )
    clean: bool | None = _option(
        "--clean/--no-clean",
        "flag",
        "Octrees",
        "Remove crumbs that touch nothing, fill holes of one cell (default: as the model says).",
        verbs=("sample",),
        draws="octrees",
    )
    guidance: float | str | None = _option(
        "--guidance",
        "guidance",
        "What to draw",
        "Classifier-free guidance; 1 is off. 3@0.2-0.8: only between these fractions of the rows "
        "(default: the model's, else 1).",
        metavar="G[@FROM-TO]",
    )
    category: str | Sequence[str] | None = _option(
        "--category",
        "text",
        "What to draw",
        "Class to draw (default: a mix; 'none': no class).",
        metavar="NAME",
    )
    seed: int = _option(
        "--seed",
        "whole",
        "What to draw",
        "64-bit seed of all noise (default: 0).",
        default=0,
        verbs=("sample", "inpaint", "sequence", "interpolate"),
        least=0,
        most=2**64 - 1,
    )
    start_index: int = _option(
        "--start-index",
        "whole",
        "What to draw",
        "First sample index: --start-index 7 -n 1 makes sample 7 again (default: 0).",
        default=0,
        verbs=("sample", "inpaint", "sequence"),
        least=0,
    )
    count: int | None = _option(
        "--count -n",
        "whole",
        "What to draw",
        "How many samples (default: 16).",
        verbs=("sample", "inpaint", "sequence"),
        least=1,
    )
    batch_size: int | None = _option(
        "--batch-size",
        "whole",
        "Running",
        "Samples computed together; does not change the noise.",
        least=1,
    )
    invariant: bool = _option(
        "--invariant",
        "flag",
        "Running",
        "Bit-identical files whatever the batch size; slower.",
        default=False,
    )
    engine: Literal["auto", "eager", "pack", "graph", "compile"] | None = _option(
        "--engine",
        "text",
        "Running",
        "How the network runs: auto takes the fastest that pays for this run; eager is the plain "
        "path, pack keeps weights as a CPU wants them, graph replays CUDA graphs, compile uses "
        "torch.compile.",
        metavar="auto|eager|pack|graph|compile",
        choices=ENGINES,
    )

    def __post_init__(self) -> None:
        """Check every value, and parse what a command line writes as text."""
        for name, option in options(type(self)).items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, checked(name, option, value))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the options of these names and values; None leaves the default.

        Raises:
            UsageError: an unknown name, with the nearest known one, or a wrong value.
        """
        names = options(cls)
        for name in values:
            if name not in names:
                raise UsageError(f"unknown option '{name}'{nearest(name, names)}")
        instance = cls(**{name: value for name, value in values.items() if value is not None})
        instance.check_together()
        return instance

    def check_together(self) -> None:
        """Refuse options that exclude each other, as far as that needs no model.

        Raises:
            UsageError: which options, and what to do about it.
        """
        if self.nfe is not None and self.steps is not None:
            raise UsageError("--nfe gives the number of evaluations; omit --steps")
        others = self.flags_given(("steps", "nfe", "spacing"))
        if self.timesteps is not None and others:
            raise UsageError(f"--timesteps lists the times; omit {', '.join(others)}")
        others = self.flags_given(
            ("solver", "steps", "nfe", "spacing", "timesteps", "eta", "variance")
        )
        if self.plan is not None and others:
            raise UsageError(f"--plan holds solver and times; omit {', '.join(others)}")
        if self.solver is None:
            return
        if self.solver == AUTO:
            if self.eta or self.variance is not None:
                raise UsageError("--solver auto chooses among deterministic solvers; name another")
            if self.timesteps is not None:
                raise UsageError(
                    "--solver auto chooses the times too; name a solver beside --timesteps"
                )
            return
        name = parse_solver(self.solver)
        if name.kind != "pfdiff":  # which takes --eta for tokens, and for images does not
            check_options(name, SolverChoice(self.solver, self.eta, self.variance))

    def flags_given(self, names: Sequence[str]) -> list[str]:
        """Return the flags of those of ``names`` that are set."""
        return [options(type(self))[n].flags[0] for n in names if getattr(self, n) is not None]


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """The options of a verb that fills a run folder: besides the samples, model, files, machine."""

    model: str | None = _option(
        "--model -m",
        "text",
        "What to draw",
        "emoji (default), furniture, cifar10, bedroom, cat, church, celeba; a file or folder of "
        "weights in any known format; or a hub id.",
        metavar="NAME|FILE|DIR|HUB",
    )
    config: str | None = _option(
        "--config -c",
        "text",
        "What to draw",
        "For weights that come without their settings.",
        metavar="NAME|FILE",
    )
    weights: Literal["ema", "ema2", "raw"] | None = _option(
        "--weights",
        "text",
        "What to draw",
        "Averaged or last weights, where there are both (default: ema); ema2: model.ema2_rate's.",
        metavar="ema|ema2|raw",
        choices=("ema", "ema2", "raw"),
    )
    prompt: str | None = _option(
        "--prompt",
        "text",
        "Text to image",
        "Draw this with a text-to-image pipeline (folder or hub id).",
        metavar="TEXT",
        verbs=("sample",),
    )
    negative_prompt: str | None = _option(
        "--negative-prompt",
        "text",
        "Text to image",
        "What guidance leads away from (default: an empty text).",
        metavar="TEXT",
        verbs=("sample",),
    )
    size: tuple[int, int] | None = _option(
        "--size",
        "size",
        "Text to image",
        "Pixels of an image (default: what the pipeline was trained for).",
        metavar="N|WxH",
        verbs=("sample",),
    )
    init_noise: str | None = _option(
        "--init-noise",
        "path",
        "How",
        "Start from these x_T, (N, C, H, W).",
        metavar="FILE.npy",
        verbs=("sample",),
        draws="images",
    )
    kind: str | None = _option(
        "--format",
        "text",
        "Where to",
        "Files to write: images, tars of them, one array (npy: float32, unclamped). Octrees: npz.",
        metavar="png|webp|tar|npz|npy|adm",
        verbs=("sample", "inpaint", "sequence", "interpolate"),
    )
    export: str | None = _option(
        "--export",
        "text",
        "Octrees",
        "Also write Gaussian splats, as 'ddimx export' does.",
        metavar="FORMAT",
        verbs=("sample",),
    )
    out: Path | None = _option(
        "--out -o",
        "path",
        "Where to",
        "Folder to write to (default: a new run).",
        metavar="DIR",
        remembered=False,
    )
    resume: str | None = _option(
        "--resume",
        "text",
        "Where to",
        "Go on with an interrupted run, with its options.",
        metavar="last|DIR",
        remembered=False,
    )
    overwrite: bool = _option(
        "--overwrite",
        "flag",
        "Where to",
        "Replace another run in --out.",
        default=False,
        remembered=False,
    )
    shard: str | None = _option(
        "--shard",
        "text",
        "Where to",
        "Make part K of N of the run in --out; else torchrun's or SLURM's variables say which.",
        metavar="K/N",
        verbs=SHARDED_VERBS,
        remembered=False,
    )
    gather: bool = _option(
        "--gather",
        "flag",
        "Where to",
        "Say what is missing of the run in --out; if nothing is, write what all shards make.",
        default=False,
        verbs=SHARDED_VERBS,
        remembered=False,
    )
    labels: bool | None = _option(
        "--labels/--no-labels",
        "flag",
        "Where to",
        "Write the classes' names on grid.png (default: where there are several, and room).",
        verbs=("sample",),
    )
    dtype: str | None = _option(
        "--dtype",
        "text",
        "Running",
        "Precision of the network (default: auto).",
        metavar="auto|fp32|bf16|fp16",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    device: str | None = _option(
        "--device",
        "text",
        "Running",
        "Where to compute (default: auto).",
        metavar="auto|cpu|cuda[:N]|mps",
        remembered=False,
    )
    offline: bool = _option(
        "--offline",
        "flag",
        "Running",
        "Refuse to download anything.",
        default=False,
        remembered=False,
    )
    trust_code: bool = _option(
        "--trust-code",
        "flag",
        "Running",
        "Import, that is run, the network's class that a file names as package.module:Class.",
        default=False,
        remembered=False,
    )
    explain: bool = _option(
        "--explain",
        "flag",
        "Running",
        "Print the plan's table and end.",
        default=False,
        remembered=False,
    )
    dry_run: bool = _option(
        "--dry-run",
        "flag",
        "Running",
        "Print plan, evaluations, memory, time and end.",
        default=False,
        remembered=False,
    )
    profile: bool = _option(
        "--profile",
        "flag",
        "Running",
        "Say where the time went; a trace of some rows is written beside the manifest.",
        default=False,
        remembered=False,
    )
    json: bool = _option(
        "--json",
        "flag",
        "Running",
        "Print the result as JSON on stdout.",
        default=False,
        remembered=False,
    )
    quiet: bool = _option(
        "--quiet -q",
        "flag",
        "Running",
        "No progress, no messages.",
        default=False,
        remembered=False,
    )
    limit_memory: str | None = _option(
        "--limit-memory",
        "text",
        "Running",
        "What one file may take once it is unpacked (default: 256M, or 8 times its size).",
        metavar="SIZE",
        remembered=False,
    )

    def check_together(self) -> None:
        """Refuse what the command line can refuse before it imports anything heavy.

        Raises:
            UsageError: an unknown device, a file that does not exist, or options that exclude each
                other.
        """
        super().check_together()
        if self.device is not None and not _DEVICE.fullmatch(self.device):
            raise UsageError(
                f"unknown device '{self.device}'. Allowed: auto, cpu, cuda, cuda:N, mps."
            )
        if self.resume is not None and self.out is not None:
            raise UsageError("--resume names the folder already; omit --out")
        if self.shard is not None:
            parse_shard(self.shard)
        if self.gather:
            if self.out is None:
                raise UsageError("--gather: name the run's folder with --out")
            both = {"--shard": self.shard, "--resume": self.resume, "--overwrite": self.overwrite}
            if others := [flag for flag, value in both.items() if value]:
                raise UsageError(f"--gather makes no samples; omit {', '.join(others)}")
        others = self.flags_given(("negative_prompt", "size"))
        if self.prompt is None and others:
            raise UsageError(f"{', '.join(others)}: only with --prompt")
        if self.prompt is not None:
            if not self.prompt.strip():
                raise UsageError("--prompt is empty; write what to draw")
            octrees = [n for n, option in options(type(self)).items() if option.draws == "octrees"]
            others = self.flags_given((*WITHOUT_PROMPT, *octrees))
            others += ["--trust-code"] if self.trust_code else []
            if others:
                raise UsageError(f"{', '.join(others)}: not for a run with --prompt")
            if self.solver not in (None, "ddim"):
                raise UsageError("a run with --prompt has one solver, ddim")
        for flag, path in (("--init-noise", self.init_noise), ("--plan", self.plan)):
            if isinstance(path, str | Path) and not Path(path).is_file():
                raise UsageError(f"{flag} {path}: no such file")

    def remembered(self) -> dict[str, Any]:
        """Return what ``--resume`` takes from a manifest: options that are set, as JSON values."""
        plain = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.metadata[OPTION].remembered and value != f.default:
                value = list(value) if isinstance(value, tuple) else value
                plain[f.name] = str(value) if isinstance(value, Path) else value
        return plain


def options(of: type[Options] = Options) -> dict[str, Option]:
    """Return the options of a dataclass by the names of their fields, in their order."""
    return {f.name: f.metadata[OPTION] for f in fields(of)}
