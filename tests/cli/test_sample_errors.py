"""``ddimx sample`` told wrong, or failing on the way: one message, the right exit code."""

from __future__ import annotations

import errno
import io
import os

import numpy as np
import pytest
import torch

from ddimx.config_file import override
from ddimx.files import whole_file
from ddimx.models.factory import build
from ddimx.sampling.batch import finish_batch
from ddimx.weights.formats.native import Header, read_header, read_tensors, save
from tests.sampling import (
    counted_calls,
    image_names,
    invoke,
    manifest_of,
    names_in,
    pictures,
    sample,
    sampled,
    state_of,
)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


@pytest.fixture(scope="session")
def plain_model(tiny_config, formula_weights, tmp_path_factory):
    """A model without classes."""
    config = override(tiny_config, ["model.classes=[]"])
    path = tmp_path_factory.mktemp("plain") / "plain.safetensors"
    network = formula_weights(build(config)[0])
    save(path, network.state_dict(), Header("model", config, {}))
    return path


def refused(done, message, code=2):
    """Assert that a command failed with one line that holds ``message``, before any sampling."""
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert "fault of ddimx" not in done.err
    assert message in done.err


# --- options ------------------------------------------------------------------------------------

STEPS = "steps must lie in 1..1000 (the model's timesteps), got"
WRONG = [
    (
        ["--solver", "dddim"],
        "unknown solver 'dddim'; did you mean 'ddim'? Allowed: ddim, ddpm, pfdiff:2,1, ",
    ),
    (["--spacing", "trailng"], "unknown spacing 'trailng'; did you mean 'trailing'?"),
    (["--format", "pgn"], "unknown format 'pgn'; did you mean 'png'?"),
    (["--category", "squar"], "unknown category 'squar'; did you mean 'square'?"),
    (["--weights", "emma"], "unknown weights 'emma'; did you mean 'ema'?"),
    (
        ["--dtype", "float32"],
        "unknown dtype 'float32'; did you mean 'fp32'? Allowed: auto, bf16, fp16, fp32.",
    ),
    (["--device", "gpu"], "unknown device 'gpu'. Allowed: auto, cpu, cuda, cuda:N, mps."),
    (["--solver", "ddpm", "--variance", "lage"], "unknown variance 'lage'; did you mean 'large'?"),
    (["--steps", 0], "steps must be at least 1, got 0"),
    (["--steps", -1], "steps must be at least 1, got -1"),
    (["--steps", 1001], f"{STEPS} 1001"),
    (["--eta", -0.1], "eta must lie in [0, 1], got -0.1"),
    (["--eta", 1.5], "eta must lie in [0, 1], got 1.5"),
    (["--eta", "nan"], "eta must lie in [0, 1], got nan"),
    (["--solver", "ddpm", "--eta", 0.5], "--eta belongs to the solver ddim"),
    (["--variance", "small"], "--variance belongs to the solver ddpm"),
    (["--count", 0], "count must be at least 1, got 0"),
    (["--count", -3], "count must be at least 1, got -3"),
    (["--batch-size", 0], "batch-size must be at least 1, got 0"),
    (["--timesteps", "9,5", "--steps", 2], "--timesteps lists the times; omit --steps"),
    (["--timesteps", "9,5", "--spacing", "quad"], "--timesteps lists the times; omit --spacing"),
    (["--timesteps", "9,x"], "--timesteps 9,x: write numbers with commas"),
    (["--timesteps", ","], "the list of timesteps is empty"),
    (["--timesteps", "5,5"], "timesteps must fall (or rise) strictly, without repeats"),
    (["--timesteps", "9,1,5"], "timesteps must fall (or rise) strictly, without repeats"),
    (["--timesteps", "1000,5"], "timestep 1000 lies outside 0..999"),
    (["--timesteps", -1], "timestep -1 lies outside 0..999"),
    (["--timesteps", "nan"], "timestep nan lies outside 0..999"),
    (["--clip", 0], "clip must be positive, got 0.0"),
    (["--clip", -1], "clip must be positive, got -1.0"),
    (["--clip", "abc"], "--clip abc: give a number or 'none'"),
    (["--clip", "nan"], "--clip nan: give a number or 'none'"),
    (["--clip", "inf"], "--clip inf: give a number or 'none'"),
    (["--guidance", "nan"], "guidance must be a finite number, got nan"),
    (["--seed", 2**64], "seed must lie in 0..2^64-1, got 184467"),
    (["--start-index", 2**32 - 1, "-n", 2], "sample indices must lie in 0..2^32-1"),
    (["--resume", "runs", "--out", "a"], "--resume names the folder already; omit --out"),
    (["--resume", "here"], "--resume here: no run in here"),
]


