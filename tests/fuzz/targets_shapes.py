"""Shapes: meshes, point clouds, octrees, and data sets of them."""

from __future__ import annotations

import gzip
import io
import os
import signal
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ddimx.data.shapes import jobs as shape_jobs
from ddimx.data.shapes.jobs import Job, PrepareSettings, allowance, make
from ddimx.data.shapes.meshes import EXTENSIONS, ending, stamp_of, warm_up
from ddimx.data.shapes.octrees import ShapeSource
from ddimx.data.shapes.prepare import ShapeFolder
from ddimx.data.shapes.prepare_shards import run_shard
from ddimx.data.shapes.reading import job_of, read_file
from ddimx.data.shapes.scan import scan_shapes
from ddimx.errors import DdimxError
from ddimx.exporting.sources import items_of
from ddimx.octree.file import Shape, holds_tokens, read_shape, write_shape
from ddimx.octree.tree import from_leaves
from ddimx.progress import Progress
from ddimx.recipes.furniture.dataset import choose, jobs_of
from ddimx.recipes.furniture.sweethome import find_libraries, read_library
from ddimx.runs import processes
from ddimx.runs.shards import Shard
from tests.data.shapes import meshes

from .mutate import json_text
from .target import Target

DEPTH = 6  # of octrees, as 'prepare octrees' has it by default


def in_limits(job: Job, settings: PrepareSettings, folder: Path) -> None:
    """Make one shape as a worker does, in a fork: what takes too much there is an error of ours."""
    child = os.fork()
    if not child:
        # What ends this process is told by its status; a traceback by 99.
        status = 99
        try:
            processes._limit(allowance(settings, job))
            made = make(job, settings, folder)
            status = 1 if made.entry is None else 0
        except (DdimxError, MemoryError):
            status = 1
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) != signal.SIGPROF:
        raise DdimxError(f"{job.origin}: ended by signal {os.WTERMSIG(status)}")
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) == 99:
        make(job, settings, folder)  # again, for its traceback
        raise AssertionError("it failed only once")


def make_meshes(folder: Path) -> None:
    warm_up()
    files: dict[str, bytes] = {
        "a.obj": meshes.obj(head="mtllib a.mtl\no box\nusemtl red\n"),
        "b.off": meshes.off(),
        "c.stl": meshes.stl(),
        "d.ply": meshes.ply(),
        "e.ply": meshes.ply(faces=False),
        "f.glb": meshes.glb(),
        "g.npz": meshes.npz(points=meshes.BOX),
        "h.npz": meshes.npz(cloud=meshes.BOX, colors=np.zeros(8)),
    }
    stream = io.BytesIO()
    np.save(stream, meshes.BOX)
    files["i.npy"] = stream.getvalue()
    ascii_ply = "ply\nformat ascii 1.0\nelement vertex 8\nproperty float x\nproperty float y\n"
    ascii_ply += "property float z\nelement face 6\nproperty list uchar int vertex_indices\n"
    ascii_ply += "end_header\n" + "".join(" ".join(map(str, v)) + "\n" for v in meshes.BOX)
    ascii_ply += "".join("4 " + " ".join(map(str, quad)) + "\n" for quad in meshes.QUADS)
    files["j.ply"] = ascii_ply.encode()
    solid = "".join(
        "facet normal 0 0 1\nouter loop\n"
        + "".join(f"vertex {x} {y} {z}\n" for x, y, z in meshes.BOX[face])
        + "endloop\nendfacet\n"
        for face in meshes.FACES
    )
    files["k.stl"] = f"solid box\n{solid}endsolid box\n".encode()
    cloud = "".join(f"{x} {y} {z} 0 0 1\n" for x, y, z in meshes.BOX).encode()
    head = "VERSION .7\nFIELDS x y z\nSIZE 8 8 8\nTYPE F F F\nPOINTS 8\nDATA "
    files |= {"l.xyz": cloud, "m.pts": b"8\n" + cloud, "n.txt": cloud.replace(b" ", b",")}
    files |= {"o.pcd": f"{head}binary\n".encode() + meshes.BOX.tobytes()}
    files |= {"p.pcd": f"{head}ascii\n".encode() + cloud, "q.gltf": meshes.gltf("q.bin")}
    files |= {"r.gltf": meshes.gltf(), "s.ply": meshes.ply(form="big")}
    files["t.obj"] = files["a.obj"] + b"f 1 2 \\\n 4 3 7\n"  # a polygon that crosses itself
    for name in ("a.obj", "d.ply", "l.xyz"):
        files[f"{name}.gz"] = gzip.compress(files[name], mtime=0)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "q.bin").write_bytes(meshes.scene()[1])


