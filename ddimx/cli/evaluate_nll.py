"""``ddimx evaluate nll``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .output import output_folder, print_json

if TYPE_CHECKING:
    from ..config import Config
    from ..evaluation.nll import Nll
    from ..progress import Progress

NAMES = ("nll.json", "nll.csv")
SPLITS = ("held-out", "train")


def nll(
    model: options.Model = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="The images (default: the model's own).")
    ] = None,
    split: Annotated[
        str, typer.Option(metavar="held-out|train", help="Which part of the data.")
    ] = "held-out",
    count: Annotated[int, typer.Option("--count", "-n", help="How many images.")] = 64,
    terms: Annotated[
        int,
        typer.Option(help="Timesteps of the bound per image; 1000 sums all; 0 leaves it out."),
    ] = 100,
    flow_steps: Annotated[
        int, typer.Option(help="Steps of the flow, four calls each; 0 leaves it out.")
    ] = 20,
    probes: Annotated[int, typer.Option(help="Probes of the flow's divergence.")] = 1,
    variance: Annotated[
        str | None,
        typer.Option(metavar="large|small", help="The bound's variance (default: the model's)."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="none|V", help="The bound's limit of x0 (default: the data's range)."),
    ] = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results in --out.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images computed together.")] = 16,
    config: options.ModelConfig = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "fp32",
    json_output: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure bits per dimension of held-out images, by the variational bound and by the flow.

    Less is better. Both are upper bounds of what the model needs to code an image: the bound of
    DDPM, and the probability flow's likelihood of uniformly dequantised pixels. A model with
    classes is told each image's class.

    Examples:

      ddimx prepare emoji && ddimx evaluate nll --count 64

      ddimx evaluate nll --count 1000 --terms 1000 --flow-steps 0
    """
    from ..data.sources import open_source
    from ..editing.pictures import image_shape
    from ..evaluation.nll import NllSettings
    from ..evaluation.nll import nll as measure
    from ..progress import Progress
    from ..weights.model import load_model
    from .parse import clip_value, one_of, weights_choice

    part = one_of("split", split, SPLITS)
    bound_of_x0 = clip_value(clip)
    folder = output_folder(out, overwrite, NAMES)
    loaded = load_model(
        model or "emoji",
        device=device,
        dtype=dtype,
        weights=weights_choice(weights),
        config=config,
        offline=offline,
        progress=Progress(quiet=quiet),
    )
    image_shape(loaded)  # octrees have measures of their own: 'evaluate shapes'
    own = loaded.config
    default_variance = "large" if own.model.var_type == "fixedlarge" else "small"
    chosen = one_of("variance", variance or default_variance, ("large", "small"))
    settings = NllSettings(
        count=count,
        seed=seed,
        terms=terms,
        flow_steps=flow_steps,
        probes=probes,
        variance="large" if chosen == "large" else "small",
        clip=1.0 if bound_of_x0 is None else None if bound_of_x0 == "none" else bound_of_x0,
        batch_size=batch_size,
    )
    source = open_source(with_data(own, data), held_out=part == "held-out")
    with Progress(quiet=quiet) as progress:
        result = measure(loaded, source, settings, progress)
        result.facts["split"] = part
        folder = _write(result, folder, loaded.name, progress)
    if json_output:
        print_json({"folder": str(folder), **result.to_json()})
    elif not quiet:
        for line in result.in_words():
            print(line)


def with_data(config: Config, data: Path | None) -> Config:
    """Return the configuration with its data replaced by a file or a folder of images."""
    from ..config_file import override

    if data is None:
        return config
    kind = "FOLDER" if data.is_dir() else "NPZ" if data.suffix == ".npz" else config.data.dataset
    return override(config, [f"data.root={data}", f"data.dataset={kind}"])


def _write(result: Nll, folder: Path | None, label: str, progress: Progress) -> Path:
    from ..files import write_bytes, write_json
    from ..runs import fresh_run

    folder = folder or fresh_run("nll", Path(label).name.removesuffix(".safetensors"))
    names = list(result.parts)
    lines = [",".join(["image", *names])]
    for i, image in enumerate(result.images):
        lines.append(",".join([str(image), *(f"{result.parts[n][i]:.6g}" for n in names)]))
    write_bytes(folder / NAMES[1], ("\n".join(lines) + "\n").encode())
    write_json(folder / NAMES[0], result.to_json())
    progress.say(f"{folder}: {', '.join(NAMES)}")
    return folder
