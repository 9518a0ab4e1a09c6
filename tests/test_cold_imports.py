"""A machine without Triton: everything imports, samples, and says why it is slower."""

import subprocess
import sys
import textwrap

from tests.conftest import cli_environment

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
