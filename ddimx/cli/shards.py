"""``--shard`` and ``--gather`` of the verbs that make items in shards, and no run of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ..errors import DdimxError, UsageError
from . import options
from .output import print_json

if TYPE_CHECKING:
    from ..progress import Progress
    from ..runs.part import Partial
    from ..runs.shards import Shard

SHOWN = 20  # failures that are listed on the screen; --json and the shard's record hold all

ShardOption = Annotated[
    str | None,
    options.shared(
        "shard",
        panel="Running",
        help="Make part K of N; else torchrun's or SLURM's variables say which.",
    ),
]
GatherOption = Annotated[
    bool,
    options.shared(
        "gather",
        panel="Running",
        help="Say what is missing of what shards make; if nothing is, end it.",
    ),
]


def shard_of(
    shard: str | None, gather: bool, overwrite: bool, folder: Path | None, progress: Progress
) -> Shard | None:
    """Return which part this process makes, None if it works alone.

    What was begun in shards goes on in shards, until it is gathered: one process is then shard 1
    of 1.

    Args:
        shard, gather, overwrite: what the command line says.
        folder: in which ``shards`` is, None where none is named.
        progress: is told what a user should know.

    Raises:
        UsageError: options, or variables of a launcher, that exclude each other.
    """
    from ..launch import this_process
    from ..runs.shards import ALL, Shard
    from ..runs.shared import goes_on_in_shards

    both = {"--shard": shard, "--overwrite": overwrite}
    if gather:
        if others := [flag for flag, value in both.items() if value]:
            raise UsageError(f"--gather makes nothing; omit {', '.join(others)}")
        return ALL
    launch = this_process(shard)
    if launch.is_alone:
        if folder is None or overwrite or not goes_on_in_shards(folder):
            return None
        progress.say(f"{folder} was begun in shards: this process makes all that is missing")
        return ALL
    for note in launch.notes:
        progress.say(note)
    if overwrite:
        raise UsageError(
            f"--overwrite: this is process {launch}, and it would remove what the others have "
            "made; remove what is there before they start, or choose another name"
        )
    return Shard(launch.size, launch.rank + 1)


def report_partial(partial: Partial, progress: Progress, json_output: bool) -> None:
    """Say how far the shards are.

    Raises:
        DdimxError: of this one something could not be made; the message lists it.
    """
    progress.stop()  # so that the line stands below the bar
    progress.say(partial.text)
    if json_output:
        print_json(partial.as_json())
    made = partial.made
    if made is not None and made.failed:
        failed = sorted(made.failed.items())
        count = len({*made.items, *made.failed})
        lines = [f"shard {partial.shard}: {len(failed)} of {count} {partial.items} failed:"]
        lines += [f"  {reason}" for _, (_, reason) in failed[:SHOWN]]
        lines += [f"  and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""]
        raise DdimxError("\n".join(line for line in lines if line))
