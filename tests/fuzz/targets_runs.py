"""What verbs are given and what they leave: settings, plans, noise, data sets, records of runs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ddimx.config_file import dump_yaml, load_config
from ddimx.errors import DdimxError
from ddimx.progress import Progress
from ddimx.signals import Stop
from ddimx.solvers.plan_file import write_plan
from ddimx.training.settings import TrainRequest
from ddimx.training.settings import resolve as resolve_training
from tests.data.shapes.prepared import write_set

from .target import Target
from .targets_images import make_packed
from .targets_shapes import edit_bombs
from .targets_weights import IMAGES, images, model, write_model


def make_config(folder: Path) -> None:
    (folder / "tiny.yml").write_text(dump_yaml(images()) + "# classes below\n#: &d {a: 1}\n")


def read_config(folder: Path) -> None:
    load_config(folder / "tiny.yml", ["training.batch_size=2"])


def make_plan(folder: Path) -> None:
    from ddimx.options import Options
    from ddimx.sampling.settings import resolve

    settings = resolve(Options(count=1, steps=3, solver="dpm++:2"), model())
    write_plan(folder / "plan.json", settings.plan, {"model": "tiny", "model_sha256": "0" * 64})


def read_plan(folder: Path) -> None:
    from ddimx.api import sample

    sample(model(), count=1, plan=folder / "plan.json")


def make_init_noise(folder: Path) -> None:
    np.save(folder / "noise.npy", np.zeros((2, 3, 8, 8), np.float32))


def read_init_noise(folder: Path) -> None:
    from ddimx.sampling.run import _Start, load_init_noise

    states = load_init_noise(folder / "noise.npy", (3, 8, 8))
    settings: Any = type("Settings", (), {"start_index": 0})
    _Start(folder / "noise.npy", settings)(range(len(states)))


def make_named(folder: Path) -> None:
    """What ``train --data`` takes, besides pictures: a packed set, an .npz, prepared octrees."""
    make_packed(folder)
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "some.npz", images=images, labels=np.arange(4) % 3)
    write_set(folder / "set", 3)


def read_named(folder: Path) -> None:
    """Recognize each of them; what is wrong with one does not excuse the others."""
    faults = []
    for name in ("packed.npy", "some.npz", "set"):
        try:
            resolve_training(
                TrainRequest("own", None, data=str(folder / name)), Progress(quiet=True)
            )
        except DdimxError as error:
            faults.append(error)
    for error in faults:
        raise error


def request(out: Path, kind: str, count: int = 3) -> Any:
    from ddimx.options import Options
    from ddimx.sampling.run import SampleRequest
    from ddimx.sampling.settings import resolve

    asked = {
        "count": count,
        "steps": 2,
        "model": "model.safetensors",
        "eta": 0.5,
        "spacing": "quad",
    }
    settings = resolve(Options(count=count, steps=2, batch_size=2), model())
    return SampleRequest(model(), settings, kind, out, asked=asked)


def make_run(folder: Path) -> None:
    from ddimx.sampling.run import run

    run(request(folder / "run", "png", 2), Stop(), Progress(quiet=True))
    write_model(folder / "model.safetensors", IMAGES)


def read_run(folder: Path) -> None:
    from ddimx.cli.app import app
    from ddimx.sampling import manifest
    from ddimx.sampling.run import clear, run

    os.chdir(folder)
    copy = folder / "copy"
    shutil.copytree(folder / "run", copy)
    refused = []
    try:
        resume = ["sample", "--resume", str(folder / "run"), "--device", "cpu", "--offline", "-q"]
        with contextlib.redirect_stdout(io.StringIO()):
            app([*resume, "--explain", "--json"], standalone_mode=False)
        run(request(folder / "run", "png"), Stop(), Progress(quiet=True))
    except DdimxError as error:
        refused.append(error)
    clear(copy, manifest.read(copy))
    if refused:
        raise refused[0]


def make_array_run(folder: Path) -> None:
    """As a full disk leaves it: parts of an array, and a manifest of a run that was begun."""
    from ddimx.runs.sinks import ArraySink
    from ddimx.sampling.run import run

    def full(self: ArraySink, indices: range, **_: bool) -> list[str]:
        raise OSError("no space left on device")

    finish = ArraySink.finish
    ArraySink.finish = full  # type: ignore[method-assign]
    try:
        run(request(folder / "run", "npy"), Stop(), Progress(quiet=True))
    except DdimxError:
        pass
    finally:
        ArraySink.finish = finish  # type: ignore[method-assign]


def read_array_run(folder: Path) -> None:
    from ddimx.sampling.run import run

    run(request(folder / "run", "npy"), Stop(), Progress(quiet=True))


def make_study(folder: Path) -> None:
    record = {"rows": [{"steps": 2, "coverage": 0.5}], "identity": {"model": "x"}, "seconds": 1.5}
    (folder / "steps.json").write_text(json.dumps(record))


def read_study(folder: Path) -> None:
    from ddimx.cli.evaluate.steps import _before

    _before(folder)


TARGETS = [
    Target("configuration", make_config, read_config),
    Target("plan", make_plan, read_plan),
    Target("init noise", make_init_noise, read_init_noise),
    Target("named by --data", make_named, read_named, edit_bombs, ("*.np*", "set/**/*")),
    Target("run", make_run, read_run, changed=("run/manifest.json", "run/*.png")),
    Target("array run", make_array_run, read_array_run),
    Target("study", make_study, read_study),
]
