"""``ddimx sample`` into a folder that holds a run: go on, refuse, or replace; Ctrl-C included."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from ddimx.models.unet import UNet
from ddimx.runs import run as run_protocol
from ddimx.runs.image_sink import ImageSink
from ddimx.runs.lock import lock_folder
from ddimx.runs.sinks import ArraySink
from tests.conftest import cli_environment
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

RECORD = ["grid.png", "manifest.json"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


def interrupted(model, *args, after, sink=ImageSink, number=signal.SIGINT):
    """Run a command that receives a signal after its ``after``-th batch was written."""
    real, written = sink.write, []

    def write(self, *batch):
        real(self, *batch)
        written.append(batch)
        if len(written) == after:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "write", write)
        return sample(model, *args)


# --- the same command again ---------------------------------------------------------------------


def test_the_same_command_does_nothing_twice(tiny_model, tmp_path):
    options = ("-n", 5, "--eta", 0.5, "--out", "a")
    sampled(tiny_model, *options)
    before, record = state_of(tmp_path / "a"), manifest_of(tmp_path / "a")
    with counted_calls() as calls:
        done = sampled(tiny_model, *options)
    assert calls == []
    assert done.err.startswith("a: 5 of 5 samples are there already\n")
    after = state_of(tmp_path / "a")
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in image_names(range(5)))
    assert after["grid.png"][2] == before["grid.png"][2]
    again = manifest_of(tmp_path / "a")
    assert again["network_calls"] == record["network_calls"] == 6
    assert again["files"] == record["files"]


def test_a_missing_image_is_made_again_and_only_it(tiny_model, tmp_path):
    options = ("-n", 5, "--invariant", "--out", "a")
    sampled(tiny_model, *options)
    before = state_of(tmp_path / "a")
    (tmp_path / "a" / "000003.png").unlink()
    with counted_calls() as calls:
        sampled(tiny_model, *options)
    assert len(calls) == 3
    after = state_of(tmp_path / "a")
    assert after["000003.png"][2] == before["000003.png"][2]
    for name in set(image_names(range(5))) - {"000003.png"}:
        assert after[name] == before[name]
    assert manifest_of(tmp_path / "a")["network_calls"] == 2 * 3 + 3


def test_more_samples_are_added(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 3, "--out", "a")
    before = state_of(tmp_path / "a")
    with counted_calls() as calls:
        sampled(tiny_model, "-n", 6, "--batch-size", 2, "--out", "a")
    assert calls == [2, 2, 2, 1, 1, 1]
    after = state_of(tmp_path / "a")
    assert all(after[name] == before[name] for name in image_names(range(3)))
    record = manifest_of(tmp_path / "a")
    assert (record["count"], record["files"]) == (6, image_names(range(6)))
    assert record["network_calls"] == 9
    sampled(tiny_model, "-n", 6, "--out", "b")
    assert abs(pictures(tmp_path / "a", range(6)) - pictures(tmp_path / "b", range(6))).max() <= 1


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--seed", 1], "seed: 0 -> 1"),
        (["--steps", 4], "steps: 3 -> 4"),
        (["--eta", 0.5], "(eta: 0.0 -> 0.5)"),
        (["--clip", 1], "(clip: None -> 1.0)"),
        (["--guidance", 2], "guidance: 1.0 -> 2.0"),
        (["--category", "round"], "category: None -> round"),
        (["--start-index", 1], "start_index: 0 -> 1"),
        (["--format", "webp"], "format: png -> webp"),
        (["--dtype", "bf16"], "dtype: fp32 -> bf16"),
        (["--invariant"], "invariant: False -> True"),
        (["--init-noise", "start.npy"], "init_noise_sha256"),
        (["-m", "other.safetensors"], "model_sha256"),
    ],
)
def test_a_different_command_is_refused(tiny_model, tmp_path, options, difference):
    sampled(tiny_model, "-n", 1, "--out", "a")
    (tmp_path / "other.safetensors").write_bytes(tiny_model.read_bytes()[:-1] + b"\1")
    np.save("start.npy", np.zeros((1, 3, 8, 8), np.float32))
    before = state_of(tmp_path / "a")
    done = sample(tiny_model, "-n", 1, "--out", "a", *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: a holds a different run (")
    assert difference in done.err
    assert done.err.endswith("choose another --out or --overwrite\n")
    assert state_of(tmp_path / "a") == before


def test_fewer_samples_are_refused(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 3, "--out", "a")
    before = state_of(tmp_path / "a")
    done = sample(tiny_model, "-n", 2, "--out", "a")
    assert done.code == 2
    assert done.err == (
        "error: a holds 3 samples of this run, 2 were asked for; "
        "choose another --out or --overwrite\n"
    )
    assert state_of(tmp_path / "a") == before


def test_a_folder_with_other_things_is_refused(tiny_model, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine.txt").write_text("mine")
    done = sample(tiny_model, "-n", 1, "--out", "a")
    assert done.code == 2
    assert done.err == "error: a is not empty and holds no run; choose another --out\n"
    (tmp_path / "a" / "manifest.json").write_text("{")
    for options in ([], ["--overwrite"]):
        done = sample(tiny_model, "-n", 1, "--out", "a", *options)
        assert done.code == 1
        assert done.err.startswith("error: a/manifest.json: not a readable manifest (")
    (tmp_path / "a" / "manifest.json").write_text("{}")
    done = sample(tiny_model, "-n", 1, "--out", "a")
    assert done.err == "error: a/manifest.json: not a manifest of a sampling run\n"
    assert names_in(tmp_path / "a") == ["manifest.json", "mine.txt"]
    (tmp_path / "empty").mkdir()
    sampled(tiny_model, "-n", 1, "--out", "empty")


# --- --overwrite --------------------------------------------------------------------------------


def test_overwrite_removes_what_the_run_wrote_and_nothing_else(tiny_model, tmp_path):
    folder = tmp_path / "a"
    sampled(tiny_model, "-n", 3, "--format", "webp", "--out", "a")
    (folder / "mine.png").write_bytes(b"mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "x.txt").write_text("mine")
    sampled(tiny_model, "-n", 1, "--seed", 1, "--out", "a", "--overwrite")
    assert names_in(folder) == ["000000.png", *RECORD, "mine.png", "notes"]
    assert (folder / "mine.png").read_bytes() == b"mine"
    assert (folder / "notes" / "x.txt").read_text() == "mine"
    record = manifest_of(folder)
    assert (record["identity"]["seed"], record["network_calls"]) == (1, 3)


def test_overwrite_begins_anew_even_with_the_same_command(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 2, "--out", "a")
    before = state_of(tmp_path / "a")
    with counted_calls() as calls:
        sampled(tiny_model, "-n", 2, "--out", "a", "--overwrite")
    assert calls == [2, 2, 2]
    after = state_of(tmp_path / "a")
    assert after["000000.png"][1] != before["000000.png"][1]
    assert after["000000.png"][2] == before["000000.png"][2]


def test_overwrite_clears_the_parts_of_an_array(tiny_model, tmp_path):
    options = ("-n", 8, "--format", "npy", "--out", "a")
    interrupted(tiny_model, *options, after=1, sink=ArraySink)
    (tmp_path / "a" / "parts" / "mine.txt").write_text("mine")
    sampled(tiny_model, "-n", 1, "--out", "a", "--overwrite")
    assert names_in(tmp_path / "a") == ["000000.png", *RECORD, "parts"]
    assert names_in(tmp_path / "a" / "parts") == ["mine.txt"]


def test_a_foreign_image_is_never_taken_for_a_sample(tiny_model, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "000001.png").write_bytes(b"not of this run")
    done = sampled(tiny_model, "-n", 2, "--out", "a", "--overwrite")
    assert "there already" not in done.err
    sampled(tiny_model, "-n", 2, "--out", "b")
    assert (pictures(tmp_path / "a", range(2)) == pictures(tmp_path / "b", range(2))).all()


# --- Ctrl-C -------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(tiny_model, tmp_path):
    options = ("-n", 10, "--eta", 1, "--out", "a b")
    done = interrupted(tiny_model, *options, "--json", after=1)
    folder = tmp_path / "a b"
    assert done.code == 130
    assert done.err.endswith("interrupted; go on: ddimx sample --resume 'a b'\n")
    assert names_in(folder) == [*image_names(range(4)), "manifest.json"]
    record = manifest_of(folder)
    assert (record["status"], record["network_calls"]) == ("interrupted", 3)
    assert json.loads(done.out)["status"] == "interrupted"
    assert "files" not in record
    before = state_of(folder)

    with counted_calls() as calls:
        done = sampled(tiny_model, *options)
    assert calls == [4, 4, 4, 2, 2, 2]
    assert done.err.startswith("a b: 4 of 10 samples are there already\n")
    after = state_of(folder)
    assert all(after[name] == before[name] for name in image_names(range(4)))
    record = manifest_of(folder)
    assert (record["status"], record["network_calls"]) == ("complete", 9)

    sampled(tiny_model, *options[:-1], "whole")  # batches of the same composition: the same bits
    whole = state_of(tmp_path / "whole")
    assert after.keys() == whole.keys()
    for name in (*image_names(range(10)), "grid.png"):
        assert after[name][2] == whole[name][2]


def test_invariant_files_do_not_show_an_interruption(tiny_model, tmp_path):
    options = ("-n", 7, "--eta", 1, "--invariant", "--out", "a")
    done = interrupted(tiny_model, *options, "--batch-size", 3, after=1)
    assert done.code == 130
    sampled(tiny_model, *options, "--batch-size", 5)
    sampled(tiny_model, *options[:-1], "b")
    one, other = state_of(tmp_path / "a"), state_of(tmp_path / "b")
    for name in image_names(range(7)):
        assert one[name][2] == other[name][2]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_within_a_batch_ends_after_the_row_or_at_once(tiny_model, tmp_path, presses):
    real, calls = UNet.forward, []

    def forward(self, *args):
        calls.append(len(calls))
        if len(calls) == 2:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)
        return real(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNet, "forward", forward)
        done = sample(tiny_model, "-n", 2, "--steps", 5, "--out", "a")
    assert done.code == 130
    assert len(calls) == 2
    assert names_in(tmp_path / "a") == ["manifest.json"]
    record = manifest_of(tmp_path / "a")
    # The second press leaves the call that it met unfinished, and so uncounted.
    assert (record["status"], record["network_calls"]) == ("interrupted", 3 - presses)
    sampled(tiny_model, "-n", 2, "--steps", 5, "--out", "a")


def test_sigterm_ends_as_politely(tiny_model, tmp_path):
    options = ("-n", 8, "--out", "a")
    done = interrupted(tiny_model, *options, after=1, number=signal.SIGTERM)
    assert done.code == 143
    assert manifest_of(tmp_path / "a")["status"] == "interrupted"
    assert len(pictures(tmp_path / "a", range(4))) == 4


def test_a_signal_after_the_last_batch_leaves_nothing_to_sample(tiny_model, tmp_path):
    options = ("-n", 4, "--out", "a")
    assert interrupted(tiny_model, *options, after=1).code == 130
    with counted_calls() as calls:
        sampled(tiny_model, *options)
    assert calls == []
    assert names_in(tmp_path / "a") == [*image_names(range(4)), *RECORD]


WAITS = """
import sys
from ddimx.runs.image_sink import ImageSink
from ddimx.__main__ import main
real = ImageSink.write
def write(self, *batch):
    real(self, *batch)
    print("written", flush=True)
    sys.stdin.readline()  # returns when the signal has been sent
