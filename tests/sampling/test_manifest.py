"""The record of a run, and what makes two runs the same."""

import dataclasses
import json

import pytest

from ddimx.config import ModelConfig
from ddimx.errors import DdimxError, UsageError
from ddimx.files import sha256_file, write_json
from ddimx.options import Options
from ddimx.runs.record import NAME, check_same, write_record
from ddimx.sampling import manifest
from ddimx.sampling.settings import labels_for, resolve
from ddimx.solvers.registry import SOLVERS
from ddimx.weights.model import load_model


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def identity(model, kind="png", noise=None, **asked):
    return manifest.identity(model, resolve(Options(**{"steps": 3, **asked}), model), kind, noise)


def test_a_run_is_identified_by_what_determines_its_files(model, tiny_model):
    own = identity(model)
    assert own["model_sha256"] == sha256_file(tiny_model)
    same = [
        identity(model, count=3),
        identity(model, batch_size=1),
        identity(model, eta=0.0),
        identity(model, spacing="trailing"),  # the model's default
        identity(model, timesteps=[999, 666, 332], steps=None),
    ]
    assert all(other == own for other in same)
    others = [
        identity(model, seed=1),
        identity(model, steps=4),
        identity(model, eta=0.1),
        identity(model, spacing="leading"),
        identity(model, clip=2.0),
        identity(model, solver="ddpm"),
        identity(model, guidance=1.5),
        identity(model, category="none"),
        identity(model, start_index=1),
        identity(model, invariant=True),
        identity(model, kind="npy"),
        identity(model, noise="0" * 64),
        identity(dataclasses.replace(model, sha256="0" * 64)),
        identity(dataclasses.replace(model, weights="raw")),
    ]
    assert all(other != own for other in others)
    texts = [json.dumps(value) for value in (own, *others)]
    assert len(set(texts)) == len(texts)


def test_prose_and_last_bits_do_not_enter_an_identity(model):
    """The same inputs on another machine, and in a version that words its notes otherwise."""
    settings = resolve(Options(solver="unipc:2", steps=10, spacing="ddim"), model)
    plan = settings.plan
    moved = dataclasses.replace(
        plan,
        label="other words",
        notes=("a remark",),
        q=plan.q * (1 + 4e-16),
        b=plan.b * (1 - 4e-16),
    )
    assert (moved.q != plan.q).any()
    other = dataclasses.replace(settings, plan=moved)
    own = manifest.identity(model, settings, "png", None)
    assert manifest.identity(model, other, "png", None) == own
    given = dataclasses.replace(settings, plan=dataclasses.replace(plan, inputs=None))
    moved = dataclasses.replace(settings, plan=dataclasses.replace(moved, inputs=None))
    table = manifest.identity(model, given, "png", None)
    assert "solver" not in table
    assert manifest.identity(model, moved, "png", None) == table  # the same in float32
    changed = dataclasses.replace(
        settings, plan=dataclasses.replace(plan, inputs=None, a=plan.a * (1 + 1e-6))
    )
    assert manifest.identity(model, changed, "png", None) != table
    for value in (own, table):
        assert json.loads(json.dumps(value, allow_nan=False)) == value


def test_the_version_of_a_solver_is_part_of_the_identity(model, monkeypatch):
    settings = resolve(Options(steps=3), model)
    solver = SOLVERS["ddim"]
    monkeypatch.setitem(SOLVERS, "ddim", dataclasses.replace(solver, version=solver.version + 1))
    changed = resolve(Options(steps=3), model)
    own, other = (manifest.identity(model, s, "png", None) for s in (settings, changed))
    assert {key for key in own if own[key] != other[key]} == {"solver_version"}


def test_an_older_versions_identity_is_translated(model):
    settings = resolve(Options(steps=3, solver="unipc:2"), model)
    now = manifest.identity(model, settings, "png", None)
    record = json.loads(json.dumps(manifest.describe(model, settings, "")))
    kept = ("model_sha256", "weights", "seed", "guidance", "category", "start_index", "dtype")
    kept += ("invariant", "format", "init_noise_sha256")
    of_0_1 = {"config_sha256": None, "plan_sha256": "0" * 64, "plan": "unipc:2", "steps": 3}
    before = record | {"identity": {name: now[name] for name in kept} | of_0_1}
    plan = record["plan"]
    plan["q"] = [[value * (1 + 4e-16) for value in row] for row in plan["q"]]  # another CPU's
    plan["label"] = "as it was called then"
    assert manifest.translated(before, now, settings.plan) == now
    assert manifest.translated({"identity": now}, now, settings.plan) == now
    plan["q"][1][0] += 1e-6
    other = manifest.translated(before, now, settings.plan)
    assert {key for key in now if now[key] != other.get(key)} == {"solver"}
    for damage in ({"plan": None}, {"plan": {}}, {"plan": plan | {"q": "x"}}, {"config": 3}):
        assert manifest.translated(before | damage, now, settings.plan) != now


def test_a_later_versions_record_is_refused(tmp_path):
    write_json(tmp_path / NAME, {"identity": {}, "count": 1, "schema": 3})
    with pytest.raises(DdimxError, match="written in schema 3, this version reads up to 2"):
        manifest.read(tmp_path)


