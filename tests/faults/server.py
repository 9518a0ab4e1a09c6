"""One process that has imported everything, and forks for every command: ``python -m``.

Reads one JSON object a line: ``argv``, ``cwd``, ``kind`` and ``at`` of the fault (or null),
``outputs`` (what is done to stdout and stderr, or null), and two files: ``err`` for what the
command says, ``calls`` for the list of its changes. Answers with the exit code, which is minus the
signal's number for one that was killed.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ddimx
from tests.evaluation.fid.tiny_features import MeanColors
from tests.faults.inject import Injector

# What takes long and has nothing to do with files.
HEAVY = {
    "render_thumbnail": lambda tree, **_: np.full((32, 32, 3), 255, np.uint8),
    "preview_png": lambda scene: b"a picture",
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
    injector = Injector(Path(job["cwd"]), job["kind"], job["at"])
    injector.install()
    code = 99
    try:
        from ddimx.cli.app import run

        run()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    finally:
        with open(job["calls"], "w", encoding="utf-8") as stream:
            json.dump(injector.calls, stream)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)


def main() -> None:
    """Answer until the end of the input."""
    prepare()
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            command(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
