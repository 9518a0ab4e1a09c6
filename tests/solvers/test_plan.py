"""Plans as tables: every coefficient against the papers' formulas, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.kernels.update.columns import NEUTRAL
from ddimx.solvers.ddim import ddim
from ddimx.solvers.ddpm import ddpm
from ddimx.solvers.parametrization import output_coefficients
from ddimx.solvers.plan import COLUMNS, SCALARS, Plan
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.rows import one_evaluation_rows
from ddimx.solvers.schedule import Schedule, betas
from ddimx.solvers.timesteps import SPACINGS, spaced

BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULE = Schedule(BETAS)
ZERO_TERMINAL = Schedule(np.append(BETAS[:-1], 1.0))
PREDICTIONS = ("epsilon", "x0", "v")
CASES = [(spacing, steps) for spacing in sorted(SPACINGS) for steps in (1, 7, 50)]


def levels(times):
    """Return t, t_to and alpha_bar at both, in the order of the steps."""
    down = [int(t) for t in times[::-1]]
    to = [*down[1:], -1]
    products = {t: np.prod(1 - BETAS[: t + 1]) for t in {*down, *to}}
    return down, to, np.array([products[t] for t in down]), np.array([products[t] for t in to])


def same(ours, exact):
    np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("spacing", "steps"), CASES)
def test_ddim_is_the_papers(spacing, steps, eta):
    times = spaced(spacing, 1000, steps)
    plan = ddim(SCHEDULE, times, eta=eta)
    t, t_to, ab, ab_to = levels(times)
    c1 = eta * np.sqrt((1 - ab / ab_to) * (1 - ab_to) / (1 - ab))
    c2 = np.sqrt(1 - ab_to - c1**2)
    assert plan.t.tolist() == plan.t_from.tolist() == t
    assert plan.t_to.tolist() == t_to
    for column, exact in (("a", 0), ("w", np.sqrt(ab_to)), ("c", c1), ("p", 1)):
        same(getattr(plan, column), np.broadcast_to(exact, len(t)))
    same(plan.b, c2[:, None])
    same(plan.q, np.zeros((len(t), 1)))
    same(plan.known_signal, np.sqrt(ab_to))
    same(plan.known_sigma, np.sqrt(1 - ab_to))
    same(plan.r * np.sqrt(ab), np.ones(len(t)))
    same(plan.s * np.sqrt(ab), -np.sqrt(1 - ab))
    assert plan.nfe == len(plan) == len(times)
    assert plan.noisy == (eta > 0 and len(times) > 1)
    assert plan.clip is None
    assert plan.history == "epsilon"


@pytest.mark.parametrize("variance", ["large", "small"])
@pytest.mark.parametrize(("spacing", "steps"), CASES)
def test_ddpm_is_the_posterior(spacing, steps, variance):
    times = spaced(spacing, 1000, steps)
    plan = ddpm(SCHEDULE, times, variance=variance)
    t, t_to, ab, ab_to = levels(times)
    beta = 1 - ab / ab_to
    spread = beta if variance == "large" else (1 - ab_to) / (1 - ab) * beta
    assert plan.t.tolist() == plan.t_from.tolist() == t
    assert plan.t_to.tolist() == t_to
    same(plan.a, np.sqrt(1 - beta) * (1 - ab_to) / (1 - ab))
    same(plan.w, np.sqrt(ab_to) * beta / (1 - ab))
    same(plan.b, np.zeros((len(t), 1)))
    same(plan.c[:-1], np.sqrt(spread[:-1]))
    assert plan.clip == 1.0
    assert plan.nfe == len(times)


def test_eta_one_is_ddpm_with_the_small_variance():
    """The two write one Gaussian step differently: equal once x0 is spelled in x and epsilon."""
    times = spaced("ddim", 1000, 20)
    for prediction in PREDICTIONS:
        one = ddim(SCHEDULE, times, prediction=prediction, eta=1.0)
        two = ddpm(SCHEDULE, times, prediction=prediction, variance="small")
        for first, second in (("r", "u"), ("s", "v")):  # on the state, and on the network's output
            whole = [
                p.w * getattr(p, first) + p.b[:, 0] * getattr(p, second) + (first == "r") * p.a
                for p in (one, two)
            ]
            same(*whole)
        same(one.c, two.c)


@pytest.mark.parametrize(
    "make", [ddim, lambda *a, **k: ddim(*a, eta=1.0, **k), ddpm], ids=["eta 0", "eta 1", "ddpm"]
)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("spacing", "steps"), CASES)
def test_the_last_row_ends_at_clean_data(make, prediction, spacing, steps):
    plan = make(SCHEDULE, spaced(spacing, 1000, steps), prediction=prediction)
    assert plan.t_to[-1] == -1
    assert plan.known_signal[-1] == 1
    assert plan.known_sigma[-1] == 0
    assert plan.c[-1] == 0
    assert plan.a[-1] == 0
    assert plan.b[-1] == 0
    assert plan.w[-1] == pytest.approx(1, abs=1e-12)
    assert plan.p[-1] == 1
    assert plan.q[-1] == 0


def test_real_valued_times():
    times = np.array([0.25, 10.5, 700.0])
    plan = ddim(SCHEDULE, times)
    assert plan.t.tolist() == [700, 10.5, 0.25]
    between = math.sqrt(np.prod(1 - BETAS[:11]) * np.prod(1 - BETAS[:12]))  # alpha_bar(10.5)
    assert plan.w[0] == pytest.approx(math.sqrt(between), rel=1e-12)
    assert plan.r[1] == pytest.approx(1 / math.sqrt(between), rel=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["linear", "cosine", "const"])
def test_output_coefficients_recover_both_predictions(prediction, name):
    rng = np.random.default_rng(0)
    ab = Schedule(betas(name, 1e-4, 0.02, 100)).alpha_bars[1:]
    x0, eps = rng.normal(size=(2, len(ab)))
    check_recovery(ab, x0, eps, prediction)


def check_recovery(ab, x0, eps, prediction):
    y = np.sqrt(ab) * x0 + np.sqrt(1 - ab) * eps
    out = {"epsilon": eps, "x0": x0, "v": np.sqrt(ab) * eps - np.sqrt(1 - ab) * x0}[prediction]
    r, s, u, v = output_coefficients(ab, prediction)
    same(r * y + s * out, x0)
    same(u * y + v * out, eps)


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_zero_terminal_snr_is_finite(prediction):
    check_recovery(np.array([0.0]), np.array([0.7]), np.array([-1.2]), prediction)
    for make in (ddim, ddpm):
        plan = make(ZERO_TERMINAL, spaced("trailing", 1000, 10), prediction=prediction)
        assert plan.t[0] == 999
        assert np.isfinite(plan.table()).all()


def test_levels_at_which_a_prediction_says_nothing_are_refused():
    with pytest.raises(UsageError, match="epsilon cannot start at alpha_bar = 0"):
        ddim(ZERO_TERMINAL, spaced("trailing", 1000, 10))
    with pytest.raises(UsageError, match="x0 cannot be evaluated at alpha_bar = 1"):
        output_coefficients(np.array([0.5, 1.0]), "x0")
    assert np.isfinite(output_coefficients(np.array([1.0]), "epsilon")).all()
    assert np.isfinite(output_coefficients(np.array([1.0]), "v")).all()


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(UsageError, match=r"eta must lie in \[0, 1\]"):
        ddim(SCHEDULE, spaced("ddim", 1000, 10), eta=eta)


def test_solvers_by_name():
    times = spaced("ddim", 1000, 10)

    def table(*choice):
        return make_plan(SolverChoice(*choice), SCHEDULE, times, "v").table()

    v = {"prediction": "v"}
    assert np.array_equal(table(), ddim(SCHEDULE, times, **v).table())
    assert np.array_equal(table("ddim", 0.4), ddim(SCHEDULE, times, eta=0.4, **v).table())
    assert np.array_equal(table("ddpm"), ddpm(SCHEDULE, times, variance="large", **v).table())
    small = ddpm(SCHEDULE, times, variance="small", **v)
    assert np.array_equal(table("ddpm", None, "small"), small.table())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (SolverChoice("dimm"), "did you mean 'ddim'"),
        (SolverChoice("ddim", variance="large"), "--variance belongs to the solver ddpm"),
        (SolverChoice("ddpm", eta=0.0), "--eta belongs to the solver ddim"),
        (SolverChoice("ddpm", variance="smal"), "did you mean 'small'"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choice, message):
    with pytest.raises(UsageError, match=message):
        make_plan(choice, SCHEDULE, spaced("ddim", 1000, 10), "epsilon")


def handmade(rows=3, depth=2, **changes):
    """Return a plan whose every coefficient is another number; row 1 calls no network."""
    rng = np.random.default_rng(1)
    t = np.arange(10.0 * rows, 0, -10)
    columns = {name: rng.normal(size=rows) for name in SCALARS}
    columns |= {"b": rng.normal(size=(rows, depth)), "q": rng.normal(size=(rows, depth))}
    columns |= {"t": np.where(np.arange(rows) == 1, np.nan, t), "t_from": t, "t_to": t - 10}
    return Plan(**{**columns, "prediction": "epsilon", "label": "handmade", **changes})


def test_the_table_holds_the_columns_in_order():
    plan = handmade()
    table = plan.table()
    assert table.shape == (3, len(SCALARS) + 1 + 4)
    assert (*"rsuvawcp", "known_signal", "known_sigma", "g") == SCALARS
    for i, name in enumerate(SCALARS):
        assert np.array_equal(table[:, i], getattr(plan, name))
    assert table[:, 11].tolist() == [0, 1, 1]  # the network calls before each row
    assert np.array_equal(table[:, 12:14], plan.b)
    assert np.array_equal(table[:, 14:], plan.q)


def test_a_point_is_kept_where_p_is_one_and_q_is_zero():
    p, q = np.array([1.0, 1.0, 0.5]), np.array([[0.0, 0.0], [0.0, 0.1], [0.0, 0.0]])
    assert handmade(p=p, q=q).keeps_point().tolist() == [True, False, False]


def test_counts():
    plan = handmade(rows=5, depth=3)
    assert len(plan) == 5
    assert plan.depth == 3
    assert plan.nfe == 4
    assert plan.noisy
    assert not dataclasses.replace(plan, c=np.zeros(5)).noisy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": np.zeros(2)}, "column a has shape"),
        ({"known_sigma": np.zeros((3, 1))}, "column known_sigma has shape"),
        ({"t_to": np.zeros(4)}, "column t_to has shape"),
        ({"b": np.zeros((3, 1))}, "columns b and q"),
        ({"b": np.zeros(3), "q": np.zeros(3)}, "columns b and q"),
        ({"b": np.zeros((2, 2)), "q": np.zeros((2, 2))}, "columns b and q"),
        ({"w": np.array([1, math.inf, 1])}, "finite"),
        ({"q": np.full((3, 2), math.nan)}, "finite"),
        ({"t_to": np.array([20.0, 11.0, 0.0])}, "start at the time where the last one ended"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        handmade(**changes)


def test_a_plan_without_rows_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        handmade(rows=0)


def test_with_clip():
    plan = ddpm(SCHEDULE, spaced("ddim", 1000, 10))
    assert plan.with_clip(2.5).clip == 2.5
    assert plan.with_clip(None).clip is None
    assert plan.clip == 1.0
    assert np.array_equal(plan.with_clip(2.5).table(), plan.table())
    for clip in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="clip must be positive"):
            plan.with_clip(clip)


def test_a_clip_that_would_do_nothing_is_refused():
    unused = handmade(w=np.zeros(3))
    with pytest.raises(UsageError, match="handmade never uses x0"):
        unused.with_clip(1.0)
    assert unused.with_clip(None).clip is None
    assert dataclasses.replace(unused, history="x0").with_clip(1.0).clip == 1.0


def test_to_json_is_complete():
    plan = handmade(clip=1.5, threshold=(0.9, 2.0), notes=("a remark",))
    value = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert set(value) == ({f.name for f in dataclasses.fields(Plan)} | {"nfe"}) - {"inputs"}
    assert value["t"] == [30, None, 10]
    assert value["nfe"] == 2
    assert (value["clip"], value["threshold"]) == (1.5, [0.9, 2.0])
    assert value["notes"] == ["a remark"]
    for name in ("t_from", "t_to", *SCALARS, "b", "q"):
        assert np.array_equal(np.array(value[name]), getattr(plan, name)), name
    assert (value["label"], value["prediction"], value["history"]) == (
        "handmade",
        "epsilon",
        "epsilon",
    )


def test_rows_fill_in_what_a_solver_leaves_out():
    rows = one_evaluation_rows(SCHEDULE, np.array([10.0, 500.0]), "epsilon")
    plan = rows.plan(label="half", w=np.array([0.25, 0.5]))
    assert plan.depth == 1
    assert plan.keeps_point().all()
    for name in ("a", "c", "b", "q"):
        assert not getattr(plan, name).any()
    same(plan.known_signal, np.sqrt([np.prod(1 - BETAS[:11]), 1]))
    wide = rows.plan(label="three", b=np.zeros((2, 3)))
    assert wide.q.shape == (2, 3)
    with pytest.raises(TypeError, match="unexpected keyword argument 'd'"):
        rows.plan(label="d", d=np.zeros(2))
    with pytest.raises(ValueError, match="columns b and q"):
        rows.plan(label="two widths", b=np.zeros((2, 3)), q=np.zeros(2))


def test_every_column_is_in_the_one_list():
    arrays = {name for name, value in vars(handmade()).items() if isinstance(value, np.ndarray)}
    assert arrays == set(COLUMNS)
    assert len(COLUMNS) == len(arrays)
    assert NEUTRAL.keys() == {*SCALARS, "b", "q"}