# Read together are kinds that one reader reads.
MESH_KINDS = [(".xyz", ".pts", ".txt"), tuple(kind for kind in EXTENSIONS if kind.endswith(".gz"))]
MESH_KINDS += [(kind,) for kind in EXTENSIONS if not any(kind in kinds for kinds in MESH_KINDS)]


def read_meshes(*kinds: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        settings = PrepareSettings("here", DEPTH)
        for path in sorted(folder.iterdir()):
            if ending(path.name) in kinds:
                read_one, size = partial(read_file, path), stamp_of(path)[1]
                job = Job("mesh", path.name, str(path), "", read_one, size=size)
                in_limits(job, settings, folder / "out")

    return read


def edit_glb(folder: Path, rng: Random) -> None:
    """Change the JSON and state both lengths right."""
    path = folder / "f.glb"
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    text = json_text(data[20 : 20 + length].rstrip(), rng)
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    head = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A)
    path.write_bytes(head + text + rest)


def edit_obj(folder: Path, rng: Random) -> None:
    """Repeat a line very often, or make a face of very many corners."""
    path = folder / "a.obj"
    count = rng.choice((100, 10_000, 300_000))
    line = rng.choice(
        ("usemtl a{}\n", "o {}\n", "g {}\n", "s 1\n", "v 0 0 {}\n", "f 1 2 3\n", "f 1/{}/1 2 3\n")
    )
    text = "".join(line.format(i) for i in range(count))
    if rng.random() < 0.3:
        text = "f " + "1 2 3 " * count + "\n"
    path.write_bytes(path.read_bytes() + text.encode())


def make_library(folder: Path) -> None:
    warm_up()
    page = "Blend #75131: Chair Released under Creative Commons Attribution 3.0"
    turned = {"modelRotation": "0 0 1 0 1 0 -1 0 0"}
    meshes.library(
        folder / "a.sh3f",
        [{"id": f"Test#{name}", "name": name.title(), "page": page} for name in ("chair", "table")]
        + [{"id": "Test#sofa", "name": "Sofa"} | turned],
    )


def read_furniture(folder: Path) -> None:
    (path,) = find_libraries([folder / "a.sh3f"])
    pieces = choose([read_library(path)], [])
    for job in jobs_of(pieces, variants=2)[:5]:
        in_limits(job, PrepareSettings("here", DEPTH), folder / "out")


