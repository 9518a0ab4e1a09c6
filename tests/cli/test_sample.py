"""``ddimx sample``: what it writes, what it prints, and that image i is image i."""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
from PIL import Image

import ddimx
from ddimx.data.images.npz import NpzSource
from ddimx.files import sha256_file
from ddimx.noise import Noise, Stream
from ddimx.sampling.explain import _cell
from ddimx.weights.model import load_model
from tests.conftest import CLASSES, ROOT
from tests.sampling import (
    counted_calls,
    image_names,
    invoke,
    manifest_of,
    names_in,
    pictures,
    sample,
    sampled,
)

RECORD = ["grid.png", "manifest.json"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)


def test_which_weights_were_taken_is_said_where_there_is_a_choice(tiny_model):
    old = ROOT / "tests" / "fixtures" / "0.1.0" / "training"
    for options, kind in ((), "averaged"), (("--weights", "raw"), "last (raw)"):
        done = sampled(old, "-n", 1, *options)
        assert f": the {kind} weights" in done.err.splitlines()[0]
    assert " weights" not in sampled(tiny_model, "-n", 1).err  # one set, which the file names


def states(model, *args, name="states") -> np.ndarray:
    """The samples of a run as float32, unclamped."""
    sampled(model, "--format", "npy", "--out", name, "--quiet", *args)
    return np.load(f"{name}/samples.npy")


# --- files --------------------------------------------------------------------------------------


def test_a_numbered_folder_holds_the_images_a_grid_and_the_record(tiny_model, tmp_path):
    done = sampled(tiny_model, "-n", 5)
    folder = tmp_path / "runs" / "0001-sample-tiny"
    assert names_in(folder) == [*image_names(range(5)), *RECORD]
    for name in image_names(range(5)):
        with Image.open(folder / name) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (8, 8))
    assert len({(folder / name).read_bytes() for name in image_names(range(5))}) == 5
    assert done.out == ""
    engine, line = done.err.splitlines()
    assert engine.startswith("engine: ")
    assert line.startswith("runs/0001-sample-tiny: 5 samples, 3 forward passes each, ")
    assert line.endswith("; see runs/0001-sample-tiny/grid.png")

    sampled(tiny_model, "-n", 1)
    assert names_in(tmp_path / "runs") == ["0001-sample-tiny", "0002-sample-tiny"]


def test_out_names_the_folder_and_16_is_the_default(tiny_model, tmp_path):
    sampled(tiny_model, "--out", "deep/here", "--steps", 1)
    assert names_in(tmp_path) == ["deep"]
    assert names_in(tmp_path / "deep" / "here") == [*image_names(range(16)), *RECORD]


def test_a_process_prints_one_json_document_and_talks_on_stderr(run_cli, tiny_model, tmp_path):
    options = ["-m", tiny_model, "--device", "cpu", "--dtype", "fp32", "--steps", 2, "-n", 2]
    done = run_cli("sample", *options, "--out", "a b", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)  # raises if anything follows the document
    assert told.pop("folder") == "a b"
    assert told == manifest_of(tmp_path / "a b")
    assert done.stderr.splitlines()[1].startswith("a b: 2 samples, 2 forward passes each")
    assert told["command"].endswith("--steps 2 -n 2 --out 'a b' --json")  # can be pasted

    sampled(tiny_model, "--steps", 2, "-n", 2, "--out", "here")
    assert (
        abs(pictures(tmp_path / "a b", range(2)) - pictures(tmp_path / "here", range(2))).max() < 2
    )


def test_quiet_is_silent_and_leaves_json_alone(tiny_model, tmp_path):
    done = sampled(tiny_model, "-n", 1, "--steps", 30, "--spacing", "ddim", "--quiet")
    assert (done.out, done.err) == ("", "")
    done = sampled(tiny_model, "-n", 1, "--quiet", "--json")
    assert done.err == ""
    assert json.loads(done.out)["folder"] == "runs/0002-sample-tiny"


def test_progress_goes_to_stderr(tiny_model, monkeypatch):
    monkeypatch.setattr("ddimx.progress.SECONDS_BETWEEN_LINES", 0.0)
    done = sampled(tiny_model, "-n", 2, "--json")
    assert json.loads(done.out)["count"] == 2
    assert "sampling 2/6 " in done.err
    assert "sampling 6/6 " in done.err


