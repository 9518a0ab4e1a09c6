"""Plan files: the same plan back, and nothing that is not one."""

import dataclasses
import json

import numpy as np
import pytest

from ddimx.errors import UsageError
from ddimx.kernels.update.columns import ADDED
from ddimx.solvers.plan import Plan
from ddimx.solvers.plan_file import check_fits, plan_from_json, read_plan, write_plan
from ddimx.solvers.registry import SolverChoice, all_names, make_plan
from ddimx.solvers.schedule import Schedule, betas

SCHEDULE = Schedule(np.linspace(1e-4, 0.02, 1000))
TIMES = np.array([3.25, 100.0, 512.0, 999.0])


def plan_of(name="unipc:2", prediction="v", schedule=SCHEDULE):
    return make_plan(SolverChoice(name), schedule, TIMES, prediction)


def same(a, b):
    assert a.inputs is None  # a file gives numbers
    for column in dataclasses.fields(Plan):
        if column.name == "inputs":
            continue
        one, two = getattr(a, column.name), getattr(b, column.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype == np.float64
            assert np.array_equal(one, two, equal_nan=True), column.name
        else:
            assert one == two, column.name


@pytest.mark.parametrize("name", all_names())
def test_every_bit_comes_back(name, tmp_path):
    plan = plan_of(name)
    write_plan(tmp_path / "p.json", plan, {"model": "m"})
    back, found = read_plan(tmp_path / "p.json")
    same(back, plan)
    assert found == {"model": "m"}
    check_fits(back, SCHEDULE, "v")


def test_rows_without_a_network_come_back():
    plan = plan_of("ddim")
    jump = dataclasses.replace(plan, t=np.array([999, np.nan, 100, 3.25]), clip=1.5, notes=("n",))
    same(plan_from_json(json.loads(json.dumps(jump.to_json()))), jump)
    check_fits(jump, SCHEDULE, "v")


@pytest.mark.parametrize("missing", ["history", "clip", "label", "notes"])
def test_a_field_that_a_file_lacks_takes_its_default(missing, tmp_path):
    """So that a field which a later version adds does not make older files unreadable."""
    value = plan_of("ddim").to_json()
    del value[missing]
    default = {f.name: f.default for f in dataclasses.fields(Plan)}.get(missing)
    back = plan_from_json(value)
    assert getattr(back, missing) == (() if missing == "notes" else default)
    assert np.array_equal(back.table(), plan_of("ddim").table())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(kind="manifest"), "not a plan file"),
        (lambda v: v.update(schema=2), "schema 2, this reads 1"),
        (lambda v: v["plan"].pop("q"), r"damaged \(KeyError"),
        (lambda v: v["plan"].update(a=[1.0]), "damaged .*plan column a has shape"),
        (lambda v: v["plan"].update(a=["x"] * 4), "damaged"),
        (lambda v: v["plan"].update(w=None), "damaged"),
        (lambda v: v["plan"].update(history="v"), "damaged .*history 'v'"),
        (lambda v: v["plan"].update(t=[]), "damaged"),
        (lambda v: v["plan"]["b"][0].pop(), "damaged"),
        (lambda v: v["plan"]["c"].__setitem__(0, float("inf")), "Infinity is not JSON"),
        (lambda v: v.pop("plan"), "damaged"),
    ],
)
def test_damage_is_named(change, message, tmp_path):
    path = tmp_path / "p.json"
    write_plan(path, plan_of(), {})
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    with pytest.raises(UsageError, match=message):
        read_plan(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "\x00"])
def test_what_is_no_plan_file_is_refused(text, tmp_path):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError, match="not a"):
        read_plan(tmp_path / "p.json")
    with pytest.raises(UsageError, match="not a readable plan file"):
        read_plan(tmp_path / "absent.json")


def test_a_plan_of_another_model_is_refused():
    plan = plan_of()
    with pytest.raises(UsageError, match="for a network that predicts v, this one's is epsilon"):
        check_fits(plan, SCHEDULE, "epsilon")
    with pytest.raises(UsageError, match="another noise schedule"):
        check_fits(plan, Schedule(betas("cosine", 0, 0, 1000)), "v")
    with pytest.raises(UsageError, match="another number of timesteps"):
        check_fits(plan, Schedule(np.linspace(1e-4, 0.02, 100)), "v")
    short = dataclasses.replace(plan, t_to=np.append(plan.t_to[:-1], 1.0))
    with pytest.raises(UsageError, match="ends at t = 1, not at clean data"):
        check_fits(short, SCHEDULE, "v")
    changed = dataclasses.replace(plan, r=plan.r * (1 + 1e-5))
    with pytest.raises(UsageError, match="another noise schedule"):
        check_fits(changed, SCHEDULE, "v")


def test_a_column_that_was_added_is_missing_where_it_does_nothing(monkeypatch):
    """As if ``c`` had come with a later version: without noise files and identity are the same."""
    noisy, still = plans = plan_of("ddpm"), plan_of("ddim")
    before = [dataclasses.replace(plan, inputs=None).identity() for plan in plans]
    for module in ("plan", "plan_file"):
        monkeypatch.setattr(f"ddimx.solvers.{module}.ADDED", ADDED | {"c"})
    assert "c" not in still.to_json()
    same(plan_from_json(json.loads(json.dumps(still.to_json()))), still)
    assert noisy.to_json()["c"] == noisy.c.tolist()
    same(plan_from_json(noisy.to_json()), noisy)
    after = [dataclasses.replace(plan, inputs=None).identity() for plan in plans]
    assert after[0] == before[0]
    assert after[1] != before[1]  # that of a table without the column
