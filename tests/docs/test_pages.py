"""What README and docs say of files, links, programs and options is there."""

import re
import shlex
import subprocess

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import paper, scale
from ddimx.cli import reference
from tests.conftest import ROOT
from tests.docs import (
    PAGES,
    anchors,
    blocks,
    commands,
    inline_commands,
    name_of,
    parse,
    unknown_options,
)
from tests.test_imports import LAYERS

ids = {"ids": name_of}
LONGEST_README = 180


def project():
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= LONGEST_README


def test_the_readme_leads_to_every_page():
    linked = PAGES[0].read_text(encoding="utf-8")
    assert [p for p in map(name_of, PAGES[1:]) if f"]({p})" not in linked] == []


@pytest.mark.parametrize("page", PAGES, **ids)
def test_every_link_leads_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_anchors_are_found(tmp_path):
    page = tmp_path / "a.md"
    page.write_text(
        "# From ermongroup/ddim\n\n## In diffusers' pipelines\n```\n# no heading\n```\n"
    )
    assert anchors(page) == {"from-ermongroupddim", "in-diffusers-pipelines"}


@pytest.mark.parametrize("page", PAGES, **ids)
def test_every_command_is_one_that_there_is(page):
    """Of ddimx and the benchmarks option by option, of other programs what can be known."""
    for words in commands(page):
        check(words)


@pytest.mark.parametrize("page", PAGES, **ids)
def test_every_command_within_a_sentence_is_one_that_there_is(page):
    """A sentence needs no more than the verb and an option's name; these are held to the truth."""
    for words in inline_commands(page):
        assert unknown_options(words) == [], shlex.join(words)


@pytest.mark.parametrize(
    "line",
    [
        "ddimx smaple",
        "ddimx evaluate",
        "ddimx sample --step 3",
        "python -m benchmarks speed",
        "python -m ddimx.nothing",
        "bash .ci/nothing",
        "bash .ci/full nothing",
        'pip install "ddimx[nothing]"',
        "rm -rf runs",
        "torchrun --nproc-per-node 2 -m ddimx nothing",
        "srun ddimx sample --nothing",
        "python -m benchmarks scale --nothing",
    ],
)
def test_the_check_of_commands_refuses(line):
    with pytest.raises((Exception, SystemExit)):
        check(shlex.split(line))


def check(words):
    program, *rest = words
    if program == "ddimx":
        parse(words)
    elif program in ("torchrun", "srun"):
        parse(words[words.index("ddimx") :])
    elif words[:3] == ["python", "-m", "benchmarks"]:
        if words[3] in ("paper", "scale"):
            {"paper": paper, "scale": scale}[words[3]]._parser().parse_args(words[4:])
        elif words[3] not in benchmarks.OTHERS:
            benchmarks._parser().parse_args(words[3:])
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / (rest[1].replace(".", "/") + ".py")).is_file(), words
    elif program == "bash":
        script = ROOT / rest[0]
        assert script.is_file(), words
        if rest[0] == ".ci/full":
            listed = subprocess.run(["bash", script, "--list"], capture_output=True, text=True)
            assert set(rest[1:]) <= {*listed.stdout.split(), "--list"}, words
    elif program == "pip":
        assert rest[0] == "install", words
        extras = {e for word in rest for e in re.findall(r"\[(.+)\]", word)}
        assert extras <= project()["optional-dependencies"].keys(), words
    else:
        assert program in ("pytest", "ruff", "mypy"), words


def test_extras_within_sentences_are_there():
    extras = project()["optional-dependencies"]
    for page in PAGES:
        named = set(re.findall(r"ddimx\[(\w+)\]", page.read_text(encoding="utf-8")))
        assert named <= extras.keys(), name_of(page)


def tree():
    """The annotated tree of architecture.md: paths with what is said of them."""
    page = ROOT / "docs" / "architecture.md"
    (text,) = [b.text for b in blocks(page) if b.text.startswith("ddimx/ ")]
    stack, found = [], {}
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, about = line.strip().split(maxsplit=1)
        stack[depth:] = [name.rstrip("/")]
        found["/".join(stack)] = about
    return found


def test_the_annotated_tree_is_that_of_the_checkout():
    shown = tree()
    assert [path for path in shown if not (ROOT / path).exists()] == []
    folders = [p for p in (ROOT / "ddimx").glob("*/__init__.py") if not p.parent.is_symlink()]
    missing = {p.parent.relative_to(ROOT).as_posix() for p in folders} - shown.keys()
    assert missing == set()


@pytest.mark.parametrize("page", PAGES, **ids)
def test_every_file_that_a_sentence_names_is_there(page):
    """Paths in backquotes that begin as this checkout's: `tests/...`, `ddimx/...`."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:ddimx|tests|kernels|configs|benchmarks|docs|\.ci)/[\w./-]*)`", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_layers_are_those_that_the_imports_are_held_to():
    page = ROOT / "CONTRIBUTING.md"
    (text,) = [b.text for b in blocks(page) if b.text.startswith("cli\n")]
    shown = [set(line.split()) for line in text.splitlines()]
    assert shown == [layer for layer in LAYERS[::-1] if "__init__" not in layer]


def test_the_page_of_the_command_line_is_what_the_commands_say():
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert text == reference.page(), "run python -m ddimx.cli.reference > docs/cli.md"


def test_what_is_quoted_is_as_it_stands():
    quotes = [b.text for b in blocks(ROOT / "docs" / "extending.md") if b.language == "py"]
    toy = (ROOT / "tests" / "models" / "toy_process.py").read_text(encoding="utf-8")
    assert len(quotes) == 1
    assert quotes[0] in toy
