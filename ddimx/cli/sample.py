"""``ddimx sample``."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from . import options

if TYPE_CHECKING:
    from ..progress import Progress

# What --resume takes from the manifest unless the command line says otherwise.
REMEMBERED = (
    "model",
    "config",
    "steps",
    "nfe",
    "eta",
    "solver",
    "variance",
    "spacing",
    "timesteps",
    "plan",
    "clip",
    "transition",
    "routing",
    "temperature",
    "guidance",
    "prompt",
    "category",
    "seed",
    "start_index",
    "count",
    "batch_size",
    "invariant",
    "kind",
    "dtype",
    "weights",
    "init_noise",
    "export",
)


def sample(
    model: options.Model = None,
    config: options.ModelConfig = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Draw this with a text-to-image pipeline (folder or hub id)."
        ),
    ] = None,
    steps: options.Steps = None,
    nfe: Annotated[
        int | None,
        typer.Option("--nfe", help="As many steps as give exactly this many evaluations."),
    ] = None,
    count: options.Count = None,
    category: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Class to draw (default: a mix; 'none': no class)."),
    ] = None,
    guidance: options.Guidance = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="64-bit seed of all noise (default: 0).")
    ] = None,
    start_index: Annotated[
        int | None,
        typer.Option(min=0, help="First sample index: --start-index 7 -n 1 makes image 7 again."),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:ARGS]",
            help="ddim, ddpm, pfdiff:k,h, dpm++:1-3, ipndm:1-4, unipc:1-3, or auto, which chooses "
            "by the number of evaluations (default: the model's, else ddim).",
        ),
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option(help="ddim's noise: 0 none, 1 as DDPM (default: the model's, else 0)."),
    ] = None,
    variance: Annotated[
        str | None, typer.Option(metavar="large|small", help="ddpm's variance.")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            metavar="ddim|leading|linspace|trailing|quad",
            help="Which timesteps to visit (default: the model's, else ddim); octrees: "
            "linear|cosine.",
        ),
    ] = None,
    timesteps: Annotated[
        str | None, typer.Option(metavar="T,T,...", help="The timesteps themselves: 999,749,499.")
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="A plan of 'evaluate solvers --search'."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="none|V", help="Bound of the predicted x0 (ddpm: 1, else none)."),
    ] = None,
    transition: Annotated[
        str | None,
        typer.Option(
            metavar="absorbing|uniform",
            help="Octrees: noise hides tokens or replaces them (default: the model's).",
        ),
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(
            metavar="random|confidence",
            help="Octrees: which tokens are settled first (default: the model's).",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Octrees: of the draw of each token (default: 1).")
    ] = None,
    init_noise: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Start from these x_T, (N, C, H, W).")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="png|webp|npz|npy|adm",
            help="Files to write: images, or one array (npy: float32, unclamped). Octrees: npz.",
        ),
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT", help="Octrees: also write Gaussian splats, as 'ddimx export' does."
        ),
    ] = None,
    out: options.Out = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="last|DIR", help="Go on with an interrupted run, with its options."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another run in --out.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples computed together; does not change the noise.")
    ] = None,
    invariant: Annotated[
        bool | None,
        typer.Option("--invariant", help="Bit-identical files whatever the batch size; slower."),
    ] = None,
    weights: options.Weights = None,
    offline: options.Offline = False,
    trust_code: options.TrustCode = False,
    device: options.Device = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="auto|fp32|bf16|fp16", help="Precision of the network."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the plan's table and end.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, evaluations, memory, time and end.")
    ] = False,
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Draw samples from a model into a run folder.

    Image i depends on the seed and on i alone: not on the batch size, the device or where a run
    was interrupted. The same command into the same --out goes on where it stopped.

    Examples:

      ddimx sample --steps 50

      ddimx sample --category flags --guidance 2 -n 64

      ddimx sample --solver unipc:2 --nfe 10

      ddimx sample --solver ddpm --steps 1000 --seed 3 --out runs/ddpm

      ddimx sample --explain --steps 10 --spacing quad

      ddimx sample --model furniture --category chair -n 4 --export 3dgs

      ddimx sample --model FOLDER_OR_ID --prompt "an astronaut riding a horse" -n 2
    """
    given = {name: value for name, value in locals().items() if name in REMEMBERED}
    from ..progress import Progress
    from ..signals import polite_stop
    from .output import print_json
    from .preview import preview, show_plan
    from .sample_request import asked_for, export_finished, request_of

    asked, folder = asked_for(given, resume, out)
    with Progress(quiet=quiet) as progress:
        if "prompt" in asked:
            from .prompt import prompt_work

            if dry_run:
                raise UsageError("--dry-run: not for a run with --prompt")
            if trust_code:
                raise UsageError("--trust-code: code in a pipeline's folder is never run")
            work, table = prompt_work(
                asked,
                folder,
                overwrite=overwrite,
                device=device,
                offline=offline,
                begun=resume is not None,
            )
            if explain:
                show_plan(table, as_json=json_output)
                return
        else:
            request = request_of(
                asked,
                folder,
                overwrite,
                device,
                offline,
                progress,
                trust_code=trust_code,
                begun=resume is not None,
            )
            for note in request.settings.notes:
                progress.say(f"note: {note}")
            if explain or dry_run:
                preview(request, costs_too=dry_run, as_json=json_output)
                return
            from ..sampling.run import run

            work = partial(run, request)
        with polite_stop() as stop:
            record, where = work(stop, progress)
        if record["status"] == "complete" and "export" in asked:
            export_finished(asked["export"], record, where, progress, overwrite=overwrite)
        if json_output:
            print_json({"folder": str(where), **record})
        if record["status"] == "interrupted":
            resumed = shlex.join(["ddimx", "sample", "--resume", str(where)])
            progress.say(f"interrupted; go on: {resumed}")
            raise typer.Exit(stop.exit_code)
        _summary(progress, record, where)


def _summary(progress: Progress, record: dict[str, Any], where: Path) -> None:
    each = record["forward_passes_per_sample"]
    progress.say(
        f"{where}: {record['count']} samples, {each} forward passes each, "
        f"{record['seconds']:.1f} s; see {where / 'grid.png'}"
    )