def test_the_model_is_a_file_or_the_folder_of_a_training_run(tiny_model, tmp_path, tiny_config):
    from tests.cli.test_convert import save_run

    checkpoint, _ = save_run(tmp_path / "runs" / "0001-train-tiny", tiny_config)
    for which, label in (("ema", None), ("raw", "raw")):
        chosen = () if label is None else ("--weights", label)
        sampled(checkpoint.parent, "-n", 1, "--out", which, *chosen)
        recorded = manifest_of(tmp_path / which)
        assert recorded["model"]["weights"] == which
        assert recorded["model"]["sha256"] == sha256_file(checkpoint)
    ema, raw = (pictures(tmp_path / which, range(1)) for which in ("ema", "raw"))
    assert (ema != raw).any()


# --- the record ---------------------------------------------------------------------------------


def test_the_manifest_says_what_was_done(tiny_model, tiny_config, tmp_path):
    with counted_calls() as calls:
        sampled(tiny_model, "-n", 5, "--seed", 9, "--guidance", 1.5, "--out", "a")
    assert calls == [8, 8, 8, 2, 2, 2]  # batches of 4 and 1, doubled by guidance
    record = manifest_of(tmp_path / "a")
    assert (record["status"], record["count"], record["batch_size"]) == ("complete", 5, 4)
    assert record["versions"].keys() == {"ddimx", "torch", "numpy", "python"}
    assert record["versions"]["ddimx"] == ddimx.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["model"] == {
        "name": str(tiny_model),
        "format": "ddimx model",
        "sha256": sha256_file(tiny_model),
        "weights": "unstated",
    }
    assert record["config"] == json.loads(tiny_config.model_dump_json(exclude_unset=True))
    assert (record["device"], record["dtype"]) == ("cpu", {"name": "fp32", "reason": "asked for"})
    assert record["seed_rule"].startswith("Philox-4x32-10; key = seed, counter = ")
    assert (record["nfe"], record["forward_passes_per_sample"]) == (3, 6)
    assert record["network_calls"] == len(calls)
    assert record["seconds"] > 0
    assert record["notes"] == []
    assert record["plan"]["label"] == "ddim, eta 0"
    assert record["plan"]["t"] == [999.0, 666.0, 332.0]  # trailing, as the model's file says
    assert record["plan"]["t_to"] == [666.0, 332.0, -1.0]
    assert record["identity"]["seed"] == 9
    assert record["files"] == image_names(range(5))
    assert record["command"].startswith(f"ddimx sample -m {tiny_model} --device cpu")


def test_an_unusual_number_of_steps_is_said_and_recorded(tiny_model, tmp_path):
    done = sampled(tiny_model, "-n", 1, "--steps", 30, "--spacing", "ddim", "--out", "a")
    note = "spacing 'ddim' with 30 steps visits 31 timesteps"
    assert done.err.splitlines()[0] == f"note: {note}"
    record = manifest_of(tmp_path / "a")
    assert record["notes"] == [note]
    assert record["nfe"] == record["network_calls"] == len(record["plan"]["t"]) == 31


# --- image i is image i -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eta_run(tiny_model, tmp_path_factory):
    """Images 0 to 15 of a noisy run, and its options."""
    folder = tmp_path_factory.mktemp("eta") / "run"
    options = ("--eta", 1, "--seed", 3)
    sampled(tiny_model, *options, "--out", folder)
    return folder, options


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_an_image_does_not_depend_on_the_batch_size(tiny_model, tmp_path, eta_run, batch_size):
    folder, options = eta_run
    sampled(tiny_model, *options, "--batch-size", batch_size, "--out", "a")
    assert manifest_of(tmp_path / "a")["batch_size"] == batch_size
    difference = abs(pictures(tmp_path / "a", range(16)) - pictures(folder, range(16)))
    assert difference.max() <= 1


def test_one_image_alone_is_the_same_image(tiny_model, tmp_path, eta_run):
    folder, options = eta_run
    sampled(tiny_model, *options, "--start-index", 7, "-n", 1, "--out", "a")
    assert names_in(tmp_path / "a") == [*image_names(range(7, 8)), *RECORD]
    alone, others = pictures(tmp_path / "a", range(7, 8)), pictures(folder, range(16))
    assert abs(alone - others[7]).max() <= 1
    assert all(abs(alone - others[i]).max() > 1 for i in range(16) if i != 7)


def test_another_seed_makes_other_images(tiny_model, tmp_path, eta_run):
    folder, options = eta_run
    sampled(tiny_model, *options, "--seed", 4, "-n", 1, "--out", "a")
    assert abs(pictures(tmp_path / "a", range(1)) - pictures(folder, range(1))).max() > 1


