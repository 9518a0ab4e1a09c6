"""Help, version, completion, and words that are no command."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import ddimx
from ddimx.cli import reference
from ddimx.option_values import SAMPLING_VERBS
from ddimx.options import RunOptions, options
from tests.conftest import cli_environment
from tests.sampling import invoke

SHOWN = {
    "sample": [
        "--config", "--offline",
        "--model", "--steps", "--count", "-n", "--category", "--guidance", "--seed",
        "--start-index", "--nfe", "--plan", "--solver", "--eta", "--variance", "--spacing",
        "--timesteps", "--clip",
        "--init-noise", "--format", "--out", "--resume", "--overwrite", "--batch-size",
        "--invariant", "--weights", "--device", "--dtype", "--explain", "--dry-run", "--json",
        "--quiet",
    ],
    "train": ["--config", "--set", "--out", "--seed", "--device", "--resume", "--init",
              "--weights", "--offline", "--quiet"],
    "convert": ["SRC", "DST", "--to", "--config", "--offline",
                "--dtype", "--weights", "--note", "--set", "--overwrite", "--quiet"],
    "info": ["--models", "--config", "--weights", "--json"],
    "evaluate solvers": [
        "--model", "--nfe", "--solver", "--spacing", "--guidance", "--category", "--count",
        "--seed", "--reference", "--search", "--search-count", "--trials", "--out", "--overwrite",
        "--batch-size", "--config", "--weights", "--offline", "--device", "--dtype", "--json",
        "--quiet",
    ],
    "inpaint": [
        "--mask", "--strength", "--jump", "--resample", "--count", "-n", "--model", "--steps",
        "--category", "--guidance", "--seed", "--start-index", "--solver", "--eta", "--spacing",
        "--resize", "--format", "--out", "--overwrite", "--batch-size", "--invariant",
        "--config", "--weights", "--offline",
        "--device", "--dtype", "--resume", "--explain", "--dry-run",
        "--limit-memory", "--json", "--quiet",
    ],
    "sequence": [
        "--show", "--frames", "--fps", "--format", "--count", "-n", "--model", "--steps",
        "--category", "--guidance", "--seed", "--start-index", "--solver", "--eta", "--spacing",
        "--out", "--overwrite", "--batch-size", "--invariant", "--config", "--weights",
        "--offline", "--device", "--dtype",
        "--resume", "--explain", "--dry-run",
        "--limit-memory", "--json", "--quiet",
    ],
    "interpolate": [
        "--frames", "--format", "--refine", "--model", "--steps", "--category", "--guidance",
        "--solver", "--eta", "--seed", "--spacing", "--resize", "--out", "--overwrite",
        "--batch-size", "--invariant", "--config", "--weights", "--offline", "--device",
        "--dtype", "--resume", "--explain", "--dry-run",
        "--limit-memory", "--json", "--quiet",
    ],
    "encode": [
        "--refine", "--model", "--steps", "--category", "--guidance", "--spacing", "--resize",
        "--out", "--overwrite", "--batch-size", "--invariant", "--config", "--weights",
        "--offline", "--device", "--dtype",
        "--resume", "--explain", "--dry-run",
        "--limit-memory", "--json", "--quiet",
    ],
    "evaluate nll": [
        "--model", "--data", "--split", "--count", "--terms", "--flow-steps", "--probes",
        "--variance", "--clip", "--seed", "--out", "--overwrite", "--batch-size", "--config",
        "--weights", "--offline", "--device", "--dtype", "--json", "--quiet",
    ],
    "evaluate fid": [
        "--samples", "--reference", "--size", "--set", "--save-stats", "--features", "--out",
        "--overwrite", "--strict", "--batch-size", "--offline", "--device", "--json", "--quiet",
    ],
    "prepare": ["emoji"],
    "prepare emoji": ["--font", "--out", "--size", "--overwrite", "--json", "--quiet"],
}  # fmt: skip


@pytest.mark.parametrize("verb", SHOWN)
def test_every_verb_explains_itself_with_an_example(verb):
    done = invoke(*verb.split(), "--help")
    assert (done.code, done.err) == (0, "")
    assert f"{verb} [OPTIONS]" in done.out
    assert f"  ddimx {verb}" in done.out  # an example
    words = {word.strip(",") for word in done.out.split()}
    assert [option for option in SHOWN[verb] if option not in words] == []
    assert invoke(*verb.split(), "-h").out == done.out


def test_the_program_lists_its_verbs():
    done = invoke("--help")
    assert (done.code, done.err) == (0, "")
    listed = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    assert {verb.split()[0] for verb in SHOWN} <= set(listed)
    titles = [line for line in done.out.splitlines() if line and not line.startswith(" ")][1:]
    assert titles == [
        "Draw images and shapes",
        "Change images",
        "Train a model",
        "Models and measurements",
        "Options",
    ]
    alone = invoke()
    assert alone.out + alone.err == done.out  # `ddimx` alone is a question, not an error
    assert alone.code in (0, 2)  # as click has it: 2 since 8.2


def test_values_have_names_and_no_types():
    raw = re.compile(r"<(int|float|str|path|text)|\b(INTEGER|FLOAT|TEXT RANGE|PATH)\b|\[default")
    assert [name for name, text in reference.verbs() if raw.search(text)] == []


@pytest.mark.parametrize("verb", SAMPLING_VERBS)
def test_every_option_that_is_declared_for_a_verb_is_in_its_help(verb):
    lines = invoke(verb, "--help").out.splitlines()
    shown = "\n".join(line for line in lines if line.startswith("  -")) + "\n"
    for option in options(RunOptions).values():
        flag = option.flags[0].partition("/")[0]
        assert (f"{flag} " in shown or f"{flag}\n" in shown) == (verb in option.verbs), flag


@pytest.mark.parametrize("columns", [80, 140])
def test_help_is_as_wide_as_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.delenv("TERMINAL_WIDTH", raising=False)
    text, _, examples = invoke("inpaint", "--help").out.partition("Examples\n")
    assert columns - 12 < max(map(len, text.splitlines())) <= columns
    assert "  ddimx inpaint photo.jpg --resize --mask 4,4,20,28 --jump 10 --resample 10" in examples
    panels = [line for line in text.splitlines()[1:] if line and not line.startswith(" ")]
    assert panels == ["What to paint", "What to draw", "How", "Where to", "Running"]


def test_version():
    done = invoke("--version")
    assert (done.code, done.out, done.err) == (0, f"ddimx {ddimx.__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["sampl"], "No such command 'sampl'"),
        (["sample", "--stepz", "3"], "No such option: --stepz"),
        (["sample", "extra"], "unexpected extra argument"),
        (["sample", "--steps"], "requires an argument"),
        (["sample", "--nfe", "many"], "Invalid value for '--nfe'"),
        (["sample", "--steps", "many"], "steps must be a whole number of at least 1, got 'many'"),
        (["sample", "--seed", "-1"], "seed must lie in 0..2^64-1, got -1"),
        (["sample", "--start-index", "-1"], "start-index must be at least 0, got -1"),
        (["convert", "only-one"], "Missing argument 'DST'"),
        (["info", "--modles"], "--models"),
        (["--verbose"], "No such option: --verbose"),
    ],
)
def test_what_is_no_command_or_option_is_named(args, message):
    done = invoke(*args)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Traceback" not in done.err


def test_completion():
    """As a shell calls the program: for the script, and then for the words that may follow."""
    code = "import sys; sys.argv[0] = 'ddimx'; from ddimx.__main__ import main; main()"

    def run(*args, **variables):
        return subprocess.run(
            [sys.executable, "-c", code, *args],
            env=cli_environment() | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    # Otherwise Typer looks at the processes above this one to learn which shell it is.
    shown = run("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.returncode == 0, shown.stderr
    assert "_DDIMX_COMPLETE=complete_bash" in shown.stdout
    words = run(_DDIMX_COMPLETE="complete_bash", COMP_WORDS="ddimx sample --st", COMP_CWORD="2")
    assert words.stdout.split() == ["--start-index", "--steps"]


def test_the_module_runs_as_a_program(run_cli):
    done = run_cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ddimx {ddimx.__version__}\n", "")
    done = run_cli("sampl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'sample'?" in done.stderr
