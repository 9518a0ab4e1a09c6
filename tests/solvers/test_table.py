"""What both kinds of plan have in common: the columns that people see."""

import dataclasses

import numpy as np
import pytest

from ddimx.discrete.solvers import make_token_plan
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.repaint import repaint
from ddimx.solvers.schedule import Schedule

SCHEDULE = Schedule(np.linspace(1e-4, 0.02, 1000))
TIMES = np.array([0.0, 250.5, 500.0, 999.0])


def image_plan(name="ddim", **options):
    return make_plan(SolverChoice(name, **options), SCHEDULE, TIMES, "epsilon")


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (image_plan(), "t t_to r s v w b0"),
        (image_plan("ddim", eta=1.0), "t t_to r s v w c b0"),
        (image_plan("ddpm"), "t t_to r s v a w c"),
        (image_plan("unipc:2"), "t t_to r s v a p b0 b1 b2 q0 q1"),
        (make_token_plan(SCHEDULE, 2), "level calls t t_to keep clean noise temperature"),
        (
            make_token_plan(SCHEDULE, 2, routing="confidence", gumbel=1.0),
            "level calls t t_to keep clean noise reveal temperature gumbel",
        ),
    ],
    ids=["ddim", "eta 1", "ddpm", "unipc", "tokens", "confidence"],
)
def test_columns_come_in_order_without_those_that_change_nothing(plan, names):
    columns = plan.columns()
    assert " ".join(columns) == names
    for name, values in columns.items():
        assert values.shape == (len(plan),)
        own = getattr(plan, name[0])[:, int(name[1])] if name[-1].isdigit() else getattr(plan, name)
        assert np.array_equal(values, own, equal_nan=True)


def test_a_row_without_a_network_call_has_no_time():
    plan = repaint(image_plan(), SCHEDULE, 1, 2)
    times = plan.columns()["t"]
    assert np.array_equal(np.isnan(times), np.isnan(plan.t))
    assert np.isnan(times).any()


@pytest.mark.parametrize("plan", [image_plan(), make_token_plan(SCHEDULE, 2)])
def test_both_plans_have_the_common_surface(plan):
    assert dataclasses.replace(plan, label="other", notes=("n",)).identity() == plan.identity()
    assert plan.to_json()["label"] == plan.label
    assert plan.nfe <= len(plan)