def test_invariant_files_are_bit_identical(tiny_model):
    options = ("--invariant", "--eta", 1, "-n", 17)  # two micro-batches and a tail of one
    whole = states(tiny_model, *options, "--batch-size", 16)
    assert whole.shape == (17, 3, 8, 8)
    for batch_size in (1, 3):
        split = states(tiny_model, *options, "--batch-size", batch_size, name=f"b{batch_size}")
        assert split.tobytes() == whole.tobytes()
    part = states(tiny_model, *options[:-2], "-n", 5, "--start-index", 7, name="part")
    assert part.tobytes() == whole[7:12].tobytes()


def test_a_pictures_file_is_the_same_whoever_makes_it(tiny_model, tmp_path):
    """Whatever the model's file is called, the batches, the number of samples and the command."""
    options = ("--invariant", "--seed", 3, "--eta", 0.5)
    sampled(tiny_model, *options, "-n", 5, "--out", "a")
    category = manifest_of(tmp_path / "a")["samples"]["class"][3]
    (tmp_path / "renamed.safetensors").write_bytes(tiny_model.read_bytes())
    sampled(tmp_path / "renamed.safetensors", *options, "-n", 2, "--batch-size", 1, "--out", "b")
    sampled(tiny_model, *options, "-n", 4, "--out", "b")
    sampled(tiny_model, *options, "-n", 1, "--start-index", 3, "--category", category, "-o", "c")
    whole, grown = (manifest_of(tmp_path / name)["samples"] for name in "ab")
    assert (whole["seed"], whole["index"]) == (3, [0, 1, 2, 3, 4])
    assert grown == {"seed": 3, "index": whole["index"][:4], "class": whole["class"][:4]}
    for folder in ("b", "c"):
        path = tmp_path / folder / "000003.png"
        assert path.read_bytes() == (tmp_path / "a" / "000003.png").read_bytes()
    with Image.open(path) as picture:
        facts = picture.text
    expected = {"index": "3", "class": category, "seed": "3", "eta": "0.5", "solver": "ddim"}
    expected |= {"dtype": "fp32", "guidance": "1.0", "model_sha256": sha256_file(tiny_model)}
    assert "ddimx steps" not in facts  # in an identity it counts rows, which the times tell
    expected |= {"times": "[332.0, 666.0, 999.0]", "weights": "unstated"}
    assert expected.items() <= {k.removeprefix("ddimx "): v for k, v in facts.items()}.items()
    assert not any(str(tmp_path) in text or "renamed" in text for text in facts.values())


def test_a_shipped_model_is_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("ddimx.sampling.manifest.shipped_models", lambda: ["small"])
    monkeypatch.setattr("ddimx.sampling.manifest.find_model", {"small": tiny_model}.__getitem__)
    sampled(tiny_model, "-n", 1, "--out", "a")
    with Image.open(tmp_path / "a" / "000000.png") as picture:
        assert picture.text["ddimx model"] == "small"


def test_a_grid_of_several_classes_is_labeled(tiny_model, tmp_path):
    def height(*options):
        sampled(tiny_model, "--steps", 1, "-n", 4, "--out", "a", "--overwrite", *options)
        with Image.open(tmp_path / "a" / "grid.png") as picture:
            return picture.size[1]

    bare = 2 * (128 + 4) + 4
    labeled = height()
    assert labeled > bare
    assert height("--format", "npz") == labeled
    assert height("--no-labels") == bare
    category = ("--category", CLASSES[0])
    assert height(*category) == bare  # where all are one class, nobody needs to be told
    assert height(*category, "--labels") == labeled


# --- formats ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def formats(tiny_model, tmp_path_factory):
    """A folder with the same six samples in every format; ``npy`` first clamped by nothing."""
    folder = tmp_path_factory.mktemp("formats")
    for kind in ("png", "webp", "npz", "npy", "adm", "tar"):
        sampled(tiny_model, "-n", 6, "--format", kind, "--seed", 5, "--out", folder / kind)
    return folder


