"""``ddimx sequence``: frames are what the sampler saw, and nothing is kept in memory."""

from __future__ import annotations

import signal

import pytest
from PIL import Image

import ddimx
from ddimx.models.peak_memory import PeakMemory
from ddimx.pixels import to_bytes
from tests.editing import edit, edited, opened, refused
from tests.sampling import counted_calls, manifest_of, names_in, state_of


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


def test_a_process_writes_frames_strips_animations_and_results(run_cli, tiny_model, tmp_path):
    options = ("-m", tiny_model, "--device", "cpu", "--dtype", "fp32", "--steps", 4, "-n", 2)
    done = run_cli("sequence", *options)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "0001-sequence-tiny"
    each = ("{}", "{}-steps.webp", "{}-strip.png", "{}.png")
    expected = [name.format(f"{i:06d}") for i in range(2) for name in each]
    assert names_in(folder) == [*expected, "grid.png", "manifest.json"]
    assert names_in(folder / "000001") == [f"{row:04d}.png" for row in range(4)]
    record = manifest_of(folder)
    assert sorted(record["files"]) == sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.stem != "grid"
        and p.name != "manifest.json"
    )  # fmt: skip
    assert done.stderr.splitlines()[1].startswith("runs/0001-sequence-tiny: 2 samples of 4 frames,")


@pytest.mark.parametrize(("show", "attribute"), [("x0", "x0"), ("state", "x")])
def test_frames_are_the_samplers_own(tiny_model, tmp_path, show, attribute):
    options = ("--steps", 5, "-n", 3, "--batch-size", 3, "--eta", 1, "--seed", 2)
    edited("sequence", tiny_model, *options, "--show", show, "-o", "o")
    model = ddimx.load_model(tiny_model, device="cpu", dtype="fp32")
    for step in ddimx.stream(model, steps=5, count=3, eta=1.0, seed=2):
        expected = to_bytes(getattr(step, attribute), model.config.data).numpy().astype(int)
        for i in range(3):
            frame = opened(tmp_path / "o" / f"{i:06d}" / f"{step.row:04d}.png")
            assert abs(frame - expected[i]).max() <= 1
    for i in range(3):
        result = opened(tmp_path / "o" / f"{i:06d}.png")
        assert (opened(tmp_path / "o" / f"{i:06d}" / "0004.png") == result).all()


def test_the_results_are_those_of_sample(tiny_model, tmp_path):
    edited("sequence", tiny_model, "-n", 3, "-o", "a", "--invariant")
    edited("sample", tiny_model, "-n", 3, "-o", "b", "--invariant")
    for i in range(3):
        name = f"{i:06d}.png"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_strip_and_grid_show_the_frames_in_order(tiny_model, tmp_path):
    edited("sequence", tiny_model, "-n", 2, "--steps", 20, "-o", "o")
    rows = [round(i * 19 / 15) for i in range(16)]
    strip = opened(tmp_path / "o" / "000001-strip.png")
    for place, row in enumerate(rows):
        tile = strip[4:-4, 4 + place * 132 :][::16, :128:16]
        assert (tile == opened(tmp_path / "o" / "000001" / f"{row:04d}.png")).all()
    grid = opened(tmp_path / "o" / "grid.png")
    assert (grid[132:] == strip[:]).all()


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_a_number_of_frames(tiny_model, tmp_path, kind):
    options = ("--steps", 10, "-n", 1, "--frames", 4, "--format", kind, "--fps", 10)
    edited("sequence", tiny_model, *options, "-o", "o")
    assert names_in(tmp_path / "o" / "000000") == [f"{row:04d}.png" for row in (0, 3, 6, 9)]
    with Image.open(tmp_path / "o" / f"000000-steps.{kind}") as animation:
        assert animation.n_frames == 4
        animation.load()
        assert animation.info["duration"] == 100


def test_memory_does_not_grow_with_the_number_of_steps(tiny_model, tmp_path):
    def peak(steps):
        with PeakMemory() as memory:
            edited("sequence", tiny_model, "-n", 2, "--steps", steps, "-o", f"o{steps}")
        return memory.peak

    few = peak(2)
    # A kept state of two samples has 1,536 bytes; the plan's table has 13 numbers a row.
    assert peak(12) - few < 10 * 200


def test_a_sample_whose_result_is_there_is_not_made_again(tiny_model, tmp_path, monkeypatch):
    from ddimx.sampling import run

    real, batches = run.finish_batch, []

    def interrupted(*args, **rest):
        if len(batches) == 1:
            signal.raise_signal(signal.SIGINT)
        batches.append(1)
        return real(*args, **rest)

    options = ("-n", 3, "-o", "o", "--batch-size", 1)
    with monkeypatch.context() as patch:
        patch.setattr(run, "finish_batch", interrupted)
        assert edit("sequence", tiny_model, *options).code == 130
    before = {n: v for n, v in state_of(tmp_path / "o").items() if n.startswith("000000")}
    assert "000000.png" in before
    with counted_calls() as calls:
        edited("sequence", tiny_model, *options)
    assert len(calls) == 2 * 4
    after = state_of(tmp_path / "o")
    assert {n: after[n] for n in before} == before
    refused(edit("sequence", tiny_model, *options, "--show", "state"), "different run (show")
    fewer = ("-n", 1, "-o", "o", "--steps", 2, "--overwrite")
    edited("sequence", tiny_model, *fewer)
    assert names_in(tmp_path / "o" / "000000") == ["0000.png", "0001.png"]
    assert not (tmp_path / "o" / "000002").exists()


def test_sample_does_not_resume_another_verbs_run(tiny_model, tmp_path):
    edited("sequence", tiny_model, "-n", 1, "-o", "o")
    refused(
        edit("sample", tiny_model, "--resume", "o"),
        "--resume o: o holds a run of 'ddimx sequence', not of 'ddimx sample'",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--show", "noise"], "unknown --show 'noise'"),
        (["--frames", 0], "frames must be at least 1, got 0"),
        (["--fps", 0], "fps must lie in 1..100, got 0"),
        (["--fps", "nan"], "fps must lie in 1..100, got nan"),
        (["--format", "png"], "unknown format 'png'"),
        (["--steps", 0], "steps must be at least 1, got 0"),
        (["-n", 0], "count must be at least 1"),
    ],
)
def test_wrong_options(tiny_model, tmp_path, args, message):
    refused(edit("sequence", tiny_model, *args), message)
    assert names_in(tmp_path) == []
