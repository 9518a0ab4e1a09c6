"""``ddimx sample --prompt``: what it writes, and what it refuses."""

import json
import shutil
import signal
import threading
from importlib.util import find_spec

import diffusers
import numpy as np
import pytest
import torch

from ddimx.integrations.diffusers.process import prompted
from ddimx.integrations.diffusers.text import load_text_model
from ddimx.noise import Noise, Stream
from ddimx.options import Options
from ddimx.progress import Progress
from ddimx.sampling.run import SampleRequest, run
from ddimx.sampling.settings import resolve
from ddimx.signals import Stop
from tests.integrations import SIZE, STABLE_DIFFUSION
from tests.sampling import (
    image_names,
    invoke,
    manifest_of,
    names_in,
    pictures,
    sample,
    sampled,
    state_of,
)

PROMPT = ("--prompt", "an astronaut riding a horse")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_numbered_images_a_grid_and_a_manifest(text_folder, tmp_path):
    sampled(text_folder, *PROMPT, "-n", 2, "--out", "out", "--seed", 5)
    assert names_in(tmp_path / "out") == [*image_names(range(2)), "grid.png", "manifest.json"]
    record = manifest_of(tmp_path / "out")
    assert record["status"] == "complete"
    assert record["identity"]["prompt"] == PROMPT[1]
    assert (record["nfe"], record["forward_passes_per_sample"]) == (3, 6)
    assert record["plan"]["t"] == [667.0, 334.0, 1.0]
    assert record["identity"]["guidance"] == 7.5
    assert record["versions"]["diffusers"] == diffusers.__version__
    assert pictures(tmp_path / "out", range(2)).shape == (2, SIZE, SIZE, 3)


