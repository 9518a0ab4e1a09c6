"""Errors of solvers where the right result is known."""

import pytest
import torch

from ddimx.errors import UsageError
from ddimx.evaluation.chart import COLORS, line_charts
from ddimx.evaluation.solvers.compare import DETERMINISTIC, Measured, best_of, candidates, measure
from ddimx.evaluation.solvers.reference import Reference, refine, rmse, run_plan
from ddimx.evaluation.solvers.report import csv_text, error_table, panel
from ddimx.weights.model import load_model
from tests.evaluation.likelihood.known import exact_end, normal_pixels, settings_of

RESULTS = [
    Measured(5, "ddim", "trailing", 0.5, 0.7),
    Measured(5, "unipc:2", "trailing", 0.25, 0.3),
    Measured(10, "ddim", "trailing", 0.125, 0.2),
    Measured(10, "ddim", "linspace", 0.25, 0.4),
]


@pytest.fixture(scope="module")
def model(tiny_model):
    return normal_pixels(load_model(tiny_model, device="cpu", dtype="fp32"))


def test_the_reference_converges_to_the_flow(model):
    """Its error is below what it says of itself, and falls with the number of evaluations."""
    settings = settings_of(model)
    exact = exact_end(model, settings)
    errors = []
    for evaluations in (30, 60, 120):
        reference = refine(model, settings, evaluations)
        errors.append(rmse(reference.x0, exact))
        assert errors[-1] < reference.own_error
        assert reference.evaluations == evaluations
    assert errors[2] < errors[1] / 3 < errors[0] / 9  # above second order


def test_a_run_of_a_plan_is_the_samples_own(model):
    """In batches of 2, as alone."""
    settings = settings_of(model)
    (_, _, _, plan), *_ = candidates(model, [4], ["dpm++:2"], ["trailing"])[0]
    together = run_plan(model, settings, plan)
    assert together.shape == (3, 3, 8, 8)
    alone = run_plan(model, settings_of(model, count=1), plan)
    assert torch.allclose(together[:1], alone, rtol=0, atol=1e-6)


def test_errors_are_measured_from_the_same_start(model):
    """DDIM on normal data is a product of factors: its error is known in closed form."""
    settings = settings_of(model)
    reference = Reference(exact_end(model, settings).float(), 0.0, 0)
    plans, _ = candidates(model, [5, 20, 80], ["ddim", "unipc:2"], ["trailing"])
    found = measure(model, settings, reference, plans)
    by = {(r.solver, r.nfe): r for r in found}
    assert [(r.nfe, r.solver, r.spacing) for r in found] == [p[:3] for p in plans]
    for r in found:
        assert r.rmse <= r.worst
    assert by["unipc:2", 20].rmse < by["ddim", 20].rmse
    assert by["ddim", 80].rmse < by["ddim", 20].rmse / 3 < by["ddim", 5].rmse / 9
    # One sample's error alone, from the plan's own run.
    x0 = run_plan(model, settings, plans[0][3])
    assert found[0].rmse == pytest.approx(rmse(x0, reference.x0), rel=1e-6)
    each = [rmse(x0[i], reference.x0[i]) for i in range(3)]
    assert found[0].worst == pytest.approx(max(each), rel=1e-6)


def test_all_solvers_and_only_deterministic_ones():
    assert "ddpm" not in DETERMINISTIC
    assert {"ddim", "pfdiff:3,3", "dpm++:3", "ipndm:4", "unipc:2"} < set(DETERMINISTIC)
    assert len(set(DETERMINISTIC)) == len(DETERMINISTIC) == 18


def test_candidates(model):
    plans, missing = candidates(model, [7, 600], ["ddim", "pfdiff:1,1"], ["ddim", "trailing"])
    assert [(p[0], p[1], p[2], p[3].nfe) for p in plans] == [
        (7, "ddim", "ddim", 7),
        (7, "ddim", "trailing", 7),
        (7, "pfdiff:1,1", "ddim", 7),
        (7, "pfdiff:1,1", "trailing", 7),
        (600, "ddim", "trailing", 600),
    ]
    assert len(missing) == 3
    for solvers, spacings, message in (
        (["ddpm"], ["trailing"], "ddpm adds noise"),
        (["dimm"], ["trailing"], "unknown solver 'dimm'"),
        (["ddim"], ["traling"], "unknown spacing 'traling'"),
    ):
        with pytest.raises(UsageError, match=message):
            candidates(model, [7], solvers, spacings)


def test_the_best_of_each_number():
    best = best_of(RESULTS)
    assert {n: (r.solver, r.rmse) for n, r in best.items()} == {
        5: ("unipc:2", 0.25),
        10: ("ddim", 0.125),
    }


def test_csv():
    assert csv_text(RESULTS[:2]) == (
        "nfe,solver,spacing,rmse,worst_sample\n"
        "5,ddim,trailing,0.5,0.7\n"
        "5,unipc:2,trailing,0.25,0.3\n"
    )


def test_the_table_marks_the_least_error():
    columns = [list(column.cells) for column in error_table(RESULTS).columns]
    assert columns == [
        ["ddim", "unipc:2", "ddim"],
        ["trailing", "trailing", "linspace"],
        ["0.5000 ", "0.2500*", "-"],
        ["0.1250*", "-", "0.2500 "],
    ]


def test_the_plot_shows_each_solver_where_its_errors_are():
    image = line_charts([panel(RESULTS, 0.3)])
    pixels = image.load()
    rgb = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLORS[:3]]
    where = {
        color: [
            (x, y) for x in range(image.width - 240) for y in range(image.height)
            if pixels[x, y] == color
        ]
        for color in rgb
    }  # fmt: skip
    assert where[rgb[0]]
    assert where[rgb[1]]
    assert not where[rgb[2]]  # two solvers, DDIM's better spacing only
    left, right = min(where[rgb[0]]), max(where[rgb[0]])
    assert left[1] < right[1]  # the error falls to the right
    # 0.5 to 0.25 at 5 evaluations is as far as 0.25 to 0.125: half of DDIM's fall.
    drop = min(where[rgb[1]])[1] - left[1]
    assert drop == pytest.approx((right[1] - left[1]) / 2, abs=3)
