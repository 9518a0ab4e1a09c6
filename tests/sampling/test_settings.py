"""From options to settings: defaults of the model, then ours, all checked."""

import dataclasses

import pytest

from ddimx.config_file import override
from ddimx.errors import UsageError
from ddimx.models.factory import build
from ddimx.noise import Noise, Stream
from ddimx.options import Options
from ddimx.sampling.settings import DEFAULT_COUNT, labels_for, resolve
from ddimx.weights.model import load_model


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def configured(model, *overrides):
    """The model as it would be with another configuration, its weights aside."""
    config = override(model.config, overrides)
    _, process = build(config)
    return dataclasses.replace(model, config=config, process=process)


def test_our_defaults(model):
    settings = resolve(Options(), configured(model, "sampling.spacing=null"))
    assert settings.plan.label == "ddim, eta 0"
    assert settings.plan.clip is None
    assert settings.plan.t.tolist() == [float(t) for t in range(980, -1, -20)]  # 50, "ddim"
    assert (settings.count, settings.batch_size) == (DEFAULT_COUNT, 4) == (16, 4)
    assert (settings.guidance, settings.category, settings.invariant) == (1.0, None, False)
    assert settings.noise == Noise(0)
    assert settings.indices == range(16)
    assert settings.notes == ()


def test_the_models_defaults_come_before_ours_and_options_before_both(model):
    keys = ("steps=10", "eta=0.5", "spacing=quad", "guidance=2", "clip=0.75", "batch_size=7")
    own = configured(model, *(f"sampling.{key}" for key in keys))
    settings = resolve(Options(), own)
    assert settings.plan.label == "ddim, eta 0.5"
    assert (len(settings.plan), settings.plan.clip) == (10, 0.75)
    assert settings.plan.t[0] == 800  # of 1000, as the paper's quad has it
    assert (settings.guidance, settings.batch_size) == (2.0, 7)
    asked = Options(
        steps=5, eta=0.0, spacing="trailing", guidance=1.0, clip="none", batch_size=3, count=5,
        seed=8, start_index=2,
    )  # fmt: skip
    settings = resolve(asked, own)
    assert settings.plan.label == "ddim, eta 0"
    assert settings.plan.t.tolist() == [999, 799, 599, 399, 199]
    assert settings.plan.clip is None
    assert (settings.guidance, settings.batch_size) == (1.0, 3)
    assert settings.noise == Noise(8)
    assert settings.indices == range(2, 7)


def test_defaults_of_one_solver_are_not_taken_for_the_other(model):
    own = configured(model, "sampling.solver=ddpm", "sampling.eta=0.5", "sampling.clip=0.5")
    settings = resolve(Options(steps=4), own)
    assert settings.plan.label == "ddpm, large variance"
    assert settings.plan.clip == 1.0
    assert resolve(Options(steps=4, solver="ddim"), own).plan.label == "ddim, eta 0.5"


def test_the_variance_is_the_models(model):
    small = configured(model, "model.var_type=fixedsmall")
    assert resolve(Options(solver="ddpm"), small).plan.label == "ddpm, small variance"
    asked = Options(solver="ddpm", variance="large")
    assert resolve(asked, small).plan.label == "ddpm, large variance"


def test_explicit_times_leave_the_models_steps_and_spacing_out(model):
    own = configured(model, "sampling.steps=10")
    settings = resolve(Options(timesteps=[3, 700.5]), own)
    assert settings.plan.t.tolist() == [700.5, 3.0]
    for other in ({"steps": 2}, {"spacing": "quad"}):
        with pytest.raises(UsageError, match="omit --steps and --spacing"):
            resolve(Options(timesteps=[3], **other), own)


def test_a_batch_is_never_larger_than_the_run(model):
    assert resolve(Options(count=3), model).batch_size == 3
    assert resolve(Options(count=3, batch_size=100), model).batch_size == 3