@pytest.mark.parametrize(
    ("args", "message"), WRONG, ids=[" ".join(map(str, args)) for args, _ in WRONG]
)
def test_a_wrong_option_is_named_and_nothing_is_written(tiny_model, tmp_path, args, message):
    refused(sample(tiny_model, *args), message)
    assert names_in(tmp_path) == []


def test_a_device_that_this_machine_lacks(tiny_model, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(sample(tiny_model, "--device", "cuda"), "device 'cuda' is not available here")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--guidance", 2], "--guidance needs classes, and model "),
        (["--category", "round"], "--category: model "),
        (["--category", "none"], " has no classes"),
        (["--labels"], " has no classes"),
    ],
)
def test_a_model_without_classes_takes_no_class(plain_model, tmp_path, args, message):
    refused(sample(plain_model, *args), message)
    assert names_in(tmp_path) == []


def test_a_model_without_classes_is_sampled_all_the_same(plain_model, tmp_path):
    sampled(plain_model, "-n", 2, "--guidance", 1, "--format", "npz", "--out", "a")
    with np.load(tmp_path / "a" / "samples.npz") as archive:
        assert archive.files == ["images"]


def test_a_fault_of_ours_is_one_line_and_under_debug_a_traceback(tiny_model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a shape is wrong")

    monkeypatch.setattr("ddimx.sampling.run.finish_batch", fail)
    done = sample(tiny_model, "-n", 1)
    assert done.code == 1
    assert done.err.startswith("error: RuntimeError: a shape is wrong\n")
    assert "Traceback" not in done.err
    monkeypatch.setenv("DDIMX_DEBUG", "1")
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        sample(tiny_model, "-n", 1)


# --- files that are read ------------------------------------------------------------------------


def npy(*shape, dtype=np.float32, value=0.0) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.full(shape, value, dtype))
    return stream.getvalue()


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "args", "message"),
    [
        (None, [], "--init-noise x.npy: no such file"),
        (b"", [], "not a readable .npy ("),
        (b"no array", [], "not a readable .npy ("),
        (b"PK\x03\x04 no archive", [], "not a readable .npy ("),
        (npy(2, 3, 8, 8)[:-1], [], "not a readable .npy ("),
        (npz(), [], "not a readable .npy (not an array of NumPy's)"),
        (npy(2, 3, 8, 7), [], "shape (2, 3, 8, 7), expected (N, 3, 8, 8)"),
        (npy(3, 8, 8), [], "shape (3, 8, 8), expected (N, 3, 8, 8)"),
        (npy(), [], "shape (), expected (N, 3, 8, 8)"),
        (npy(2, 3, 8, 8, dtype=np.int64), [], "dtype int64, expected floating point"),
        (npy(2, 3, 8, 8, value=np.nan), [], "holds values that are not finite"),
        (npy(2, 3, 8, 8, value=np.inf), [], "holds values that are not finite"),
        (npy(2, 3, 8, 8), ["-n", 3], "count 3 exceeds the 2 states of the init noise"),
    ],
)
def test_a_start_that_does_not_fit(tiny_model, tmp_path, data, args, message):
    if data is not None:
        (tmp_path / "x.npy").write_bytes(data)
    refused(sample(tiny_model, "--init-noise", "x.npy", *args), message)
    assert names_in(tmp_path) == ([] if data is None else ["x.npy"])


def test_weights_that_cannot_be_read(tiny_model, tmp_path, tiny_config):
    data = tiny_model.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.safetensors").write_text("these are no weights")
    (tmp_path / "empty").mkdir()
    unreadable = "not a readable safetensors file, perhaps truncated"
    refused(sample("cut.safetensors"), f"cut.safetensors: {unreadable}", 1)
    refused(sample("text.safetensors"), "text.safetensors: not a readable model, neither ", 1)
    refused(sample("empty"), "empty: no checkpoint in this folder", 1)
    refused(sample("absent"), "unknown model 'absent'")

    tensors, info = read_tensors(tiny_model), read_header(tiny_model).info
    del tensors["conv_in.bias"]
    tensors["conv_out.bias"] = torch.zeros(5)
    save(tmp_path / "other.safetensors", tensors, Header("model", tiny_config, info))
    done = sample("other.safetensors")
    refused(done, "other.safetensors: the weights do not fit the configuration: ", 1)
    assert "missing: conv_in.bias" in done.err
    assert "of another shape: conv_out.bias [5] instead of [12]" in done.err
    assert not (tmp_path / "runs").exists()


# --- where it cannot write ----------------------------------------------------------------------


