"""What several test files share.

Fixtures: ``tiny_config`` (a UNet that trains in milliseconds), ``tiny_npz`` (its data set),
``tiny_model`` (a model file of it with random weights), ``formula_weights`` (weights without a
random generator), ``run_cli`` (``python -m ddimx`` in a process of its own).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# Triton reads this when it is first imported, so it is set before any test can import it. Torch
# imports Triton only when it compiles something.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# No test asks the Hugging Face hub; its library reads this when it is first imported.
os.environ["HF_HUB_OFFLINE"] = "1"

# Every process of pytest -n has a core, and the processes that its tests start share it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

from ddimx.config import Config
from ddimx.config_file import validate
from ddimx.files import whole_file
from ddimx.models.factory import build
from ddimx.weights.formats.native import Header, save

FULL = os.environ.get("DDIMX_FULL") == "1"
GATE_EXAMPLES, FULL_EXAMPLES = 50, 300

# The gate takes the same examples every time, so that a change fails for what it changes; .ci/full
# takes others each time, and prints how to repeat those that failed. How long an example took never
# decides, because a busy machine is no fault.
hypothesis.settings.register_profile(
    "ddimx",
    max_examples=FULL_EXAMPLES if FULL else GATE_EXAMPLES,
    derandomize=not FULL,
    database=None,
    print_blob=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ddimx")


def examples(count: int) -> hypothesis.settings:
    """Settings of a test whose examples are costly: ``count`` in the gate, six times that in full.

    Use this and not ``@settings``, so that everything else stays as the profile says.
    """
    return hypothesis.settings(
        max_examples=count * FULL_EXAMPLES // GATE_EXAMPLES if FULL else count
    )


ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("round", "square")
COUNT, SIZE = 16, 8


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Run one process per core unless -n says otherwise; plain pytest works without pytest-xdist.

    A file's tests stay together, for they share what is costly to make.
    """
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    if config.option.numprocesses is None and config.option.dist == "no":
        config.option.numprocesses, config.option.dist = "auto", "loadfile"
        # In the order of their names: files of few tests, which take longest, are not kept to the
        # end, where one process would wait for the other.
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Skip what this machine or this run is not for, with the reason."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="runs in .ci/full (DDIMX_FULL=1)"))


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory) -> Path:
    """A data set file of 16 images 8x8, 2 of them held out; read only, tests must not change it.

    Discs and squares in colours of their own; 14 families, of which two have two members.
    """
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    labels = np.arange(COUNT) % 2
    images = np.full((COUNT, SIZE, SIZE, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        radius = 2.0 + 0.1 * i
        inside = np.hypot(x - 0.5, y) < radius if i % 2 == 0 else abs(x + y) + abs(x - y) < radius
        image[inside] = (13 * i % 256, 40 + 9 * i, 255 - 15 * i)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    with whole_file(path) as part, part.open("wb") as stream:
        np.savez(
            stream,
            images=images,
            labels=labels,
            families=np.array([0, 1, 0, 1, *range(2, 14)]),
            held_out=np.arange(COUNT) >= COUNT - 2,
            groups=np.array(CLASSES),
        )
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_npz) -> Config:
    """A configuration as emoji's in miniature: 8x8 images in patches of 2, two classes.

    It trains 6 steps of 4 examples. Change it with ``ddimx.config_file.override``.
    """
    tree = {
        "data": {
            "dataset": "NPZ",
            "root": str(tiny_npz),
            "image_size": SIZE,
            "channels": 3,
            "random_flip": True,
            "balance": "family",
        },
        "model": {
            "ch": 8,
            "ch_mult": [1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [2],
            "norm_groups": 4,
            "dropout": 0.1,
            "patch_size": 2,
            "classes": list(CLASSES),
        },
        "diffusion": {"beta_schedule": "cosine", "prediction": "v"},
        "training": {
            "batch_size": 4,
            "n_iters": 6,
            "snapshot_freq": 3,
            "validation_freq": 3,
            "precision": "fp32",  # and not by the kind of processor
        },
        "sampling": {"batch_size": 4, "spacing": "trailing"},
        "optim": {"optimizer": "AdamW", "lr": 0.002, "weight_decay": 0.01, "grad_clip": 1.0},
    }
    return validate(tree, "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_config, formula_weights, tmp_path_factory) -> Path:
    """The path of a model file of ``tiny_config`` with random weights; read only."""
    network, _ = build(tiny_config)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, formula_weights(network).state_dict(), Header("model", tiny_config, {"step": 0}))
    return path


@pytest.fixture(scope="session")
def formula_weights():
    """Return a function that fills a network with weights which depend on no generator.

    Quadratic residues modulo a prime, scaled by the fan-in: exact on every platform, so that
    recorded outputs hold everywhere.
    """

    def fill(network: torch.nn.Module) -> torch.nn.Module:
        with torch.no_grad():
            for k, (name, value) in enumerate(sorted(network.state_dict().items())):
                i = torch.arange(value.numel(), dtype=torch.int64)
                unit = ((i * i * 31 + i * 17 + k * 101) % 1009).double() / 504 - 1  # in [-1, 1]
                if value.dim() > 1:
                    filled = unit * (3 / value[0].numel()) ** 0.5
                else:
                    filled = 0.1 * unit + ("norm" in name and name.endswith("weight"))
                value.copy_(filled.view(value.shape))
        return network

    return fill


@pytest.fixture
def run_cli(tmp_path):
    """Return a function that runs ``python -m ddimx ARGS`` and waits for it.

    ``run_cli("train", "--config", path, cwd=folder, env={"DDIMX_DEBUG": "1"})`` returns a
    ``subprocess.CompletedProcess`` with ``returncode``, ``stdout`` and ``stderr`` as text. The
    folder is by default the test's ``tmp_path``, so that run folders appear there.
    """

    def run(*args: object, cwd: Path = tmp_path, env: dict[str, str] | None = None):
        return subprocess.run(
            [sys.executable, "-m", "ddimx", *map(str, args)],
            cwd=cwd,
            env=cli_environment() | (env or {}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def cli_environment() -> dict[str, str]:
    """The environment of a process that runs this checkout from any folder."""
    return os.environ | {"PYTHONPATH": str(ROOT)}
