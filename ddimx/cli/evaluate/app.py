"""``ddimx evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import options
from ..common import load
from ..help import SETTINGS, VerbGroup, add_verb
from .fid import fid
from .nll import nll
from .shapes import shapes
from .solvers import solvers
from .steps import steps

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, cls=VerbGroup, context_settings=SETTINGS
)
add_verb(app, solvers)
add_verb(app, nll)
add_verb(app, fid)
add_verb(app, shapes)
add_verb(app, steps)

SHOWN = 16


@app.callback()
def evaluate() -> None:
    """Measure a model."""


def neighbors(
    model: options.Model = None,
    config: options.ModelConfig = None,
    weights: options.Weights = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR|FILE",
            help="The training data, as for 'evaluate nll' (default: the model's own).",
        ),
    ] = None,
    steps: options.Steps = None,
    count: Annotated[
        int | None, options.shared("count", help="How many samples (default: 64).")
    ] = None,
    seed: options.Seed = 0,
    out: Annotated[
        Path,
        options.shared(
            "out", metavar="FILE.png", help="Picture to write (default: neighbours.png)."
        ),
    ] = Path("neighbours.png"),
    device: options.Device = "auto",
    offline: options.Offline = False,
    trust_code: options.TrustCode = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Put samples beside their nearest training images, to see whether they are copies.

    A sample counts as new if it is farther from the training set than the median held-out image
    is. The picture shows pairs: a sample, then its nearest training image.

    Examples:

      ddimx prepare emoji && ddimx evaluate neighbors --count 64
    """
    from ...api import sample
    from ...data.images.named import data_at
    from ...data.images.sources import open_source
    from ...errors import UsageError
    from ...evaluation.neighbors import neighbors as find
    from ...evaluation.neighbors import side_by_side
    from ...files import whole_file
    from ...pixels import to_bytes
    from ...progress import Progress
    from ...runs.contact_sheet import grid
    from ...runs.lock import lock_file
    from ...runs.pictures import as_image
    from ..output import print_json

    loaded = load(
        model,
        device=device,
        weights=weights,
        config=config,
        offline=offline,
        trust_code=trust_code,
        progress=Progress(quiet=quiet),
    )
    own = loaded.config
    if data is not None:
        own = own.model_copy(update={"data": data_at(data, own.data)})
    source, held_out = open_source(own), open_source(own, held_out=True)
    if not len(held_out):
        raise UsageError("the data has no held-out split to compare with")
    with lock_file(out):
        drawn = sample(loaded, count=count or 64, steps=steps, seed=seed)
        images = to_bytes(drawn, own.data).numpy()
        nearest = find(images, source, held_out, mirrored=own.data.random_flip)
        with whole_file(out) as part:
            sheet = grid(side_by_side(images, nearest)[: 2 * SHOWN], columns=8)
            as_image(sheet).save(part, format="PNG")
    result = {
        "count": len(images),
        "share_beyond_held_out_median": nearest.share_beyond,
        "held_out_median": nearest.held_out_median,
        "median": float(sorted(nearest.distances.tolist())[len(images) // 2]),
        "least": float(nearest.distances.min()),
        "picture": str(out),
    }
    if json_output:
        print_json(result)
    with Progress(quiet=quiet) as progress:
        progress.say(
            f"{nearest.share_beyond:.0%} of {len(images)} samples are farther from the training "
            f"set than the median held-out image ({nearest.held_out_median:.3f} RMS); see {out}"
        )


add_verb(app, neighbors, former_name="neighbours")
