"""One run of several processes: what is on disk at the end is what one process makes."""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddimx.runs.formats import LISTED
from ddimx.runs.shards import SHARDS
from tests.conftest import cli_environment
from tests.models.octree.small import octree_config, write_model
from tests.sampling import (
    counted_calls,
    image_names,
    invoke,
    manifest_of,
    names_in,
    sample,
    sampled,
)

COUNT = 7


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """The check of memory, which takes longest, is off here, and no launcher is about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


def files(folder: str, but: str = "manifest.json") -> dict[str, bytes]:
    """All files directly in a run's folder but the one that says when it was made."""
    paths = [path for path in Path(folder).iterdir() if path.is_file() and path.name != but]
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", ["png", "webp", "npy", "npz", "adm"])
def test_the_union_is_what_one_process_makes(tiny_model, kind):
    options = ("-n", COUNT, "--invariant", "--format", kind, "--seed", 3)
    sampled(tiny_model, *options, "--out", "one")
    for shard in ("2/3", "3/3", "1/3"):
        done = sampled(tiny_model, *options, "--out", "many", "--shard", shard)
    assert "all 7 samples are there; gathering" in done.err
    assert files("many") == files("one")
    assert names_in(Path("many")) == sorted([*names_in(Path("one")), SHARDS])
    one, many = manifest_of(Path("one")), manifest_of(Path("many"))
    for name in ("identity", "samples", "files", "count", "status"):
        assert many[name] == one[name]


def test_without_invariant_the_union_is_the_same_up_to_rounding(tiny_model):
    options = ("-n", COUNT, "--format", "npy", "--batch-size", 4)
    sampled(tiny_model, *options, "--out", "one")
    for k in (1, 2):
        sampled(tiny_model, *options, "--out", "two", "--shard", f"{k}/2")
    one, two = (np.load(f"{name}/samples.npy") for name in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=0, atol=2e-5)


def test_the_launchers_variables_say_which_shard_this_is(tiny_model, monkeypatch):
    options = ("-n", COUNT, "--out", "run")
    with monkeypatch.context() as patch:
        for name, value in {"RANK": 0, "WORLD_SIZE": 3, "LOCAL_RANK": 0}.items():
            patch.setenv(name, str(value))
        sampled(tiny_model, *options)
    with monkeypatch.context() as patch:
        for name, value in {"SLURM_PROCID": 1, "SLURM_NTASKS": 3, "SLURM_LOCALID": 1}.items():
            patch.setenv(name, str(value))
        sampled(tiny_model, *options)
    with monkeypatch.context() as patch:
        for name, value in {"ID": 5, "MIN": 1, "MAX": 5, "STEP": 2, "COUNT": 3}.items():
            patch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        done = sampled(tiny_model, *options, "--json")
    assert json.loads(done.out)["status"] == "complete"
    assert names_in(Path("run") / SHARDS) == [f"0000{k}-of-00003.json" for k in (1, 2, 3)]
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "")
    done = sample(tiny_model, *options)
    assert (done.code, "SLURM_ARRAY_TASK_ID is empty" in done.err) == (2, True)


def test_the_part_of_one_shard_as_json_and_in_words(tiny_model):
    done = sampled(tiny_model, "-n", COUNT, "--out", "run", "--shard", "1/3", "--json")
    record = json.loads(done.out)
    assert (record["status"], record["made"], record["done"]) == ("partial", 2, 2)
    assert "2 samples are this shard's; 2 of 7 samples of the run are there" in done.err
    assert "ddimx sample --out run --gather" in done.err


def test_gathering_tells_what_is_missing_and_resuming_makes_it(tiny_model):
    options = ("-n", COUNT, "--invariant")
    sampled(tiny_model, *options, "--out", "one")
    sampled(tiny_model, *options, "--out", "run", "--shard", "2/3")
    done = invoke("sample", "--out", "run", "--gather", "--device", "cpu")
    assert done.code == 1
    assert "5 of 7 samples are missing" in done.err
    assert "--shard 1/3, 3/3" in done.err
    with counted_calls() as calls:
        done = invoke("sample", "--resume", "run", "--device", "cpu")
    assert done.code == 0, done.err
    assert files("run") == files("one")
    assert len(calls) > 0
    with counted_calls() as calls:
        done = invoke("sample", "--out", "run", "--gather", "--device", "cpu")
    assert (done.code, calls) == (0, [])
    assert "run: complete, 7 samples" in done.err


