"""``ddimx evaluate nll``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from ...errors import UsageError
from ...option_values import checked
from .. import options
from ..common import load, one_of
from ..output import fresh_folder, output_folder, print_json

if TYPE_CHECKING:
    from ...config import Config, Transition
    from ...evaluation.likelihood.nll import Nll, NllSettings
    from ...evaluation.likelihood.token_nll import TokenNll
    from ...progress import Progress
    from ...weights.model import Model

NAMES = ("nll.json", "nll.csv")
SPLITS = ("held-out", "train", "all")
SHAPE_SPLITS = ("held-out", "train", "val", "test")  # two of the model's own, and the lists


def nll(
    model: options.Model = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR|FILE",
            help="A folder, zip, tar or array, or a data set's name (default: the model's own).",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="held-out|train|all",
            help="Which part of the data; octrees: held-out|train|val|test.",
        ),
    ] = "held-out",
    count: Annotated[int, typer.Option("--count", "-n", help="How many examples.")] = 64,
    terms: Annotated[
        int,
        typer.Option(help="Timesteps of the bound per example; 1000 sums all; 0 omits it."),
    ] = 100,
    flow_steps: Annotated[
        int | None,
        typer.Option(help="Steps of the flow, four calls each; 0 omits it (default: 20)."),
    ] = None,
    probes: Annotated[
        int | None, typer.Option(help="Probes of the flow's divergence (default: 1).")
    ] = None,
    variance: Annotated[
        str | None,
        typer.Option(metavar="large|small", help="The bound's variance (default: the model's)."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="none|V", help="The bound's limit of x0 (default: the data's range)."),
    ] = None,
    transition: Annotated[
        str | None,
        typer.Option(
            metavar="absorbing|uniform", help="Octrees: the kind of noise (default: the model's)."
        ),
    ] = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace results in --out.")
    ] = False,
    batch_size: Annotated[
        int, options.shared("batch_size", help="Examples computed together (default: 16).")
    ] = 16,
    config: options.ModelConfig = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    dtype: options.ExactDtype = "fp32",
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure bits per dimension of held-out images, or nats per held-out shape.

    Less is better. Images: the variational bound of DDPM, and the probability flow's likelihood of
    uniformly dequantised pixels; both are upper bounds of what the model needs to code an image.
    Octrees: the bound of the discrete process in nats per shape and level, and bits per leaf and
    voxel. A model with classes is told each example's class.

    Examples:

      ddimx prepare emoji && ddimx evaluate nll --count 64

      ddimx evaluate nll --count 1000 --terms 1000 --flow-steps 0

      ddimx evaluate nll --model furniture --data data/furniture --split test
    """
    from ...progress import Progress
    from ...runs.lock import lock_folder

    part = one_of("split", split, (*SPLITS, *SHAPE_SPLITS))
    bound_of_x0 = None if clip is None else checked("clip", options.DECLARED["clip"], clip)
    folder = output_folder(out, overwrite, NAMES[:1])  # the record, which is written last
    loaded = load(
        model,
        device=device,
        dtype=dtype,
        weights=weights,
        config=config,
        offline=offline,
        trust_code=trust_code,
        progress=Progress(quiet=quiet),
    )
    images_only = {
        "--flow-steps": flow_steps,
        "--probes": probes,
        "--variance": variance,
        "--clip": clip,
    }
    numbers = {"count": count, "seed": seed, "terms": terms, "batch_size": batch_size}
    alone = nullcontext() if folder is None else lock_folder(folder)
    with Progress(quiet=quiet) as progress, alone:
        result: Nll | TokenNll
        if loaded.process.draws == "octrees":
            _refuse("for models of images, and this one draws octrees", images_only)
            one_of("split", part, SHAPE_SPLITS)
            result = _shapes(loaded, data, part, numbers, transition, progress)
        else:
            _refuse(
                "for models of octrees, and this one draws images", {"--transition": transition}
            )
            one_of("split", part, SPLITS)
            flow = {"flow_steps": flow_steps, "probes": probes}
            numbers |= {name: value for name, value in flow.items() if value is not None}
            settings = _image_settings(loaded.config, variance, bound_of_x0, numbers)
            result = _images(loaded, data, part, settings, progress)
        result.facts["split"] = part
        folder = _write(result, folder, loaded.name, progress)
    if json_output:
        print_json({"folder": str(folder), **result.to_json()})
    elif not quiet:
        for line in result.in_words():
            print(line)


def _refuse(why: str, options: Mapping[str, object]) -> None:
    """Refuse options that the model's kind has no use for."""
    excess = [name for name, value in options.items() if value is not None]
    if excess:
        raise UsageError(f"{', '.join(excess)}: {why}")


def _image_settings(
    own: Config,
    variance: str | None,
    clip: float | Literal["none"] | None,
    numbers: dict[str, int],
) -> NllSettings:
    from ...evaluation.likelihood.nll import NllSettings

    default_variance = "large" if own.model.var_type == "fixedlarge" else "small"
    chosen = one_of("variance", variance or default_variance, ("large", "small"))
    return NllSettings(
        variance="large" if chosen == "large" else "small",
        clip=1.0 if clip is None else None if clip == "none" else clip,
        **numbers,
    )


def _images(
    model: Model, data: str | None, part: str, settings: NllSettings, progress: Progress
) -> Nll:
    from ...data.images.folder import FolderSource
    from ...data.images.named import data_at
    from ...data.images.sources import JoinedSource, open_source
    from ...evaluation.likelihood.nll import nll as measure

    config = model.config
    if data is not None:
        config = config.model_copy(update={"data": data_at(data, config.data)})
    if part == "all":
        train, held_out = (open_source(config, held_out=held_out) for held_out in (False, True))
        return measure(model, JoinedSource((train, held_out)), settings, progress)
    source = open_source(config, held_out=part == "held-out")
    if data is not None and isinstance(source, FolderSource):
        progress.say(
            f"{data}: the {part} part, {len(source)} of {len(source.listing.names)} pictures, by a "
            "hash of their names; --split all measures all"
        )
    return measure(model, source, settings, progress)


def _shapes(
    model: Model,
    data: str | None,
    part: str,
    numbers: dict[str, int],
    transition: str | None,
    progress: Progress,
) -> TokenNll:
    from ...config_file import override
    from ...data.shapes.octrees import open_shapes
    from ...evaluation.likelihood.token_nll import TokenSettings, token_nll

    # TokenSettings refuses what is no transition.
    settings = TokenSettings(**numbers, transition=cast("Transition | None", transition))
    changes = [] if data is None else [f"data.root={data}"]
    if part in ("val", "test"):
        changes.append(f"data.test_split={part}")
    source = open_shapes(override(model.config, changes), held_out=part != "train")
    return token_nll(model, source, settings, progress)


def _write(result: Nll | TokenNll, folder: Path | None, label: str, progress: Progress) -> Path:
    from ...files import sweep, write_bytes, write_json

    folder = folder or fresh_folder("nll", label)
    sweep(folder, *NAMES)
    write_bytes(folder / NAMES[1], _csv(result).encode())
    write_json(folder / NAMES[0], result.to_json())
    progress.say(f"{folder}: {', '.join(NAMES)}")
    return folder


def _csv(result: Nll | TokenNll) -> str:
    """Return one line for every example, with a header."""
    first, columns = result.table()
    name, numbers = first
    lines = [",".join([name, *columns])]
    for i, number in enumerate(numbers):
        lines.append(",".join([str(number), *(f"{c[i]:.6g}" for c in columns.values())]))
    return "\n".join(lines) + "\n"
