"""Defaults, checks and the classes of a sampling run."""

import pytest

from ddimx.config_file import override
from ddimx.errors import UsageError
from ddimx.sampling.settings import Asked, labels_for, resolve
from ddimx.weights.model import load_model


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def with_sampling(model, *items):
    """The model with other defaults in its configuration's sampling section."""
    from dataclasses import replace

    return replace(model, config=override(model.config, [f"sampling.{i}" for i in items]))


def test_the_models_defaults_come_before_ours(model):
    ours = resolve(Asked(), with_sampling(model))
    assert (len(ours.plan), ours.count, ours.batch_size, ours.guidance) == (50, 16, 4, 1.0)
    theirs = ("steps=7", "guidance=2.5", "eta=0.5", "clip=1.5", "batch_size=3")
    settings = resolve(Asked(), with_sampling(model, *theirs))
    assert (len(settings.plan), settings.guidance, settings.batch_size) == (7, 2.5, 3)
    assert (settings.plan.label, settings.plan.clip) == ("ddim, eta 0.5", 1.5)


def test_what_is_asked_comes_before_the_models_defaults(model):
    other = with_sampling(model, "steps=7", "guidance=2.5", "eta=0.5", "clip=1.5")
    settings = resolve(Asked(steps=3, guidance=1.0, eta=0.0, clip="none", count=2), other)
    assert (len(settings.plan), settings.guidance, settings.count) == (3, 1.0, 2)
    assert (settings.plan.label, settings.plan.clip) == ("ddim, eta 0", None)


def test_a_default_of_ddim_is_not_forced_on_ddpm(model):
    settings = resolve(Asked(solver="ddpm", steps=3), with_sampling(model, "eta=0.5", "clip=2"))
    assert (settings.plan.label, settings.plan.clip) == ("ddpm, large variance", 1.0)


def test_var_type_chooses_ddpms_variance(model):
    from dataclasses import replace

    small = replace(model, config=override(model.config, ["model.var_type=fixedsmall"]))
    assert resolve(Asked(solver="ddpm", steps=3), small).plan.label == "ddpm, small variance"


def test_an_unusual_number_of_timesteps_is_remarked(model):
    settings = resolve(Asked(steps=7, spacing="ddim"), model)
    assert len(settings.plan) == 8
    assert settings.notes == ("spacing 'ddim' with 7 steps visits 8 timesteps",)
    assert "try --spacing trailing" in resolve(Asked(steps=1, spacing="ddim"), model).notes[0]


def test_without_a_category_every_index_has_its_own_class(model):
    settings = resolve(Asked(count=200), model)
    labels = labels_for(settings, model, settings.indices).tolist()
    assert 60 < sum(labels) < 140
    assert labels_for(settings, model, [17, 5]).tolist() == [labels[17], labels[5]]


@pytest.mark.parametrize(("category", "label"), [("round", 0), ("square", 1), ("none", 2)])
def test_a_category_is_the_class_of_all(model, category, label):
    settings = resolve(Asked(category=category), model)
    assert labels_for(settings, model, range(3)).tolist() == [label] * 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"count": 0}, "count must be at least 1"),
        ({"batch_size": 0}, "batch-size must be at least 1"),
        ({"start_index": 2**32 - 1, "count": 2}, "sample indices"),
        ({"category": "rond"}, "did you mean 'round'"),
        ({"steps": 1001}, "steps must lie in 1..1000"),
        ({"timesteps": [5, 1], "steps": 2}, "leave --steps and --spacing out"),
        ({"guidance": float("nan")}, "finite"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_what_cannot_be_is_refused(model, asked, message):
    with pytest.raises(UsageError, match=message):
        resolve(Asked(**asked), model)


def test_given_states_limit_and_default_the_count(model):
    assert resolve(Asked(), model, available=5).count == 5
    with pytest.raises(UsageError, match="exceeds the 5 states"):
        resolve(Asked(count=6), model, available=5)