def test_a_place_that_is_no_folder(tiny_model, tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    refused(sample(tiny_model, "--out", "file"), "--out file is a file")
    refused(sample(tiny_model, "--out", "file/below"), "cannot create file/below: Not a dir", 1)
    refused(sample(tiny_model, "--out", "/proc/absent"), "cannot create /proc/absent: ", 1)
    assert state_of(tmp_path).keys() == {"file"}
    (tmp_path / "runs").write_bytes(b"mine")
    refused(sample(tiny_model, "-n", 1), "cannot create a run folder in runs: ", 1)


def full_disk(monkeypatch, after: int) -> None:
    """Let the sinks write ``after`` files, and then find no space left."""
    left = [after]

    def limited(path):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole_file(path)

    for module in ("sinks", "image_sink"):
        monkeypatch.setattr(f"ddimx.runs.{module}.whole_file", limited)


FULL = (
    "error: cannot write to a: No space left on device; what was written is valid, "
    "the same command goes on from there\n"
)


def test_a_full_disk_keeps_what_was_written(tiny_model, tmp_path):
    options = ("-n", 4, "--batch-size", 1, "--out", "a")
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, after=2)
        done = sample(tiny_model, *options)
    assert (done.code, done.out, done.err) == (1, "", FULL)
    folder = tmp_path / "a"
    assert names_in(folder) == [*image_names(range(2)), "manifest.json"]
    assert pictures(folder, range(2)).shape == (2, 8, 8, 3)
    assert manifest_of(folder)["status"] != "complete"
    before = state_of(folder)
    with counted_calls() as calls:
        sampled(tiny_model, *options)
    assert len(calls) == 2 * 3
    after = state_of(folder)
    assert all(after[name] == before[name] for name in image_names(range(2)))
    assert names_in(folder) == [*image_names(range(4)), "grid.png", "manifest.json"]


def test_a_disk_that_is_full_when_an_array_is_joined(tiny_model, tmp_path):
    options = ("-n", 8, "--format", "npy", "--out", "a")
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch, after=2)  # the two parts
        done = sample(tiny_model, *options)
    assert (done.code, done.err) == (1, FULL)
    assert names_in(tmp_path / "a") == ["manifest.json", "parts"]
    with counted_calls() as calls:
        sampled(tiny_model, *options)
    assert calls == []
    assert np.load(tmp_path / "a" / "samples.npy").shape == (8, 3, 8, 8)
    assert names_in(tmp_path / "a") == ["grid.png", "manifest.json", "samples.npy"]


# --- memory -------------------------------------------------------------------------------------


def test_a_batch_that_cannot_fit_is_refused_with_one_that_does(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: 10_000)
    monkeypatch.setattr("ddimx.sampling.memory.bytes_per_sample", lambda *_: 3000)
    done = sample(tiny_model, "--batch-size", 4)
    refused(done, "a batch of 4 needs about 0.0 GB and 0.0 GB are free: use --batch-size 3 or less")
    refused(sample(tiny_model, "--invariant"), "a batch of 8 needs about ")  # the micro-batch
    assert names_in(tmp_path) == []
    sampled(tiny_model, "-n", 4, "--batch-size", 3, "--steps", 1)


def test_out_of_memory_on_the_device_halves_the_batch(tiny_model, tmp_path, monkeypatch):
    tried = []

    def limited(model, settings, samples, **rest):
        tried.append(list(samples))
        if len(samples) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return finish_batch(model, settings, samples, **rest)

    with monkeypatch.context() as patch:
        patch.setattr("ddimx.sampling.run.finish_batch", limited)
        done = sampled(tiny_model, "-n", 7, "--batch-size", 6, "--out", "a")
    assert tried == [[*range(6)], [0, 1, 2], [0, 1], [2, 3], [4, 5], [6]]
    assert done.err.splitlines()[:2] == [
        "out of memory; going on with batches of 3",
        "out of memory; going on with batches of 2",
    ]
    assert manifest_of(tmp_path / "a")["batch_size"] == 2
    assert manifest_of(tmp_path / "a")["status"] == "complete"
    sampled(tiny_model, "-n", 7, "--batch-size", 7, "--out", "b")
    assert abs(pictures(tmp_path / "a", range(7)) - pictures(tmp_path / "b", range(7))).max() <= 1


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--quiet", "not even one sample fits into the device's memory"),
        ("--invariant", "the 8 samples that --invariant computes together do not fit into"),
    ],
)
def test_out_of_memory_with_nothing_left_to_halve(tiny_model, monkeypatch, option, message):
    def none(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("ddimx.sampling.run.finish_batch", none)
    done = sample(tiny_model, "-n", 4, option)
    assert done.code == 1
    assert f"error: {message}" in done.err


def test_what_is_asked_of_a_model_is_checked_before_it_is_loaded(tmp_path):
    refused(invoke("sample", "-m", "absent", "--format", "gif"), "unknown format 'gif'")