def test_given_states_are_the_default_count_and_its_limit(model):
    assert resolve(Options(), model, available=5).count == 5
    assert resolve(Options(count=2), model, available=5).count == 2
    with pytest.raises(UsageError, match="count 6 exceeds the 5 states"):
        resolve(Options(count=6), model, available=5)


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ({"steps": 50}, None),
        ({"steps": 30}, "spacing 'ddim' with 30 steps visits 31 timesteps"),
        ({"steps": 30, "spacing": "leading"}, None),
        ({"steps": 400, "spacing": "quad"}, "spacing 'quad' with 400 steps visits 350 timesteps"),
        ({"steps": 1}, "spacing 'ddim' with 1 step starts at t=0; try --spacing trailing"),
        ({"steps": 1, "spacing": "trailing"}, None),
    ],
)
def test_what_a_person_should_see_is_noted(model, asked, note):
    settings = resolve(Options(**{"spacing": "ddim", **asked}), model)
    assert settings.notes == (() if note is None else (note,))


@pytest.mark.parametrize("asked", [{"start_index": 2**32 - 15}])
def test_indices_fit_into_their_32_bits(model, asked):
    with pytest.raises(UsageError, match=r"sample indices must lie in 0\.\.2\^32-1"):
        resolve(Options(**asked), model)
    assert resolve(Options(start_index=2**32 - 16), model).indices[-1] == 2**32 - 1


# --- classes ------------------------------------------------------------------------------------


def test_every_sample_draws_its_class_from_seed_and_index(model):
    settings = resolve(Options(seed=5, count=200), model)
    labels = labels_for(settings, model, settings.indices)
    drawn = Noise(5).integers(range(200), (), 2, stream=Stream.CATEGORY)
    assert labels.tolist() == drawn.tolist()
    assert 60 < labels.sum() < 140  # of 200, both occur about as often
    apart = [labels_for(settings, model, [i]).item() for i in (7, 3, 150)]
    assert apart == [labels[7], labels[3], labels[150]]
    other = resolve(Options(seed=6, count=200), model)
    assert labels_for(other, model, other.indices).tolist() != labels.tolist()


@pytest.mark.parametrize(("category", "label"), [("round", 0), ("square", 1), ("none", 2)])
def test_a_category_is_everyones(model, category, label):
    settings = resolve(Options(category=category), model)
    assert labels_for(settings, model, range(3)).tolist() == [label] * 3


def test_a_model_without_classes_has_no_labels(model):
    plain = configured(model, "model.classes=[]")
    assert labels_for(resolve(Options(), plain), plain, range(3)) is None
    for asked in (Options(category="none"), Options(guidance=0.0)):
        with pytest.raises(UsageError, match=r"has no(ne| classes)"):
            resolve(asked, plain)


def test_a_group_of_classes_is_a_category(model):
    """A group is drawn as often as another one, however many classes it has."""
    classes = ("a/x", "b/x", "b/y", "b/z")
    update = {"model": model.config.model.model_copy(update={"classes": classes})}
    own = dataclasses.replace(model, config=model.config.model_copy(update=update))
    assert own.classes == classes
    settings = resolve(Options(count=4000), own)
    labels = labels_for(settings, own, settings.indices)
    assert labels.bincount().tolist() == pytest.approx([2000, 667, 667, 667], rel=0.1)
    part = labels_for(settings, own, [7, 3])
    assert part.tolist() == [labels[7], labels[3]]
    settings = resolve(Options(count=300, category="b"), own)
    labels = labels_for(settings, own, settings.indices)
    assert labels.bincount().tolist() == pytest.approx([0, 100, 100, 100], abs=30)
    for word, label in (("b/y", 2), ("a", 0), ("none", 4)):
        settings = resolve(Options(count=3, category=word), own)
        assert labels_for(settings, own, settings.indices).tolist() == [label] * 3
    with pytest.raises(UsageError, match=r"category.*'c'"):
        resolve(Options(category="c"), own)
