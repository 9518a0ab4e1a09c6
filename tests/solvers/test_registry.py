"""Solver names: what they stand for, and what is said about those that stand for nothing."""

import dataclasses
import inspect
import sys
from types import ModuleType

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.solvers import auto
from ddimx.solvers.ddim import ddim
from ddimx.solvers.inversion import ddim_inversion
from ddimx.solvers.registry import (
    SOLVERS,
    Solver,
    SolverChoice,
    SolverName,
    all_names,
    evaluations,
    make_plan,
    most_times,
    name_forms,
    parse_solver,
)
from ddimx.solvers.schedule import Schedule

SCHEDULE = Schedule(np.linspace(1e-4, 0.02, 1000))
TIMES = np.linspace(0, 999, 13).round()


@pytest.mark.parametrize(
    ("text", "kind", "args"),
    [
        ("ddim", "ddim", ()),
        ("ddpm", "ddpm", ()),
        ("pfdiff", "pfdiff", (2, 1)),
        ("pfdiff:3,2", "pfdiff", (3, 2)),
        (" pfdiff: 1, 1 ", "pfdiff", (1, 1)),
        ("dpm++", "dpm++", (2,)),
        ("dpm++:3", "dpm++", (3,)),
        ("ipndm", "ipndm", (4,)),
        ("unipc:1", "unipc", (1,)),
        ("sde-dpm++", "sde-dpm++", (2,)),
        ("sa", "sa", (2,)),
    ],
)
def test_names(text, kind, args):
    assert parse_solver(text) == SolverName(kind, args)


def test_every_name_is_its_own_label():
    assert len(set(all_names())) == len(all_names()) == 23
    for name in all_names():
        assert str(parse_solver(name)) == name
        label = make_plan(SolverChoice(name), SCHEDULE, TIMES, "epsilon").label
        assert label.split(", eta")[0].split(", large")[0] == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dmp++:2", "unknown solver 'dmp++:2'; did you mean 'dpm++'? Allowed: ddim, ddpm, pfdiff"),
        ("aut", "did you mean 'auto'"),
        ("", "unknown solver ''. Allowed: "),
        ("ddim:0.5", "ddim takes no arguments. DDIM; with --eta also stochastic"),
        ("dpm++:4", "unknown solver 'dpm++:4'. Allowed: dpm++:1, dpm++:2, dpm++:3."),
        ("unipc:two", "Allowed: unipc:1, unipc:2, unipc:3."),
        ("ipndm:", "Allowed: ipndm:1, ipndm:2, ipndm:3, ipndm:4."),
        ("pfdiff:1,2", "Allowed: pfdiff:1,1, pfdiff:2,1, pfdiff:2,2, pfdiff:3,1, pfdiff:3,2, "),
    ],
)
def test_other_names_are_refused_with_what_is_allowed(text, message):
    with pytest.raises(UsageError) as error:
        parse_solver(text)
    assert message in str(error.value)


def test_auto_changes_where_it_was_measured_to():
    few, some = ("pfdiff:3,1", "trailing"), ("pfdiff:2,1", "trailing")
    more, many = ("pfdiff:2,1", "linspace"), ("ipndm:3", "linspace")
    numbers = (1, 7, 8, 14, 15, 30, 31, 10_000)
    found = [auto.choose(number) for number in numbers]
    assert found == [few, few, some, some, more, more, many, many]


def test_eta_ends_at_one():
    assert ddim(SCHEDULE, TIMES, eta=1.0).noisy
    for eta in (np.nextafter(1.0, 2.0), 1.01, -np.nextafter(0.0, 1.0), np.nan):
        with pytest.raises(UsageError, match="eta must lie in"):
            ddim(SCHEDULE, TIMES, eta=eta)