ImageSink.write = write
main()
"""


def test_a_process_that_receives_ctrl_c(tiny_model, tmp_path):
    options = ["-m", tiny_model, "--device", "cpu", "--dtype", "fp32", "--steps", 20, "-n", 12]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, "sample", *map(str, options), "--out", "a"],
        cwd=tmp_path,
        env=cli_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate("\n" * 12, timeout=120)
    assert process.returncode == 130
    assert err.endswith("interrupted; go on: ddimx sample --resume a\n")
    assert "Traceback" not in err
    assert manifest_of(tmp_path / "a")["status"] == "interrupted"
    there = [name for name in names_in(tmp_path / "a") if name != "manifest.json"]
    assert image_names(range(4)) == there[:4]
    assert len(there) < 12
    assert len(pictures(tmp_path / "a", range(len(there)))) == len(there)
    assert invoke("sample", *options, "--out", "a").code == 0
    assert invoke("sample", *options, "--out", "b").code == 0
    assert names_in(tmp_path / "a") == names_in(tmp_path / "b")
    assert abs(pictures(tmp_path / "a", range(12)) - pictures(tmp_path / "b", range(12))).max() <= 1


# --- --resume -----------------------------------------------------------------------------------


def test_resume_takes_the_options_of_the_run(tiny_model, tmp_path):
    options = ("-n", 6, "--steps", 4, "--eta", 0.5, "--seed", 7, "--start-index", 3)
    options += ("--format", "webp", "--guidance", 2, "--category", "round", "--clip", 1)
    done = interrupted(tiny_model, *options, "--batch-size", 2, after=1)
    assert done.code == 130
    folder = tmp_path / "runs" / "0001-sample-tiny"
    with counted_calls() as calls:
        done = invoke("sample", "--resume", folder, "--device", "cpu")
    assert done.code == 0, done.err
    assert calls == [4] * 8  # two batches of 2, doubled by guidance, in four rows
    assert names_in(folder) == [*image_names(range(3, 9), "webp"), *RECORD]
    sampled(tiny_model, *options, "--batch-size", 2, "--out", "whole")
    resumed, whole = state_of(folder), state_of(tmp_path / "whole")
    for name in image_names(range(3, 9), "webp"):
        assert resumed[name][2] == whole[name][2]
    assert manifest_of(folder)["identity"] == manifest_of(tmp_path / "whole")["identity"]


def test_resume_last_finds_the_newest_sampling_run(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 1)
    assert interrupted(tiny_model, "-n", 8, "--seed", 5, after=1).code == 130
    (tmp_path / "runs" / "0009-train-tiny").mkdir()
    done = invoke("sample", "--resume", "last", "--device", "cpu")
    assert done.code == 0, done.err
    assert done.err.startswith("runs/0002-sample-tiny: 4 of 8 samples are there already\n")
    assert names_in(tmp_path / "runs") == [
        "0001-sample-tiny", "0002-sample-tiny", "0009-train-tiny",
    ]  # fmt: skip
    assert manifest_of(tmp_path / "runs" / "0002-sample-tiny")["status"] == "complete"


def test_resume_can_ask_for_more_but_not_for_something_else(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 2, "--out", "a")
    assert invoke("sample", "--resume", "a", "-n", 3, "--device", "cpu").code == 0
    assert names_in(tmp_path / "a") == [*image_names(range(3)), *RECORD]
    done = invoke("sample", "--resume", "a", "--seed", 1, "--device", "cpu")
    assert done.code == 2
    assert "seed: 0 -> 1" in done.err


def test_resume_without_a_run(tmp_path):
    done = invoke("sample", "--resume", "last")
    assert done.code == 1
    assert done.err == f"error: no 'sample' run in {tmp_path / 'runs'} to resume\n"


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npz", "adm"])
def test_an_array_goes_on_from_its_parts(tiny_model, tmp_path, kind):
    options = ("-n", 10, "--eta", 1, "--format", kind, "--out")
    done = interrupted(tiny_model, *options, "a", after=2, sink=ArraySink)
    assert done.code == 130
    folder, name = tmp_path / "a", "samples.npy" if kind == "npy" else "samples.npz"
    assert names_in(folder) == ["manifest.json", "parts"]
    assert names_in(folder / "parts") == ["00000000-4.npz", "00000004-4.npz"]
    with counted_calls() as calls:
        sampled(tiny_model, *options, "a")
    assert calls == [2, 2, 2]
    assert names_in(folder) == [*RECORD, name]
    assert manifest_of(folder)["files"] == [name]
    sampled(tiny_model, *options, "whole")
    for written in (name, "grid.png"):
        resumed, whole = (tmp_path / f / written for f in ("a", "whole"))
        if kind == "npy" or written == "grid.png":
            assert resumed.read_bytes() == whole.read_bytes()
        else:
            with np.load(resumed) as one, np.load(whole) as other:
                assert set(one.files) == set(other.files)
                assert all((one[key] == other[key]).all() for key in one.files)

    before = state_of(folder)
    with counted_calls() as calls:
        sampled(tiny_model, *options, "a")
    assert calls == []
    assert state_of(folder)[name] == before[name]


def test_a_finished_array_does_not_grow_but_an_interrupted_one_may(tiny_model, tmp_path):
    options = ("--format", "npy", "--out", "a")
    assert interrupted(tiny_model, "-n", 8, *options, after=1, sink=ArraySink).code == 130
    sampled(tiny_model, "-n", 9, *options)
    assert np.load("a/samples.npy").shape == (9, 3, 8, 8)
    before = state_of(tmp_path / "a")
    done = sample(tiny_model, "-n", 10, *options)
    assert done.code == 2
    assert done.err.startswith("error: a holds a finished file of 9 samples; choose another --out")
    assert state_of(tmp_path / "a") == before


def test_a_finished_array_that_is_gone_is_made_again(tiny_model, tmp_path):
    options = ("-n", 2, "--format", "npy", "--out", "a")
    sampled(tiny_model, *options)
    before = (tmp_path / "a" / "samples.npy").read_bytes()
    (tmp_path / "a" / "samples.npy").unlink()
    sampled(tiny_model, *options)
    assert (tmp_path / "a" / "samples.npy").read_bytes() == before


def test_a_folder_that_was_only_begun_is_taken(tiny_model, tmp_path):
    """Killed between making the folder and the first manifest."""
    (tmp_path / "a").mkdir()
    for name in (".ddimx.lock", ".manifest.json.abcd1234.part"):
        (tmp_path / "a" / name).write_text("{")
    sampled(tiny_model, "-n", 1, "--out", "a")
    assert names_in(tmp_path / "a") == ["000000.png", *RECORD]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".hidden").write_text("mine")
    done = sample(tiny_model, "-n", 1, "--out", "b")
    assert (done.code, names_in(tmp_path / "b")) == (2, [".hidden"])


@pytest.mark.parametrize("verb", ["sample", "sequence", "evaluate solvers"])
def test_a_second_process_is_refused_at_once(tiny_model, tmp_path, verb):
    sampled(tiny_model, "-n", 1, "--out", "a")
    before = state_of(tmp_path / "a")
    with lock_folder(tmp_path / "a"):
        done = invoke(*verb.split(), "-m", tiny_model, "-n", 2, "--device", "cpu", "--out", "a")
        assert (done.code, done.out) == (2, "")
        assert "another process is writing a; wait for its end, or choose another --out" in done.err
    assert state_of(tmp_path / "a") == before


def test_a_contact_sheet_that_a_kill_swallowed_is_drawn(tiny_model, tmp_path):
    options = ("-n", 2, "--out", "a")
    sampled(tiny_model, *options)
    sheet = (tmp_path / "a" / "grid.png").read_bytes()
    (tmp_path / "a" / "grid.png").unlink()
    with counted_calls() as calls:
        sampled(tiny_model, *options)
    assert calls == []
    assert (tmp_path / "a" / "grid.png").read_bytes() == sheet


@pytest.mark.parametrize("at", ["join", "record", "tidy"])
def test_what_fails_at_the_end_of_an_array_costs_no_sample(tiny_model, tmp_path, monkeypatch, at):
    options = ("-n", 3, "--format", "npy", "--out")
    sampled(tiny_model, *options, "whole")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    real = run_protocol.write_record
    with monkeypatch.context() as patch:
        if at == "join":
            patch.setattr(ArraySink, "_join", full)
        elif at == "tidy":
            patch.setattr(ArraySink, "tidy", full)
        else:
            patch.setattr(
                run_protocol,
                "write_record",
                lambda folder, record: (
                    full() if record["status"] == "complete" else real(folder, record)
                ),
            )
        done = sample(tiny_model, *options, "a")
    assert done.code == 1
    assert "cannot write to a: No space left on device; what was written is valid, " in done.err
    with counted_calls() as calls:
        sampled(tiny_model, *options, "a")
    assert calls == []
    assert names_in(tmp_path / "a") == [*RECORD, "samples.npy"]
    whole = (tmp_path / "whole" / "samples.npy").read_bytes()
    assert (tmp_path / "a" / "samples.npy").read_bytes() == whole


def test_what_a_run_remembers_are_values_and_older_text_is_read(tiny_model, tmp_path):
    options = ("--timesteps", "900,500,20", "--clip", 1, "--category", "round", "--invariant")
    sampled(tiny_model, "-n", 1, *options, "--out", "a")
    record = manifest_of(tmp_path / "a")
    asked = {"model": str(tiny_model), "dtype": "fp32", "count": 1, "category": "round"}
    asked |= {"timesteps": [900.0, 500.0, 20.0], "clip": 1.0, "invariant": True}
    assert record["asked"] == asked
    record["asked"] |= {"timesteps": "900,500,20", "clip": "1", "seed": 0}  # as version 0.1 has it
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    done = invoke("sample", "--resume", "a", "-n", 2, "--device", "cpu")
    assert done.code == 0, done.err
    assert manifest_of(tmp_path / "a")["asked"] == asked | {"count": 2}
    assert manifest_of(tmp_path / "a")["identity"] == record["identity"]
