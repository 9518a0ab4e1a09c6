"""What is imported, and what is not: without Triton everything runs and says why it is slower; a
verb imports nothing heavy that its job does not use.
"""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from tests.conftest import cli_environment
from tests.exporting import write

BLOCK = """
import sys
import importlib.abc

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("triton", "pytorch_triton"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    None if name == "triton" else real(name, package)
)
"""


def run(code):
    """Run Python code in a fresh process in which Triton cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", BLOCK + textwrap.dedent(code)],
        env={k: v for k, v in cli_environment().items() if k != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_kernels_import_and_run_without_triton(tiny_model):
    done = run(f"""
        import ddimx
        from ddimx.kernels import philox, update
        from ddimx.about import about
        model = ddimx.load_model({str(tiny_model)!r}, device="cpu")
        samples = ddimx.sample(model, count=2, steps=2)
        assert samples.isfinite().all()
        assert not any(name.partition(".")[0] == "triton" for name in sys.modules)
        for name, what in about()["kernels"].items():
            print(name, what)
        """)
    assert done.returncode == 0, done.stderr
    assert "update reference (Triton is not installed" in done.stdout


def test_an_explicit_wish_for_triton_is_refused_with_the_reason():
    done = run("""
        import torch
        from ddimx.kernels.update import update
        x = torch.zeros(1, 3, 4, 4)
        try:
            update(torch.zeros(1, 14), torch.tensor(0), x, x, x, impl="triton")
        except RuntimeError as error:
            print(error)
        """)
    assert done.returncode == 0, done.stderr
    assert "impl 'triton' cannot run here (Triton is not installed)" in done.stdout


def test_kernels_are_imported_only_when_they_are_chosen():
    code = """
import ddimx, sys
ddimx.sample(ddimx.load_model("furniture", device="cpu"), count=1, steps=1)
# TorchDynamo takes a second, and what is called outside of gradients and tracing needs none.
print([m for m in sys.modules if m.endswith(".kernel") or m == "torch._dynamo"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=cli_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.strip() == "[]"


PICTURES_AND_BARS = {"torch", "scipy", "PIL", "rich"}
# A verb, whether it ends well, and what it must not have imported, it or the verbs before it.
VERBS = {
    "--version": (0, {"numpy", "yaml", "safetensors", *PICTURES_AND_BARS}),
    "info shapes": (0, {"plyfile", "ssl", *PICTURES_AND_BARS}),
    "export shapes --out plain --color tan": (0, {"plyfile", *PICTURES_AND_BARS}),
    "export shapes --out all --format 3dgs,splat,spz,glb,json": (0, PICTURES_AND_BARS),
    "info {model}": (0, {"ssl", *PICTURES_AND_BARS}),
    "info --models": (0, {"ssl", *PICTURES_AND_BARS}),
    "prepare octrees absent octrees": (2, PICTURES_AND_BARS),
    "evaluate shapes --samples shapes --reference absent": (2, PICTURES_AND_BARS),
    "prepare images pictures pictures.npy --size 4": (0, {"torch", "scipy", "rich"}),
    "info shapes/a.npz": (0, {"torch", "rich"}),
    "export shapes --out drawn --preview --surfel": (0, {"torch", "rich"}),
}
RUN_VERBS = """
import contextlib, io, json, sys
from ddimx.cli.app import app
from ddimx.errors import DdimxError
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(command.split())
            code = 0
        except SystemExit as end:
            code = end.code or 0
        except DdimxError as error:
            code = error.exit_code
    print(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory, tiny_model):
    """How each of the verbs ended in one fresh process, and all modules imported by then."""
    folder = tmp_path_factory.mktemp("verbs")
    (folder / "shapes").mkdir()
    write(folder / "shapes" / "a.npz", depth=4)
    (folder / "pictures").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "pictures" / f"{name}.png")
    commands = [command.format(model=tiny_model) for command in VERBS]
    done = subprocess.run(
        [sys.executable, "-c", RUN_VERBS, json.dumps(commands)],
        cwd=folder,
        env=cli_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = map(json.loads, done.stdout.splitlines())
    return {verb: (code, set(names)) for verb, (code, names) in zip(VERBS, lines, strict=True)}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_imports_nothing_heavy_that_its_job_does_not_use(modules, verb):
    code, absent = VERBS[verb]
    ended, imported = modules[verb]
    assert ended == code
    assert not absent & imported
