"""One process that has imported everything, and forks for every command: ``python -m``.

Reads one JSON object a line: ``argv``, ``cwd``, ``kind``, ``at`` and ``within`` of the fault,
``outputs`` (what is done to stdout and stderr, or null), ``every`` (steps between two lines of
training's log, or null), ``ranks`` (processes, started as torchrun starts them if there are
several; the fault is that of the first), and two files: ``err`` for what the command says,
``calls`` for the list of its changes and the number of its calls. Answers with the exit code, which
is minus the signal's number for one that was killed. Where one of several processes ends badly the
others are killed, as they are on a machine that goes down.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ddimx
from tests.evaluation.fid.tiny_features import MeanColors
from tests.faults.inject import MOMENT, Injector, Moments

# What takes long and has nothing to do with files.
HEAVY = {
    "render_thumbnail": lambda tree, **_: np.full((32, 32, 3), 255, np.uint8),
    "preview_png": lambda scene: b"a picture",
    "draw_curves": lambda path, log: None,
}


def prepare() -> None:
    """Import all that a command may import, so that a fork has it, and make drawing quick."""
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    Image.init()
    for module in pkgutil.walk_packages(ddimx.__path__, "ddimx."):
        if "kernels" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
    importlib.import_module("torch.utils.tensorboard")
    importlib.import_module("plyfile")
    for module in list(sys.modules.values()):
        for name, stand_in in HEAVY.items():
            if getattr(module, "__name__", "").startswith("ddimx.") and hasattr(module, name):
                setattr(module, name, stand_in)
    sys.modules["ddimx.training.preview"].STEPS = 1
    sys.modules["ddimx.evaluation.fid.features"].inception = lambda *_, **__: MeanColors()


def outputs(kind: str | None, err: str) -> None:
    """Turn both outputs into a file, or into what cannot be written to."""
    if kind == "closed":
        os.close(1)
        os.close(2)
        sys.stdout = sys.stderr = None  # as Python has it where it is started so
        return
    if kind == "gone":
        reader, out = os.pipe()
        os.close(reader)
    elif kind == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    else:
        out = os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)


def command(job: dict) -> None:
    """Run one command in this process, a fork; does not return."""
    outputs(job["outputs"], job["err"])
    os.chdir(job["cwd"])
    sys.argv = ["ddimx", *job["argv"]]
    if job["every"] is not None:
        sys.modules["ddimx.training.report"].FolderReporter.EVERY = job["every"]
    is_moment = job["kind"] == MOMENT
    kind = None if is_moment else job["kind"]
    injector = Injector(Path(job["cwd"]), kind, job["at"], job["within"])
    injector.install()
    moments = Moments(job["at"])
    if is_moment:
        moments.install()
    code = 99
    try:
        from ddimx.cli.app import run

        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    finally:
        sys.setprofile(None)
        with open(job["calls"], "w", encoding="utf-8") as stream:
            json.dump([injector.calls, moments.count], stream)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)


def launch(job: dict) -> int:
    """Run a command in forks, one for each rank, and return the first one's exit code."""
    children: dict[int, int] = {}
    for rank in range(job["ranks"]):
        child = os.fork()
        if child == 0:
            if job["ranks"] > 1:
                where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"]}
                where |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": job["port"]}
                os.environ.update({name: str(value) for name, value in where.items()})
            if rank:
                job |= {name: f"{job[name]}-{rank}" for name in ("err", "calls")} | {"kind": None}
            command(job)
        children[child] = rank
    codes: dict[int, int] = {}
    while children:
        child, status = os.waitpid(-1, 0)
        rank = children.pop(child)
        codes[rank] = os.waitstatus_to_exitcode(status)
        if codes[rank] != 0:
            for other in children:
                os.kill(other, signal.SIGKILL)
    return codes[0]


def main() -> None:
    """Answer until the end of the input."""
    prepare()
    print("ready", flush=True)
    for line in sys.stdin:
        print(launch(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
