"""The record of a run, and what makes two runs the same."""

import dataclasses
import json

import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.files import sha256_file, write_json
from ddimx.sampling import manifest
from ddimx.sampling.settings import Asked, resolve
from ddimx.weights.model import load_model


@pytest.fixture(scope="module")
def model(tiny_model):
    return load_model(tiny_model, device="cpu", dtype="fp32")


def identity(model, kind="png", noise=None, **asked):
    return manifest.identity(model, resolve(Asked(**{"steps": 3, **asked}), model), kind, noise)


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


def test_what_is_known_before_the_first_sample(model):
    settings = resolve(Asked(steps=3, guidance=2.0), model)
    record = manifest.describe(model, settings, "ddimx sample")
    assert (record["schema"], record["command"]) == (1, "ddimx sample")
    assert (record["nfe"], record["forward_passes_per_sample"]) == (3, 6)
    assert record["plan"] == settings.plan.to_json()
    assert record["dtype"] == {"name": "fp32", "reason": "asked for"}
    json.dumps(record, allow_nan=False)
    settings = resolve(Asked(steps=3), model)
    assert manifest.describe(model, settings, "")["forward_passes_per_sample"] == 3


def test_reading(tmp_path):
    assert manifest.read(tmp_path) is None
    assert manifest.read(tmp_path / "absent") is None
    value = {"identity": {}, "count": 1, "status": "running"}
    write_json(tmp_path / manifest.NAME, value)
    assert manifest.read(tmp_path) == value


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[]", b'"identity"', b"{}"])
def test_what_is_no_record_is_an_error(tmp_path, data):
    path = tmp_path / manifest.NAME
    path.write_bytes(data)
    with pytest.raises(DdimxError) as caught:
        manifest.read(tmp_path)
    assert str(caught.value).startswith(f"{path}: not a ")


def test_the_same_run_may_grow_but_not_shrink(tmp_path):
    before = {"identity": {"seed": 0, "steps": 3}, "count": 4}
    for count in (4, 5):
        manifest.check_same(tmp_path, before, {"seed": 0, "steps": 3}, count)
    with pytest.raises(UsageError, match="holds 4 samples of this run, 3 were asked for"):
        manifest.check_same(tmp_path, before, {"seed": 0, "steps": 3}, 3)
    with pytest.raises(UsageError, match=r"a different run \(seed: 0 -> 1, steps: 3 -> 5\)"):
        manifest.check_same(tmp_path, before, {"seed": 1, "steps": 5}, 4)
    # A record of an older version lacks what newer ones compare.
    with pytest.raises(UsageError, match=r"a different run \(dtype: None -> fp32\)"):
        manifest.check_same(tmp_path, before, {"seed": 0, "steps": 3, "dtype": "fp32"}, 4)
