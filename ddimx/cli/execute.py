"""What all verbs that fill a run folder do, once: load, explain, run, report, stop politely."""

from __future__ import annotations

import shlex
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..options import SHARDED_VERBS
from ..timing import timed
from .common import DEFAULT_MODEL, check_begun, end_interrupted, load
from .output import print_json
from .prompt import load_pipeline, pipeline_sha256

if TYPE_CHECKING:
    from pathlib import Path

    from ..options import RunOptions
    from ..progress import Progress
    from ..runs.shards import Shard
    from ..sampling.profile import Profile
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
    with Progress(quiet=options.quiet) as progress, _measured(options) as profile:
        with timed("loading"):
            request = _request(command, work, progress)
        for note in request.settings.notes:
            progress.say(f"note: {note}")
        if options.explain or options.dry_run:
            from ..sampling.engine import choose_engine

            progress.say(choose_engine(request.model, request.settings).outlook())
            preview(request, costs_too=options.dry_run, as_json=options.json)
            return
        from ..sampling.run import run

        with polite_stop() as stop:
            record, where = run(request, stop, progress)
        if record["status"] == "complete" and work.after is not None:
            with timed("exporting"):
                work.after(record, where, progress)
        if profile is not None:
            _report(profile, record, where, progress)
        if options.json:
            print_json({"folder": str(where), **record})
        if record["status"] == "partial":
            progress.say(
                f"{where}: {record['made']:,} samples are this shard's; {record['done']:,} of "
                f"{record['count']:,} samples of the run are there. The last shard ends it; "
                f"'{shlex.join(['ddimx', command.verb, '--out', str(where), '--gather'])}' says "
                "what is missing"
            )
            return
        if record["status"] == "interrupted":
            again = shlex.join(["ddimx", command.verb, "--resume", str(where)])
            if request.shard is not None and request.shard.of > 1:
                again = "the same command"
            end_interrupted(progress, stop, f"interrupted; go on: {again}")
        progress.say(work.summary(record, where))


def _shard(options: RunOptions, progress: Progress) -> Shard | None:
    """Return which part of its run this process makes, None if the run is its own.

    A folder that was begun in shards goes on in shards: one process is then shard 1 of 1.

    Raises:
        UsageError: variables that contradict each other, or options that one process alone can
            have.
    """
    from ..launch import this_process
    from ..runs.shards import ALL, SHARDS, Shard

    out = options.out
    if options.gather:
        return ALL
    launch = this_process(options.shard)
    if launch.is_alone:
        begun = out is not None and (out / SHARDS).is_dir() and not options.overwrite
        return ALL if begun else None
    for note in launch.notes:
        progress.say(note)
    if options.profile:
        raise UsageError(
            f"--profile: its trace is of one process, and this is {launch}; measure one of them "
            "alone with --shard 1/1 and another --out"
        )
    return Shard(launch.size, launch.rank + 1)


def _measured(options: RunOptions) -> AbstractContextManager[Profile | None]:
    """Return what measures a run that is to be profiled, and nothing for others."""
    if not options.profile:
        return nullcontext()
    from ..sampling.profile import Profile

    return Profile()


def _report(profile: Profile, record: dict[str, Any], where: Path, progress: Progress) -> None:
    """Say where the time went, on stderr and in the run's manifest.

    A manifest keeps what was measured before if now no row was recorded, as where no sample was
    missing: the trace beside it belongs to that.

    Raises:
        DdimxError: the manifest cannot be written.
    """
    from ..runs.record import write_record
    from ..runs.run import reporting
    from ..sampling.profile import TRACE, profile_table, remarks

    report = profile.report()
    if report["rows"] is not None or "profile" not in record:
        record["profile"] = report
    with reporting(where):
        if profile.write_trace(where / TRACE):  # of a run that was stopped in its first batch
            record["files"] = [*record.get("files", ()), TRACE]
        write_record(where, record)
    progress.show(profile_table(report))
    for line in remarks(report, str(where / TRACE) if (where / TRACE).is_file() else None):
        progress.say(line)


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
    shard = None if command.verb not in SHARDED_VERBS else _shard(options, progress)
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
        shard=shard,
        gather=options.gather,
        settings=replace(request.settings, engine=engine),
        out=options.out,
        overwrite=options.overwrite,
        command=shlex.join(["ddimx", *sys.argv[1:]]),
        asked=command.remembered,
    )
