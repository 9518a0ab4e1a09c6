"""What the verbs that edit pictures share: loading, running and reporting a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.hooks import Task
    from ..sampling.run import SampleRequest
    from ..sampling.settings import Settings
    from ..weights.model import Model

Refine = Annotated[
    int | None,
    typer.Option(help="Corrections of every step of the encoding (default: 2; 0: none, cheapest)."),
]
# Options that go into a run's settings under their own names.
SETTINGS = (
    "steps",
    "eta",
    "solver",
    "spacing",
    "guidance",
    "category",
    "seed",
    "start_index",
    "count",
    "batch_size",
    "invariant",
)


def load(given: dict[str, Any]) -> Model:
    """Load the model that the options name."""
    from ..progress import Progress
    from ..sampling.manifest import dtype_for
    from ..weights.model import load_model
    from .parse import weights_choice

    return load_model(
        given["model"] or "emoji",
        device=given["device"],
        dtype=dtype_for(
            given["dtype"], None if given["overwrite"] else given["out"], given["device"]
        ),
        weights=weights_choice(given["weights"]),
        config=given["config"],
        offline=given["offline"],
        trust_code=given["trust_code"],
        progress=Progress(quiet=given["quiet"]),
    )


def asked(given: dict[str, Any], **changes: Any) -> Any:
    """Return the sampling options among a verb's options, those that it has."""
    from ..sampling.settings import Asked

    return Asked(**({name: given[name] for name in SETTINGS if name in given} | changes))


def request(
    given: dict[str, Any], model: Model, settings: Settings, task: Task, kind: str
) -> SampleRequest:
    """Return the run that a command asked for."""
    from ..sampling.run import SampleRequest

    plain = {k: str(v) if isinstance(v, Path) else v for k, v in given.items() if v is not None}
    for name in ("json_output", "quiet", "out", "overwrite", "device", "trust_code"):
        plain.pop(name, None)
    return SampleRequest(
        model=model,
        settings=settings,
        kind=kind,
        out=given["out"],
        overwrite=given["overwrite"],
        command=shlex.join(["ddimx", *sys.argv[1:]]),
        asked=plain,
        task=task,
    )


def execute(
    given: dict[str, Any],
    make: Callable[[Progress], SampleRequest],
    report: Callable[[dict[str, Any], Path], str],
) -> None:
    """Make a request and run it, with progress, JSON, and 130 or 143 when it was interrupted.

    Args:
        make: builds the request; its errors come before anything is written.
        report: says in one line what a complete run has made.
    """
    from ..progress import Progress
    from ..sampling.run import run
    from ..signals import polite_stop
    from .output import print_json

    with Progress(quiet=given["quiet"]) as progress:
        wanted = make(progress)
        for note in wanted.settings.notes:
            progress.say(f"note: {note}")
        with polite_stop() as stop:
            record, where = run(wanted, stop, progress)
        if given["json_output"]:
            print_json({"folder": str(where), **record})
        if record["status"] == "interrupted":
            progress.say(f"interrupted; the same command with --out {where} goes on")
            raise typer.Exit(stop.exit_code)
        progress.say(report(record, where))


def reconstruction(record: dict[str, Any]) -> str:
    """Return how well encoded images came back, or nothing where there are none."""
    errors = record.get("reconstruction_rms")
    if not errors:
        return ""
    mean, worst = sum(errors.values()) / len(errors), max(errors, key=errors.__getitem__)
    more = "" if len(errors) == 1 else f" on average, at most {errors[worst]:.4f} ({worst})"
    return f"; reconstruction error {mean:.4f} RMS{more}"
