"""Writing splats: every format's bytes from a cloud in memory; the disk is not part of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from ddimx.splats.cloud import GaussianCloud
from ddimx.splats.formats import FORMATS, EncodeOptions
from ddimx.splats.from_octree import Look, from_octree

from ..runner import Absent, Budget, Contender, Job, compare
from ..seed import text_ply
from . import shapes

DEPTH = 8


def jobs(rounds: int, budget: Budget) -> list[Job]:
    """Return what measures a table of all formats; it is the host's work whatever the device."""
    return [Job("export", partial(_table, rounds, budget))]


def seed_ply(cloud: GaussianCloud) -> bytes:
    """Write a PLY as the seed project does: as text, a line at a time."""
    rows = zip(
        cloud.positions.tolist(),
        cloud.sigmas.tolist(),
        (cloud.colors * 255).astype(int).tolist(),
        cloud.alphas.tolist(),
        strict=True,
    )
    return text_ply(rows, len(cloud)).encode()


def _table(rounds: int, budget: Budget) -> dict[str, Any]:
    cloud = from_octree(shapes.sphere(DEPTH), Look(color="#c8a070"))
    peers: list[Contender | Absent] = [
        Contender("text PLY, a line at a time", lambda: seed_ply(cloud), facts=_size(cloud, None))
    ]
    for name in FORMATS:
        call = _call(name, cloud)
        peers.append(Contender(f"ddimx {name}", call, facts=_size(cloud, name)))
    notes = ["the baseline holds what the format 'ply' holds; the others hold other fields"]
    title = f"export, {len(cloud):,} splats of one sphere"
    table = compare(title, peers, rounds, notes=notes, budget=budget)
    for row in table["rows"]:
        if "median_ms" in row:
            row["msplats_per_s"] = len(cloud) / row["median_ms"] / 1e3
    return table


def _call(name: str, cloud: GaussianCloud) -> Any:
    encode, options = FORMATS[name].encode, EncodeOptions(sh_degree=0)
    return lambda: encode(cloud, options)


def _size(cloud: GaussianCloud, name: str | None) -> dict[str, float]:
    data = seed_ply(cloud) if name is None else _call(name, cloud)()
    return {"bytes_per_splat": len(data) / len(cloud)}
