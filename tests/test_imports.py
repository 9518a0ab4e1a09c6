"""Imports run downwards only, and nothing heavy is imported before it is needed."""

import ast
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ddimx
from ddimx.cli.app import app
from tests.conftest import ROOT, cli_environment

# From the bottom up (DESIGN section 2). A module may import from its own layer and those below.
LAYERS = [
    {"kernels"},
    {"_version", "categories", "errors", "files", "option_values", "signals", "timing"},
    {"untrusted"},
    {"octree"},
    {"splats"},
    {"config", "config_file", "device", "launch", "noise", "pixels", "progress", "runs"},
    {"solvers"},
    {"options"},
    {"discrete"},
    {"models"},
    {"data", "weights"},
    {"recipes", "sampling", "training"},
    {"api", "about", "editing", "evaluation", "exporting", "integrations"},
    {"cli"},
    {"__init__", "__main__"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def imports_of(path: Path, module: list[str], is_package: bool) -> set[str]:
    """The parts of ddimx (as "errors" or "models") that a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) + is_package - node.level] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            names = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "ddimx" and len(name) > 1}
    return {part for part in found if not part.startswith("__")}


def own_files() -> list[tuple[Path, list[str]]]:
    files = [(path, path.relative_to(ROOT)) for path in (ROOT / "ddimx").rglob("*.py")]
    files += [(p, "ddimx" / p.relative_to(ROOT)) for p in (ROOT / "kernels").rglob("*.py")]
    unique = {name: path for path, name in files}  # some Pythons follow the link, some do not
    return [(path, list(name.with_suffix("").parts)) for name, path in unique.items()]


def test_imports_run_downwards():
    files = own_files()
    assert {name[1] for _, name in files} == LEVEL.keys()  # what is new belongs into the table
    wrong = []
    for path, name in files:
        is_package = name[-1] == "__init__"
        for imported in imports_of(path, name[:-1] if is_package else name, is_package):
            if LEVEL[imported] > LEVEL[name[1]]:
                wrong.append(f"{path.relative_to(ROOT)} imports ddimx.{imported}")
    assert not wrong


def test_the_check_of_imports_sees_every_form(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(
        "import ddimx.config, torch\n"
        "from ddimx import files\n"
        "from ddimx.noise import Noise\n"
        "from .. import __version__, errors\n"
        "from ..solvers.ddim import ddim\n"
        "from . import unet\n"
        "def f():\n"
        "    from ..cli import app\n"
    )
    module = ["ddimx", "models", "m"]
    expected = {"config", "files", "noise", "errors", "solvers", "models", "cli"}
    assert imports_of(path, module, is_package=False) == expected
    path.write_text("from . import a\nfrom .b import c\nfrom .._dispatch import d\n")
    assert imports_of(path, ["ddimx", "kernels", "update"], is_package=True) == {"kernels"}


def own_modules() -> dict[str, tuple[Path, bool]]:
    """Every module of the package: its file, and whether that is a package's ``__init__``."""
    modules = {}
    for path, name in own_files():
        is_package = name[-1] == "__init__"
        modules[".".join(name[:-1] if is_package else name)] = (path, is_package)
    return modules


def modules_imported_by(name: str, modules: dict[str, tuple[Path, bool]]) -> set[str]:
    """The modules of ``modules`` that one of them imports, be it inside a function.

    What is imported for annotations alone, under ``if TYPE_CHECKING:``, does not count.
    """
    path, is_package = modules[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    parts, imported = name.split("."), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) + is_package - node.level] if node.level else []
            origin = ".".join([*base, *(node.module.split(".") if node.module else [])])
            submodules = {alias.name: f"{origin}.{alias.name}" for alias in node.names}
            imported |= {m if m in modules else origin for m in submodules.values()}
    return imported & modules.keys() - {name}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules each of which is reached from every other one by imports."""
    reached = {}
    for start in imports:
        seen, open_ends = set(), [start]
        while open_ends:
            new = imports[open_ends.pop()] - seen
            seen |= new
            open_ends += new
        reached[start] = seen
    groups = {
        tuple(sorted(m for m in reached[name] if name in reached[m]))
        for name in imports
        if name in reached[name]
    }
    return sorted(map(list, groups))


def test_no_modules_import_each_other_in_a_circle():
    modules = own_modules()
    assert circles({name: modules_imported_by(name, modules) for name in modules}) == []


def test_circles_are_seen(tmp_path):
    texts = {
        "ddimx": "from .a import x\n",
        "ddimx.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import d\n"
        "from . import b\n",
        "ddimx.b": "def f():\n    from ddimx.c import x\n",
        "ddimx.c": "from .a import x\n",
        "ddimx.d": "import ddimx.a\n",
    }
    modules = {}
    for name, text in texts.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        modules[name] = (path, name == "ddimx")
    imports = {name: modules_imported_by(name, modules) for name in modules}
    assert imports["ddimx.a"] == {"ddimx.b"}
    assert imports["ddimx.d"] == {"ddimx.a"}
    assert circles(imports) == [["ddimx.a", "ddimx.b", "ddimx.c"]]


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=cli_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


HEAVY = {"torch", "numpy", "triton", "safetensors", "PIL", "ddimx.config", "tensorboard"}
AFTER_HELP = """
import contextlib, io, json, sys
from ddimx.cli.app import app
before = set()
for verb in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            app([*verb, "--help"])
        except SystemExit as end:
            assert not end.code, end.code
    print(json.dumps([text.getvalue(), sorted(set(sys.modules) - before)]))
    before = set(sys.modules)
"""


def verbs() -> list[list[str]]:
    """Every verb that is registered, those of nested commands included, and none at all."""

    def walk(typer_app, before):
        yield before
        for command in typer_app.registered_commands:
            yield [*before, command.name or command.callback.__name__]
        for group in typer_app.registered_groups:
            yield from walk(group.typer_instance, [*before, group.name])

    return list(walk(app, []))


def test_the_list_of_verbs_is_not_empty():
    assert [] in verbs()
    assert ["train"] in verbs()


@pytest.fixture(scope="module")
def helps():
    """The help of every verb, and the modules that it imported beyond those before it."""
    done = python(AFTER_HELP, json.dumps(verbs()))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "number", range(len(verbs())), ids=[" ".join(["ddimx", *verb]) for verb in verbs()]
)
def test_help_imports_nothing_heavy(helps, number):
    help_text, modules = helps[number]
    assert "Usage:" in help_text
    assert not HEAVY & set(modules)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, ddimx; ddimx.__version__; print(*sys.modules)"
    done = python(code)
    assert not HEAVY & set(done.stdout.split())
    assert "ddimx" in done.stdout.split()


def test_the_packages_names_are_there_when_asked_for():
    for name in ddimx.__all__:
        assert getattr(ddimx, name) is not None
    with pytest.raises(AttributeError, match="module 'ddimx' has no attribute 'absent'"):
        _ = ddimx.absent


def test_kernels_cannot_be_imported_under_a_second_name(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    package = importlib.import_module("kernels")
    monkeypatch.setitem(sys.modules, "kernels", package)  # so that it is removed again
    assert Path(package.__file__).parent == ROOT / "kernels"
    with pytest.raises(ImportError, match=r"import this package as 'ddimx\.kernels', not as 'ker"):
        _ = package.update
    with pytest.raises(ImportError, match=r"kernels\.update"):
        importlib.import_module("kernels.update")
    # What transformers asks of any package of this name that it finds.
    assert getattr(package, "__version__", None) is None


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout whose links can be broken."""
    for name in ("ddimx", "kernels", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "pretrained")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    return tmp_path


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=cli_environment() | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("link", ["configs", "kernels"])
def test_a_checkout_without_symbolic_links_says_so(checkout, link):
    (checkout / "ddimx" / link).unlink()
    (checkout / "ddimx" / link).write_text(f"../{link}")  # what git writes there
    done = ran(checkout, "-m", "ddimx", "train", "--config", "emoji")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"'{link}' link is a text file" in last
    assert "git config core.symlinks true" in last


def test_the_same_in_python(checkout):
    (checkout / "ddimx" / "kernels").unlink()
    (checkout / "ddimx" / "kernels").write_text("../kernels")
    done = ran(checkout, "-c", "import ddimx; ddimx.sample")
    last = done.stderr.strip().splitlines()[-1]
    assert "'kernels' link is a text file" in last
