"""Small data sets in the exact forms in which the large ones are published.

The pickles of CIFAR-10 are written opcode by opcode as Python 2's cPickle wrote them, because
Python 3 writes neither its byte strings nor NumPy's old module names.
"""

import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

CIFAR_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


def py2_string(text):
    """A Python 2 ``str``: SHORT_BINSTRING or BINSTRING."""
    raw = text if isinstance(text, bytes) else text.encode()
    if len(raw) < 256:
        return b"U" + bytes([len(raw)]) + raw
    return b"T" + struct.pack("<i", len(raw)) + raw


def py2_list(items):
    """A list: EMPTY_LIST, MARK, items, APPENDS."""
    return b"](" + b"".join(items) + b"e"


def py2_array(array):
    """A uint8 ndarray: ``_reconstruct(ndarray, (0,), 'b')`` and its state, of NumPy 1.x."""
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    minus_one = b"J\xff\xff\xff\xff"
    kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + 2 * minus_one + b"K\x00tb"
    rows, columns = (struct.pack("<i", n) for n in array.shape)
    shape = b"(J" + rows + b"J" + columns + b"t"
    return made + b"(K\x01" + shape + kind + b"\x89" + py2_string(array.tobytes()) + b"tb"


def cifar_batch(images, labels, label="training batch 1 of 5"):
    """One batch file: images uint8 [N, 32, 32, 3], labels N integers below 10."""
    flat = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
    entries = {
        "batch_label": py2_string(label),
        "labels": py2_list(b"K" + bytes([int(n)]) for n in labels),
        "data": py2_array(flat),
        "filenames": py2_list(py2_string(f"frog_s_{i:06d}.png") for i in range(len(images))),
    }
    pairs = b"".join(py2_string(key) + value for key, value in entries.items())
    return b"\x80\x02}(" + pairs + b"u."


def cifar10(folder, count=4, archive=True):
    """Write the archive, or its folder; return images [6 * count, 32, 32, 3] and labels.

    The last ``count`` are the test batch's.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6 * count, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, 6 * count)
    files = {"batches.meta": b"not read", "readme.html": b"<html>"}
    for i, name in enumerate(CIFAR_BATCHES):
        part = slice(i * count, (i + 1) * count)
        files[name] = cifar_batch(images[part], labels[part])
    folder.mkdir(parents=True, exist_ok=True)
    if archive:
        with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        (folder / "cifar-10-batches-py").mkdir()
        for name, data in files.items():
            (folder / "cifar-10-batches-py" / name).write_bytes(data)
    return images, labels


def encoded(pixels, kind="PNG", **options):
    """The bytes of an image file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def smooth(seed, height, width):
    """An image of random slopes, uint8 [height, width, 3], which JPEG and WebP hardly change."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None]
    slopes = generator.uniform(-0.5, 0.5, (2, 3))
    middle = generator.uniform(100, 150, 3)
    values = middle + slopes[0] * (y - height / 2) + slopes[1] * (x - width / 2)
    return np.clip(values, 0, 255).astype(np.uint8)


def celeba(folder, count=6, archive=True, partition=True):
    """Write aligned images 000001.jpg, ...; every third is "valid", every third after it "test"."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"{i + 1:06d}.jpg": encoded(smooth(i, 218, 178), "JPEG") for i in range(count)}
    if archive:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as out:
            out.writestr("img_align_celeba/", b"")
            for name, data in files.items():
                out.writestr(f"img_align_celeba/{name}", data)
    else:
        (folder / "img_align_celeba").mkdir()
        for name, data in files.items():
            (folder / "img_align_celeba" / name).write_bytes(data)
    if partition:
        lines = [f"{name} {i % 3}\n" for i, name in enumerate(files)]
        (folder / "list_eval_partition.txt").write_text("".join(lines))
    return files


def lmdb_of(path, entries):
    """Write an LMDB folder."""
    import lmdb

    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)


def lsun(folder, category="bedroom", count=5, height=280, width=341):
    """Write ``<category>_train_lmdb`` and ``_val_lmdb``: webp under forty hexadecimal digits."""
    import hashlib

    parts = {}
    for split, first in (("train", 0), ("val", 100)):
        keys = [hashlib.sha1(b"%d" % (first + i)).hexdigest().encode() for i in range(count)]
        images = [smooth(first + i, height, width) for i in range(count)]
        parts[split] = {
            key: encoded(image, "WEBP", lossless=True)
            for key, image in zip(keys, images, strict=True)
        }
        lmdb_of(folder / f"{category}_{split}_lmdb", parts[split])
    return parts


def ffhq(path, count=10, sizes=(8, 16)):
    """Write the LMDB that the original reads; image ``i`` of every size is ``smooth(i, ...)``."""
    entries = {b"length": str(count).encode()}
    for size in sizes:
        for i in range(count):
            key = f"{size}-{str(i).zfill(5)}".encode()
            entries[key] = encoded(smooth(i, size, size), "JPEG", quality=100, subsampling=0)
    lmdb_of(path, entries)
