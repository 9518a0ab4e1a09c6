"""``--resume``, ``--explain`` and ``--dry-run`` of the verbs that edit pictures."""

from __future__ import annotations

import json
import signal

import pytest

from ddimx.editing.sequence import SequenceSink
from ddimx.runs.image_sink import ImageSink, NamedSink
from ddimx.runs.sinks import ArraySink
from tests.editing import edit, edited, make_picture, refused
from tests.sampling import invoke, manifest_of, names_in, sampled, state_of


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run folders appear in ``tmp_path``. The check of memory, which takes longest, is off here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ddimx.sampling.memory.free_bytes", lambda _: None)
    for seed, name in enumerate("ab"):
        make_picture(tmp_path / "pictures" / f"{name}.png", seed=seed)


# Everything that a verb has of its own is set, so that all of it must be remembered.
VERBS = {
    "inpaint": (
        ("pictures", "--mask", "left", "--jump", 1, "--resample", 2, "-n", 2, "--seed", 3),
        NamedSink,
    ),
    "inpaint --strength": (("pictures", "--strength", 0.5, "-n", 2, "--format", "webp"), NamedSink),
    "sequence": (("--show", "state", "--frames", 3, "--fps", 5, "-n", 2), SequenceSink),
    "interpolate": ((1, 2, "--frames", 4, "--eta", 0.5, "--format", "gif"), ImageSink),
    "interpolate images": (
        ("pictures/a.png", "pictures/b.png", "--frames", 3, "--refine", 1),
        ImageSink,
    ),
    "encode": (("pictures", "--refine", 1, "--spacing", "leading"), ArraySink),
}


def contents(folder):
    return {
        name: data for name, (_, _, data) in state_of(folder).items() if name != "manifest.json"
    }


@pytest.mark.parametrize("name", VERBS)
def test_an_interrupted_run_goes_on_without_other_arguments(tiny_model, tmp_path, name):
    verb, (args, sink) = name.split()[0], VERBS[name]
    real, written = sink.write, []

    def write(self, *batch):
        real(self, *batch)
        written.append(batch)
        if len(written) == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink, "write", write)
        done = edit(verb, tiny_model, *args, "--batch-size", 1)
    folder = tmp_path / "runs" / f"0001-{verb}-tiny"
    assert done.code == 130, done.err
    assert done.err.endswith(f"interrupted; go on: ddimx {verb} --resume runs/{folder.name}\n")
    assert manifest_of(folder)["status"] == "interrupted"
    again = invoke(verb, "--resume", "last", "--device", "cpu")
    assert again.code == 0, again.err
    assert again.err.startswith(f"runs/{folder.name}: 1 of ")
    assert names_in(tmp_path / "runs") == [folder.name]
    edited(verb, tiny_model, *args, "--batch-size", 1, "--out", "whole")
    assert contents(folder) == contents(tmp_path / "whole")
    resumed, whole = manifest_of(folder), manifest_of(tmp_path / "whole")
    assert resumed["status"] == "complete"
    for key in ("identity", "asked", "files", "network_calls"):
        assert resumed[key] == whole[key], key


def test_what_is_remembered(tiny_model, tmp_path):
    edited("inpaint", tiny_model, "pictures", "--mask", "2,2,6,6", "-n", 1, "--resize", "-o", "a")
    assert manifest_of(tmp_path / "a")["asked"] == {
        "model": str(tiny_model),
        "dtype": "fp32",
        "steps": 4,
        "count": 1,
        "image": "pictures",
        "mask": "2,2,6,6",
        "resize": True,
    }


def test_resume_can_ask_for_more_but_not_for_something_else(tiny_model, tmp_path):
    edited("inpaint", tiny_model, "pictures", "--mask", "left", "-n", 1, "-o", "a")
    done = invoke("inpaint", "--resume", "a", "-n", 2, "--device", "cpu")
    assert done.code == 0, done.err
    assert "a-01.png" in names_in(tmp_path / "a")
    before = state_of(tmp_path / "a")
    refused(invoke("inpaint", "--resume", "a", "--mask", "top"), "a holds a different run (mask_")
    refused(
        invoke("inpaint", "--resume", "a", "--seed", 1), "a holds a different run (seed: 0 -> 1"
    )
    refused(
        invoke("inpaint", "--resume", "a", "--out", "b"), "names the folder already; omit --out"
    )
    assert state_of(tmp_path / "a") == before