def test_what_is_known_before_the_first_sample(model):
    settings = resolve(Options(steps=3, guidance=2.0), model)
    record = manifest.describe(model, settings, "ddimx sample")
    assert (record["schema"], record["command"]) == (2, "ddimx sample")
    assert (record["nfe"], record["forward_passes_per_sample"]) == (3, 6)
    assert record["plan"] == settings.plan.to_json()
    assert record["dtype"] == {"name": "fp32", "reason": "asked for"}
    json.dumps(record, allow_nan=False)
    settings = resolve(Options(steps=3), model)
    assert manifest.describe(model, settings, "")["forward_passes_per_sample"] == 3


def test_the_samples_are_a_table(model):
    settings = resolve(Options(steps=3, count=4, seed=5, start_index=2), model)
    table = manifest.samples(model, settings, list)
    labels = labels_for(settings, model, settings.indices).tolist()
    assert table == {
        "seed": 5,
        "index": [2, 3, 4, 5],
        "class": [model.classes[label] for label in labels],
    }
    settings = resolve(Options(steps=3, count=2, category="none"), model)
    assert manifest.samples(model, settings, lambda _: [0, 0])["class"] == ["none", "none"]
    none = dataclasses.replace(
        model, config=model.config.model_copy(update={"model": ModelConfig(name="unet")})
    )
    settings = resolve(Options(steps=3, count=2), none)
    assert manifest.samples(none, settings, list) == {"seed": 0, "index": [0, 1]}


def test_a_record_can_be_read_by_people(tmp_path):
    """Short objects and all lists of numbers and names stand on one line."""
    record = {
        "files": [f"{i:06d}.png" for i in range(50_000)],
        "versions": {"ddimx": "0.2", "brace": "{"},
        "plan": {"label": "ddim {1}", "t": [i / 3 for i in range(1000)], "b": [[1.0], [2.0]]},
        "rows": [{"steps": 1}, {"steps": 2}],
        "notes": [],
        "names": ["{a}", "Bär"],
        "asked": {},
        "clip": None,
    }
    write_record(tmp_path, record)
    text = (tmp_path / NAME).read_text(encoding="utf-8")
    assert json.loads(text) == record
    lines = text.splitlines()
    assert len(lines) == 17
    assert '  "versions": {"ddimx": "0.2", "brace": "{"},' in lines
    assert '    "b": [[1.0], [2.0]]' in lines
    assert '    {"steps": 1},' in lines
    assert '  "names": ["{a}", "Bär"],' in lines
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(tmp_path, {"x": float("nan")})
    assert (tmp_path / NAME).read_text(encoding="utf-8") == text


def test_reading(tmp_path):
    assert manifest.read(tmp_path) is None
    assert manifest.read(tmp_path / "absent") is None
    value = {"identity": {}, "count": 1, "status": "running"}
    write_json(tmp_path / NAME, value)
    assert manifest.read(tmp_path) == value


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[]", b'"identity"', b"{}", b'{"identity": {}}'])
def test_what_is_no_record_is_an_error(tmp_path, data):
    path = tmp_path / NAME
    path.write_bytes(data)
    with pytest.raises(DdimxError) as caught:
        manifest.read(tmp_path)
    assert str(caught.value).startswith(f"{path}: not a ")


def test_the_same_run_may_grow_but_not_shrink(tmp_path):
    old = {"seed": 0, "steps": 3}
    for count in (4, 5):
        check_same(tmp_path, 4, old, {"seed": 0, "steps": 3}, count)
    with pytest.raises(UsageError, match="holds 4 samples of this run, 3 were asked for"):
        check_same(tmp_path, 4, old, {"seed": 0, "steps": 3}, 3)
    with pytest.raises(UsageError, match=r"a different run \(seed: 0 -> 1, steps: 3 -> 5\)"):
        check_same(tmp_path, 4, old, {"seed": 1, "steps": 5}, 4)
    guided = {**old, "guided": [0.2, 0.8]}
    with pytest.raises(UsageError, match=r"\(rows with --guidance: \[0.2, 0.8\] -> all\)"):
        check_same(tmp_path, 4, guided, old, 4)
    # A record of an older version lacks what newer ones compare.
    with pytest.raises(UsageError, match=r"a different run \(dtype: None -> fp32\)"):
        check_same(tmp_path, 4, old, {**old, "dtype": "fp32"}, 4)
    with pytest.raises(
        UsageError, match=r"\(times: \[0, 9, ..., 99\] -> \[7.5\], hash: aaaaaaaaaaaa"
    ):
        check_same(
            tmp_path,
            4,
            {"times": [0.0, 9.0, 18.0, 27.0, 99.0], "hash": "a" * 64},
            {"times": [7.5], "hash": "b" * 64},
            4,
        )


def test_a_run_whose_dtype_this_machine_lacks_is_refused(tmp_path, monkeypatch):
    before = {"identity": {"dtype": "bf16"}, "count": 1, "status": "interrupted"}
    write_json(tmp_path / NAME, before)
    assert manifest.dtype_for(None, tmp_path, "cpu") == "bf16"

    def refuse(name, device):
        raise UsageError(f"this {device.type.upper()} cannot compute in {name} (no product)")

    monkeypatch.setattr(manifest, "choose_precision", refuse)
    with pytest.raises(UsageError, match=r"was begun in bf16, and this CPU cannot compute in bf16"):
        manifest.dtype_for("auto", tmp_path, "cpu")
    assert manifest.dtype_for("fp32", tmp_path, "cpu") == "fp32"  # which is then a different run