def make_trees(folder: Path) -> None:
    """Data sets of shapes as they come, each with its lists."""
    warm_up()
    cloud, tokens = meshes.npz(points=meshes.BOX), meshes.tokens_npz()
    stream, zipped = io.BytesIO(), io.BytesIO()
    np.save(stream, meshes.BOX)
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("03001627/a/models/model_normalized.obj", meshes.obj())
        archive.writestr("03001627/a/models/model_normalized.mtl", b"newmtl a\n")
    points = io.BytesIO()
    with zipfile.ZipFile(points, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pc15k/03001627/test/a.npy", stream.getvalue())
        archive.writestr("pc15k/03001627/train/b.npz", tokens)
    files = {
        "tokens/chair/train/a.npz": tokens,
        "tokens/chair/train.txt": b"a.npz\n",
        "pc15k/03001627/test/a.npy": stream.getvalue(),
        "occupancy/03001627/a/pointcloud.npz": cloud,
        "occupancy/03001627/train.lst": b"a\n",
        "flat/03001627-a.npy": stream.getvalue(),
        "flat/train.txt": b"03001627-a.npy\n",
        "zip/03001627.zip": zipped.getvalue(),
        "points.zip": points.getvalue(),
        "zip/all.csv": b"synsetId,modelId,split\n3001627,a,train\n",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def read_trees(folder: Path) -> None:
    """Prepare, and train on, each of them; what is wrong with one does not excuse the others."""
    faults = []
    for name in ("tokens", "pc15k", "occupancy", "flat", "zip", "points.zip"):
        try:
            for shape in scan_shapes(folder / name).shapes:
                in_limits(job_of(shape), PrepareSettings("here", 1), folder / "out")
        except DdimxError as error:
            faults.append(error)
    ShapeSource(folder / "tokens", "train")
    for error in faults:
        raise error


def make_set(folder: Path) -> None:
    """Two shapes prepared from meshes, with all lists; and ShapeNet's list of parts."""
    source = folder / "src" / "chair"
    source.mkdir(parents=True)
    for i in range(2):
        (source / f"c{i}.npz").write_bytes(meshes.npz(points=meshes.BOX * (1 + i)))
    (folder / "src" / "all.csv").write_text("synsetId,modelId,split\n3001627,c0,train\n")
    prepare(folder)


def make_shard(folder: Path) -> None:
    """The first of two shards, as it is before the second one ends the set."""
    source = folder / "src" / "chair"
    source.mkdir(parents=True)
    for i in range(2):
        (source / f"c{i}.npz").write_bytes(meshes.npz(points=meshes.BOX * (1 + i)))
    prepare(folder, "1/2")


def prepare_other_shard(folder: Path) -> None:
    prepare(folder, "2/2")


def prepare(folder: Path, shard: str | None = None) -> None:
    shapes = ShapeFolder(folder / "set", PrepareSettings("here", 3))

    def finish(outcome: Any) -> None:
        shapes.finish(outcome, ["train"] * len(outcome.made), {})

    run = shape_jobs.run_all

    def here(function: Any, items: Any, **_: Any) -> Any:
        """In this process: the limits of the fuzzer hold for it."""
        for item in items:
            yield processes.Done(item, function(item))

    shape_jobs.run_all = here
    try:
        jobs = [job_of(shape) for shape in scan_shapes(folder / "src").shapes]
        quiet = Progress(quiet=True)
        if shard is None:
            finish(shapes.run(jobs, workers=1, progress=quiet))
        else:
            part, about = Shard.parsed(shard), {"split": []}
            run_shard(shapes, jobs, part, workers=1, progress=quiet, finish=finish, about=about)
    finally:
        shape_jobs.run_all = run


def read_set(folder: Path) -> None:
    ShapeSource(folder / "set", "train")


def edit_bombs(folder: Path, rng: Random) -> None:
    """Put zeros, many and well packed, beside the tokens of a shape or in their place."""
    for path in sorted(folder.rglob("*.npz"))[:1]:
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice([*sorted(found), "other.npy", "LICENSE.TXT"])
        size = rng.choice((1, 300, 900))
        head = (
            b"\x93NUMPY\x01\x00\x76\x00"
            + (
                f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size << 20},), }}".ljust(117)
            ).encode()
            + b"\n"
        )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for member, data in found.items():
                if member != name:
                    archive.writestr(member, data)
            with archive.open(name, "w") as stream:
                stream.write(head)
                for _ in range(size):
                    stream.write(bytes(1 << 20))


def tree() -> Any:
    return from_leaves(np.unique(np.random.default_rng(0).integers(0, 8**4, 60)), 4)


def make_octree(folder: Path) -> None:
    write_shape(folder / "shape.npz", Shape(tree(), "chair", "a1", (tree(), tree())))
    tokens = tree().tokens()
    padded = np.zeros((1, len(tokens) + 9), np.int32)
    padded[0, : len(tokens)] = tokens
    np.save(folder / "tokens.npy", padded)


def read_octree(folder: Path) -> None:
    refused = []
    for item in items_of(folder, None):
        assert isinstance(item.source, Path)
        holds_tokens(item.source)
        try:
            read_shape(item.source, variants=True)
        except DdimxError as error:
            refused.append(error)
    if refused:
        raise refused[0]


TARGETS = [
    *(
        Target(
            f"mesh {' '.join(kinds)}",
            make_meshes,
            read_meshes(*kinds),
            {".glb": edit_glb, ".obj": edit_obj, ".npz": edit_bombs}.get(kinds[0]),
            tuple(f"*{kind}" for kind in kinds),
        )
        for kinds in MESH_KINDS
    ),
    Target("furniture", make_library, read_furniture),
    Target("trees of shapes", make_trees, read_trees, edit_bombs),
    Target("prepared set", make_set, read_set, edit_bombs, ("set/**/*",)),
    Target(
        "preparing in shards",
        make_shard,
        prepare_other_shard,
        changed=("set/shards/*", "set/prepare.json"),
    ),
    Target("preparing again", make_set, prepare, changed=("set/*.json*", "src/**/*")),
    Target("octree", make_octree, read_octree),
]