def test_a_run_of_another_verb_is_named(tiny_model, tmp_path):
    edited("encode", tiny_model, "pictures", "-o", "latents")
    sampled(tiny_model, "-n", 1, "--out", "samples")
    refused(
        invoke("inpaint", "--resume", "latents"),
        "--resume latents: latents holds a run of 'ddimx encode', not of 'ddimx inpaint'",
    )
    refused(
        invoke("sample", "--resume", "latents"),
        "--resume latents: latents holds a run of 'ddimx encode', not of 'ddimx sample'",
    )
    refused(
        invoke("encode", "--resume", "samples"),
        "--resume samples: samples holds a run of 'ddimx sample', not of 'ddimx encode'",
    )


@pytest.mark.parametrize(
    ("verb", "metavar"),
    [("inpaint", "IMAGE|DIR|FILE"), ("encode", "IMAGE|DIR|FILE"), ("interpolate", "A B [C D]")],
)
def test_without_an_image_and_without_a_run(tmp_path, verb, metavar):
    refused(invoke(verb), f"give {metavar}, or --resume last|DIR")
    refused(invoke(verb, "--resume", "last"), f"no '{verb}' run in ", 1)


@pytest.mark.parametrize(
    "change", [{"mask": 3}, {"jump": "x"}, {"jump": True}, {"strength": "1"}, {"resize": 1}]
)
def test_a_damaged_manifest_is_refused(tiny_model, tmp_path, change):
    edited("inpaint", tiny_model, "pictures", "--mask", "left", "-n", 1, "-o", "a")
    record = manifest_of(tmp_path / "a")
    record["asked"] |= change
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    refused(invoke("inpaint", "--resume", "a"), "--resume a: its manifest is damaged (asked: ")


@pytest.mark.parametrize("name", VERBS)
def test_plan_and_costs_are_shown_and_nothing_is_written(tiny_model, tmp_path, name):
    verb, (args, _) = name.split()[0], VERBS[name]
    before = state_of(tmp_path)
    told = json.loads(edited(verb, tiny_model, *args, "--explain", "--json").out)
    assert set(told) == {"plan"}
    assert "network calls" in edited(verb, tiny_model, *args, "--explain").out
    costs = json.loads(edited(verb, tiny_model, *args, "--dry-run", "--json").out)["costs"]
    assert state_of(tmp_path) == before
    edited(verb, tiny_model, *args, "--out", "out")
    record = manifest_of(tmp_path / "out")
    assert {key: record[key] for key in ("nfe", "forward_passes_per_sample", "count")} == {
        key: costs[key] for key in ("nfe", "forward_passes_per_sample", "count")
    }
    plan = json.dumps(told["plan"], sort_keys=True)
    assert json.dumps(record["plan"], sort_keys=True) == plan


def test_a_run_of_0_1_0_style_is_resumed(tiny_model, tmp_path):
    """Earlier versions remembered all options of these verbs, the defaults too."""
    edited("interpolate", tiny_model, 1, 2, "--frames", 3, "-o", "a")
    record = manifest_of(tmp_path / "a")
    record["asked"] |= {"resize": False, "offline": False, "dtype": "auto", "invariant": False}
    record["asked"] |= {"seed": 0, "kind": "webp", "ends": ["1", "2"], "frames": 3}
    (tmp_path / "a" / "manifest.json").write_text(json.dumps(record))
    (tmp_path / "a" / "000001.png").unlink()
    done = invoke("interpolate", "--resume", "a", "--device", "cpu")
    assert done.code == 0, done.err
    assert "000001.png" in names_in(tmp_path / "a")