def test_gathering_a_folder_that_holds_no_run(tiny_model):
    Path("empty").mkdir()
    for folder in ("empty", "absent"):
        done = invoke("sample", "--out", folder, "--gather")
        assert (done.code, f"no run in {folder}" in done.err) == (2, True)
    assert not Path("absent").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--shard", "4/3"), "--shard 4/3: shards of 3 are 1/3 to 3/3"),
        (("--shard", "0/3"), "--shard 0/3"),
        (("--shard", "x"), "write K/N"),
        (("--gather",), "--gather: name the run's folder with --out"),
        (("--gather", "--out", "r", "--shard", "1/2"), "omit --shard"),
        (("--gather", "--out", "r", "--overwrite"), "omit --overwrite"),
        (("--shard", "1/2"), "--out"),
        (("--shard", "1/2", "--out", "r", "--overwrite"), "would remove what the others have made"),
        (("--shard", "1/2", "--out", "r", "--profile"), "--profile"),
    ],
)
def test_what_is_refused(tiny_model, options, named):
    done = sample(tiny_model, "-n", COUNT, *options)
    assert (done.code, named in done.err) == (2, True), done.err
    assert not Path("r").exists()
    assert not Path("runs").exists()


def test_shards_of_other_options_are_refused_and_nothing_is_lost(tiny_model):
    sampled(tiny_model, "-n", COUNT, "--out", "run", "--shard", "1/2")
    before = files("run", but="")
    for options in (("-n", COUNT, "--seed", 1), ("-n", COUNT + 1), ("-n", COUNT, "--steps", 4)):
        done = sample(tiny_model, *options, "--out", "run", "--shard", "2/2")
        assert (done.code, "--out" in done.err) == (2, True)
    assert files("run", but="") == before


def test_a_run_in_shards_can_be_overwritten_by_one_process(tiny_model):
    sampled(tiny_model, "-n", COUNT, "--out", "run", "--shard", "1/2")
    sampled(tiny_model, "-n", 3, "--out", "run", "--overwrite")
    assert names_in(Path("run")) == [*image_names(range(3)), "grid.png", "manifest.json"]


def test_octrees_in_shards(tmp_path):
    model = tmp_path / "shapes.safetensors"
    write_model(model, octree_config())
    options = ("-m", model, "--device", "cpu", "--steps", "1", "-n", 5, "--invariant")
    assert invoke("sample", *options, "--out", "one", "--export", "ply").code == 0
    for k in (1, 2):
        done = invoke("sample", *options, "--out", "two", "--export", "ply", "--shard", f"{k}/2")
        assert done.code == 0, done.err
    assert files("two") == files("one")
    assert manifest_of(Path("two"))["exported"] == manifest_of(Path("one"))["exported"]


def test_inpainting_and_encoding_a_folder_in_shards(tiny_model):
    Path("pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"pictures/{i}.png")
    common = ("-m", tiny_model, "--device", "cpu", "--dtype", "fp32", "--steps", 3, "--invariant")
    for verb in (("inpaint", "pictures", "--mask", "center", "-n", 2), ("encode", "pictures")):
        assert invoke(*verb, *common, "--out", f"{verb[0]}-one").code == 0
        for k in (1, 2):
            done = invoke(*verb, *common, "--out", verb[0], "--shard", f"{k}/2")
            assert done.code == 0, done.err
        assert files(verb[0]) == files(f"{verb[0]}-one")
    assert "reconstruction_rms" in manifest_of(Path("encode"))


def test_a_disk_that_is_too_small_is_told_before_the_first_sample(tiny_model, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 20_000))
    done = sample(tiny_model, "-n", 100, "--out", "run")  # 100 files of a block each
    assert (done.code, "at least 0.00 GB" in done.err) == (2, True)
    assert "choose an --out on another disk" in done.err
    done = sample(tiny_model, "-n", 100, "--out", "run", "--format", "npy")
    assert (done.code, "100 samples take 0.00 GB, and 0.00 GB are free" in done.err) == (2, True)
    assert not list(Path("run").glob("*.png"))
    done = sampled(tiny_model, "-n", 4, "--out", "few")
    assert "note: few: 4 samples take up to" in done.err


