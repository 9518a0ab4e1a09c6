"""What a shell completes: names of verbs and options, and values."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ddimx.cli import complete
from ddimx.config_file import override
from ddimx.models.factory import build
from ddimx.splats.formats import FORMATS
from ddimx.weights.formats.native import Header, save
from ddimx.weights.locate.registry import CELEBA, PUBLISHED
from ddimx.weights.locate.source import shipped_models
from tests.conftest import cli_environment

ACTIVITIES = [f"activities/{word}" for word in ("event", "medal", "sport", "game", "art")]
COMPLETE = """
import os, sys
sys.argv[0] = "ddimx"
from ddimx.cli.app import app
try:
    app()
finally:
    print("HEAVY", *{"torch", "numpy", "safetensors", "PIL"} & set(sys.modules))
"""


def completed(line: str, folder) -> list[str]:
    """The words that bash is offered for the last one of a line, from a process of its own."""
    last = str(len(line.split(" ")) - 1)
    variables = {"_DDIMX_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": last}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        cwd=folder,
        env=cli_environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    offered, _, heavy = done.stdout.partition("HEAVY")
    assert heavy.split() == []
    return offered.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ddimx in", ["inpaint", "interpolate", "info"]),
        ("ddimx sample --st", ["--start-index", "--steps"]),
        ("ddimx sample --model c", ["cifar10", "cat", "church", "celeba"]),
        ("ddimx sample -m f", ["furniture"]),
        (
            "ddimx sample --category fl",
            ["flags", "flags/other", "flags/country", "flags/subdivision"],
        ),
        ("ddimx sample -m furniture --category b", ["bed", "bench", "bath"]),
        ("ddimx inpaint a.png --category n", ["none"]),
        ("ddimx sample -m cifar10 --category ", []),
        ("ddimx sample --solver uni", ["unipc", "unipc:2", "unipc:1", "unipc:3"]),
        ("ddimx sample --solver a", ["auto"]),
        ("ddimx sample --format ", ["png", "webp", "npz", "npy", "adm"]),
        ("ddimx sequence --format ", ["webp", "gif"]),
        ("ddimx sample --spacing l", ["leading", "linspace", "logsnr", "linear"]),
        ("ddimx sample --routing ", ["random", "confidence", "entropy"]),
        ("ddimx encode --weights ", ["ema", "ema2", "raw"]),
        ("ddimx evaluate nll --dtype ", ["auto", "fp32", "bf16", "fp16"]),
        ("ddimx sample --device c", ["cpu", "cuda"]),
        ("ddimx interpolate --resume ", ["last"]),
        ("ddimx train --init em", ["emoji"]),
        ("ddimx train --config ce", ["celeba"]),
        ("ddimx export --format sp", ["splat", "spz"]),
        ("ddimx sample --export g", ["glb"]),
    ],
)
def test_names_and_values(tmp_path, line, expected):
    assert completed(line, tmp_path) == expected


def test_the_names_are_those_of_the_models():
    assert complete.shipped_models() == shipped_models() == ["emoji", "furniture"]
    assert set(complete.PUBLISHED) == {*PUBLISHED, CELEBA}
    assert set(complete.SPLAT_FORMATS) == {*FORMATS}


def test_the_classes_of_a_file(tiny_config, formula_weights, tmp_path):
    path = tmp_path / "own.safetensors"
    config = override(tiny_config, ["model.classes=[round, square]"])
    save(path, formula_weights(build(config)[0]).state_dict(), Header("model", config, {}))
    assert complete.classes_of(str(path)) == ["round", "square"]
    whole = path.read_bytes()
    for damage in (whole[:4], whole[:100], b"", b"\xff" * 16, whole.replace(b'"model', b'"medel')):
        path.write_bytes(damage)
        assert complete.classes_of(str(path)) == []
    assert complete.classes_of("absent") == []
    assert complete.classes_of(str(tmp_path)) == []
