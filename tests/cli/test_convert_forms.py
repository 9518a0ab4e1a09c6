"""``ddimx convert --to native|diffusers|ddim``: every direction, bit by bit; what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from ddimx.config_file import load_config
from ddimx.runs.lock import lock_file
from ddimx.weights.formats.native import Header, read_header, read_native, save
from ddimx.weights.locate.source import Source, find_weights, read_source
from tests.sampling import invoke, manifest_of, names_in
from tests.weights import config_file, original_list, plain, same, weights

CONFIG = plain(data={"random_flip": True}, sampling={"eta": 0.5})
RAW, EMA = weights(CONFIG, 1), weights(CONFIG, 2)
TARGETS = {"native": "m.safetensors", "diffusers": "folder", "ddim": "m.pth"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def converted(*args):
    done = invoke("convert", *args)
    assert done.code == 0, done.err
    return done


@pytest.fixture
def native(folder):
    path = folder / "start.safetensors"
    save(path, EMA, Header("model", CONFIG, {"weights": "ema", "by": "us"}))
    return path


@pytest.fixture
def listed(folder):
    path = folder / "ckpt.pth"
    torch.save(original_list(RAW, EMA), path)
    return path


def given(form):
    """A list says nothing of its settings; the file that was written beside it does."""
    return ("--config", "m.yml") if form == "ddim" else ()


@pytest.mark.parametrize("first", TARGETS)
@pytest.mark.parametrize("second", TARGETS)
def test_round_trips_are_exact(native, folder, first, second):
    converted(native, TARGETS[first], "--to", first)
    (folder / "next").mkdir()
    target = f"next/{TARGETS[second]}"
    converted(TARGETS[first], target, "--to", second, *given(first))
    if second == "ddim":
        (folder / "m.yml").unlink(missing_ok=True)
        (folder / "next" / "m.yml").rename(folder / "m.yml")
    end = "end.safetensors"
    converted(target, end, *given(second))
    found = read_native(folder / end)
    assert same(found.tensors, EMA)
    assert found.config == CONFIG
    assert found.which == "ema"


def test_a_list_of_two_sets_stays_one(folder, listed):
    settings = config_file(folder, CONFIG)
    done = converted(listed, "pair.pth", "--to", "ddim", "--config", settings)
    assert "ema and raw weights in fp32" in done.err
    states = torch.load("pair.pth", weights_only=True)
    assert same(states[0], {f"module.{name}": value for name, value in RAW.items()})
    assert same(states[4], EMA)
    assert states[3] == 12
    converted(listed, "raw.pth", "--to", "ddim", "--config", settings, "--weights", "raw")
    states = torch.load("raw.pth", weights_only=True)
    assert same(states[4], RAW)
    assert load_config("raw.yml") == CONFIG


@pytest.mark.parametrize(("args", "taken"), [((), "ema"), (("--weights", "raw"), "raw")])
def test_which_weights_a_file_holds_is_kept(folder, listed, args, taken):
    settings = config_file(folder, CONFIG)
    done = converted(listed, "out", "--to", "diffusers", "--config", settings, *args)
    assert f"{taken} weights in fp32" in done.err
    found, _ = read_source(Source("out"))
    assert same(found.tensors, EMA if taken == "ema" else RAW)
    assert found.which == taken
    converted("out", "back.safetensors")
    header = read_header(folder / "back.safetensors")
    assert header.info["weights"] == taken
    assert header.info["converted_from"] == "ermongroup list"  # its origin, not the last stop
    assert header.info["step"] == 12


def test_half_precision_goes_through_diffusers_too(native, folder):
    converted(native, "half", "--to", "diffusers", "--dtype", "fp16")
    found = find_weights(Source("half"))
    assert same(found.tensors, {name: value.half() for name, value in EMA.items()})


@pytest.mark.parametrize(
    ("form", "sections", "named"),
    [
        ("ddim", {"model": {"norm_eps": 1e-5}}, "model.norm_eps 1e-05"),
        (
            "ddim",
            {"data": {"image_size": [8, 16]}, "model": {"attn_resolutions": [8]}},
            "data.image_size (8, 16)",
        ),
        ("ddim", {"model": {"classes": ["a", "b"]}}, "model.classes ('a', 'b')"),
        ("diffusers", {"model": {"patch_size": 2, "attn_resolutions": [2]}}, "model.patch_size 2"),
        ("ddim", {"model": {"patch_size": 2, "attn_resolutions": [2]}}, "model.patch_size 2"),
        ("ddim", {"model": {"norm_groups": 16}}, "model.norm_groups 16"),
        ("ddim", {"diffusion": {"prediction": "v"}}, "diffusion.prediction v"),
        ("ddim", {"diffusion": {"beta_schedule": "cosine"}}, "diffusion.beta_schedule cosine"),
        ("diffusers", {"diffusion": {"beta_schedule": "jsd"}}, "diffusion.beta_schedule jsd"),
        ("diffusers", {"diffusion": {"prediction": "flow"}}, "diffusion.prediction flow"),
        ("ddim", {"diffusion": {"prediction": "edm"}}, "diffusion.prediction edm"),
    ],
)
def test_a_model_that_the_form_cannot_represent(folder, form, sections, named):
    config = plain(**sections)
    save(folder / "x.safetensors", weights(config), Header("model", config, {}))
    done = invoke("convert", "x.safetensors", TARGETS[form], "--to", form)
    assert done.code == 2
    assert f"has no {named}" in done.err
    assert names_in(folder) == ["x.safetensors"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["m.safetensors", "--to", "ddim"], "a model of form 'ddim' ends in .pth"),
        (["m.pth", "--to", "diffusers"], "form 'diffusers' is a folder"),
        (["m", "--to", "difusers"], "unknown form 'difusers'; did you mean 'diffusers'?"),
        (["mine", "--to", "diffusers"], "mine exists; --overwrite replaces it"),
        (["mine", "--to", "diffusers", "--overwrite"], "mine holds other files too, diary.txt for"),
        (["text", "--to", "diffusers", "--overwrite"], "text is a file; name another"),
        (["x.pth", "--to", "ddim"], "x.yml exists; --overwrite replaces it"),
        (["m", "--to", "diffusers", "--config", "cifar10"], "carries its own configuration"),
        (["m", "--to", "diffusers", "--weights", "raw"], "holds no raw weights but ema weights"),
    ],
)
def test_a_target_that_will_not_do(native, folder, args, message):
    (folder / "mine").mkdir()
    (folder / "mine" / "diary.txt").write_text("dear diary")
    (folder / "text").write_text("a file")
    (folder / "x.yml").write_text("mine: too")
    before = names_in(folder)
    done = invoke("convert", native, *args)
    assert done.code in (1, 2)
    assert message in done.err
    assert names_in(folder) == before
    assert (folder / "mine" / "diary.txt").read_text() == "dear diary"


def test_a_folder_of_ours_can_be_replaced(native, folder):
    converted(native, "folder", "--to", "diffusers", "--dtype", "bf16")
    converted(native, "folder", "--to", "diffusers", "--overwrite")
    assert same(find_weights(Source("folder")).tensors, EMA)


@pytest.mark.parametrize("form", TARGETS)
def test_what_is_there_already_is_done(native, folder, form):
    converted(native, TARGETS[form], "--to", form)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    converted(native, TARGETS[form], "--to", form)  # as after a kill at the very end
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    if form == "ddim":  # killed between its two files
        (folder / "m.yml").unlink()
        converted(native, TARGETS[form], "--to", form)
        assert (folder / "m.yml").read_bytes() == before[folder / "m.yml"]
    done = invoke("convert", native, TARGETS[form], "--to", form, "--dtype", "bf16")
    assert done.code == 2
    assert "exists; --overwrite replaces it" in done.err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_second_process_is_refused(native, folder):
    with lock_file(folder / "m.safetensors"):
        done = invoke("convert", native, "m.safetensors")
    assert done.code == 2
    assert "another process is writing m.safetensors" in done.err
    assert names_in(folder) == ["start.safetensors"]


@pytest.mark.parametrize("form", TARGETS)
def test_what_a_killed_process_left_is_swept(native, folder, form):
    name = f".{TARGETS[form]}.0123abc_"
    (folder / f"{name}.part").touch()
    (folder / f"{name}.tree" / "unet").mkdir(parents=True)
    (folder / ".mine.0123abc_.part").touch()
    converted(native, TARGETS[form], "--to", form)
    hidden = {path.name for path in folder.iterdir() if path.name.startswith(".")}
    assert hidden == {".mine.0123abc_.part"}


def test_sampling_from_a_list_records_what_was_taken(folder, listed):
    settings = config_file(folder, CONFIG)
    common = ("-n", 1, "--steps", 1, "--device", "cpu", "--dtype", "fp32", "--config", settings)
    for name, args, taken in (("a", (), "ema"), ("b", ("--weights", "raw"), "raw")):
        done = invoke("sample", "-m", listed, *common, *args, "--out", name)
        assert done.code == 0, done.err
        record = manifest_of(folder / name)
        assert record["model"]["weights"] == record["identity"]["weights"] == taken
        assert record["model"]["format"] == "ermongroup list"
        assert record["notes"][0] == "what the file does not say is taken from --config"
        assert record["asked"]["config"] == str(settings)
    assert "note: what the file does not say" in done.err
    # The same run again; then with another noise schedule, which is another run.
    again = ("sample", "-m", listed, *common[:-1])
    assert invoke(*again, settings, "--out", "a").code == 0
    config_file(folder, plain(data={"random_flip": True}, model={"norm_groups": 16}))
    done = invoke(*again, settings, "--out", "a")
    assert done.code == 2
    assert "holds a different run (config_sha256" in done.err


def test_every_form_gives_the_same_image(native, folder):
    converted(native, "f", "--to", "diffusers")
    converted(native, "m.pth", "--to", "ddim")
    results = []
    for model, args in ((native, ()), ("f", ()), ("m.pth", ("--config", "m.yml"))):
        out = f"out{len(results)}"
        done = invoke(
            "sample", "-m", model, *args, "-n", 2, "--steps", 3, "--device", "cpu",
            "--dtype", "fp32", "--format", "npy", "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.err
        results.append((folder / out / "samples.npy").read_bytes())
    assert results[0] == results[1] == results[2]


class TestInfo:
    def test_a_list(self, listed, folder):
        done = invoke("info", listed, "--config", config_file(folder, CONFIG), "--json")
        assert done.code == 0, done.err
        facts = json.loads(done.out)
        assert facts.keys() == {"model", "history", "notes", "configuration"}
        model = facts["model"]
        assert (model["format"], model["weights"], model["sets"]) == (
            "ermongroup list", "ema", "raw, ema",
        )  # fmt: skip
        assert model["parameters"] == sum(value.numel() for value in EMA.values())
        assert model["dtype"] == "float32"
        assert "ch 32, ch_mult (1, 2), num_res_blocks 1" in model["architecture"]
        assert facts["history"] == {"step": 12}
        assert facts["configuration"]["data"]["random_flip"] is True

    def test_what_is_missing_does_not_hinder(self, listed):
        done = invoke("info", listed)
        assert done.code == 0, done.err
        assert "  format: ermongroup list\n" in done.out
        assert "no shipped configuration has these tensors" in done.out

    def test_a_model_of_ours(self, native):
        facts = json.loads(invoke("info", native, "--json").out)
        assert facts["model"]["format"] == "ddimx model"
        assert facts["model"]["weights"] == "ema"
        assert facts["history"]["by"] == "us"
        assert facts["configuration"]["sampling"] == {"eta": 0.5}

    def test_a_published_model_is_not_downloaded(self, folder, monkeypatch):
        monkeypatch.setenv("DDIMX_CACHE", str(folder / "cache"))
        facts = json.loads(invoke("info", "church", "--json").out)
        assert list(facts["church"]) == ["church, ema", "church, raw"]
        assert facts["church"]["church, ema"]["state"] == "not downloaded"
        assert facts["church"]["church, ema"]["md5"] == "fdc68a23938c2397caba4a260bc2445f"
        assert names_in(folder) == []

    def test_an_unknown_name(self):
        done = invoke("info", "absent")
        assert (done.code, done.out) == (2, "")
        assert "unknown model 'absent'" in done.err