def test_the_manifest_of_a_large_run_stays_small(tiny_model, monkeypatch):
    for module in ("sampling.manifest", "sampling.run", "runs.image_sink"):
        monkeypatch.setattr(f"ddimx.{module}.LISTED", 4)
    assert LISTED == 10_000
    for name, shards in {"one": ["1/1"], "two": ["1/2", "2/2"]}.items():
        for shard in shards:
            sampled(tiny_model, "-n", COUNT, "--out", name, "--shard", shard, "--start-index", 2)
        record = manifest_of(Path(name))
        assert record["samples"] == {"seed": 0, "first": 2, "count": COUNT}
        assert record["files"] == []
    sampled(tiny_model, "-n", 5, "--out", "one", "--overwrite", "--quiet")
    assert names_in(Path("one")) == [*image_names(range(5)), "grid.png", "manifest.json"]


def process(model: Path, out: str, shard: str, *options: object) -> subprocess.Popen[str]:
    """A shard in a process of its own."""
    common = ("-m", model, "--device", "cpu", "--dtype", "fp32", "--out", out)
    return subprocess.Popen(
        [sys.executable, "-m", "ddimx", "sample", *map(str, common), "--shard", shard]
        + [str(option) for option in options],
        env=cli_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.full)]
)
def test_a_process_that_ends_in_the_middle_goes_on(tiny_model, number):
    options = ("-n", 40, "--steps", 10, "--batch-size", 1)  # whose bits need no --invariant
    many = process(tiny_model, "many", "2/2", *options)
    while many.poll() is None and not list(Path("many").glob("0*.png")):
        with suppress(subprocess.TimeoutExpired):
            many.wait(timeout=0.02)
    many.send_signal(number)
    _, said = many.communicate()
    there = len(list(Path("many").glob("0*.png")))
    assert 0 < there < 20
    if number == signal.SIGTERM:
        assert (many.returncode, "go on: the same command" in said) == (143, True)
    sampled(tiny_model, *options, "--out", "one")
    for shard in ("2/2", "1/2"):
        done = sample(tiny_model, *options, "--out", "many", "--shard", shard)
        assert done.code == 0, done.err
        if shard == "2/2":
            assert f"{there} of 20 samples of shard 2/2 are there" in done.err
    assert files("many") == files("one")


@pytest.mark.full
def test_torchrun(tiny_model):
    """PyTorch's own launcher, two processes, one run; no process group is made."""
    common = ("-m", tiny_model, "--device", "cpu", "--dtype", "fp32", "--steps", "3", "--invariant")
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    command = ("-m", "ddimx", "sample", *map(str, common), "-n", str(COUNT), "--out", "two")
    sampled(tiny_model, "-n", COUNT, "--invariant", "--out", "one")
    subprocess.run([sys.executable, *launcher, *command], env=cli_environment(), check=True)
    assert files("two") == files("one")


@pytest.mark.full
def test_sixty_four_shards_of_which_a_tenth_is_killed(tiny_model):
    """A loop over shards; those that are killed at random are started again until all is there."""
    options = ("-n", 256, "--steps", 3, "--format", "npz", "--batch-size", 2)
    one = process(tiny_model, "one", "1/1", *options)
    assert one.wait() == 0
    draw = random.Random(0)
    killed = 0
    due = [f"{k}/64" for k in range(1, 65)]
    while due:
        shard = due.pop(0)
        running = process(tiny_model, "many", shard, *options)
        if draw.random() < 0.1:
            # From before its first file to after its last, some seconds later.
            try:
                running.wait(timeout=draw.uniform(0.5, 4.0))
            except subprocess.TimeoutExpired:
                os.kill(running.pid, signal.SIGKILL)
                killed += 1
                due.append(shard)
        running.communicate()
    assert killed > 0
    assert files("many") == files("one")
    assert manifest_of(Path("many"))["shards"] == 64
