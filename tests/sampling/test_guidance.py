"""Guidance in a part of the rows: how it is written, which rows it is, what it costs."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import ddimx
from ddimx.config_file import override
from ddimx.editing.encode import make_codec
from ddimx.errors import UsageError
from ddimx.options import Options
from ddimx.sampling.batch import finish_batch
from ddimx.sampling.explain import costs, plan_table
from ddimx.sampling.manifest import identity
from ddimx.sampling.settings import resolve
from ddimx.solvers.plan_file import write_plan
from ddimx.solvers.repaint import repaint
from ddimx.weights.model import load_model
from tests.sampling import counted_calls


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (3, 3.0),
        ("3", 3.0),
        ("-1.5", -1.5),
        ("3@0.2-0.8", "3@0.2-0.8"),
        ("3.0@0.20-1.0", "3@0.2-1"),
        ("0.1@0-0.30000000000000004", "0.1@0-0.30000000000000004"),
    ],
)
def test_how_it_is_written(written, kept):
    options = Options(guidance=written)
    assert options.guidance == kept
    assert Options(guidance=options.guidance) == options  # as --resume remembers it


FORMS = "write a weight, as 3, or a weight with the fractions of the rows"


@pytest.mark.parametrize(
    "wrong",
    ["x", "3@", "3@0.2", "@0.2-0.8", "3@0.8-0.2", "3@0.2-0.2", "3@-0.1-0.5", "3@0.5-1.5",
     "3@0.2-nan", "3@0.2-0.4-0.6", True, [3], ""],
)  # fmt: skip
def test_what_is_refused_names_the_forms(wrong, model):
    with pytest.raises(UsageError, match=FORMS):
        Options(guidance=wrong)
    with pytest.raises(UsageError, match=r"3@0\.2-0\.8 for a part"):
        override(model.config, ["sampling.guidance=3@0.8-0.2"])


def test_fifty_rows_between_a_fifth_and_four_fifths(model):
    plan = resolve(Options(steps=50, guidance="3@0.2-0.8"), model).image_plan
    assert np.flatnonzero(plan.g).tolist() == list(range(10, 40))
    assert set(plan.g) == {0.0, 1.0}
    with pytest.raises(
        UsageError, match=r"none of 4 rows lies between the fractions 0\.4 and 0\.6"
    ):
        resolve(Options(steps=4, guidance="3@0.4-0.6"), model)


def test_the_passes_are_counted_as_they_are_made(model):
    options = Options(steps=5, guidance="3@0.2-0.8", count=2, category="round", eta=1.0)
    settings = resolve(options, model)
    with counted_calls() as calls:
        part = finish_batch(model, settings, range(2))
    assert calls == [2, 4, 4, 4, 2]
    spent = costs(model, settings)
    assert (spent["nfe"], spent["forward_passes_per_sample"]) == (5, settings.passes) == (5, 8)
    everywhere = resolve(dataclasses.replace(options, guidance=3.0), model)
    assert not torch.equal(part[0], finish_batch(model, everywhere, range(2))[0])
    table = plan_table(settings.plan, settings.guidance)
    assert str(table.title).endswith("5 network calls, guidance 3 in a part of the rows: 8 passes")
    assert [*table.columns[-1].cells] == ["1", "3", "3", "3", "1"]
    assert "guidance" not in [c.header for c in plan_table(everywhere.plan, 3.0).columns]


def test_a_part_without_effect_is_not_in_the_identity(model):
    def of(guidance):
        settings = resolve(Options(steps=5, guidance=guidance), model)
        assert ("g" in settings.plan.to_json()) == ("guided" in settings.plan.identity())
        return identity(model, settings, "png", None)

    assert of("3@0-1") == of(3.0)
    assert "guided" not in of(3.0)
    assert of("3@0.2-0.8") == of(3.0) | {"guided": [0.2, 0.8]}


def test_a_models_default_and_a_plans_own_rows(model, tmp_path):
    """The user's interval comes first, then the plan's rows, then the model's interval."""
    config = override(model.config, ["sampling.guidance=2@0.5-1"])
    own = dataclasses.replace(model, config=config)
    settings = resolve(Options(steps=4), own)
    assert (settings.guidance, settings.image_plan.g.tolist()) == (2.0, [0, 0, 1, 1])
    assert resolve(Options(steps=4, guidance=1.5), own).image_plan.g.tolist() == [1] * 4
    first = resolve(Options(steps=4, guidance="3@0-0.25"), model).image_plan
    write_plan(tmp_path / "p.json", first, {})
    for guidance, weight, rows in (
        (None, 2.0, [1, 0, 0, 0]),
        (4.0, 4.0, [1, 0, 0, 0]),
        ("4@0-1", 4.0, [1, 1, 1, 1]),
    ):
        settings = resolve(Options(plan=tmp_path / "p.json", guidance=guidance), own)
        assert (settings.guidance, settings.image_plan.g.tolist()) == (weight, rows)
    value = json.loads((tmp_path / "p.json").read_text())["plan"]
    assert value["g"] == [1, 0, 0, 0]


def test_the_way_up_is_guided_where_the_way_down_is(model):
    options = Options(steps=4, guidance="2@0.5-1", category="round")
    codec = make_codec(options, model, refine=1)
    assert codec.down.image_plan.g.tolist() == [0, 0, 1, 1]
    assert codec.up.image_plan.g.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert codec.up.image_plan.identity()["guided"] == [0.5, 1.0]


def test_repeated_rows_keep_their_guidance(model):
    plan = resolve(Options(steps=6, guidance="2@0.5-1", eta=1.0), model).image_plan
    again = repaint(plan, model.process.schedule, 2, 2)
    levels = dict(zip(plan.t, plan.g, strict=True))
    calls = np.isfinite(again.t)
    assert again.g[calls].tolist() == [levels[t] for t in again.t[calls]]
    assert again.passes(2.0) == calls.sum() + sum(levels[t] for t in again.t[calls])


def test_from_python(model):
    images = ddimx.sample(model, steps=2, count=1, guidance="2@0.5-1", category="round")
    assert images.shape[0] == 1