@pytest.mark.parametrize("name", [*all_names(), "inversion"])
def test_what_is_known_is_noised_to_the_level_of_each_row(name):
    """sqrt(ab) of signal and sqrt(1 - ab) of noise, at the time where the row leads to."""
    if name == "inversion":
        plan = ddim_inversion(SCHEDULE, TIMES[1:], refine=1)
    else:
        plan = make_plan(SolverChoice(name), SCHEDULE, TIMES, "epsilon")
    ab = np.append(1.0, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[plan.t_to.astype(int) + 1]
    np.testing.assert_allclose(plan.known_signal, np.sqrt(ab), rtol=1e-12)
    np.testing.assert_allclose(plan.known_sigma, np.sqrt(1 - ab), rtol=1e-12, atol=1e-15)


NO_NOISE = [
    n for n in all_names() if n.partition(":")[0] not in ("ddim", "ddpm", "sde-dpm++", "sa")
]


@pytest.mark.parametrize("name", NO_NOISE)
def test_deterministic_solvers_have_no_noise(name):
    for choice, message in (
        (
            SolverChoice(name, eta=0.5),
            f"--eta 0.5 belongs to the solver ddim, sde-dpm++ or sa; {name} adds no noise",
        ),
        (SolverChoice(name, variance="small"), "--variance belongs to the solver ddpm"),
    ):
        with pytest.raises(UsageError) as error:
            make_plan(choice, SCHEDULE, TIMES, "epsilon")
        assert message in str(error.value)
    assert not make_plan(SolverChoice(name, eta=0.0), SCHEDULE, TIMES, "epsilon").noisy


@pytest.mark.parametrize("name", [n for n in all_names() if n not in ("ddim", "ddpm")])
def test_repeated_times_are_refused(name):
    with pytest.raises(UsageError, match="needs timesteps without repeats"):
        make_plan(SolverChoice(name), SCHEDULE, np.array([0.0, 3.0, 3.0, 9.0]), "epsilon")


# These can make every number of evaluations: one more time never costs two more.
EVERY_NUMBER = ("ddim", "ddpm", "pfdiff", "dpm++", "sde-dpm++", "sa", "ipndm", "unipc")


@pytest.mark.parametrize("name", all_names())
@pytest.mark.parametrize("nfe", [1, 2, 4, 10])
def test_evaluations_are_the_plans(name, nfe):
    most = most_times(name, nfe)
    counts = [
        make_plan(SolverChoice(name), SCHEDULE, np.linspace(0, 999, n), "epsilon").nfe
        for n in (most, most + 1)
    ]
    assert counts == [evaluations(name, most), evaluations(name, most + 1)]
    assert counts[0] <= nfe < counts[1]
    if parse_solver(name).kind in EVERY_NUMBER:
        assert counts == [nfe, nfe + 1]


def test_auto_has_an_answer_for_every_number():
    for nfe in (1, 5, 10, 20, 50, 1000):
        name, spacing = auto.choose(nfe)
        assert name in all_names()
        assert spacing in ("ddim", "leading", "linspace", "trailing", "quad")


@pytest.mark.parametrize("name", ["pfdiff:2,1", "ipndm:4", "ipndm:2"])
def test_a_clip_is_refused_where_epsilon_is_kept(name):
    plan = make_plan(SolverChoice(name), SCHEDULE, TIMES, "epsilon")
    with pytest.raises(UsageError, match="combines predictions of epsilon"):
        plan.with_clip(1.0)
    assert plan.with_clip(None).clip is None


@pytest.mark.parametrize("name", ["ddim", "dpm++:3", "unipc:2"])
def test_a_clip_is_taken_where_x0_is_used(name):
    assert make_plan(SolverChoice(name), SCHEDULE, TIMES, "epsilon").with_clip(1.0).clip == 1.0


@pytest.mark.parametrize("kind", SOLVERS)
def test_a_declaration_fits_its_function(kind):
    """Arguments and options are the function's keywords, and their defaults are its own."""
    solver = SOLVERS[kind]
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(solver.make()).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    defaults = dict(zip(solver.arguments, solver.allowed[0], strict=True)) | solver.options
    assert defaults.items() <= keywords.items()
    assert keywords["prediction"] == "epsilon"
    assert set(solver.options) <= {field.name for field in dataclasses.fields(SolverChoice)}
    assert solver.about
    assert len(set(solver.allowed)) == len(solver.allowed)


@pytest.mark.parametrize("name", all_names())
def test_a_solver_adds_noise_where_it_says_so(name):
    plan = make_plan(SolverChoice(name), SCHEDULE, TIMES, "epsilon")
    solver = SOLVERS[parse_solver(name).kind]
    assert plan.noisy == (solver.adds_noise or solver.options.get("eta", 0) > 0)


def test_a_solver_that_is_declared_is_all_there(monkeypatch):
    """A solver of nobody else's: its function and one entry are all that there is to add."""
    euler = ModuleType("ddimx.solvers.made_up")
    euler.euler = lambda schedule, times, *, prediction, every=2: ddim(
        schedule, times[::-every][::-1], prediction=prediction
    )
    monkeypatch.setitem(sys.modules, euler.__name__, euler)
    entry = Solver(
        "made_up.euler",
        "DDIM at every k-th time",
        ("every",),
        ((2,), (3,)),
        evaluations=lambda n, every: -(-n // every),
        version=7,
    )
    monkeypatch.setitem(SOLVERS, "euler", entry)
    assert all_names()[-2:] == ["euler:2", "euler:3"]
    assert name_forms()[-1] == "euler:2-3"
    assert [evaluations("euler:3", n) for n in (1, 3, 4)] == [1, 1, 2]
    assert most_times("euler:3", 2) == 6
    plan = make_plan(SolverChoice("euler:3"), SCHEDULE, TIMES, "epsilon")
    assert plan.t.tolist() == TIMES[::-3].tolist()
    assert plan.inputs == {"solver": "euler:3", "solver_version": 7, "times": TIMES.tolist()}


def test_the_forms_of_names():
    several = ["dpm++:1-3", "sde-dpm++:1-2", "sa:1-3", "ipndm:1-4", "unipc:1-3"]
    assert name_forms() == ["ddim", "ddpm", "pfdiff:k,h", *several]


def test_most_times_where_a_number_of_evaluations_cannot_be_made(monkeypatch):
    """As of a solver that asks twice for every time but the last."""
    twice = dataclasses.replace(SOLVERS["ddim"], evaluations=lambda n: 2 * n - 1)
    monkeypatch.setitem(SOLVERS, "ddim", twice)
    assert [most_times("ddim", nfe) for nfe in (0, 1, 2, 3, 4, 5, 6)] == [0, 1, 1, 2, 2, 3, 3]
