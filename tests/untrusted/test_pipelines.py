"""Pipelines of diffusers that bring code: refused by name, and never run."""

import json
import os
import shutil

import pytest

from ddimx.errors import DdimxError, UsageError
from ddimx.integrations.diffusers import text
from ddimx.weights.model import load_model
from tests.integrations import pipeline as painter
from tests.sampling import invoke, manifest_of, sampled
from tests.weights.formats.diffusers.models import change, pipeline

CODE = "from pathlib import Path\nPath({mark!r}).touch()\nclass Net: pass\n"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pipeline without and one with a text, as they are saved."""
    path = tmp_path_factory.mktemp("pipelines")
    pipeline().save_pretrained(path / "plain")
    painter(path / "parts").save_pretrained(path / "painter")
    return path


@pytest.fixture
def copy(folders, tmp_path, monkeypatch):
    """Return a function that copies one of them into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(kind):
        shutil.copytree(folders / kind, tmp_path / kind)
        return tmp_path / kind

    yield make
    assert not (tmp_path / "it-ran").exists()


def refused(folder, *reasons):
    """Both doors answer with one line that says which code."""
    prompt = ("--prompt", "a horse") if folder.name == "painter" else ()
    for trust in ((), ("--trust-code",)) if not prompt else ((),):
        done = invoke("sample", "-m", folder.name, "-n", 1, "--steps", 1, *prompt, *trust)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        for reason in ("a pipeline with code of its own", "never run", *reasons):
            assert reason in done.err
    if not prompt:
        done = invoke("convert", folder.name, "x.safetensors")
        assert (done.code, done.err.count("\n")) == (2, 1), done.err


@pytest.mark.parametrize("kind", ["plain", "painter"])
@pytest.mark.parametrize(
    "place", ["pipeline.py", "my_pipeline.py", "unet/my_unet.py", "unet/__init__.PY", "fast.so"]
)
def test_code_in_the_folder(kind, place, copy, tmp_path):
    folder = copy(kind)
    (folder / place).write_text(CODE.format(mark=str(tmp_path / "it-ran")))
    refused(folder, f"({place} lies in its folder)")


@pytest.mark.parametrize("kind", ["plain", "painter"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"_class_name": ["my_pipeline", "Net"]}, "the pipeline ['my_pipeline', 'Net']"),
        ({"_class_name": "planted.Net"}, "the pipeline 'planted.Net'"),
        ({"_class_name": {"a": 1}}, "the pipeline {'a': 1}"),
        ({"unet": ["planted", "Net"]}, "'unet' from ['planted', 'Net']"),
        ({"unet": ["os.path", "join"]}, "'unet' from ['os.path', 'join']"),
        ({"unet": ["../planted", "Net"]}, "'unet' from"),
        ({"unet": ["diffusers", "models.Net"]}, "'unet' from"),
        ({"unet": ["diffusers", None]}, "'unet' from"),
        ({"unet": ["diffusers"]}, "'unet' from"),
        ({"unet": [5, "Net"]}, "'unet' from"),
        ({"other": ["planted", "Net"]}, "'other' from ['planted', 'Net']"),
        ({"other": ["x" * 10_000, "Net"]}, "'other' from"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_index_that_points_at_code(kind, changes, reason, copy, tmp_path):
    folder = copy(kind)
    (tmp_path / "planted.py").write_text(CODE.format(mark=str(tmp_path / "it-ran")))
    change(folder / "model_index.json", **changes)
    refused(folder, reason)


@pytest.mark.parametrize("kind", ["plain", "painter"])
@pytest.mark.parametrize("part", ["../x", "/etc", "C:x", "..", ""])
def test_a_part_outside_the_folder(part, kind, copy):
    folder = copy(kind)
    change(folder / "model_index.json", **{part: ["diffusers", "UNet2DModel"]})
    prompt = ("--prompt", "a") if kind == "painter" else ()
    done = invoke("sample", "-m", kind, "-n", 1, *prompt)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"model_index.json: the name {part!r} is refused" in done.err


def test_classes_that_transformers_would_fetch(copy):
    folder = copy("painter")
    (part,) = (p for p in folder.iterdir() if p.name == "text_encoder")
    change(part / "config.json", auto_map={"AutoModel": "somebody/else--modeling.Net"})
    refused(folder, "auto_map in config.json names", "somebody/else--modeling.Net")


@pytest.mark.parametrize("name", ["../../../x.safetensors", "/etc/x", 5])
def test_shards_outside_the_folder(name, copy):
    folder = copy("painter")
    index = {"metadata": {}, "weight_map": {"a": name}}
    (folder / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DdimxError, match=r"index\.json: the name .* is refused"):
        text.load_text_model("painter", device="cpu")


def test_a_second_pipeline_that_the_first_one_names(copy, tmp_path, monkeypatch):
    """Some classes load the pipelines that the README names; these are looked through as well."""
    import diffusers

    folder = copy("painter")
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    monkeypatch.setattr(getattr(diffusers, kind), "_load_connected_pipes", True)
    prior = copy("plain")
    (prior / "pipeline.py").write_text(CODE.format(mark=str(tmp_path / "it-ran")))
    (folder / "README.md").write_text("---\nprior:\n- plain\n---\n")
    with pytest.raises(UsageError, match=r"^plain: a pipeline with code of its own \(pipeline\.py"):
        text.load_text_model("painter", device="cpu")


def test_what_diffusers_saves_is_let_through(copy):
    assert load_model(copy("plain"), device="cpu").form == "diffusers folder"
    assert text.load_text_model(str(copy("painter")), device="cpu").name.endswith("painter")


def test_a_hubs_cache_of_links_is_let_through(copy, tmp_path):
    """There every file of a snapshot is a link to a blob beside it."""
    folder = copy("painter")
    (tmp_path / "blobs").mkdir()
    for i, path in enumerate(sorted(p for p in folder.rglob("*") if p.is_file())):
        path.rename(tmp_path / "blobs" / str(i))
        path.symlink_to(os.path.relpath(tmp_path / "blobs" / str(i), path.parent))
    assert text.load_text_model("painter", device="cpu").name == "painter"


def test_the_option_has_no_meaning_with_a_prompt(copy):
    copy("painter")
    done = invoke("sample", "-m", "painter", "--prompt", "a", "-n", 1, "--trust-code")
    assert (done.code, done.err) == (
        2,
        "error: --trust-code: not for a run with --prompt\n",
    )


def test_another_pipeline_is_not_loaded_to_resume(copy, tmp_path, monkeypatch):
    copy("painter")
    sampled("painter", "--prompt", "a", "-n", 1, "-o", "out", "--steps", 1)
    record = manifest_of(tmp_path / "out")
    record["identity"]["model_sha256"] = "0" * 64
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(record))
    monkeypatch.setattr(text, "_loaded", lambda folder: pytest.fail("it was loaded"))
    done = invoke("sample", "--resume", "out")
    assert done.code == 2
    assert "out holds a different run (model_sha256: " in done.err
