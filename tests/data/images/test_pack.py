"""Packed files: whole or absent, the same bytes after a kill, bad images listed."""

import hashlib
import json

import numpy as np
import pytest

from ddimx.data.images import pack
from ddimx.data.images.folder import FolderSource
from ddimx.data.images.pack import Packing
from ddimx.data.images.packed import PackedSource, array_header, index_path, read_index
from ddimx.errors import DdimxError, UsageError
from ddimx.files import sha256_file
from ddimx.progress import Progress
from ddimx.runs.lock import lock_folder
from tests.data.images.official import encoded

COUNT, SIZE = 50, 8
ORIGIN = {"dataset": "FOLDER", "size": SIZE}


@pytest.fixture
def pictures(tmp_path):
    """A folder of images, of which number 7 and 30 are broken."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(COUNT):
        pixels = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        broken = i in (7, 30)
        (folder / f"{i:02d}.png").write_bytes(b"broken" if broken else encoded(pixels))
    return folder


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(pack, "CHUNK_BYTES", 8 * SIZE * SIZE * 3 + 1)


def parts(folder):
    return tuple(FolderSource(folder, size=SIZE, held_out=h, workers=2) for h in (False, True))


def packing(folder, out, origin=ORIGIN):
    return Packing(parts(folder), origin, out)


def run(folder, out, **options):
    return packing(folder, out).run(Progress(quiet=True), **options)


def expected(folder):
    """Images of both parts without the broken ones, decoded one by one."""
    return [
        np.stack([part.decoded(i) for i in range(len(part)) if part.place(i)[-6:-4] not in BAD])
        for part in parts(folder)
    ]


BAD = ("07", "30")


def test_what_is_in_the_file(pictures, tmp_path):
    out = tmp_path / "p.npy"
    result = run(pictures, out)
    train, held_out = expected(pictures)
    assert len(held_out) > 0
    assert (result.images, result.held_out) == (48, len(held_out))
    assert [message.partition(":")[0][-6:] for message in result.bad] == ["07.png", "30.png"]
    for part, images in zip((False, True), (train, held_out), strict=True):
        source = PackedSource(out, held_out=part)
        assert len(source) == len(images)
        order = np.random.default_rng(1).permutation(len(images))
        assert np.array_equal(source.images(order), images[order])
        assert (source.labels, source.classes, source.image_shape) == (None, (), (8, 8, 3))
        assert source.fingerprint == result.fingerprint
    assert not (tmp_path / "p.npy.unfinished").exists()


def test_the_fingerprint_is_a_chain_over_all_pixels(pictures, tmp_path):
    images = [image for part in expected(pictures) for image in part]
    bad = {i for i, name in enumerate(names(pictures)) if name[-6:-4] in BAD}
    digest, left = "", iter(images)
    for start in range(0, COUNT, 8):
        chunk = [i for i in range(start, min(start + 8, COUNT)) if i not in bad]
        content = b"".join(next(left).tobytes() for _ in chunk)
        digest = hashlib.sha256(digest.encode() + content).hexdigest()
    assert run(pictures, tmp_path / "p.npy").fingerprint == digest


def names(folder):
    """The files in the order in which they are packed."""
    return [part.place(i) for part in parts(folder) for i in range(len(part))]


def test_numpy_opens_it(pictures, tmp_path):
    run(pictures, tmp_path / "p.npy")
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    assert np.array_equal(mapped, np.concatenate(expected(pictures)))
    assert np.array_equal(np.load(tmp_path / "p.npy"), mapped)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (10**9, 4096, 4096, 3)])
def test_the_header_is_always_128_bytes(shape):
    import io

    assert len(array_header(shape)) == 128
    stream = io.BytesIO(array_header(shape))
    assert np.lib.format.read_magic(stream) == (1, 0)
    assert np.lib.format.read_array_header_1_0(stream) == (shape, False, np.dtype(np.uint8))


class Killed(BaseException):
    """What no handler catches, as little as SIGKILL."""


def run_and_kill(folder, out, monkeypatch, owner, name):
    """Run until the function of this name is called."""

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(Killed):
            run(folder, out)


@pytest.mark.parametrize("after", [0, 1, 3, 6])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(pictures, tmp_path, monkeypatch, after):
    run(pictures, tmp_path / "whole.npy")
    out, decoded, calls = tmp_path / "p.npy", [], []
    real, real_chain = FolderSource.decoded, pack._chain

    def chained(*args):  # called when pixels are written and not yet recorded
        calls.append(1)
        if len(calls) == after + 1:
            raise Killed
        return real_chain(*args)

    def counted(self, index):
        decoded.append(self.place(index))
        return real(self, index)

    monkeypatch.setattr(FolderSource, "decoded", counted)
    monkeypatch.setattr(pack, "_chain", chained)
    with pytest.raises(Killed):
        run(pictures, out)
    assert not out.exists()
    first = set(decoded)
    decoded.clear()
    result = run(pictures, out)
    assert result.start == 8 * after
    assert len(decoded) == COUNT - 8 * after
    assert len(first & set(decoded)) <= 8  # the chunk that was in its hands
    assert sha256_file(out) == sha256_file(tmp_path / "whole.npy")


@pytest.mark.parametrize("moment", ["array_header", "sync"])
def test_killed_at_the_very_end(pictures, tmp_path, monkeypatch, moment):
    run(pictures, tmp_path / "whole.npy")
    run_and_kill(pictures, tmp_path / "p.npy", monkeypatch, pack, moment)
    assert not (tmp_path / "p.npy").exists()
    assert run(pictures, tmp_path / "p.npy").start == COUNT
    assert sha256_file(tmp_path / "p.npy") == sha256_file(tmp_path / "whole.npy")


def test_killed_between_renaming_and_cleaning(pictures, tmp_path, monkeypatch):
    run_and_kill(pictures, tmp_path / "p.npy", monkeypatch, pack.shutil, "rmtree")
    assert run(pictures, tmp_path / "p.npy").images == 48
    assert not (tmp_path / "p.npy.unfinished").exists()


def test_a_finished_file_is_not_made_again(pictures, tmp_path, monkeypatch):
    out = tmp_path / "p.npy"
    first = run(pictures, out)
    before = out.stat()
    monkeypatch.setattr(FolderSource, "decoded", None)
    again = run(pictures, out)
    assert (again.bad, again.images, again.held_out) == (first.bad, first.images, first.held_out)
    assert again.fingerprint == first.fingerprint
    assert again.start == COUNT
    assert out.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("moment", range(5))
def test_a_set_that_is_replaced_never_lies(pictures, tmp_path, monkeypatch, moment):
    """Killed at each step of the exchange: what is read is one of the two sets, or refused."""
    out, calls = tmp_path / "p.npy", []
    run(pictures, out)
    old = read_index(out)["fingerprint"]
    (pictures / "07.png").write_bytes((pictures / "00.png").read_bytes())
    (pictures / "00.png").write_bytes(b"broken")  # as many images as before
    real = pack.sync

    def killed(path):
        calls.append(path)
        if len(calls) == moment + 1:
            raise Killed
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "sync", killed)
        try:
            run(pictures, out, overwrite=True)
        except Killed:
            pass
        else:
            assert moment == 4  # one more than there are
    new = run(pictures, tmp_path / "whole.npy").fingerprint
    try:
        source = PackedSource(out, held_out=False)
    except DdimxError:
        assert 0 < moment < 4
    else:
        assert source.fingerprint == (new if moment > 2 else old)
        whole = PackedSource(tmp_path / "whole.npy", held_out=False)
        every = np.arange(len(whole))
        same = len(source) == len(whole) and np.array_equal(
            source.images(every), whole.images(every)
        )
        assert same == (source.fingerprint == new)
    assert run(pictures, out, overwrite=True).fingerprint == new
    for name in ("p.npy", "p.npy.json"):
        whole = tmp_path / name.replace("p.npy", "whole.npy")
        assert (tmp_path / name).read_bytes() == whole.read_bytes()


def test_another_json_is_not_replaced_without_overwrite(pictures, tmp_path):
    beside = tmp_path / "p.npy.json"
    for text in ("notes", '{"origin": 3}'):
        beside.write_text(text)
        with pytest.raises(UsageError, match=r"p\.npy\.json is there and is of something else"):
            run(pictures, tmp_path / "p.npy")
        assert beside.read_text() == text
    assert run(pictures, tmp_path / "p.npy", overwrite=True).images == 48


def test_something_else_is_not_replaced_without_overwrite(pictures, tmp_path):
    out = tmp_path / "p.npy"
    run(pictures, out)
    (pictures / "new.png").write_bytes((pictures / "00.png").read_bytes())
    with pytest.raises(UsageError, match="made from something else; give --overwrite"):
        run(pictures, out)
    assert run(pictures, out, overwrite=True).images == 49
    out.write_text("notes")
    with pytest.raises(UsageError, match="give --overwrite"):
        run(pictures, out)
    assert out.read_text() == "notes"


def test_a_mended_image_is_taken_with_overwrite(pictures, tmp_path):
    out = tmp_path / "p.npy"
    run(pictures, out)
    (pictures / "07.png").write_bytes((pictures / "00.png").read_bytes())
    assert len(run(pictures, out).bad) == 2
    result = run(pictures, out, overwrite=True)
    assert [m.partition(":")[0][-6:] for m in result.bad] == ["30.png"]


def test_an_unfinished_file_of_something_else(pictures, tmp_path, monkeypatch):
    out = tmp_path / "p.npy"
    run_and_kill(pictures, out, monkeypatch, pack, "sync")
    other = packing(pictures, out, {**ORIGIN, "category": "x"})
    with pytest.raises(UsageError, match=r"p\.npy\.unfinished holds an unfinished file of some"):
        other.run(Progress(quiet=True))
    assert other.run(Progress(quiet=True), overwrite=True).start == 0


@pytest.mark.parametrize("damage", ["{", "[]", '{"origin": {}, "done": 3, "what": 1}'])
def test_a_damaged_record(pictures, tmp_path, damage):
    (tmp_path / "p.npy.unfinished").mkdir()
    (tmp_path / "p.npy.unfinished" / "state.json").write_text(damage)
    with pytest.raises(DdimxError, match=r"state\.json: .*; remove"):
        run(pictures, tmp_path / "p.npy")


def test_a_second_process_is_refused(pictures, tmp_path):
    with (
        lock_folder(tmp_path / "p.npy.unfinished"),
        pytest.raises(UsageError, match=r"another process is writing .*p\.npy\.unfinished"),
    ):
        run(pictures, tmp_path / "p.npy")
    assert run(pictures, tmp_path / "p.npy").start == 0


def test_nothing_to_pack_and_nothing_that_can_be(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(DdimxError, match=r"none of 3 images can be decoded: .*0\.png"):
        run(folder, tmp_path / "p.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    (folder / "0.png").write_bytes(encoded(np.zeros((SIZE, SIZE, 3), dtype=np.uint8)))
    assert run(folder, tmp_path / "p.npy").images == 1


def test_a_full_disk_is_seen_beforehand(pictures, tmp_path, monkeypatch):
    class Usage:
        free = 47 * SIZE * SIZE * 3

    monkeypatch.setattr(pack.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(DdimxError, match="GB more and the disk has"):
        run(pictures, tmp_path / "p.npy")


def test_labels_stay_with_their_images(pictures, tmp_path):
    both = parts(pictures)
    for part in both:
        part.labels = np.array([int(part.place(i)[-6:-4]) for i in range(len(part))])
        part.classes = ("even", "odd")
    Packing(both, ORIGIN, tmp_path / "p.npy").run(Progress(quiet=True))
    for held_out in (False, True):
        source = PackedSource(tmp_path / "p.npy", held_out=held_out)
        assert source.classes == ("even", "odd")
        names = [i for i in range(COUNT) if f"{i:02d}" not in BAD]
        assert set(source.labels) <= set(names)
        for image, number in zip(source.images(np.arange(len(source))), source.labels, strict=True):
            (one,) = (p for p in both for i in range(len(p)) if p.labels[i] == number)
            where = one.labels.tolist().index(number)
            assert np.array_equal(image, one.decoded(where))


# --- what is no packed set ------------------------------------------------------------------------

CHANGES = {
    "labels": {"labels": [0]},
    "cut": {"held_out_from": 49},
    "fingerprint": {"fingerprint": None},
    "cut half": {"held_out_from": 1.5},
    "no bad": {"bad": None},
    "bad": {"bad": [3]},
    "classes": {"classes": [["a"]]},
    "label text": {"labels": ["a"] * 48},
    "label long": {"labels": [2**63] * 48},
    "labels deep": {"labels": [[0]] * 48},
}
OF_TWO = {
    "shape": {"shape": [48, 8, 8, 1]},
    "fewer": {"shape": [47, 8, 8, 3]},
    "no shape": {"shape": None},
    "version": {"version": 3},
    "no version": {"version": None},
}
TEXTS = {
    "json deep": b"[" * 100_000,
    "number": b'{"labels": ' + b"9" * 5000 + b"}",
    "list": b"[]",
    "json": b"?",
    "no json": b"",
}


def arrays(data):
    """What an array file could be instead, by name."""
    return {
        "short": data[:128] + data[129:],
        "end": data[:-1],
        "longer": data + b"x",
        "empty": b"",
        "dtype": data.replace(b"'|u1'", b"'<f4'"),
        "header cut": data[128:],
        "header half": data[:10] + bytes(118) + data[128:],
        "header bracket": data.replace(b"{'descr'", b"{('desc'"),
        "negative": data.replace(b"'shape': (", b"'shape': (-"),
    }


def refused(out):
    with pytest.raises(DdimxError, match=r"p\.npy: not a whole packed file \("):
        PackedSource(out, held_out=False)


@pytest.mark.parametrize("kind", [*CHANGES, *OF_TWO, *TEXTS, *arrays(b"")])
def test_a_damaged_set_is_refused(pictures, tmp_path, kind):
    out, beside = tmp_path / "p.npy", tmp_path / "p.npy.json"
    run(pictures, out)
    index = read_index(out)
    assert index["held_out_from"] <= 48
    if kind in arrays(b""):
        out.write_bytes(arrays(out.read_bytes())[kind])
    elif kind in TEXTS:
        beside.write_bytes(TEXTS[kind])
    else:
        beside.write_text(json.dumps(index | {**CHANGES, **OF_TWO}[kind]))
    refused(out)


def test_an_array_without_its_json_is_refused(pictures, tmp_path):
    out = tmp_path / "p.npy"
    run(pictures, out)
    index_path(out).unlink()
    with pytest.raises(DdimxError, match=r"its JSON is missing, which lies beside it as"):
        PackedSource(out, held_out=False)


# --- version 0.1's one file -----------------------------------------------------------------------


def one_file(out):
    """Make of a set the file that version 0.1 wrote, and return its pixels and its index."""
    pixels, index = out.read_bytes(), json.loads(index_path(out).read_text())
    index_path(out).unlink()
    index = {key: index[key] for key in index if key not in ("version", "shape")}
    text = json.dumps(index, ensure_ascii=False).encode()
    out.write_bytes(indexed(pixels, text))
    return pixels, text


def indexed(pixels, text):
    return pixels + text + len(text).to_bytes(8, "little") + b"DDIMXPK1"


def test_an_old_file_is_read_and_is_taken_for_made(pictures, tmp_path):
    out = tmp_path / "p.npy"
    new = run(pictures, out)
    parts_now = [PackedSource(out, held_out=held_out) for held_out in (False, True)]
    one_file(out)
    for held_out, now in zip((False, True), parts_now, strict=True):
        then = PackedSource(out, held_out=held_out)
        assert (then.fingerprint, len(then)) == (new.fingerprint, len(now))
        assert np.array_equal(then.images(np.arange(len(then))), now.images(np.arange(len(now))))
    result = run(pictures, out)
    assert (result.old, result.start, result.bad) == (True, COUNT, new.bad)
    assert not index_path(out).exists()
    assert not run(pictures, out, overwrite=True).old
    assert np.load(out).shape[0] == new.images
    assert index_path(out).is_file()


OLD_KINDS = ["short", "end", "empty", "only magic", "length", "npy", "dtype", "header cut"]
OLD_KINDS += ["header half", "header bracket", "negative", "deep", "number", "list", "json"]


@pytest.mark.parametrize("kind", [*CHANGES, *OLD_KINDS])
def test_a_damaged_old_file_is_refused(pictures, tmp_path, kind):
    out = tmp_path / "p.npy"
    run(pictures, out)
    pixels, text = one_file(out)
    data = out.read_bytes()
    assert read_index(out)["held_out_from"] <= 48
    if kind in CHANGES:
        text = json.dumps(json.loads(text) | CHANGES[kind]).encode()
        out.write_bytes(indexed(pixels, text))
    else:
        others = arrays(data) | {
            "only magic": b"DDIMXPK1",
            "length": data[:-16] + (2**60).to_bytes(8, "little") + b"DDIMXPK1",
            "npy": pixels,
            "deep": indexed(pixels, b"[" * 100_000),
            "number": indexed(pixels, TEXTS["number"]),
            "list": indexed(pixels, b"[]"),
            "json": pixels + b"?" + data[len(pixels) + 1 :],
        }
        out.write_bytes(others[kind])
    refused(out)


def test_no_file_says_how_to_make_it(tmp_path):
    with pytest.raises(DdimxError, match="ddimx prepare images SRC"):
        PackedSource(tmp_path / "absent.npy", held_out=False)
