"""What the tests of editing share: pictures on disk, and verbs run in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.sampling import Done, invoke


def make_picture(path: Path, *, size: int = 8, seed: int = 0) -> np.ndarray:
    """Write a picture of random bytes and return its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def make_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask: white where it is true."""
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def edit(verb: str, model: Path, *args: object) -> Done:
    """Run an editing verb on the CPU in fp32, in steps few enough for a test."""
    steps = () if "--steps" in args else ("--steps", 4)
    return invoke(verb, *args, "-m", model, "--device", "cpu", "--dtype", "fp32", *steps)


def edited(verb: str, model: Path, *args: object) -> Done:
    """As :func:`edit`, for a command that must succeed."""
    done = edit(verb, model, *args)
    assert done.code == 0, done.err
    return done


def refused(done: Done, message: str, code: int = 2) -> None:
    """Assert that a command failed with one line that holds ``message``."""
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1, done.err
    assert "fault of ddimx" not in done.err
    assert message in done.err


def opened(path: Path) -> np.ndarray:
    """The pixels of an image file."""
    with Image.open(path) as image:
        return np.asarray(image)
