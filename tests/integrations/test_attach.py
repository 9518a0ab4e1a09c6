"""Our scheduler inside diffusers' pipelines: it runs there, and gives their images."""

import re

import diffusers
import numpy as np
import pytest
import torch

from ddimx.errors import UsageError
from ddimx.integrations.diffusers import DDIMScheduler, attach, scheduler
from tests.conftest import ROOT
from tests.integrations import SIZE, STABLE_DIFFUSION, pipeline
from tests.weights.formats.diffusers.models import pipeline as unconditional
from tests.weights.formats.diffusers.models import unet


@pytest.fixture
def steps(monkeypatch):
    """A list that grows by the plan's row with every fused update."""
    taken = []
    real = scheduler.update

    def update(table, row, *rest):
        taken.append(int(row))
        return real(table, row, *rest)

    monkeypatch.setattr(scheduler, "update", update)
    return taken


def drawn(pipe, **options):
    made = pipe(
        "an astronaut",
        generator=torch.Generator().manual_seed(3),
        output_type="np",
        **{"num_inference_steps": 5, **options},
    )
    return made.images


def test_ddim_pipeline_replaces_a_scheduler_that_it_is_given_and_attach_sets_ours(steps):
    ours = DDIMScheduler(clip_sample=False)
    pipe = diffusers.DDIMPipeline(unet(), ours)
    assert type(pipe.scheduler) is diffusers.DDIMScheduler
    attached = attach(pipe)
    assert type(pipe.scheduler) is DDIMScheduler
    assert attached is pipe.scheduler
    pipe.set_progress_bar_config(disable=True)
    pipe(num_inference_steps=4, output_type="np")
    assert steps == [0, 1, 2, 3]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_pipelines_images_stay_the_same(eta, steps):
    """A random network in float32; images lie in [0, 1], of which 1e-4 is a fortieth of a level."""
    images = []
    for change in (lambda pipe: None, attach):
        pipe = unconditional(unet(), clip_sample=True)
        pipe.set_progress_bar_config(disable=True)
        change(pipe)
        generators = [torch.Generator().manual_seed(s) for s in (1, 2)]
        made = pipe(
            batch_size=2, generator=generators, eta=eta, num_inference_steps=10, output_type="np"
        )
        images.append(made.images)
    assert len(steps) == 10
    assert images[0].std() > 0.1
    assert np.abs(images[0] - images[1]).max() < 1e-4


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_stable_diffusions_images_are_those_of_diffusers_scheduler(pipe, tmp_path, eta, steps):
    theirs = pipeline(tmp_path / "theirs")
    theirs.scheduler = diffusers.DDIMScheduler(**STABLE_DIFFUSION)
    attach(pipe)
    expected, found = drawn(theirs, eta=eta), drawn(pipe, eta=eta)
    assert steps == [0, 1, 2, 3, 4]
    assert expected.std() > 0.05
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(drawn(pipe, num_inference_steps=6) - expected).max() > 1e-3


def test_the_settings_of_another_scheduler_are_taken_over(pipe):
    """Of PNDM, which Stable Diffusion comes with; it has no clip_sample, as it clips nothing."""
    assert type(pipe.scheduler) is diffusers.PNDMScheduler
    assert "clip_sample" not in pipe.scheduler.config
    ours = attach(pipe, timestep_spacing="trailing")
    for key, value in {**STABLE_DIFFUSION, "timestep_spacing": "trailing"}.items():
        assert ours.config[key] == value


def test_explicit_timesteps_through_the_pipeline(pipe, steps):
    ours = attach(pipe)
    drawn(pipe, num_inference_steps=50, timesteps=[900, 400, 20])
    assert ours.timesteps.tolist() == [900, 400, 20]
    assert steps == [0, 1, 2]


def test_a_seed_makes_an_image_independent_of_its_batch(pipe):
    """Of all images of seed 9, the one of index 4: alone, or second of two."""

    def images(samples):
        attach(pipe, seed=9, samples=samples)
        latents = torch.stack([torch.full((4, 8, 8), 0.1 * i) for i in samples])
        made = pipe(
            ["a"] * len(samples), latents=latents, eta=1.0, num_inference_steps=3, output_type="np"
        )
        return made.images

    pair, alone, other = images([7, 4]), images([4]), images([5])
    # Convolutions of one and of two images may round differently: float32, 3 steps.
    assert np.abs(pair[1] - alone[0]).max() < 1e-4
    assert np.abs(pair[1] - other[0]).max() > 1e-2


def test_the_example_of_the_page_on_python_runs(text_folder, steps):
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (code,) = [block for block in blocks if "attach(pipe)" in block]
    values = {}
    exec(compile(code.replace("FOLDER_OR_ID", str(text_folder)), "python.md", "exec"), values)
    assert values["image"].size == (SIZE, SIZE)
    assert steps == [*range(50), *range(4)]


def test_a_saved_pipeline_is_loaded_by_diffusers(pipe, tmp_path):
    attach(pipe, timestep_spacing="trailing")
    pipe.save_pretrained(tmp_path / "saved")
    again = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    assert type(again.scheduler) is diffusers.DDIMScheduler
    assert again.scheduler.config.timestep_spacing == "trailing"
    assert again.scheduler.config.set_alpha_to_one is False


def test_what_cannot_be_attached_is_refused(pipe):
    with pytest.raises(UsageError, match="DDIMScheduler has no setting spacing"):
        attach(pipe, spacing="quad")
    with pytest.raises(UsageError, match="object has no scheduler"):
        attach(object())
    pipe.scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    with pytest.raises(UsageError, match="predicts its variance"):
        attach(pipe)
    pipe.scheduler = diffusers.DDPMScheduler(beta_schedule="sigmoid")
    with pytest.raises(UsageError, match="'sigmoid' is not known to DDIM"):
        attach(pipe)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(UsageError, match="FlowMatchEulerDiscreteScheduler belongs to a model that"):
        attach(pipe)
    assert type(pipe.scheduler) is diffusers.FlowMatchEulerDiscreteScheduler
