"""A folder that holds what the pages' commands start from: pictures, meshes, weights, data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ddimx.cli.app import app
from ddimx.config_file import load_config
from ddimx.solvers.registry import SOLVERS
from ddimx.splats.colors import RULES
from ddimx.splats.formats import FORMATS
from ddimx.training import loop, preview
from tests.data.shapes.meshes import BOX, obj
from tests.data.shapes.prepared import chair, table, write_split
from tests.weights import original_list, plain, weights

DEPTH = 5  # of the shipped furniture model


@pytest.fixture(scope="session")
def material(tmp_path_factory) -> Path:
    """The folder's contents, made once; tests copy it."""
    root = tmp_path_factory.mktemp("material")
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (12, 40, 48, 3), dtype=np.uint8)
    for folder in ("pictures", "photos"):
        (root / folder).mkdir()
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(root / folder / f"{i:02d}.png")
    Image.fromarray(pixels[0]).save(root / "photo.png")
    for i, name in enumerate(("chair/stool", "chair/throne", "table/desk", "table/bar")):
        path = root / "meshes" / f"{name}.obj"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(obj(BOX * [1, 1 + i, 1]))
    torch.save(original_list(weights(plain(), 1), weights(plain(), 2)), root / "ckpt.pth")
    emoji_set(root / "data" / "emoji.npz")
    furniture_set(root / "data" / "furniture")
    return root


def emoji_set(path: Path) -> None:
    """A stand-in for what ``ddimx prepare emoji`` makes: noise in all classes."""
    config = load_config("emoji")
    classes, size = config.model.classes, config.data.image_size
    count = 2 * len(classes)
    path.parent.mkdir(parents=True)
    np.savez(
        path,
        images=np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        labels=np.arange(count) % len(classes),
        families=np.arange(count),
        held_out=np.arange(count) >= count - len(classes),
        groups=np.array(classes),
    )


def furniture_set(root: Path) -> None:
    """A stand-in for what ``ddimx prepare furniture`` makes: chairs and tables under all names."""
    classes = load_config("furniture").model.classes
    for split, height in (("train", 8), ("val", 12), ("test", 14)):
        shapes = [
            (name, f"{name}-{height + i % 2}", (chair, table)[i % 2](height + i % 2, DEPTH))
            for i, name in enumerate(classes)
        ]
        write_split(root, split, shapes)


@pytest.fixture(autouse=True)
def one_thread():
    """Models of this size gain nothing from more, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def tables_as_before():
    """What an example adds to the package's tables goes with it."""
    before = [(entries, dict(entries)) for entries in (FORMATS, RULES, SOLVERS)]
    yield
    for entries, old in before:
        entries.clear()
        entries.update(old)


@pytest.fixture
def here(material, tmp_path, monkeypatch) -> Path:
    """The current folder: a copy of the material."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    # What a training measures and draws besides its steps.
    monkeypatch.setattr(loop, "VALIDATION_EXAMPLES", 4)
    monkeypatch.setattr(preview, "SAMPLES", 2)
    return tmp_path


@pytest.fixture
def call() -> Callable[..., tuple[int, str]]:
    """Run the command line in this process; return its exit code and what it printed."""

    def run(*args: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(a) for a in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run