def test_every_format_holds_the_same_images(formats):
    png = pictures(formats / "png", range(6))
    assert png.shape == (6, 8, 8, 3)
    assert png.std() > 10  # images, not a constant
    assert (pictures(formats / "webp", range(6), "webp") == png).all()  # lossless
    for kind in ("npz", "npy", "adm"):
        name = "samples.npy" if kind == "npy" else "samples.npz"
        assert names_in(formats / kind) == ["grid.png", "manifest.json", name]
        assert manifest_of(formats / kind)["files"] == [name]
    with np.load(formats / "npz" / "samples.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"images", "labels", "groups"}
        assert archive["images"].dtype == np.uint8
        assert (archive["images"] == png).all()
        labels = archive["labels"]
        assert archive["groups"].tolist() == list(CLASSES)
    with np.load(formats / "adm" / "samples.npz", allow_pickle=False) as archive:
        assert set(archive.files) == {"arr_0", "arr_1"}
        assert archive["arr_0"].dtype == np.uint8
        assert (archive["arr_0"] == png).all()
        assert (archive["arr_1"] == labels).all()
    values = np.load(formats / "npy" / "samples.npy")
    assert (values.dtype, values.shape) == (np.float32, (6, 3, 8, 8))
    levels = np.floor((values.clip(-1, 1) + 1) / 2 * 255 + 0.5).transpose(0, 2, 3, 1)
    assert abs(levels - png).max() <= 1
    assert abs(values).max() > 1  # not clamped
    assert names_in(formats / "tar") == [*RECORD, "samples-000000.tar"]
    with tarfile.open(formats / "tar" / "samples-000000.tar") as archive:
        for name in image_names(range(6)):
            assert archive.extractfile(name).read() == (formats / "png" / name).read_bytes()
    kinds = ("png", "webp", "npz", "adm", "tar")
    grids = {(formats / kind / "grid.png").read_bytes() for kind in kinds}
    assert len(grids) == 1


def test_an_npz_can_be_trained_on(formats):
    source = NpzSource(formats / "npz" / "samples.npz", held_out=False)
    assert len(source) == 6
    assert source.classes == CLASSES
    assert (source.images(np.arange(6)) == pictures(formats / "png", range(6))).all()
    drawn = Noise(5).integers(range(6), (), len(CLASSES), stream=Stream.CATEGORY)
    assert source.labels.tolist() == drawn.tolist()
    assert len(NpzSource(formats / "adm" / "samples.npz", held_out=False)) == 6


def test_the_start_can_be_given(tiny_model, tmp_path, formats):
    model = load_model(tiny_model, device="cpu", dtype="fp32")
    drawn = Noise(5).normal(range(6), model.process.shape)
    np.save("start.npy", drawn.numpy())
    given = states(tiny_model, "--init-noise", "start.npy", "--seed", 5)  # six by default
    assert given.tobytes() == np.load(formats / "npy" / "samples.npy").tobytes()

    # The i-th state belongs to the run's i-th sample; here the rest depends on the index too.
    options = ("--seed", 5, "--category", "round", "--init-noise", "start.npy")
    first = states(tiny_model, *options, name="first")
    moved = states(tiny_model, *options, "--start-index", 4, name="moved")
    assert np.allclose(moved, first, atol=1e-5)
    assert manifest_of(tmp_path / "moved")["identity"]["init_noise_sha256"] == sha256_file(
        tmp_path / "start.npy"
    )

    # What a run writes can be read as a start, also as float64.
    np.save("double.npy", first.astype(np.float64))
    again = states(tiny_model, "--init-noise", "first/samples.npy", "-n", 2, name="again")
    double = states(tiny_model, "--init-noise", "double.npy", "-n", 2, name="double")
    assert again.shape == (2, 3, 8, 8)
    assert again.tobytes() == double.tobytes()


# --- options reach the sampler ------------------------------------------------------------------


def test_without_a_category_every_sample_draws_its_own(tiny_model, tmp_path):
    sampled(tiny_model, "-n", 8, "--batch-size", 8, "--out", "mixed")
    for name in (*CLASSES, "none"):
        sampled(tiny_model, "-n", 8, "--batch-size", 8, "--category", name, "--out", name)
    mixed, *alone = (pictures(tmp_path / n, range(8)) for n in ("mixed", *CLASSES, "none"))
    drawn = Noise(0).integers(range(8), (), len(CLASSES), stream=Stream.CATEGORY).tolist()
    assert len(set(drawn)) == 2
    for i, label in enumerate(drawn):
        assert abs(mixed[i] - alone[label][i]).max() <= 1
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(alone[one] - alone[other]).max() > 1


def test_guidance_takes_the_result_past_the_class(tiny_model, tmp_path):
    """One row from pure noise is linear in the output: g = 2 is twice g = 1 less no class."""
    options = ("--timesteps", "400", "--category", "square", "-n", 2)
    one = states(tiny_model, *options, name="one")
    two = states(tiny_model, *options, "--guidance", 2, name="two")
    none = states(tiny_model, *options[:2], "--category", "none", "-n", 2, name="none")
    assert np.allclose(two, 2 * one - none, atol=1e-4)
    assert abs(two - one).max() > 1e-3


def test_eta_1_is_ddpm_with_the_small_variance(tiny_model, tmp_path):
    ddpm = ("--solver", "ddpm", "--clip", "none", "--variance", "small")
    ddim = states(tiny_model, "--eta", 1, "-n", 2)
    small = states(tiny_model, *ddpm, "-n", 2, name="small")
    large = states(tiny_model, "--solver", "ddpm", "-n", 2, name="large")
    assert np.allclose(ddim, small, atol=1e-4)
    assert abs(large - small).max() > 1e-2
    assert manifest_of(tmp_path / "large")["plan"]["label"] == "ddpm, large variance"


def test_timesteps_and_clip(tiny_model, tmp_path):
    clipped = states(tiny_model, "--timesteps", "900,500,10", "--clip", 0.25, "-n", 2)
    record = manifest_of(tmp_path / "states")
    assert record["plan"]["t"] == [900.0, 500.0, 10.0]
    assert record["plan"]["clip"] == 0.25
    assert abs(clipped).max() == 0.25  # the last row's result is x0
    free = states(tiny_model, "--timesteps", "900,500,10", "--clip", "none", "-n", 2, name="free")
    assert abs(free).max() > 0.25


def test_half_precision_is_near(tiny_model, tmp_path):
    full = states(tiny_model, "-n", 2)
    half = states(tiny_model, "--dtype", "bf16", "-n", 2, name="half")
    assert manifest_of(tmp_path / "half")["dtype"]["name"] == "bf16"
    assert half.dtype == np.float32
    assert 0 < abs(half - full).max() < 0.5


# --- before anything is sampled -----------------------------------------------------------------


def test_explain_prints_the_plan_and_samples_nothing(tiny_model, tmp_path):
    with counted_calls() as calls:
        done = sampled(tiny_model, "--solver", "ddpm", "--explain")
        as_json = sampled(tiny_model, "--solver", "ddpm", "--explain", "--json")
    assert not calls
    assert names_in(tmp_path) == []
    assert "ddpm, large variance; 3 rows, 3 network calls" in done.out
    plan = json.loads(as_json.out)["plan"]
    assert json.loads(as_json.out).keys() == {"plan"}
    rows = done.out.splitlines()[2:]
    assert [row.split()[:3] for row in rows] == [
        ["0", "999", "666"],
        ["1", "666", "332"],
        ["2", "332", "-1"],
    ]
    assert "…" not in done.out  # no digit is lost to the width of the screen
    for row, w in zip(rows, plan["w"], strict=True):
        assert (f"{w:.6f}" if w != 1 else "1") in row.split()


def test_a_cell_of_a_plan_has_no_negative_zero():
    values = map(np.float64, (-0.0, -1e-9, -1.0, -0.5))
    assert [_cell(value) for value in values] == ["0", "0.000000", "-1", "-0.500000"]


def test_dry_run_adds_the_costs_and_writes_nothing(tiny_model, tmp_path):
    options = ("--guidance", 2, "-n", 10, "--dry-run")
    done = sampled(tiny_model, *options)
    assert "ddim, eta 0; 3 rows, 3 network calls" in done.out
    last = done.out.splitlines()[-1]
    assert last.startswith("10 samples in batches of 4: 6 forward passes each, about ")
    assert " MB and " in last
    assert last.endswith(" s on cpu, fp32")
    told = json.loads(sampled(tiny_model, *options, "--json").out)
    assert told["plan"]["nfe"] == 3
    costs = told["costs"]
    assert (costs["nfe"], costs["forward_passes_per_sample"], costs["count"]) == (3, 6, 10)
    assert costs["memory_bytes"] > tiny_model.stat().st_size / 2
    assert costs["estimated_seconds"] >= 0
    assert names_in(tmp_path) == []


def test_the_default_model_is_the_shipped_one(tiny_model, monkeypatch):
    asked = []

    def find(name):
        asked.append(name)
        return tiny_model

    monkeypatch.setattr("ddimx.weights.locate.source.find_model", find)
    done = invoke("sample", "--device", "cpu", "--explain", "--steps", 2)
    assert done.code == 0, done.err
    assert asked == ["emoji"]


def test_what_the_helpers_count_is_what_the_network_does(tiny_model):
    with counted_calls() as calls:
        sample(tiny_model, "-n", 6, "--steps", 2)
    assert calls == [4, 4, 2, 2]
