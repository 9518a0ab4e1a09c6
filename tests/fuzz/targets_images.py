"""Data sets: packed files, LMDBs, CIFAR's archive, pictures, meshes, furniture, sets of shapes."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import signal
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, features

from ddimx.cli.app import app
from ddimx.config import DataConfig
from ddimx.data.images.celeba import CelebASource
from ddimx.data.images.cifar10 import Cifar10Source
from ddimx.data.images.ffhq import FfhqSource
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.lsun import LsunSource
from ddimx.data.images.pack import Packing
from ddimx.data.images.packed import HEADER_SIZE, OLD_MAGIC, PackedSource
from ddimx.data.images.scan import passed_over
from ddimx.data.images.sources import open_part
from ddimx.data.shapes import jobs as shape_jobs
from ddimx.data.shapes.jobs import Job, PrepareSettings, allowance, make
from ddimx.data.shapes.meshes import EXTENSIONS, ending, stamp_of, warm_up
from ddimx.data.shapes.octrees import ShapeSource
from ddimx.data.shapes.prepare import ShapeFolder
from ddimx.data.shapes.reading import job_of, read_file
from ddimx.data.shapes.scan import scan_shapes
from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.recipes.furniture.dataset import choose, jobs_of
from ddimx.recipes.furniture.sweethome import find_libraries, read_library
from ddimx.runs import processes
from ddimx.runs.pictures import save_image
from ddimx.training.settings import TrainRequest, resolve
from tests.data.images.official import celeba, cifar10, encoded, ffhq, lmdb_of, lsun, smooth
from tests.data.shapes import meshes
from tests.data.shapes.prepared import write_set

from . import zips
from .mutate import json_text, mutated, plain
from .target import Target
from .values import integer_bytes

DEPTH = 6  # of octrees, as 'prepare octrees' has it by default

# Pictures and what holds them


def decoded(source: Any) -> None:
    """Decode every picture of a data set; those that cannot be are errors of ours, one by one."""
    source.each(range(min(len(source), 40)))


def make_pictures(folder: Path) -> None:
    pixels = smooth(1, 40, 30)
    for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff", "ppm"):
        (folder / f"a.{kind}").write_bytes(encoded(pixels, kind.upper()))
    if features.check("avif"):
        (folder / "a.avif").write_bytes(encoded(pixels, "AVIF"))
    Image.fromarray(pixels).quantize(8).save(folder / "palette.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    Image.fromarray(pixels).save(folder / "progressive.jpg", progressive=True)
    Image.fromarray(pixels).save(folder / "deflated.tif", compression="tiff_deflate")
    # What is decided of a picture beside its pixels: its side that is up, alpha, the range.
    turned = Image.Exif()
    turned[0x112] = 6
    for kind in ("png", "jpg", "tif"):
        Image.fromarray(pixels).save(folder / f"turned.{kind}", exif=turned)
    Image.fromarray(pixels).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(pixels[..., 0] / np.float32(255)).save(folder / "float.tif")
    Image.fromarray(pixels[..., 0].astype(np.int32) * 257).save(folder / "whole.tif")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.pgm")


def read_pictures(folder: Path) -> None:
    for held_out, channels in ((False, 3), (True, 3), (False, 1), (True, 4)):
        source = FolderSource(folder, size=(16, 9), held_out=held_out, workers=1, channels=channels)
        decoded(source)
    passed_over(source.scan.skipped)


def make_zipped(folder: Path) -> None:
    pixels = smooth(1, 40, 30)
    with zipfile.ZipFile(folder / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, kind in enumerate(("png", "jpeg", "webp", "gif", "bmp", "tiff")):
            archive.writestr(f"all/{'ab'[i % 2]}/{i}.{kind}", encoded(pixels, kind.upper()))
        archive.writestr("__MACOSX/all/a/._0.png", b"\0\5\26\7")


def read_zipped(folder: Path) -> None:
    read_pictures(folder / "pictures.zip")


def edit_zipped(folder: Path, rng: Random) -> None:
    """Change a member, its name, or what the headers say of it."""
    path = folder / "pictures.zip"
    path.write_bytes(zips.edited(path.read_bytes(), rng))


def make_drawn(folder: Path) -> None:
    texts = {"seed": "3", "times": str([*range(300)]), "prompt": "☃"}
    for kind in ("png", "webp"):
        save_image(folder / f"a.{kind}", smooth(1, 9, 7), kind, texts)


def read_drawn(folder: Path) -> None:
    for kind in ("png", "webp"):
        with contextlib.redirect_stdout(io.StringIO()):
            app(["info", str(folder / f"a.{kind}")], standalone_mode=False)


def edit_pictures(folder: Path, rng: Random) -> None:
    """Large pictures in small files, narrow ones, and files of other kinds by these names."""
    path = folder / f"b.{rng.choice(('png', 'tif', 'gif', 'jpg', 'webp'))}"
    mode = rng.choice(("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK"))
    size = rng.choice(((9400, 9400), (1, 100_000), (100_000, 1), (12_000, 12_000), (3, 65_000)))
    kind = rng.choice(("PNG", "TIFF", "GIF", "JPEG", "WEBP", "JPEG2000", "BMP"))
    stream = io.BytesIO()
    try:
        Image.new(mode, size).save(stream, kind)
    except (OSError, ValueError, OverflowError, struct.error):  # not every kind has every size
        Image.new("L", (50, 50)).save(stream, "PNG")
    path.write_bytes(stream.getvalue() if rng.random() < 0.7 else plain(stream.getvalue(), rng))


def make_celeba(folder: Path) -> None:
    celeba(folder, count=4)


def read_celeba(folder: Path) -> None:
    decoded(CelebASource(folder, size=16, held_out=False, split="train", workers=1))


def make_lsun(folder: Path) -> None:
    lsun(folder, count=6, height=40, width=50)
    lmdb_of(folder / "cat", {b"%040x" % i: b"%d" % i * (i * 37 % 900) for i in range(200)})


def read_lsun(folder: Path) -> None:
    for category in ("bedroom", "cat"):
        decoded(LsunSource(folder, category, size=16, held_out=False, workers=1))


def edit_lmdb(folder: Path, rng: Random) -> None:
    """Change a page's header, a node or a meta; or put one page in another's place."""
    for path in folder.rglob("data.mdb"):
        data = bytearray(path.read_bytes())
        for _ in range(rng.choice((1, 1, 2, 5))):
            start = rng.randrange(len(data) // 4096) * 4096
            if rng.random() < 0.2:
                other = rng.randrange(len(data) // 4096) * 4096
                data[start + 8 : start + 4096] = data[other + 8 : other + 4096]
                continue
            inside = rng.randrange(160) if rng.random() < 0.7 else rng.randrange(4088)
            field = integer_bytes(rng)
            place = start + inside // 2 * 2
            data[place : place + len(field)] = field
        path.write_bytes(data)


def make_ffhq(folder: Path) -> None:
    ffhq(folder / "ffhq")


def read_ffhq(folder: Path) -> None:
    decoded(FfhqSource(folder / "ffhq", size=16, held_out=False, workers=1))


def make_cifar(folder: Path) -> None:
    cifar10(folder, count=2)


def read_cifar(folder: Path) -> None:
    for held_out in (False, True):
        Cifar10Source(folder, held_out=held_out)


def edit_cifar(folder: Path, rng: Random) -> None:
    """Change one batch within the archive, or a member's header, or put a bomb there."""
    path = folder / "cifar-10-python.tar.gz"
    with tarfile.open(path) as archive:
        found = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    stream, name = io.BytesIO(), rng.choice(sorted(found))
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member, data in found.items():
            info = tarfile.TarInfo(member)
            content = mutated(data, rng) if member == name else data
            info.size = len(content)
            if member == name and rng.random() < 0.2:
                info.type = rng.choice((tarfile.SYMTYPE, tarfile.GNUTYPE_SPARSE, tarfile.DIRTYPE))
            archive.addfile(info, io.BytesIO(content))
    data = stream.getvalue()
    if rng.random() < 0.2:
        at = rng.randrange(len(data) // 512) * 512 + rng.choice((124, 100, 156, 257, 0))
        data = data[:at] + integer_bytes(rng) + data[at + 8 :]
    path.write_bytes(gzip.compress(data, 1, mtime=0))


def make_packed(folder: Path) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(30):
        (pictures / f"{i}.png").write_bytes(encoded(smooth(i, 8, 8)))
    pack(folder)
    for path in pictures.iterdir():
        path.unlink()
    pictures.rmdir()


def pack(folder: Path) -> None:
    data = DataConfig(dataset="FOLDER", root=str(folder / "pictures"), image_size=8, channels=3)
    parts = open_part(data, held_out=False), open_part(data, held_out=True)
    Packing(parts, {"size": 8}, folder / "packed.npy").run(Progress(quiet=True))  # type: ignore[arg-type]


def read_packed(folder: Path) -> None:
    for held_out in (False, True):
        source = PackedSource(folder / "packed.npy", held_out=held_out)
        source.images(np.arange(len(source)))


def edit_packed(folder: Path, rng: Random) -> None:
    """Change the index, or the array's header."""
    path = folder / "packed.npy"
    if rng.random() < 0.7:
        beside = folder / "packed.npy.json"
        beside.write_bytes(json_text(beside.read_bytes(), rng))
    else:
        data = path.read_bytes()
        path.write_bytes(mutated(data[:HEADER_SIZE], rng) + data[HEADER_SIZE:])


def make_old_packed(folder: Path) -> None:
    """The one file of version 0.1, the index and its length behind the pixels."""
    make_packed(folder)
    beside = folder / "packed.npy.json"
    with (folder / "packed.npy").open("ab") as stream:
        index = beside.read_bytes()
        stream.write(index + len(index).to_bytes(8, "little") + OLD_MAGIC)
    beside.unlink()


def edit_old_packed(folder: Path, rng: Random) -> None:
    """Change the index and state its length right; or the header."""
    path = folder / "packed.npy"
    data = path.read_bytes()
    length = int.from_bytes(data[-16:-8], "little")
    pixels, index = data[: -16 - length], data[-16 - length : -16]
    if rng.random() < 0.7:
        index = json_text(index, rng)
    else:
        pixels = mutated(pixels[:HEADER_SIZE], rng) + pixels[HEADER_SIZE:]
    path.write_bytes(pixels + index + len(index).to_bytes(8, "little") + data[-8:])


def make_unfinished(folder: Path) -> None:
    """A packing that was stopped: its record beside the pixels."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(30):
        (pictures / f"{i}.png").write_bytes(encoded(smooth(i, 8, 8)))
    from ddimx.data.images import pack as module

    chunk = module.CHUNK
    module.CHUNK = 8
    try:
        data = DataConfig(dataset="FOLDER", root=str(pictures), image_size=8, channels=3)
        parts = open_part(data, held_out=False), open_part(data, held_out=True)
        packing = Packing(parts, {"size": 8}, folder / "packed.npy")  # type: ignore[arg-type]
        packing._finish = lambda state, found: None  # type: ignore[assignment, method-assign, return-value]
        packing.run(Progress(quiet=True))
    finally:
        module.CHUNK = chunk


# Meshes and what is made of them


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
    for job in jobs_of(pieces)[:5]:
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


def prepare(folder: Path) -> None:
    shapes = ShapeFolder(folder / "set", PrepareSettings("here", 3))
    run = shape_jobs.run_all

    def here(function: Any, items: Any, **_: Any) -> Any:
        """In this process: the limits of the fuzzer hold for it."""
        for item in items:
            yield processes.Done(item, function(item))

    shape_jobs.run_all = here
    try:
        jobs = [job_of(shape) for shape in scan_shapes(folder / "src").shapes]
        outcome = shapes.run(jobs, workers=1, progress=Progress(quiet=True))
        shapes.finish(outcome, ["train"] * len(outcome.made), {})
    finally:
        shape_jobs.run_all = run


def read_set(folder: Path) -> None:
    ShapeSource(folder / "set", "train")


def make_named(folder: Path) -> None:
    """What ``train --data`` takes, besides pictures: a packed set, an .npz, prepared octrees."""
    make_packed(folder)
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "some.npz", images=images, labels=np.arange(4) % 3)
    write_set(folder / "set", 3)


def read_named(folder: Path) -> None:
    """Recognize each of them; what is wrong with one does not excuse the others."""
    faults = []
    for name in ("packed.npy", "some.npz", "set"):
        try:
            resolve(TrainRequest("own", None, data=str(folder / name)), Progress(quiet=True))
        except DdimxError as error:
            faults.append(error)
    for error in faults:
        raise error


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


TARGETS = [
    Target("pictures", make_pictures, read_pictures, edit_pictures),
    Target("pictures in a zip", make_zipped, read_zipped, edit_zipped),
    Target("drawn pictures", make_drawn, read_drawn),
    Target("celeba", make_celeba, read_celeba),
    Target("lsun", make_lsun, read_lsun, edit_lmdb, ("**/data.mdb",)),
    Target("ffhq", make_ffhq, read_ffhq, edit_lmdb, ("**/data.mdb",)),
    Target("cifar10", make_cifar, read_cifar, edit_cifar),
    Target("packed", make_packed, read_packed, edit_packed),
    Target("packed by version 0.1", make_old_packed, read_packed, edit_old_packed),
    Target(
        "unfinished packing", make_unfinished, pack, changed=("packed.npy.unfinished/state.json",)
    ),
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
    Target("named by --data", make_named, read_named, edit_bombs, ("*.np*", "set/**/*")),
    Target("preparing again", make_set, prepare, changed=("set/*.json*", "src/**/*")),
]
