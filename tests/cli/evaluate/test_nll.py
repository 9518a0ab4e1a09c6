"""``ddimx evaluate nll``: what it writes, what it says, what it refuses."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddimx.config_file import override
from ddimx.evaluation.likelihood.nll import CIFAR10_BITS
from ddimx.weights.formats.native import Header, read_tensors, save
from tests.conftest import CLASSES
from tests.sampling import invoke

SMALL = ("--terms", 4, "--flow-steps", 2, "--device", "cpu")


def evaluate(model, *args):
    return invoke("evaluate", "nll", "-m", model, *SMALL, *args)


def test_record_table_and_words_tell_the_same(tiny_model, tmp_path):
    out = tmp_path / "out"
    done = evaluate(tiny_model, "--out", out)
    assert done.code == 0, done.err
    record = json.loads((out / "nll.json").read_text())
    with (out / "nll.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["image"]) for row in rows] == [0, 1]  # all that is held out
    bits = record["bits_per_dimension"]
    assert list(bits) == ["bound", "prior", "middle", "decoder", "flow"]
    for name, figure in bits.items():
        values = np.array([float(row[name]) for row in rows])
        assert figure["mean"] == pytest.approx(values.mean(), rel=1e-5, abs=1e-9)
        expected = values.std(ddof=1) / 2**0.5
        assert figure["standard_error"] == pytest.approx(expected, rel=1e-2, abs=1e-5)
    shown = f"{bits['flow']['mean']:.3f} ± {bits['flow']['standard_error']:.3f} bits/dim"
    assert shown in done.out
    assert (record["count"], record["split"], record["variance"]) == (2, "held-out", "large")
    assert record["conditional"] is True
    assert "published" not in record


def test_json_alone_and_other_data(tiny_model, tiny_npz, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ("--data", tiny_npz, "--split", "train", "-n", 3, "--flow-steps", 0, "--json", "-q")
    done = evaluate(tiny_model, *args)
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert record["folder"] == "runs/0001-nll-tiny"
    assert "flow" not in record["bits_per_dimension"]
    assert (record["count"], record["clip"]) == (3, 1.0)


def test_a_zip_with_a_folder_for_each_class_is_data(tiny_model, tiny_npz, tmp_path, monkeypatch):
    """The pictures of the model's own data, in another form, have the same bits."""
    monkeypatch.chdir(tmp_path)
    with np.load(tiny_npz) as arrays, zipfile.ZipFile("a.zip", "w") as archive:
        for i in (0, 1):
            stream = io.BytesIO()
            Image.fromarray(arrays["images"][i]).save(stream, "PNG")
            archive.writestr(f"{CLASSES[arrays['labels'][i]]}/{i}.png", stream.getvalue())
        np.savez(
            "a.npz", images=arrays["images"][:2], labels=arrays["labels"][:2], groups=list(CLASSES)
        )
    records = []
    for name in ("a.zip", "a.npz"):
        args = ("--data", name, "--split", "all", "--flow-steps", 0, "--json", "-q")
        done = evaluate(tiny_model, *args, "-o", f"{name}-bits")
        assert (done.code, done.err) == (0, "")
        records.append(json.loads(done.out))
    assert records[0]["bits_per_dimension"] == records[1]["bits_per_dimension"]
    assert (records[0]["count"], records[0]["split"]) == (2, "all")
    done = evaluate(tiny_model, "--data", "a.zip", "--split", "train", "--terms", 1)
    assert "a.zip: the train part, 2 of 2 pictures" in done.err


def test_figures_of_papers_stand_beside_cifar10(tiny_model, tiny_config, tiny_npz, tmp_path):
    tensors = read_tensors(tiny_model)
    config = override(tiny_config, ["data.dataset=CIFAR10"])
    save(tmp_path / "c.safetensors", tensors, Header("model", config, {"step": 0}))
    done = evaluate(tmp_path / "c.safetensors", "--data", tiny_npz, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("published: ")]
    assert len(lines) == len(CIFAR10_BITS)
    assert "<= 3.75 (Ho et al. 2020, arXiv 2006.11239, table 1)" in lines[0]


def test_results_are_not_replaced_unasked(tiny_model, tmp_path):
    (tmp_path / "nll.json").write_text("{}")
    done = evaluate(tiny_model, "--out", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "holds results already" in done.err
    assert evaluate(tiny_model, "--out", tmp_path, "--overwrite", "-q").code == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--count", 0), 2, "must be at least 1"),
        (("--terms", 0, "--flow-steps", 0), 2, "nothing to measure"),
        (("--split", "test"), 2, "unknown split 'test'"),
        (("--variance", "larg"), 2, "did you mean 'large'"),
        (("--clip", "x"), 2, "give a number or 'none'"),
        (("--data", "absent.npz"), 1, "no such file: absent.npz"),
    ],
)
def test_wrong_options(tiny_model, tmp_path, args, code, message):
    done = evaluate(tiny_model, *args, "--out", tmp_path / "out")
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert not (tmp_path / "out").exists()
