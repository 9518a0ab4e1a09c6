"""What both kinds of plan have in common: the columns that people see, and CSV."""

import csv
import dataclasses

import numpy as np
import pytest

from ddimx.discrete.solvers import make_token_plan
from ddimx.solvers.registry import SolverChoice, make_plan
from ddimx.solvers.repaint import repaint
from ddimx.solvers.schedule import Schedule
from ddimx.solvers.table import to_csv

SCHEDULE = Schedule(np.linspace(1e-4, 0.02, 1000))
TIMES = np.array([0.0, 250.5, 500.0, 999.0])


def image_plan(name="ddim", **options):
    return make_plan(SolverChoice(name, **options), SCHEDULE, TIMES, "epsilon")


def rows_of(plan):
    return list(csv.DictReader(to_csv(plan).splitlines()))


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


def test_csv_holds_every_digit():
    plan = image_plan("ddim", eta=0.3)
    rows = rows_of(plan)
    assert [row["row"] for row in rows] == ["0", "1", "2", "3"]
    for name, values in plan.columns().items():
        assert [float(row[name]) for row in rows] == values.tolist(), name


def test_csv_of_octrees():
    plan = make_token_plan(SCHEDULE, 3, steps=4, pfdiff=(2, 1))
    rows = rows_of(plan)
    assert [int(row["level"]) for row in rows] == plan.level.tolist()
    assert [row["calls"] == "1" for row in rows] == plan.calls.tolist()
    assert {row["calls"] for row in rows} == {"0", "1"}


def test_a_row_without_a_network_call_has_an_empty_time():
    plan = repaint(image_plan(), SCHEDULE, 1, 2)
    times = [row["t"] for row in rows_of(plan)]
    assert [time == "" for time in times] == np.isnan(plan.t).tolist()
    assert "" in times


@pytest.mark.parametrize("plan", [image_plan(), make_token_plan(SCHEDULE, 2)])
def test_both_plans_have_the_common_surface(plan):
    assert dataclasses.replace(plan, label="other", notes=("n",)).identity() == plan.identity()
    assert plan.to_json()["label"] == plan.label
    assert plan.nfe <= len(plan) == len(to_csv(plan).splitlines()) - 1
