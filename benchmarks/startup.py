"""How long people wait before and around the work itself: verbs in fresh processes, and an export.

Every figure is that of a whole process of the real interpreter, from its start to its end. The
files that it reads lie in the system's cache, as they do at a second command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddimx.errors import DdimxError
from ddimx.octree.file import Shape, write_shape

from .machine import ROOT
from .octree import shapes
from .runner import Budget, Contender, Job, Table, compare

ROUNDS, DEPTH, QUICK_DEPTH = 10, 8, 7
# What is named where it was imported: libraries that take long, and what is slow of Python's own.
HEAVY = ("torch", "numpy", "scipy", "PIL", "rich", "pydantic", "yaml", "safetensors", "plyfile")
# Verbs in the form that does least, in a folder with a token file and a picture. Those of the
# second table run a network, or say what would run.
VERBS = (
    "--version",
    "--help",
    "sample --help",
    "info shapes/sphere.npz",
    "info shapes",
    "info emoji",
    "info --models",
    "export shapes/sphere.npz --out splats --overwrite",
    "prepare images pictures pictures.npy --size 8 --overwrite",
    "prepare octrees shapes octrees --depth 3 --overwrite",
)
WITH_PYTORCH = (
    "info",
    "sample --dry-run",
    "sample --explain",
    "convert emoji copy.safetensors --overwrite",
)
EXPORTS = {
    "ply, one color": "--format ply --color tan",
    "3dgs, one color": "--format 3dgs --color tan",
    "3dgs, lit by height": "--format 3dgs",
    "spz, one color": "--format spz --color tan",
    "json, one color": "--format json --color tan",
}
RUN = "from ddimx.__main__ import main\nmain()"
TELL = f"""import atexit, sys
names = {HEAVY!r}
words = lambda: " ".join(n for n in names if n in sys.modules)
atexit.register(lambda: print(end=f"\\n{{words()}}", file=sys.stderr))
{RUN}"""


def jobs(
    rounds: int | None = None, *, quick: bool = False, budget: Budget | None = None
) -> list[Job]:
    """Return what measures each table; it is the host's work whatever the device.

    Args:
        quick: a smaller shape, and no verb that needs PyTorch.
    """
    rounds, budget = rounds or ROUNDS, budget or Budget()
    depth = QUICK_DEPTH if quick else DEPTH

    def start(title: str, commands: Sequence[str]) -> Job:
        return Job(title, lambda: verbs(title, commands, rounds, budget))

    tables = [
        start("start of verbs", VERBS),
        Job(f"export of a file of depth {depth}", lambda: export(depth, rounds, budget)),
    ]
    return tables if quick else [*tables, start("start of verbs that need PyTorch", WITH_PYTORCH)]


def verbs(title: str, commands: Sequence[str], rounds: int, budget: Budget) -> Table:
    """Measure verbs beside the bare interpreter and what it imports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "shapes").mkdir()
        write_shape(folder / "shapes" / "sphere.npz", Shape(shapes.sphere(3), "ball", "sphere"))
        (folder / "pictures").mkdir()
        from PIL import Image

        for i in range(2):
            picture = Image.fromarray(np.full((8, 8, 3), 60 * i, dtype=np.uint8))
            picture.save(folder / "pictures" / f"{i}.png")
        imports, peers = {}, [_python("import torch", folder)]
        peers += [_python(code, folder) for code in ("pass", "import numpy")]
        for command in commands:
            done = _run(["-c", TELL, *command.split()], folder)
            imports[f"ddimx {command}"] = done.stderr.rpartition("\n")[2].replace(" ", ", ")
            peers.append(_ddimx(command, folder))
        table = compare(title, peers, rounds, budget=budget)
    for row in table["rows"]:
        row["imports"] = imports.get(row["name"], "")
    return table


def export(depth: int, rounds: int, budget: Budget) -> Table:
    """Measure a token file to a file of splats, beside the seed project's decoding and writing."""
    tree = shapes.sphere(depth)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shape(folder / "sphere.npz", Shape(tree, "ball", "sphere"))

        def seed(queue: str) -> Callable[[], object]:
            words = ["-m", "benchmarks.seed", queue, "sphere.npz", f"{queue}.ply"]
            return lambda: _run(words, folder)

        ours = {
            title: f"export sphere.npz --out {number} --overwrite -q {options}"
            for number, (title, options) in enumerate(EXPORTS.items())
        }
        seed("deque")()
        _run(["-c", RUN, *ours["ply, one color"].split()], folder)
        _check_same(folder / "deque.ply", folder / "0" / "sphere.ply", len(tree.leaves))
        peers = [
            Contender("seed: list as queue, text PLY", seed("list"), warm=True),
            Contender("the same with a deque", seed("deque"), warm=True),
        ]
        peers += [
            Contender(f"ddimx export: {title}", _fresh(command, folder), warm=True)
            for title, command in ours.items()
        ]
        notes = ["the seed's with NumPy alone, without the imports of the project itself"]
        title = f"export of a file of depth {depth}, {len(tree.leaves):,} splats"
        return compare(title, peers, rounds, notes=notes, budget=budget)


def _check_same(text: Path, binary: Path, count: int) -> None:
    """Raise ValueError unless a text PLY and a binary one hold the same centers, in one order."""
    lines = text.read_text(encoding="ascii").partition("end_header\n")[2].split()
    theirs = np.array(lines, dtype=np.float64).reshape(count, -1)[:, :3]
    data = binary.read_bytes().partition(b"end_header\n")[2]
    kinds = [("center", "<f4", 3), ("scale", "<f4", 3), ("color", "u1", 3), ("alpha", "<f4")]
    ours = np.frombuffer(data, dtype=kinds)["center"]
    if not np.array_equal(theirs.astype(np.float32), ours):  # halves of halves: exact in both
        raise ValueError("the seed's decoding gives other centers")


def _python(code: str, folder: Path) -> Contender:
    return Contender(f'python -c "{code}"', lambda: _run(["-c", code], folder), warm=True)


def _ddimx(command: str, folder: Path) -> Contender:
    return Contender(f"ddimx {command}", _fresh(command, folder), warm=True)


def _fresh(command: str, folder: Path) -> Callable[[], object]:
    return lambda: _run(["-c", RUN, *command.split()], folder)


def _run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with the package of this checkout.

    Raises:
        DdimxError: the process failed; the message is its own.
    """
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(ROOT)}
    # As an installed package is: compiled once, not at every start.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DdimxError(f"{' '.join(words[2:])}: {done.stderr.strip()}")
    return done
