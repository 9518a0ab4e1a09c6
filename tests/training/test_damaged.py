"""A damaged checkpoint is passed over and said, and is in nobody's way afterwards."""

import shutil

import pytest
import torch

from ddimx.config_file import dump_yaml, override
from ddimx.training.state import checkpoints
from ddimx.weights.formats.native import read_tensors
from tests.sampling import invoke

ITEMS = ["training.n_iters=8", "training.snapshot_freq=2", "training.validation_freq=8"]
# What happens to files: the end is lost, pages are zeros, a byte is another one.
DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "zeroed within": lambda data: data[: len(data) // 2] + bytes(64) + data[len(data) // 2 + 64 :],
    "wrong byte": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
}


@pytest.fixture(scope="module")
def config_file(tiny_config, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yml"
    path.write_text(dump_yaml(override(tiny_config, ITEMS)))
    return path


def train(*args):
    return invoke("train", "--device", "cpu", *args)


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train("-c", config_file, "-o", folder).code == 0
    return folder


def path_of(folder, step):
    return folder / "checkpoints" / f"checkpoint-{step:08d}.safetensors"


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the run, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


CASES = [(how, command) for how in DAMAGE for command in ("--resume", "same")]
IN_THE_GATE = (("truncated", "same"), ("zeroed within", "--resume"))


@pytest.mark.parametrize(
    ("how", "command"),
    [
        case if case in IN_THE_GATE else pytest.param(*case, marks=pytest.mark.full)
        for case in CASES
    ],
)
def test_the_one_before_a_damaged_one_is_taken(config_file, whole, folder, how, command):
    again = ("--resume", folder) if command == "--resume" else ("-c", config_file, "-o", folder)
    bad = path_of(folder, 8)
    damaged = DAMAGE[how](bad.read_bytes())
    bad.write_bytes(damaged)
    done = train(*again)
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert f"{bad.name} is damaged: " in said
    assert "it is checkpoint-00000008.safetensors.damaged now, and passed over" in said
    assert "going on from step 6" in said
    # It is kept as it was, counts as none of the three that are kept, and its place is taken.
    assert (bad.parent / f"{bad.name}.damaged").read_bytes() == damaged
    assert names(folder) == [*names(whole), f"{bad.name}.damaged"]
    ours, theirs = read_tensors(bad), read_tensors(path_of(whole, 8))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert train(*again).code == 0
    assert names(folder) == [*names(whole), f"{bad.name}.damaged"]


def test_several_damaged_ones_and_none_that_is_whole(config_file, folder):
    for step in (6, 8):
        path_of(folder, step).write_bytes(b"no")
    (folder / "checkpoints" / "checkpoint-00000008.safetensors.damaged").write_text("an older one")
    done = train("-q", "-c", config_file, "-o", folder)
    assert done.code == 0, done.err
    assert names(folder) == [
        *(f"checkpoint-{step:08d}.safetensors" for step in (4, 6)),
        *("checkpoint-00000006.safetensors.damaged", "checkpoint-00000008.safetensors"),
        "checkpoint-00000008.safetensors.damaged",
        "checkpoint-00000008.safetensors.damaged-2",
    ]
    for path in checkpoints(folder / "checkpoints"):
        path.write_bytes(b"no")
    before = names(folder)
    for again in (("-c", config_file, "-o", folder), ("--resume", folder)):
        done = train(*again)
        assert done.code == 1
        text = " ".join(done.err.split())
        assert "all checkpoints are damaged (checkpoint-00000008.safetensors: it is cut" in text
        assert names(folder) == before  # nothing was touched


def test_a_damaged_file_that_is_named_is_refused(whole, tmp_path):
    path = tmp_path / "checkpoint-00000008.safetensors"
    path.write_bytes(path_of(whole, 8).read_bytes()[:-1])
    done = train("--resume", path, "-o", tmp_path / "run")
    assert done.code == 1
    text = " ".join(done.err.split())
    assert "damaged: its bytes are not those that were written (SHA-256); --resume RUN" in text


def test_another_out_leaves_the_runs_own_folder_alone(folder, tmp_path):
    path_of(folder, 8).write_bytes(b"no")
    before = names(folder)
    done = train("--resume", folder, "-o", tmp_path / "other")
    assert done.code == 0, done.err
    assert "is damaged: it is cut off" in " ".join(done.err.split())
    assert names(folder) == before
    assert read_tensors(path_of(tmp_path / "other", 8)).keys()
