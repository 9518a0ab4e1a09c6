"""``ddimx interpolate`` and ``encode``: ends, frames, latents, and how well images come back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ddimx.editing.slerp import slerp
from ddimx.noise import Noise
from tests.editing import edit, edited, make_picture, opened, refused
from tests.sampling import counted_calls, image_names, manifest_of, names_in, pictures, state_of


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


SHAPE = (3, 8, 8)
RECORD = ["animation.webp", "grid.png", "manifest.json"]


def decode(model, tmp_path, states, name, *args):
    """What ``ddimx sample`` makes of states by DDIM without noise, class or guidance."""
    np.save(tmp_path / f"{name}.npy", np.stack([np.asarray(s, dtype=np.float32) for s in states]))
    plain = ("--eta", 0, "--guidance", 1, "--category", "none", "--invariant")
    edited("sample", model, "--init-noise", f"{name}.npy", *plain, "-o", name, *args)
    return pictures(tmp_path / name, range(len(states)))


def noise(seed):
    return Noise(seed).normal([0], SHAPE)[0]


# --- interpolate --------------------------------------------------------------------------------


def test_a_process_goes_from_seed_to_seed(run_cli, tiny_model, tmp_path):
    options = ("-m", tiny_model, "--device", "cpu", "--dtype", "fp32", "--steps", 4, "--json")
    done = run_cli("interpolate", 3, 4, *options, "--invariant")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "0001-interpolate-tiny"
    assert names_in(folder) == [*image_names(range(11)), *RECORD]
    told = json.loads(done.stdout)
    assert told.pop("folder") == "runs/0001-interpolate-tiny"
    assert told == manifest_of(folder)
    assert "reconstruction_rms" not in told
    states = [slerp(noise(3), noise(4), i / 10) for i in range(11)]
    assert (pictures(folder, range(11)) == decode(tiny_model, tmp_path, states, "x")).all()
    sheet = opened(folder / "grid.png")
    assert sheet.shape == (136, 11 * 132 + 4, 3)
    with Image.open(folder / "animation.webp") as animation:
        assert animation.n_frames == 20  # there and back, the ends once


def test_four_corners_span_a_grid(tiny_model, tmp_path):
    edited("interpolate", tiny_model, 1, 2, 3, 4, "--frames", 3, "-o", "o", "--invariant")
    corners = [noise(seed) for seed in (1, 2, 3, 4)]
    left, right = slerp(corners[0], corners[2], 0.5), slerp(corners[1], corners[3], 0.5)
    states = [*corners, slerp(left, right, 0.5)]
    expected = decode(tiny_model, tmp_path, states, "x")
    found = pictures(tmp_path / "o", range(9))
    assert (found[[0, 2, 6, 8, 4]] == expected).all()
    sheet = opened(tmp_path / "o" / "grid.png")
    assert sheet.shape == (3 * 132 + 4, 3 * 132 + 4, 3)
    for i in range(9):
        tile = sheet[4 + i // 3 * 132 :, 4 + i % 3 * 132 :][:128:16, :128:16]
        assert (tile == found[i]).all()
    with Image.open(tmp_path / "o" / "animation.webp") as animation:
        assert animation.n_frames == 8
        for place, frame in enumerate([0, 1, 2, 5, 8, 7, 6, 3]):  # clockwise around the edge
            animation.seek(place)
            shown = np.asarray(animation.convert("RGB"))[::16, ::16]
            assert (shown == found[frame]).all()


def test_equal_ends_and_opposite_latents(tiny_model, tmp_path):
    edited("interpolate", tiny_model, 5, 5, "--frames", 3, "-o", "equal", "--invariant")
    same = pictures(tmp_path / "equal", range(3))
    assert (same == same[0]).all()
    x = noise(6).numpy()
    np.save(tmp_path / "ends.npy", np.stack([x, -x]))
    edited("interpolate", tiny_model, "ends.npy:0", "ends.npy:1", "--frames", 3, "-o", "opposite")
    assert len({p.tobytes() for p in pictures(tmp_path / "opposite", range(3))}) == 3


def test_all_frames_share_one_draw_of_noise(tiny_model, tmp_path):
    edited("interpolate", tiny_model, 5, 5, "--frames", 3, "--eta", 1, "--invariant", "-o", "a")
    same = pictures(tmp_path / "a", range(3))
    assert (same == same[0]).all()
    edited("interpolate", tiny_model, 5, 5, "--frames", 2, "--eta", 1, "--seed", 1, "-o", "b")
    assert (pictures(tmp_path / "b", range(1)) != same[:1]).any()


def test_images_are_encoded_and_come_back(tiny_model, tmp_path):
    for i, name in enumerate(("a", "b")):
        make_picture(tmp_path / f"{name}.png", seed=i)
    options = ("--steps", 40, "--frames", 2, "--refine", 8)
    done = edited("interpolate", tiny_model, "a.png", "b.png", *options, "-o", "o")
    errors = manifest_of(tmp_path / "o")["reconstruction_rms"]
    found = pictures(tmp_path / "o", range(2))
    for i, name in enumerate(("a", "b")):
        gap = (found[i] - opened(tmp_path / f"{name}.png").astype(int)) / 255
        assert errors[name] == pytest.approx(np.sqrt((gap**2).mean()), abs=1e-6)
        assert errors[name] < 0.05
    assert f"reconstruction error {sum(errors.values()) / 2:.4f} RMS on average" in done.err


def test_a_run_goes_on_and_refuses_another(tiny_model, tmp_path):
    edited("interpolate", tiny_model, 1, 2, "-o", "o", "--frames", 4)
    (tmp_path / "o" / "000002.png").unlink()
    with counted_calls() as calls:
        edited("interpolate", tiny_model, 1, 2, "-o", "o", "--frames", 4)
    assert calls == [1] * 4
    refused(edit("interpolate", tiny_model, 1, 3, "-o", "o", "--frames", 4), "different run")
    refused(edit("sample", tiny_model, "-o", "o"), "different run")


# --- encode -------------------------------------------------------------------------------------


def test_latents_are_what_sample_starts_from(tiny_model, tmp_path):
    for i, name in enumerate(("a", "b", "c")):
        make_picture(tmp_path / "in" / f"{name}.png", seed=i)
    done = edited("encode", tiny_model, "in", "--steps", 40, "-o", "o", "--batch-size", 2)
    assert names_in(tmp_path / "o") == ["grid.png", "latents.npy", "manifest.json"]
    record = manifest_of(tmp_path / "o")
    latents = np.load(tmp_path / "o" / "latents.npy")
    assert (latents.shape, latents.dtype) == ((3, *SHAPE), np.float32)
    assert record["nfe"] == 40 * 3
    assert done.err.splitlines()[1].startswith("o/latents.npy: 3 latents, ")
    assert "reconstruction error" in done.err
    plain = ("--eta", 0, "--guidance", 1, "--category", "none", "--steps", 40)
    edited("sample", tiny_model, "--init-noise", "o/latents.npy", *plain, "-o", "back")
    found = pictures(tmp_path / "back", range(3))
    for i, name in enumerate(("a", "b", "c")):
        gap = (found[i] - opened(tmp_path / "in" / f"{name}.png").astype(int)) / 255
        assert record["reconstruction_rms"][name] == pytest.approx(
            np.sqrt((gap**2).mean()), abs=0.5 / 255
        )
    sheet = opened(tmp_path / "o" / "grid.png")
    first = [sheet[4:132:16, 4 + i * 132 : 132 + i * 132 : 16] for i in range(2)]
    assert (first[0] == opened(tmp_path / "in" / "a.png")).all()
    assert abs(first[1] - found[0]).max() <= 1

    frames = ("o/latents.npy:0", "o/latents.npy:2", "--frames", 2, "--steps", 40)
    edited("interpolate", tiny_model, *frames, "-o", "between")
    assert abs(pictures(tmp_path / "between", range(2)) - found[[0, 2]]).max() <= 1


@pytest.mark.full
def test_more_steps_and_more_corrections_make_a_smaller_error(tiny_model, tmp_path):
    make_picture(tmp_path / "a.png")

    def error(*args):
        edited("encode", tiny_model, "a.png", *args, "-o", "o", "--overwrite")
        return manifest_of(tmp_path / "o")["reconstruction_rms"]["a"]

    assert error("--steps", 100, "--refine", 0) < error("--steps", 20, "--refine", 0)
    assert error("--steps", 20, "--refine", 3) < error("--steps", 20, "--refine", 0)


def test_the_folder_of_a_run_can_be_encoded(tiny_model, tmp_path):
    edited("sample", tiny_model, "-n", 2, "-o", "drawn")
    edited("encode", tiny_model, "drawn", "-o", "o")
    assert list(manifest_of(tmp_path / "o")["reconstruction_rms"]) == ["000000", "000001"]


# --- wrong --------------------------------------------------------------------------------------

WRONG = [
    (["interpolate", 1], "interpolate between two ends or four corners, not 1"),
    (["interpolate", 1, 2, 3], "interpolate between two ends or four corners, not 3"),
    (["interpolate", 1, 2, "--frames", 1], "frames must be at least 2"),
    (["interpolate", 1, 2**64], "seed is 18446744073709551616, outside"),
    (["interpolate", 1, "absent.png"], "absent.png: no such file"),
    (["interpolate", 1, "text.png"], "text.png: not a readable image"),
    (["interpolate", 1, "big.png"], "big.png is 9x9, model '"),
    (["interpolate", 1, "absent.npy"], "latents absent.npy: not a readable .npy"),
    (["interpolate", 1, "two.npy"], "two.npy holds 2 latents; say which, as two.npy:0"),
    (["interpolate", 1, "two.npy:2"], "two.npy:2: there are 2 latents, counted from 0"),
    (["interpolate", 1, "flat.npy"], "flat.npy: shape (2, 5), expected (N, 3, 8, 8)"),
    (["interpolate", 1, "nan.npy"], "nan.npy: holds values that are not finite"),
    (["interpolate", 1, 2, "--refine", 2], "--refine belongs to the encoding of images"),
    (["interpolate", "a.png", 2, "--eta", 0.5], "encoding needs a sampler without noise"),
    (["interpolate", "a.png", 2, "--solver", "ddpm"], "solver ddpm has none"),
    (["interpolate", 1, 2, "--format", "png"], "unknown format 'png'"),
    (["encode", "a.png", "--refine", -1], "refine must be at least 0, got -1"),
    (["encode", "a.png", "--steps", 0], "steps must be at least 1, got 0"),
    (["encode", "absent"], "absent: no such file or folder"),
    (["encode", "big.png"], "big.png is 9x9, model '"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=lambda v: " ".join(map(str, v))[:40])
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tiny_model, tmp_path, args, message
):
    (tmp_path / "text.png").write_text("no image")
    make_picture(tmp_path / "a.png")
    make_picture(tmp_path / "big.png", size=9)
    np.save(tmp_path / "two.npy", np.ones((2, *SHAPE), dtype=np.float32))
    np.save(tmp_path / "flat.npy", np.ones((2, 5), dtype=np.float32))
    np.save(tmp_path / "nan.npy", np.full((1, *SHAPE), np.nan, dtype=np.float32))
    before = state_of(tmp_path)
    with counted_calls() as calls:
        refused(edit(args[0], tiny_model, *args[1:]), message)
    assert calls == []
    assert state_of(tmp_path) == before
