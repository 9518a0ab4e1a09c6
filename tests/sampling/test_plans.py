"""From solver names, numbers of evaluations and plan files to plans."""

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.models.plans import times_for
from ddimx.options import Options
from ddimx.sampling.settings import resolve
from ddimx.solvers import auto
from ddimx.solvers.plan_file import write_plan
from ddimx.solvers.registry import all_names, evaluations, most_times
from ddimx.solvers.schedule import Schedule
from ddimx.solvers.timesteps import SPACINGS
from ddimx.weights.model import load_model
from tests.sampling.test_settings import configured

SCHEDULE = Schedule(np.linspace(1e-4, 0.02, 1000))


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def plan_of(model, **asked):
    return resolve(Options(**asked), model).plan


EVERY = [(name, spacing) for name in all_names() if name != "ddpm" for spacing in sorted(SPACINGS)]
BY_LEVEL = [("unipc:2", "karras:5"), ("sa:2", "logsnr"), ("pfdiff:2,1", "logsnr")]


@pytest.mark.parametrize(("name", "spacing"), [*EVERY, *BY_LEVEL])
def test_nfe_is_the_number_of_evaluations(model, name, spacing):
    # From nearly pure noise a long hop by an epsilon from ahead is refused; see test_amplification.
    long_hops = (name, spacing) == ("pfdiff:2,1", "logsnr")
    for nfe in (1, 10, 13) if long_hops else (1, 2, 5, 10, 13):
        plan = plan_of(model, solver=name, spacing=spacing, nfe=nfe)
        assert plan.nfe == nfe
        start = f"spacing '{spacing}' with 1 step starts at t=0; try --spacing trailing"
        remarks = [note for note in plan.notes if note != start]
        assert remarks == [] or spacing in ("ddim", "quad")
        assert start not in plan.notes or nfe == 1


@pytest.mark.parametrize(("nfe", "stride"), [(10, 100), (30, 34), (100, 10)])
def test_the_papers_spacing_takes_the_stride_that_fits(nfe, stride):
    """30 steps of range(0, 1000, 33) would be 31; of stride 34 they are 30."""
    assert times_for(nfe, "ddim", "ddim", SCHEDULE).tolist() == list(range(0, 1000, stride))


def test_pfdiff_takes_as_many_times_as_its_hops_reach():
    times = times_for(10, "pfdiff:2,1", "trailing", SCHEDULE)
    assert len(times) == most_times("pfdiff:2,1", 10) == 28
    assert evaluations("pfdiff:2,1", 28) == 10


def test_a_number_that_no_spacing_gives_is_refused_with_its_neighbours(model):
    with pytest.raises(UsageError, match=r"never makes exactly 600 .* nearest: 500 and 1000"):
        resolve(Options(nfe=600, spacing="ddim"), model)
    for nfe in (0, -3):
        with pytest.raises(UsageError, match="nfe must be at least 1"):
            resolve(Options(nfe=nfe), model)
    with pytest.raises(UsageError, match=r"never makes exactly 1001 .* nearest: 1000$"):
        resolve(Options(nfe=1001, spacing="trailing"), model)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"nfe": 5, "steps": 5}, "--nfe gives the number of evaluations; omit --steps"),
        ({"nfe": 5, "timesteps": [1, 2]}, "--timesteps lists the times"),
        ({"solver": "auto", "eta": 0.5}, "--solver auto chooses among deterministic solvers"),
        ({"solver": "auto", "variance": "small"}, "name one instead"),
        ({"solver": "auto", "timesteps": [9, 3]}, "--solver auto chooses the times too"),
        ({"solver": "dpm++:2", "eta": 0.5}, "dpm\\+\\+:2 adds no noise"),
        ({"solver": "ipndm", "clip": 1.0}, "combines predictions of epsilon"),
        ({"solver": "pfdiff:1,2"}, "Allowed: pfdiff:1,1"),
    ],
)
def test_what_has_no_meaning_is_refused(model, asked, message):
    with pytest.raises(UsageError, match=message):
        resolve(Options(**asked), model)


def test_nfe_comes_before_the_models_steps(model):
    own = configured(model, "sampling.steps=7")
    assert plan_of(own).nfe == 7
    assert plan_of(own, nfe=4).nfe == 4


def test_a_models_eta_and_clip_are_ddims(model):
    keys = ["sampling.eta=1", "sampling.clip=0.5"]
    own = configured(model, *keys)
    assert plan_of(own, steps=4).label == "ddim, eta 1"
    plan = plan_of(own, steps=4, solver="unipc")
    assert (plan.label, plan.clip, plan.noisy) == ("unipc:2", None, False)
    assert plan_of(own, steps=4, solver="unipc:3", clip=1.0).clip == 1.0


def test_auto_says_what_it_takes(model):
    for nfe in (3, 10, 50):
        name, spacing = auto.choose(nfe)
        settings = resolve(Options(solver="auto", nfe=nfe), model)
        assert settings.plan.label.split(", eta")[0] == name
        assert settings.plan.nfe == nfe
        assert settings.notes[0] == f"auto: {name} with spacing '{spacing}' for {nfe} evaluations"
    settings = resolve(Options(solver="auto", nfe=10, spacing="linspace"), model)
    assert "with spacing 'linspace'" in settings.notes[0]
    settings = resolve(Options(solver="auto", steps=12), model)
    assert settings.plan.nfe == 12  # whatever number of times that takes


def test_a_short_tail_of_pfdiff_is_noted(model):
    (note,) = resolve(Options(solver="pfdiff:2,1", steps=9, spacing="trailing"), model).notes
    assert "of 9 timesteps the last hop has 2" in note


def test_a_plan_file_is_the_plan(model, tmp_path):
    plan = plan_of(model, solver="unipc:2", nfe=5)
    path = tmp_path / "plan.json"
    write_plan(path, plan, {"model": "other", "model_sha256": "0" * 64})
    settings = resolve(Options(plan=path), model)
    assert np.array_equal(settings.plan.table(), plan.table())
    assert settings.notes == ("this plan was searched for other weights (other)",)
    write_plan(path, plan, {"model_sha256": model.sha256})
    settings = resolve(Options(plan=str(path), clip=2.0), model)
    assert (settings.plan.clip, settings.notes) == (2.0, ())
    assert resolve(Options(plan=plan), model).plan is plan


@pytest.mark.parametrize(
    "other",
    [{"steps": 3}, {"nfe": 3}, {"solver": "ddim"}, {"spacing": "quad"}, {"eta": 0.0},
     {"timesteps": [1.0]}, {"variance": "small"}],
)  # fmt: skip
def test_a_plan_leaves_nothing_to_choose(model, other):
    (name,) = other
    with pytest.raises(UsageError, match=f"--plan holds solver and times; omit --{name}"):
        resolve(Options(plan=plan_of(model), **other), model)
