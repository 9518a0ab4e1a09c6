"""``export`` and ``prepare`` in shards from the command line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import cli_environment
from tests.data.images.official import encoded, smooth
from tests.data.shapes.meshes import npz, obj
from tests.exporting import write
from tests.sampling import invoke

VERBS = {
    "export": ("export", "octrees", "--format", "spz,ply", "--workers", 1, "--out"),
    "images": ("prepare", "images", "pictures", "--size", 8),
    "octrees": ("prepare", "octrees", "meshes", "--depth", 3, "--workers", 1),
}
OUT = {"export": "splats", "images": "p.npy", "octrees": "set"}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Five inputs for each verb."""
    monkeypatch.chdir(tmp_path)
    for name in ("octrees", "pictures", "meshes"):
        Path(name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        write(Path("octrees") / f"{i}.npz", legs=i)
        (Path("pictures") / f"{i}.png").write_bytes(encoded(smooth(i, 8, 8)))
        (Path("meshes") / f"{i}.npz").write_bytes(npz(points=rng.normal(size=(40, 3))))
    return tmp_path


def command(verb, out, *args):
    """A verb's command that writes to ``out``."""
    words = VERBS[verb]
    return [*words[:3], out, *words[3:], *args] if verb != "export" else [*words, out, *args]


def files(out: str) -> dict[str, bytes]:
    """What a command has written: a folder, or a file with its JSON."""
    paths = sorted(Path().glob(f"{out}*")) if out.endswith(".npy") else Path(out).rglob("*")
    return {
        str(path.relative_to(out)) if path.parent != Path() else path.name[len(out) :]: data
        for path in paths
        if path.is_file() and path.parent.name != "shards"
        for data in [path.read_bytes()]
    }


@pytest.mark.parametrize("verb", VERBS)
def test_shards_and_one_process_write_the_same(verb):
    out = OUT[verb]
    one = out.replace("p.", "one.") if verb == "images" else "one"
    assert invoke(*command(verb, one)).code == 0
    for k in (2, 1):
        done = invoke(*command(verb, out, "--shard", f"{k}/3", "--json"))
        assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told == {
        "status": "partial",
        "shard": "1/3",
        "made": 1,
        "done": 3,
        "count": 5,
        "failed": [],
    }
    assert "has made 1 " in done.err
    assert "3 of 5 " in done.err
    assert "the same command with --gather says what is missing" in done.err
    done = invoke(*command(verb, out, "--gather"))
    assert (done.code, done.err.count("error:")) == (1, 1)
    assert "2 of 5 " in done.err
    assert "to be started again: --shard 3/3; or one process makes all" in done.err
    done = invoke(*command(verb, out))  # which is one process alone, and goes on in shards
    assert done.code == 0, done.err
    assert "was begun in shards: this process makes all that is missing" in done.err
    assert files(out) == files(one)
    if verb == "images":
        assert not Path("p.npy.unfinished").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_launchers_say_which_shard_this_is(verb, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = invoke(*command(verb, OUT[verb], "--json"))
    assert json.loads(done.out)["shard"] == "1/2"
    monkeypatch.setenv("RANK", "1")
    done = invoke(*command(verb, OUT[verb]))
    assert (done.code, "with --gather" in done.err) == (0, False)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--shard", "4/3"), "--shard 4/3: shards of 3 are 1/3 to 3/3"),
        (("--shard", "3"), "--shard 3: write K/N"),
        (("--gather", "--shard", "1/2"), "--gather makes nothing; omit --shard"),
        (("--gather", "--overwrite"), "--gather makes nothing; omit --overwrite"),
        (("--gather",), "no shard was begun here; omit --gather"),
        (("--shard", "1/2", "--overwrite"), "it would remove what the others have made"),
    ],
)
def test_a_wrong_command_is_one_clear_message(verb, args, words):
    done = invoke(*command(verb, OUT[verb], *args))
    assert (done.code, done.err.count("error:")) == (2, 1), done.err
    assert words in done.err.replace("\n", " ")
    assert not Path(OUT[verb]).exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("octrees",), "export into one folder: name it with --out"),
        (("octrees", "--out", "x.spz", "--format", "spz"), "name it with --out"),
        (("octrees", "--out", "x", "--merge"), "--merge makes one file of all shapes"),
        (("--out", "x"), "export the same shapes: name their folder"),
    ],
)
def test_what_shards_cannot_export(args, words):
    done = invoke("export", *args, "--shard", "1/2")
    assert (done.code, done.err.count("error:")) == (2, 1)
    assert words in done.err.replace("\n", " ")


def test_what_failed_makes_the_exit_code_1():
    (Path("octrees") / "0.npz").write_bytes(b"")
    (Path("pictures") / "0.png").write_bytes(b"broken")
    (Path("meshes") / "0.npz").unlink()
    (Path("meshes") / "0.obj").write_bytes(b"broken")
    for verb in VERBS:
        first, second = (invoke(*command(verb, OUT[verb], "--shard", f"{k}/2")) for k in (1, 2))
        again = invoke(*command(verb, OUT[verb], "--gather"))
        # Of images the order goes by which are held out: not the first shard has the broken one.
        own = first if "failed:" in first.err else second
        assert own.code == second.code == again.code == 1
        for done in (second, again):
            assert done.err.count("0.png") + done.err.count("0.npz") + done.err.count("0.obj") > 0


def test_a_complete_export_makes_room_for_another_one():
    for k in (1, 2):
        invoke(*command("export", "splats", "--shard", f"{k}/2"))
    assert Path("splats/shards").is_dir()
    other = ("export", "octrees", "--format", "json", "--out", "splats")
    assert invoke(*other, "--shard", "1/2").code == 2
    assert invoke(*other).code == 0
    assert not Path("splats/shards").exists()
    assert invoke(*other, "--shard", "1/2").code == 0


@pytest.mark.full
@pytest.mark.parametrize("verb", VERBS)
def test_64_shards_of_which_some_are_killed(verb):
    """Killed at any moment and started again, four at a time: complete, and as of one process."""
    for i in range(5, 80):
        write(Path("octrees") / f"{i}.npz", legs=i % 5)
        (Path("pictures") / f"{i}.png").write_bytes(encoded(smooth(i, 8, 8)))
        (Path("meshes") / f"{i}.obj").write_bytes(obj())
    out = OUT[verb]
    one = out.replace("p.", "one.") if verb == "images" else "one"
    assert invoke(*command(verb, one)).code == 0
    rng, shards = random.Random(0), [f"{k}/64" for k in range(1, 65)]
    rng.shuffle(shards)
    killed = 0
    while shards:
        batch, shards = shards[:4], shards[4:]
        running = []
        for text in batch:
            words = map(str, command(verb, out, "--shard", text, "-q"))
            running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ddimx", *words],
                    env=cli_environment(),
                    stderr=subprocess.DEVNULL,
                )
            )
        for text, process in zip(batch, running, strict=True):
            if rng.random() < 0.1 and killed < 10:
                claim = f"{int(text.split('/')[0]):05d}-of-00064.claim"
                folder = Path(out if verb != "images" else f"{out}.unfinished") / "shards"
                while not (folder / claim).exists() and process.poll() is None:
                    os.sched_yield()
                process.kill()
            code = process.wait()
            if code == -signal.SIGKILL:
                killed += 1
                shards.append(text)
            else:
                assert code == 0
    assert killed > 0
    assert files(out) == files(one)
