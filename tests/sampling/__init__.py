"""What the tests of sampling share: the command line run inside the test's own process."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from ddimx.cli.app import run
from ddimx.models.unet import UNet


@dataclass(frozen=True)
class Done:
    """How a command ended: exit code and what it printed."""

    code: int
    out: str
    err: str


def invoke(*args: object) -> Done:
    """Run ``ddimx ARGS`` as the program does, errors and signal handlers included.

    Without a process of its own, for torch takes seconds to import.
    """
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["ddimx", *map(str, args)]),
    ):
        try:
            run()
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    assert isinstance(code, int), f"exit code {code!r}"
    return Done(code, out.getvalue(), err.getvalue())


def sample(model: Path, *args: object) -> Done:
    """Run ``ddimx sample`` on the CPU in fp32, in steps few enough for a test."""
    steps = () if {"--steps", "--timesteps", "--resume"} & set(args) else ("--steps", 3)
    return invoke("sample", "-m", model, "--device", "cpu", "--dtype", "fp32", *steps, *args)


def sampled(model: Path, *args: object) -> Done:
    """As :func:`sample`, for a command that must succeed."""
    done = sample(model, *args)
    assert done.code == 0, done.err
    return done


def names_in(folder: Path) -> list[str]:
    """The names of what a folder holds."""
    return sorted(path.name for path in folder.iterdir())


def manifest_of(folder: Path) -> dict[str, Any]:
    """The record of a run."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def image_names(indices: range, suffix: str = "png") -> list[str]:
    """The names of the files of these samples."""
    return [f"{i:06d}.{suffix}" for i in indices]


def pictures(folder: Path, indices: range, suffix: str = "png") -> np.ndarray:
    """The images of these samples, int64 [N, H, W, C], so that differences do not wrap around."""
    found = []
    for name in image_names(indices, suffix):
        with Image.open(folder / name) as picture:
            found.append(np.asarray(picture).astype(np.int64))
    return np.stack(found)


def state_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file below a folder with its inode, time of change and bytes."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_ino,
            path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def counted_calls():
    """Yield a list that receives the batch size of every call of a UNet, those without data not."""
    calls: list[int] = []
    real = UNet.forward

    def forward(self, x, t, labels=None):
        if x.device.type != "meta":
            calls.append(len(x))
        return real(self, x, t, labels)

    with mock.patch.object(UNet, "forward", forward):
        yield calls
