"""Images: pictures, what holds them, sets of them, and the statistics of a set."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, features

from ddimx.cli.app import app
from ddimx.config import DataConfig
from ddimx.data.images.celeba import CelebASource
from ddimx.data.images.cifar10 import Cifar10Source
from ddimx.data.images.ffhq import FfhqSource
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.listing import passed_over
from ddimx.data.images.lsun import LsunSource
from ddimx.data.images.pack import Packing
from ddimx.data.images.pack_shards import ShardPacking
from ddimx.data.images.packed import HEADER_SIZE, OLD_MAGIC, PackedSource
from ddimx.data.images.sources import open_part
from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.runs.pictures import save_image
from ddimx.runs.shards import Shard
from tests.data.images.official import celeba, cifar10, encoded, ffhq, lmdb_of, lsun, smooth

from . import tars, zips
from .mutate import json_text, mutated, plain
from .target import Target
from .targets_weights import model
from .values import integer_bytes


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


def make_tars(folder: Path) -> None:
    """Two tars in a folder, with classes, captions, and names that need an extended header."""
    pixels = smooth(1, 40, 30)
    for number, kind in enumerate((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(folder / f"{number}.tar", "w", format=kind) as archive:
            for i, picture in enumerate(("png", "jpeg", "webp")):
                for suffix, data in (
                    (picture, encoded(pixels, picture.upper())),
                    ("json", b'{"index": %d, "class": "%c"}' % (i, 97 + i % 2)),
                    ("cls", b"%d" % i),
                    ("txt", b"a caption"),
                ):
                    long = "" if kind == tarfile.USTAR_FORMAT else "n" * 120
                    info = tarfile.TarInfo(f"all/{long}{i}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


def read_tars(folder: Path) -> None:
    read_pictures(folder)


def edit_tars(folder: Path, rng: Random) -> None:
    """Change a header, which keeps its checksum, or what a member holds."""
    path = folder / f"{rng.randrange(3)}.tar"
    path.write_bytes(tars.edited(path.read_bytes(), rng))


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


def make_shard(folder: Path) -> None:
    """The first of two shards of a packing, finished, with a picture that cannot be read."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for i in range(6):
        (pictures / f"{i}.png").write_bytes(encoded(smooth(i, 8, 8)) if i else b"broken")
    packing_in_shards(folder, "1/2")


def pack_other_shard(folder: Path) -> None:
    packing_in_shards(folder, "2/2")


def packing_in_shards(folder: Path, shard: str) -> None:
    data = DataConfig(dataset="FOLDER", root=str(folder / "pictures"), image_size=8, channels=3)
    parts = open_part(data, held_out=False), open_part(data, held_out=True)
    packing = ShardPacking(parts, {"size": 8}, folder / "packed.npy")  # type: ignore[arg-type]
    packing.run_shard(Shard.parsed(shard), Progress(quiet=True))


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


def make_image_sets(folder: Path) -> None:
    """Images in the forms that measuring and editing read beside folders and data sets."""
    pixels = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for i, image in enumerate(pixels):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG" if i == 4 else "PNG")
            archive.writestr(f"{i}.{'jpg' if i == 4 else 'png'}", stream.getvalue())
    np.save(folder / "plain.npy", pixels)
    np.savez(folder / "adm.npz", arr_0=pixels, mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(2))


def read_image_sets(folder: Path) -> None:
    from ddimx.editing.pictures import read_pictures
    from ddimx.evaluation.fid import compare as fid

    class Features:
        about: ClassVar[dict[str, Any]] = {"network": "n"}

        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.double().mean(dim=(2, 3))

    refused = []
    for name in ("pictures.zip", "plain.npy", "adm.npz"):
        for read in (
            lambda path: fid.statistics_of(str(path), Features(), 2, Progress(quiet=True)),
            lambda path: read_pictures(path, model(), resize=True),
        ):
            try:
                read(folder / name)
            except DdimxError as error:
                refused.append(error)
    if refused:
        raise refused[0]


def make_image_array(folder: Path) -> None:
    pixels = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    np.savez_compressed(folder / "images.npz", arr_0=pixels, labels=np.arange(4), notes=np.zeros(9))
    np.savez(
        folder / "data.npz",
        images=pixels,
        labels=np.array([0, 1, 0, 1]),
        families=np.arange(4),
        held_out=np.arange(4) > 2,
        groups=np.array(["a", "b"]),
    )


def read_image_array(folder: Path) -> None:
    from ddimx.data.images.npz import NpzSource
    from ddimx.evaluation.fid.images import open_images

    images = open_images(str(folder / "images.npz"))
    images.read(range(len(images)))
    source = NpzSource(folder / "data.npz", held_out=False)
    source.images(np.arange(len(source)))


def make_statistics(folder: Path) -> None:
    from ddimx.evaluation.fid.frechet import Statistics, write_statistics

    about = {"network": "n", "library": "l", "images": "x", "size": [8, 8], "files": {"JPEG": 4}}
    about |= {"preprocessing": "8-bit RGB, 8x8 as stored", "decoding": "d"}
    features = np.arange(30, dtype=np.float32).reshape(5, 6)
    made = Statistics(np.zeros(6), np.eye(6), 40, about, features)
    write_statistics(folder / "stats.npz", made)


def read_statistics(folder: Path) -> None:
    from ddimx.evaluation.fid import compare as fid

    features: Any = type("Features", (), {"about": {"network": "n"}})
    saved = fid.statistics_of(str(folder / "stats.npz"), features, 2, Progress(quiet=True))
    if len(saved.mean) == 6:
        fid.compare(saved, saved)
        fid.remarks(saved, saved)


class Means:
    about: ClassVar[dict[str, Any]] = {"network": "n"}

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean(dim=(2, 3))


def parts_of_features(folder: Path) -> Any:
    from ddimx.evaluation.fid.images import open_images
    from ddimx.evaluation.fid.parts import Parts

    images = folder / "plain.npy"
    os.utime(images, ns=(1, 1))  # part of what the file says it is of
    parts = Parts(open_images(str(images)), Means(), 2, Progress(quiet=True))
    parts.keep(folder, "samples", str(images), optional=False)
    return parts


def make_parts(folder: Path) -> None:
    np.save(folder / "plain.npy", np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3))
    parts_of_features(folder).fill([0])


def read_parts(folder: Path) -> None:
    parts = parts_of_features(folder)
    parts.is_there(0)
    parts.read(0)
    parts.statistics()


TARGETS = [
    Target("pictures", make_pictures, read_pictures, edit_pictures),
    Target("pictures in a zip", make_zipped, read_zipped, edit_zipped),
    Target("pictures in tars", make_tars, read_tars, edit_tars),
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
    Target(
        "packing in shards",
        make_shard,
        pack_other_shard,
        changed=("packed.npy.unfinished/shards/*",),
    ),
    Target("sets of images", make_image_sets, read_image_sets),
    Target("images in npz", make_image_array, read_image_array),
    Target("statistics", make_statistics, read_statistics),
    Target("parts of features", make_parts, read_parts, changed=("samples-*.npz",)),
]
