"""``ddimx evaluate fid``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import UsageError
from .. import options


def fid(
    samples: Annotated[
        str | None,
        typer.Option(metavar="DIR|FILE.npz", help="A folder of 'ddimx sample', or any images."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE.npz|cifar10", help="Images to compare with, or saved statistics."
        ),
    ] = None,
    save_stats: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Write the reference's statistics, for later."),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.pth", help="torch-fidelity's InceptionV3 (default: downloaded once)."
        ),
    ] = None,
    out: Annotated[
        Path | None, options.shared("out", metavar="FILE.json", help="Write the record.")
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace --out and --save-stats.")
    ] = False,
    batch_size: Annotated[
        int, options.shared("batch_size", help="Images computed together (default: 50).")
    ] = 50,
    offline: options.Offline = False,
    device: options.Device = "auto",
    json_output: options.Json = False,
    limit_memory: options.LimitMemory = None,
    quiet: options.Quiet = False,
) -> None:
    """Measure the Fréchet Inception distance of samples to a reference.

    Needs pip install "ddimx[fid]". Images are taken as they are stored; the record tells their
    number, the preprocessing, the feature network and the library's version. With --save-stats
    and without --samples only the statistics of the reference are made.

    Examples:

      ddimx sample --model cifar10 --spacing quad --steps 100 -n 50000 --out big

      ddimx evaluate fid --samples big --reference cifar10 --save-stats cifar10-stats.npz

      ddimx evaluate fid --samples big --reference cifar10-stats.npz --out fid.json
    """
    if reference is None:
        raise UsageError("--reference is needed: a folder, an .npz or cifar10")
    if samples is None and save_stats is None:
        raise UsageError("--samples is needed, or --save-stats to prepare the reference")
    from ..output import refuse_existing

    refuse_existing(out or save_stats, overwrite)  # what is written last; the other is compared
    from ...device import choose_device, forbid_tf32
    from ...evaluation.fid import features as networks
    from ...evaluation.fid.compare import compare, remarks, statistics_of
    from ...evaluation.fid.frechet import write_statistics
    from ...files import OtherContents, sweep, write_json
    from ...progress import Progress
    from ...runs.lock import lock_file
    from ..output import print_json

    forbid_tf32()
    where = choose_device(device)
    with Progress(quiet=quiet) as progress, lock_file(out or save_stats):
        network = networks.inception(features, where, offline=offline, progress=progress)
        of_reference = statistics_of(reference, network, batch_size, progress, offline=offline)
        if save_stats is not None:
            try:
                sweep(save_stats.parent, save_stats.name)
                write_statistics(save_stats, of_reference, replace=overwrite)
            except OtherContents:
                raise UsageError(
                    f"{save_stats} exists; choose another file or --overwrite"
                ) from None
            progress.say(f"{save_stats}: statistics of {of_reference.count} images")
        if samples is None:
            if json_output:
                print_json({"reference": {"count": of_reference.count, **of_reference.about}})
            return
        of_samples = statistics_of(samples, network, batch_size, progress)
        record = compare(of_samples, of_reference)
        for line in remarks(of_samples, of_reference):
            progress.say(line)
        if out is not None:
            write_json(out, record)
            progress.say(f"{out}: the record")
    if json_output:
        print_json(record)
        return
    print(f"FID {record['fid']:.4f}")
    if not quiet:
        for name in ("samples", "reference"):
            facts = ", ".join(f"{k} {v}" for k, v in record[name].items())
            print(f"{name}: {facts}")
