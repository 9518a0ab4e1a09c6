"""``ddimx inpaint``: known pixels stay, variants are samples, masks of every kind, bad input."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
from PIL import Image

from ddimx.runs.pictures import facts_of
from tests.editing import edit, edited, make_mask, make_picture, opened, refused
from tests.sampling import counted_calls, manifest_of, names_in, state_of


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


CENTER = np.zeros((8, 8), dtype=bool)
CENTER[2:6, 2:6] = True


@pytest.fixture
def pixels(tmp_path):
    return make_picture(tmp_path / "a.png")


def variants(folder, name="a", count=3):
    return np.stack([opened(folder / f"{name}-{i:02d}.png") for i in range(count)])


def test_a_process_keeps_what_is_known_and_paints_the_rest(run_cli, tiny_model, tmp_path, pixels):
    command = ["inpaint", "a.png", "--mask", "center", "-n", 3, "-m", tiny_model, "--steps", 4]
    done = run_cli(*command, "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "0001-inpaint-tiny"
    told = json.loads(done.stdout)
    assert told.pop("folder") == "runs/0001-inpaint-tiny"
    assert told == manifest_of(folder)
    assert names_in(folder) == ["a-00.png", "a-01.png", "a-02.png", "grid.png", "manifest.json"]
    for picture in variants(folder):
        assert (picture[~CENTER] == pixels[~CENTER]).all()
        assert (picture[CENTER] != pixels[CENTER]).any()
    assert len({picture.tobytes() for picture in variants(folder)}) == 3
    summary = done.stderr.splitlines()[1]  # below the engine's line
    assert summary.startswith("runs/0001-inpaint-tiny: 3 images, 16 forward passes each, ")
    # Four steps and jumps of one from three states, five passes each: 4 + 3 * 4.
    assert (told["nfe"], told["network_calls"]) == (16, 16)


@pytest.mark.parametrize("kind", ["webp", "npy"])
def test_other_formats(tiny_model, tmp_path, pixels, kind):
    edited("inpaint", tiny_model, "a.png", "--mask", "left", "-n", 2, "--format", kind, "-o", "o")
    if kind == "webp":
        assert (opened(tmp_path / "o" / "a-01.webp")[:, 4:] == pixels[:, 4:]).all()
    else:
        states = np.load(tmp_path / "o" / "samples.npy")
        assert (states.shape, states.dtype) == ((2, 3, 8, 8), np.float32)
        known = pixels[:, 4:].transpose(2, 0, 1).astype(np.float32) / 255 * 2 - 1
        assert abs(states[..., 4:] - known).max() < 1e-6


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_the_files_say_where_they_come_from(tiny_model, tmp_path, kind):
    """The picture's pixels and the mask's are named, whichever other pictures are painted."""
    for name in ("one/a.png", "many/a.png"):
        make_picture(tmp_path / name)
    make_picture(tmp_path / "many" / "b.png", seed=1)
    options = ("--mask", "left", "-n", 2, "--invariant", "--format", kind)
    edited("inpaint", tiny_model, "one", *options, "-o", "1")
    edited("inpaint", tiny_model, "many", *options, "-o", "2")
    facts = {}
    for name in ("1/a-01", "2/a-00", "2/a-01", "2/b-01"):
        with Image.open(tmp_path / f"{name}.{kind}") as picture:
            facts[name] = facts_of(picture)
    assert facts["1/a-01"] == facts["2/a-01"]
    assert {k for k, v in facts["2/a-00"].items() if v != facts["2/a-01"][k]} == {"index"}
    assert {k for k, v in facts["2/b-01"].items() if v != facts["2/a-01"][k]} == {"image_sha256"}
    table = manifest_of(tmp_path / "2")["samples"]
    assert table == {"seed": 0, "index": [0, 0, 1, 1], "class": ["none"] * 4}
    told = {k: facts["1/a-01"][k] for k in ("verb", "index", "class", "seed", "resample")}
    assert told == {"verb": "inpaint", "index": "1", "class": "none", "seed": "0", "resample": "5"}


def test_the_sheet_shows_input_mask_and_variants(tiny_model, tmp_path, pixels):
    edited("inpaint", tiny_model, "a.png", "--mask", "center", "-n", 2, "-o", "o")
    sheet, scale, gap = opened(tmp_path / "o" / "grid.png"), 128 // 8, 4
    assert sheet.shape == (128 + 2 * gap, 4 * (128 + gap) + gap, 3)
    tiles = [sheet[gap:-gap, gap + i * 132 :][::scale, :128:scale] for i in range(4)]
    assert (tiles[0] == pixels).all()
    assert (tiles[1] == 255 * CENTER[..., None]).all()
    assert (np.stack(tiles[2:]) == variants(tmp_path / "o", count=2)).all()


def test_a_variant_depends_on_its_index_alone(tiny_model, tmp_path, pixels):
    make_picture(tmp_path / "many" / "a.png")
    make_picture(tmp_path / "many" / "b.png", seed=1)
    options = ("--mask", "top", "--invariant")
    edited("inpaint", tiny_model, "a.png", *options, "-n", 3, "-o", "one")
    edited("inpaint", tiny_model, "many", *options, "-n", 3, "-o", "two", "--batch-size", 5)
    edited("inpaint", tiny_model, "a.png", *options, "-n", 1, "--start-index", 2, "-o", "three")
    assert (variants(tmp_path / "one") == variants(tmp_path / "two")).all()
    assert (opened(tmp_path / "three" / "a-02.png") == variants(tmp_path / "one")[2]).all()
    assert (variants(tmp_path / "two", "b") != variants(tmp_path / "two")).any()
    edited("inpaint", tiny_model, "a.png", *options, "-n", 3, "-o", "seed", "--seed", 1)
    assert (variants(tmp_path / "seed") != variants(tmp_path / "one")).any()


def test_masks_from_files_boxes_and_alpha_agree(tiny_model, tmp_path, pixels):
    make_mask(tmp_path / "mask.png", CENTER)
    Image.fromarray(CENTER).save(tmp_path / "bits.png")
    (tmp_path / "cut").mkdir()
    cut = np.dstack([pixels, np.where(CENTER, 0, 255).astype(np.uint8)])
    Image.fromarray(cut).save(tmp_path / "cut" / "a.png")
    (tmp_path / "masks").mkdir()
    make_mask(tmp_path / "masks" / "a.png", CENTER)
    transparent = np.zeros((8, 8, 4), dtype=np.uint8)
    transparent[~CENTER, 3] = 255
    Image.fromarray(transparent).save(tmp_path / "alpha.png")
    results = []
    for mask in ("mask.png", "bits.png", "2,2,6,6", "center", "masks", "alpha.png"):
        edited("inpaint", tiny_model, "a.png", "--mask", mask, "-n", 1, "-o", f"o-{mask}")
        results.append(opened(tmp_path / f"o-{mask}" / "a-00.png"))
    edited("inpaint", tiny_model, "cut/a.png", "-n", 1, "-o", "cut-out")
    results.append(opened(tmp_path / "cut-out" / "a-00.png"))
    assert all((result == results[0]).all() for result in results)


def test_grey_in_a_mask_is_rounded_and_said(tiny_model, tmp_path, pixels):
    grey = np.where(CENTER, 200, 50).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    done = edited("inpaint", tiny_model, "a.png", "--mask", "grey.png", "-n", 1, "-o", "o")
    assert "note: a: 64 gray pixels of the mask became black or white" in done.err
    assert (opened(tmp_path / "o" / "a-00.png")[~CENTER] == pixels[~CENTER]).all()


def test_strength_keeps_more_of_the_image_the_smaller_it_is(tiny_model, tmp_path, pixels):
    distance, calls = [], []
    for strength in (0.1, 0.5, 1.0):
        folder = f"s-{strength}"
        options = ("--strength", strength, "--steps", 10, "--spacing", "leading")
        edited("inpaint", tiny_model, "a.png", *options, "-n", 4, "-o", folder)
        error = variants(tmp_path / folder, count=4).astype(float) - pixels
        distance.append(np.sqrt((error**2).mean()))
        calls.append(manifest_of(tmp_path / folder)["nfe"])
    assert calls == [1, 5, 10]
    assert distance[0] < 10  # one step from t = 0, where the noise has a deviation of 1 / 100
    assert distance == sorted(distance)
    # At t = 900 of the cosine schedule the image's share is below 0.16: pure noise, but for that.
    edited("inpaint", tiny_model, "a.png", "--mask", "center", "--strength", 0.5, "-o", "both")
    assert (variants(tmp_path / "both")[:, ~CENTER] == pixels[~CENTER]).all()


def test_one_pass_is_plain_replacement(tiny_model, tmp_path, pixels):
    edited("inpaint", tiny_model, "a.png", "--mask", "center", "--resample", 1, "-o", "o", "-n", 1)
    record = manifest_of(tmp_path / "o")
    assert record["nfe"] == 4
    assert "RePaint" not in record["plan"]["label"]


def test_where_no_jump_is_possible_it_says_so(tiny_model, tmp_path, pixels):
    options = ("--mask", "center", "--steps", 1, "-n", 1)
    done = edited("inpaint", tiny_model, "a.png", *options)
    assert "note: plain replacement: ddim, eta 0 in 1 rows allows no jumps" in done.err
    assert "note" not in edited("inpaint", tiny_model, "a.png", *options, "--resample", 1).err


def test_no_class_is_the_default_and_a_class_can_be_named(tiny_model, tmp_path, pixels):
    edited("inpaint", tiny_model, "a.png", "--mask", "center", "-n", 1, "-o", "none")
    assert manifest_of(tmp_path / "none")["identity"]["category"] == "none"
    assert manifest_of(tmp_path / "none")["identity"]["guidance"] == 1.0
    named = ("--category", "round", "--guidance", 2)
    edited("inpaint", tiny_model, "a.png", "--mask", "center", "-n", 1, "-o", "named", *named)
    assert (variants(tmp_path / "named", count=1) != variants(tmp_path / "none", count=1)).any()


def test_the_same_command_adds_variants_and_repeats_nothing(tiny_model, tmp_path, pixels):
    options = ("a.png", "--mask", "center", "-o", "o", "--batch-size", 1)
    edited("inpaint", tiny_model, *options, "-n", 2)
    before = state_of(tmp_path / "o")
    with counted_calls() as calls:
        edited("inpaint", tiny_model, *options, "-n", 3)
    assert len(calls) == 16
    after = state_of(tmp_path / "o")
    assert all(after[name] == before[name] for name in ("a-00.png", "a-01.png"))
    refused(edit("inpaint", tiny_model, *options[:-2], "-n", 3, "--seed", 4), "different run (seed")
    refused(edit("inpaint", tiny_model, *options[:-2], "--strength", 0.5), "different run")
    make_picture(tmp_path / "a.png", seed=9)
    refused(edit("inpaint", tiny_model, *options, "-n", 3), "different run (images_sha256")
    edited("inpaint", tiny_model, *options, "-n", 1, "--overwrite")
    assert names_in(tmp_path / "o") == ["a-00.png", "grid.png", "manifest.json"]
    refused(edit("sample", tiny_model, "-o", "o", "-n", 1), "different run")


def test_an_interrupted_run_leaves_whole_files_and_goes_on(
    tiny_model, tmp_path, pixels, monkeypatch
):
    from ddimx.sampling import run

    real, written = run.finish_batch, []

    def interrupted(*args, **rest):
        if written:
            signal.raise_signal(signal.SIGINT)
        written.append(1)
        return real(*args, **rest)

    options = ("a.png", "--mask", "center", "-n", 3, "-o", "o", "--batch-size", 1)
    with monkeypatch.context() as patch:
        patch.setattr(run, "finish_batch", interrupted)
        done = edit("inpaint", tiny_model, *options)
    assert done.code == 130, done.err
    assert "interrupted; go on: ddimx inpaint --resume o" in done.err
    assert names_in(tmp_path / "o") == ["a-00.png", "manifest.json"]
    opened(tmp_path / "o" / "a-00.png")
    edited("inpaint", tiny_model, *options)
    edited("inpaint", tiny_model, *options[:-4], "-o", "whole", "--batch-size", 1)
    assert (variants(tmp_path / "o") == variants(tmp_path / "whole")).all()


def test_resize_fits_image_and_mask(tiny_model, tmp_path):
    make_picture(tmp_path / "big.png", size=20)
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10] = True
    make_mask(tmp_path / "mask.png", mask)
    options = ("big.png", "--mask", "mask.png", "--resize", "-n", 1, "-o", "o")
    edited("inpaint", tiny_model, *options)
    sheet = opened(tmp_path / "o" / "grid.png")
    assert (sheet[4:68, 136:264] == 255).all()
    assert (sheet[68:132, 136:264] == 0).all()


WRONG = [
    (["absent.png", "--mask", "center"], "absent.png: no such file or folder"),
    (["text.png", "--mask", "center"], "text.png: not a readable image"),
    (["empty", "--mask", "center"], "empty: no images"),
    (["twins", "--mask", "center"], "twins: two images are called 'a'"),
    (["big.png", "--mask", "center"], "big.png is 9x9, model '"),
    (["a.png"], "a has no transparent pixel to paint; give --mask"),
    (["a.png", "--mask", "alpha"], "a has no transparent pixel to paint"),
    (["a.png", "--mask", "centre"], "--mask centre: neither a file nor center, left"),
    (["a.png", "--mask", "absent.png"], "absent.png: no such file"),
    (["a.png", "--mask", "text.png"], "text.png: not a readable image"),
    (["a.png", "--mask", "big.png"], "--mask big.png is 9x9, a 8x8"),
    (["a.png", "--mask", "white.png"], "--mask white.png is white all over for a: nothing to keep"),
    (["a.png", "--mask", "black.png"], "--mask black.png is black all over for a: nothing to"),
    (["a.png", "--mask", "0,0,8,8"], "--mask 0,0,8,8 is white all over"),
    (["a.png", "--mask", "1,2,3"], "--mask 1,2,3: a box is four numbers"),
    (["a.png", "--mask", "0,0,9,4"], "the box must lie in the image, 0 <= x0 < x1 <= 8"),
    (["a.png", "--mask", "3,3,3,4"], "the box must lie in the image"),
    (["a.png", "--mask", "-1,0,3,4"], "the box must lie in the image"),
    (["a.png", "--mask", "masks"], "--mask masks: 0 masks named 'a', need one"),
    (["a.png", "--strength", 0], "strength must lie in (0, 1], got 0"),
    (["a.png", "--strength", 1.1], "strength must lie in (0, 1], got 1.1"),
    (["a.png", "--strength", "nan"], "strength must lie in (0, 1], got nan"),
    (["a.png", "--strength", 0.5, "--jump", 2], "--jump and --resample belong to a mask"),
    (["a.png", "--mask", "center", "--jump", 4], "a jump of 4 steps needs more than 4 steps"),
    (["a.png", "--mask", "center", "--resample", 0], "jump and resample must be at least 1"),
    (["a.png", "--mask", "center", "-n", 0], "count must be at least 1, got 0"),
    (["a.png", "--mask", "center", "--format", "adm"], "unknown format 'adm'"),
    (["a.png", "--mask", "center", "--category", "rund"], "did you mean 'round'?"),
    (["twins", "--mask", "center", "-o", "twins"], "--out is the folder of the images"),
    (["masks", "--mask", "center", "-o", "masks"], "--out is the folder of the images"),
]


@pytest.mark.parametrize(("args", "message"), WRONG, ids=lambda v: " ".join(map(str, v))[:40])
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tiny_model, tmp_path, pixels, args, message
):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    for name in ("twins/a.png", "twins/a.bmp", "masks/other.png"):
        make_picture(tmp_path / name)
    make_picture(tmp_path / "big.png", size=9)
    make_mask(tmp_path / "white.png", np.ones((8, 8), dtype=bool))
    make_mask(tmp_path / "black.png", np.zeros((8, 8), dtype=bool))
    before = state_of(tmp_path)
    with counted_calls() as calls:
        refused(edit("inpaint", tiny_model, *args), message)
    assert calls == []
    assert state_of(tmp_path) == before
