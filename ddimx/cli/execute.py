"""What all verbs that fill a run folder do, once: load, explain, run, report, stop politely."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from .common import DEFAULT_MODEL, check_begun, end_interrupted, load
from .output import print_json
from .prompt import load_pipeline, pipeline_sha256

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from .verbs import Command, Work


def execute(command: Command, work: Work) -> None:
    """Do what a command says: run it to its end, or only print its plan.

    Raises:
        UsageError: what the model or the folder do not allow; nothing is written.
        DdimxError: something failed on the way; what is written is whole.
        typer.Exit: the run was interrupted; its manifest says how far it is.
    """
    from ..progress import Progress
    from ..signals import polite_stop
    from .preview import preview

    options = command.options
    with Progress(quiet=options.quiet) as progress:
        request = _request(command, work, progress)
        for note in request.settings.notes:
            progress.say(f"note: {note}")
        if options.explain or options.dry_run:
            preview(request, costs_too=options.dry_run, as_json=options.json)
            return
        from ..sampling.run import run

        with polite_stop() as stop:
            record, where = run(request, stop, progress)
        if record["status"] == "complete" and work.after is not None:
            work.after(record, where, progress)
        if options.json:
            print_json({"folder": str(where), **record})
        if record["status"] == "interrupted":
            again = shlex.join(["ddimx", command.verb, "--resume", str(where)])
            end_interrupted(progress, stop, f"interrupted; go on: {again}")
        progress.say(work.summary(record, where))


def _request(command: Command, work: Work, progress: Progress) -> SampleRequest:
    """Load the model and resolve the options against it.

    With ``--resume`` the model may be named by the manifest alone: then it is loaded only if it is
    the one that the run was begun with.
    """
    from ..files import sha256_files
    from ..sampling.manifest import dtype_for, engine_for
    from ..weights.locate.source import Source, tensors_files

    options = command.options
    folder = None if options.overwrite else options.out
    device = options.device or "auto"

    def sha256() -> str:
        if options.prompt is not None:
            return pipeline_sha256(options)
        source = Source(options.model or DEFAULT_MODEL, options.weights, offline=options.offline)
        return sha256_files(tensors_files(source, progress))

    if command.begun and folder is not None:
        check_begun(command, folder, sha256)
    dtype = dtype_for(options.dtype, folder, device)
    if options.prompt is not None:
        model = load_pipeline(options, dtype)
    else:
        model = load(
            options.model,
            device=device,
            dtype=dtype,
            weights=options.weights,
            config=options.config,
            offline=options.offline,
            trust_code=options.trust_code,
            progress=progress,
        )
    request = work.request(model, progress)
    engine = engine_for(options.engine, folder)
    return replace(
        request,
        settings=replace(request.settings, engine=engine),
        out=options.out,
        overwrite=options.overwrite,
        command=shlex.join(["ddimx", *sys.argv[1:]]),
        asked=command.remembered,
    )