def test_the_images_are_the_pipelines_own_from_the_seeds_latents(text_folder, tmp_path):
    """Levels of 8 bits: float32's differences may move a value over one boundary, no further."""
    sampled(text_folder, *PROMPT, "-n", 2, "--out", "out", "--seed", 5, "--guidance", 3)
    pipe = diffusers.DiffusionPipeline.from_pretrained(text_folder, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION)
    for i, found in enumerate(pictures(tmp_path / "out", range(2))):
        latents = Noise(5).normal([i], (4, SIZE // 2, SIZE // 2), stream=Stream.INIT)
        made = pipe(
            PROMPT[1],
            latents=latents,
            num_inference_steps=3,
            guidance_scale=3.0,
            output_type="np",
        )
        expected = np.floor(made.images[0] * 255 + 0.5)
        assert np.abs(found - expected).max() <= 1
        assert expected.std() > 10


def test_an_image_depends_on_seed_and_index_alone(text_folder, tmp_path):
    options = (*PROMPT, "--eta", 1, "--format", "npy", "--timesteps", "900,500,20")
    sampled(text_folder, *options, "-n", 3, "--batch-size", 3, "--out", "all")
    sampled(text_folder, *options, "-n", 1, "--start-index", 2, "--out", "last")
    together, alone = (np.load(tmp_path / n / "samples.npy") for n in ("all", "last"))
    assert together.shape == (3, 3, SIZE, SIZE)
    assert np.abs(together[2] - alone[0]).max() < 1e-4  # float32, whose rounding the batch changes
    assert np.abs(together[1] - alone[0]).max() > 1e-2
    assert manifest_of(tmp_path / "all")["plan"]["t"] == [900.0, 500.0, 20.0]


def test_a_run_is_continued_extended_and_protected(text_folder, tmp_path):
    command = (*PROMPT, "-n", 2, "--out", "out")
    sampled(text_folder, *command)
    folder = tmp_path / "out"
    before = state_of(folder)
    (folder / "000001.png").unlink()
    sampled(text_folder, *command)
    assert state_of(folder)["000000.png"] == before["000000.png"]
    assert state_of(folder)["000001.png"][2] == before["000001.png"][2]
    done = invoke("sample", "--resume", "out", "-n", 3)
    assert done.code == 0, done.err
    assert image_names(range(3)) == [n for n in names_in(folder) if n[0] == "0"]
    other = sample(text_folder, "--prompt", "a horse", "-n", 2, "--out", "out")
    assert other.code == 2
    assert "holds a different run (prompt: an astronaut riding a horse -> a horse" in other.err
    sampled(text_folder, "--prompt", "a horse", "-n", 1, "--out", "out", "--overwrite")
    assert names_in(folder) == ["000000.png", "grid.png", "manifest.json"]


class Impatient(Progress):
    """Asks to stop at the fifth step: the second of the second image."""

    def __init__(self, stop):
        super().__init__(quiet=True)
        self.stop_flag, self.seen = stop, 0

    def advance(self, count=1, note=""):
        self.seen += count
        if self.seen == 5:
            self.stop_flag.signal = signal.SIGTERM


def test_a_run_that_was_interrupted_goes_on(text_folder, tmp_path):
    stop, folder = Stop(), tmp_path / "out"
    model = prompted(load_text_model(str(text_folder), device="cpu", dtype="fp32"), PROMPT[1])
    options = Options(steps=3, count=3)
    asked = {"model": str(text_folder), "prompt": PROMPT[1], "dtype": "fp32", "steps": 3}
    request = SampleRequest(model, resolve(options, model), out=folder, asked=asked | {"count": 3})
    progress = Impatient(stop)
    threads = threading.active_count()
    record, _ = run(request, stop, progress)
    assert threading.active_count() == threads  # the pipeline's own has ended
    assert progress.seen == 5
    assert record["status"] == manifest_of(folder)["status"] == "interrupted"
    assert names_in(folder) == ["000000.png", "manifest.json"]
    before = state_of(folder)["000000.png"]
    done = invoke("sample", "--resume", folder, "--device", "cpu")
    assert done.code == 0, done.err
    assert manifest_of(folder)["status"] == "complete"
    assert names_in(folder) == [*image_names(range(3)), "grid.png", "manifest.json"]
    assert state_of(folder)["000000.png"] == before


def test_a_run_of_before_0_2_goes_on(text_folder, tmp_path):
    """Such a run had a record of its own."""
    command = (*PROMPT, "-n", 1, "--out", "out")
    sampled(text_folder, *command)
    path = tmp_path / "out" / "manifest.json"
    record = json.loads(path.read_text())
    for name in ("config_sha256", "weights", "schedule", "category", "invariant",
                 "init_noise_sha256", "negative_prompt", "size"):  # fmt: skip
        del record["identity"][name]
    path.write_text(json.dumps(record))
    refused(
        sample(text_folder, *command, "--negative-prompt", "a dog"),
        "holds a different run (negative_prompt: None -> a dog",
    )
    sampled(text_folder, *command, "-n", 2)
    assert image_names(range(2)) == [n for n in names_in(tmp_path / "out") if n[0] == "0"]


def test_a_negative_prompt_and_a_size(text_folder, tmp_path):
    sampled(text_folder, *PROMPT, "-n", 1, "--out", "plain")
    sampled(text_folder, *PROMPT, "-n", 1, "--negative-prompt", "a dog", "--out", "other")
    sampled(text_folder, *PROMPT, "-n", 1, "--size", "24x16", "--format", "npy", "--out", "wide")
    plain, other = (pictures(tmp_path / name, range(1)) for name in ("plain", "other"))
    assert not np.array_equal(plain, other)
    pipe = diffusers.DiffusionPipeline.from_pretrained(text_folder, safety_checker=None)
    pipe.scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION)
    made = pipe(
        PROMPT[1],
        negative_prompt="a dog",
        latents=Noise(0).normal([0], (4, SIZE // 2, SIZE // 2), stream=Stream.INIT),
        num_inference_steps=3,
        output_type="np",
    )
    expected = np.floor(made.images[0] * 255 + 0.5)
    assert np.abs(other[0] - expected).max() <= 1
    assert np.load(tmp_path / "wide" / "samples.npy").shape == (1, 3, 16, 24)
    assert manifest_of(tmp_path / "wide")["identity"]["size"] == [24, 16]
    done = invoke("sample", "--resume", "wide", "-n", 1)
    assert done.code == 0, done.err
    refused(sample(text_folder, *PROMPT, "--size", "15"), "must be multiples of 2")
    refused(sample(text_folder, *PROMPT, "--size", "1x2x3"), "write pixels as 512 or")
    done = sample(text_folder, *PROMPT, "--negative-prompt", "a", "--guidance", 1)
    refused(done, "--negative-prompt has no effect")
    refused(invoke("sample", "--size", "8"), "--size: only with --prompt")


def test_what_it_will_cost_is_told(text_folder, tmp_path):
    done = sampled(text_folder, *PROMPT, "--dry-run", "--json")
    costs = json.loads(done.out)["costs"]
    assert (costs["nfe"], costs["memory_bytes"], costs["count"]) == (3, None, 1)
    assert costs["estimated_seconds"] > 0
    assert names_in(tmp_path) == []


def test_settings_of_the_scheduler(text_folder, tmp_path):
    model = load_text_model(str(text_folder), device="cpu", dtype="fp32")
    plan = prompted(model, "a").process.plan(Options(spacing="quad", clip=0.5, steps=4))
    settings = plan.scheduler.config
    assert settings["timestep_spacing"] == "quad"
    assert (settings["clip_sample"], settings["clip_sample_range"]) == (True, 0.5)
    assert plan.identity()["clip"] == 0.5
    options = ("--spacing", "quad", "--clip", 0.5)
    sampled(text_folder, *PROMPT, *options, "--steps", 4, "--out", "out")
    assert manifest_of(tmp_path / "out")["identity"]["times"] == plan.identity()["times"]


def test_explain_prints_the_plan_and_draws_nothing(text_folder, tmp_path):
    done = sampled(text_folder, *PROMPT, "--explain", "--json")
    assert json.loads(done.out)["plan"]["t_to"] == [334.0, 1.0, 0.0]
    assert names_in(tmp_path) == []


def refused(done, message, code=2):
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert "fault of ddimx" not in done.err
    assert message in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--routing", "random"), "--routing: not for a run with --prompt"),
        (("--category", "food", "--start-index", 1), "--category: not for"),
        (("--solver", "unipc:2"), "has one solver, ddim"),
        (("--steps", 0), "steps must be at least 1, got 0"),
        (("--steps", 1001), "steps must lie in 1..1000"),
        (("--steps", 1000), "steps_offset 1 moves the first of 1000 timesteps to 1000"),
        (("--timesteps", "5,7.5"), "must be whole numbers"),
        (
            ("--timesteps", "5,4", "--spacing", "quad"),
            "--timesteps lists the times; omit --spacing",
        ),
        (("--eta", 2), "eta must lie in [0, 1]"),
        (("--count", 0), "count must be at least 1"),
        (("--clip", -1), "clip must be positive"),
        (("--spacing", "trailling"), "did you mean 'trailing'?"),
    ],
)
def test_options_that_cannot_be_met_are_refused(text_folder, tmp_path, options, message):
    refused(sample(text_folder, *PROMPT, *options), message)
    assert names_in(tmp_path) == []


def test_a_number_of_evaluations_is_refused(text_folder):
    done = invoke("sample", "-m", text_folder, *PROMPT, "--nfe", 5)
    refused(done, "--nfe: not for a run with --prompt")


def test_a_text_to_image_folder_without_a_prompt(text_folder):
    refused(sample(text_folder), 'draws from a text only: ddimx sample --model ... --prompt "..."')
    refused(sample(text_folder, "--prompt", "  "), "--prompt is empty")


def test_a_prompt_for_a_model_that_draws_without_one(tiny_model):
    for name in (tiny_model, "emoji", "cifar10"):
        refused(sample(name, *PROMPT), f"--prompt: model '{name}' draws without a text")
    refused(invoke("sample", *PROMPT), "--prompt: model 'emoji' draws without a text")


@pytest.mark.parametrize("package", ["diffusers", "transformers"])
def test_a_missing_extra(text_folder, monkeypatch, package):
    def without(name):
        return None if name == package else find_spec(name)

    monkeypatch.setattr("ddimx.cli.prompt.find_spec", without)
    refused(sample(text_folder, *PROMPT), f"--prompt needs {package}: pip install 'ddimx[hub]'")


def test_a_hub_id(text_folder, monkeypatch, tmp_path):
    """The settings are looked at before anything else is downloaded."""
    asked = []

    def snapshot(name, allow_patterns, local_files_only):
        asked.append((name, allow_patterns))
        return str(text_folder)

    def download(name, **options):
        asked.append((name, options))
        return str(text_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", download)
    sampled("somebody/painter", *PROMPT, "--offline", "--out", "out")
    assert asked == [
        ("somebody/painter", ["model_index.json"]),
        ("somebody/painter", {"use_safetensors": True, "local_files_only": True}),
    ]
    assert manifest_of(tmp_path / "out")["model"]["name"] == "somebody/painter"


def test_pipelines_that_cannot_be_loaded_or_sampled(text_folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(text_folder, broken)
    (broken / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    refused(sample(broken, *PROMPT), "broken: the pipeline cannot be loaded", code=1)
    # Weights in pickles are not read.
    torch.save({}, broken / "unet" / "diffusion_pytorch_model.bin")
    refused(sample(broken, *PROMPT), "broken: the pipeline cannot be loaded", code=1)
    index = json.loads((text_folder / "model_index.json").read_text())
    index["_class_name"] = "StableDiffusionImg2ImgPipeline"
    other = tmp_path / "other"
    shutil.copytree(text_folder, other)
    (other / "model_index.json").write_text(json.dumps(index))
    refused(sample(other, *PROMPT), "StableDiffusionImg2ImgPipeline", code=1)
