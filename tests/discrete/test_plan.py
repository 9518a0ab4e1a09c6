"""The table of a token plan: what it refuses, and its other forms."""

import dataclasses
import json

import numpy as np
import pytest

from ddimx.discrete.plan import FLOATS
from ddimx.discrete.solvers import make_token_plan
from ddimx.kernels.discrete_update import COLUMNS
from ddimx.solvers.schedule import Schedule, betas

LINEAR = Schedule(betas("jsd", 0, 0, 1000))
PLAN = make_token_plan(LINEAR, 3, steps=(1, 2, 3), transition="uniform", eta=0.5)
SURE = make_token_plan(LINEAR, 2, steps=(1, 3), routing="confidence", gumbel=2.0)


def changed(plan, name, row, value):
    column = getattr(plan, name).copy()
    column[row] = value
    return dataclasses.replace(plan, **{name: column})


@pytest.mark.parametrize(
    ("plan", "name", "row", "value", "message"),
    [
        (PLAN, "level", 0, 1, "levels 0, 1, ... in order"),
        (PLAN, "level", 5, 4, "levels 0, 1, ... in order"),
        (PLAN, "calls", 3, False, "first row must call the network"),
        (PLAN, "alpha_from", 3, 0.1, "from noise"),
        (PLAN, "alpha_to", 2, 0.9, "to clean"),
        (PLAN, "alpha_to", 1, 0.7, "start at the alpha where the last one ended"),
        (PLAN, "t_to", 3, 3.0, "start at the t where the last one ended"),
        (PLAN, "keep", 1, 0.9, "sum to 1"),
        (PLAN, "noise", 1, -0.1, r"lie in \[0, 1\]"),
        (PLAN, "temperature", 0, -1.0, "must not be negative"),
        (PLAN, "temperature", 0, np.inf, "temperature must be finite"),
        (PLAN, "t", 0, np.nan, "t must be finite"),
        (PLAN, "reveal", 0, 1.0, "belong to confidence routing"),
        (PLAN, "gumbel", 0, 1.0, "belong to confidence routing"),
        (SURE, "reveal", 2, 0.01, "reveal must rise"),
        (SURE, "reveal", 1, np.nan, "reveal must rise"),
        (SURE, "reveal", 3, 0.99, "end at 1"),
    ],
)
def test_a_table_that_is_no_plan_is_refused(plan, name, row, value, message):
    with pytest.raises(ValueError, match=message):
        changed(plan, name, row, value)


def test_other_tables_that_are_no_plan():
    with pytest.raises(ValueError, match=r"plan column clean has shape \(5,\)"):
        dataclasses.replace(PLAN, clean=PLAN.clean[:5])
    with pytest.raises(ValueError, match="no plan is 'gaussian'"):
        dataclasses.replace(PLAN, transition="gaussian")
    with pytest.raises(ValueError, match="calls must be bool"):
        dataclasses.replace(PLAN, calls=PLAN.calls.astype(int))
    last = {"keep": 0.5, "clean": 0.5}
    halves = {name: np.where(np.arange(6) == 2, v, getattr(PLAN, name)) for name, v in last.items()}
    with pytest.raises(ValueError, match="neither"):
        dataclasses.replace(PLAN, **halves)
    columns = {name: getattr(PLAN, name)[:0] for name in (*FLOATS, "level", "calls")}
    with pytest.raises(ValueError, match="at least one row"):
        dataclasses.replace(PLAN, **columns)


def test_rows_levels_and_calls():
    assert (len(PLAN), PLAN.depth, PLAN.nfe) == (6, 3, 6)
    assert [PLAN.rows_of(d) for d in range(3)] == [range(1), range(1, 3), range(3, 6)]
    with pytest.raises(ValueError, match="has no level 3"):
        PLAN.rows_of(3)


def test_the_tensor_form():
    table = PLAN.table()
    assert table.dtype == np.float64
    assert table.shape == (6, len(COLUMNS))
    assert (table[:, 0] == PLAN.keep).all()
    assert (table[:, 1] == PLAN.noise).all()
    assert (SURE.table()[1:, 3] == [2.0, 1.0, 0.0]).all()
    colder = dataclasses.replace(PLAN, temperature=np.array([0, 0.5, 1, 2, 4, 0.0]))
    assert np.allclose(colder.table()[:, 2], [1e30, 2, 1, 0.5, 0.25, 1e30])
    assert np.isfinite(colder.table().astype(np.float32)).all()


def test_json_holds_every_number():
    for plan in (PLAN, SURE, PLAN.guided_within(0.5, 1)):
        value = json.loads(json.dumps(plan.to_json()))
        assert ("g" in value) == (plan.g != 1).any()  # older files have none
        for name in FLOATS if "g" in value else FLOATS[:-1]:
            column = [np.nan if number is None else number for number in value[name]]
            assert np.array_equal(column, getattr(plan, name), equal_nan=True)
        assert value["calls"] == plan.calls.tolist()
        assert value["level"] == plan.level.tolist()
        assert (value["nfe"], value["depth"]) == (plan.nfe, plan.depth)
        assert value["transition"], value["routing"] == (plan.transition, plan.routing)
    assert PLAN.to_json()["reveal"] == [None] * 6


def test_a_plan_begins_with_the_root():
    plan = make_token_plan(LINEAR, 3, steps=2)
    assert plan.level.tolist() == [0, 1, 1, 2, 2]  # the root of an octree is one token
    for levels in ([1, 1, 1, 1, 1], [1, 2, 2, 3, 3]):
        with pytest.raises(ValueError, match="must run through the levels 0, 1"):
            dataclasses.replace(plan, level=np.array(levels))


def test_eight_steps_a_level_are_the_default():
    assert np.bincount(make_token_plan(LINEAR, 3).level).tolist() == [1, 8, 8]
