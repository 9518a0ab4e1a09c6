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
from tests.data.meshes import BOX, obj
from tests.data.prepared import chair, table, write_split
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
    """A stand-in for what ``ddimx prepare emoji`` makes: noise in nine classes."""
    classes = load_config("emoji").model.classes
    count = 4 * len(classes)
    path.parent.mkdir(parents=True)
    np.savez(
        path,
        images=np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        labels=np.arange(count) % len(classes),
        families=np.arange(count),
        held_out=np.arange(count) >= count - len(classes),
        groups=np.array(classes),
    )


def furniture_set(root: Path) -> None:
    """A stand-in for what ``ddimx prepare furniture`` makes: a few chairs and tables."""
    for split, heights in (("train", range(8, 12)), ("val", (12, 13)), ("test", (14, 15))):
        shapes = [("chair", f"chair-{h}", chair(h, DEPTH)) for h in heights]
        shapes += [("table", f"table-{h}", table(h, DEPTH)) for h in heights]
        write_split(root, split, shapes)


@pytest.fixture
def here(material, tmp_path, monkeypatch) -> Path:
    """The current folder: a copy of the material."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
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
