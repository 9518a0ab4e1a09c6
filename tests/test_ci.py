"""What continuous integration runs and installs: named parts, pinned by hash, least permissions."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

import ddimx
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCRIPT = ROOT / ".ci" / "full"
LISTS = {name: ROOT / ".ci" / name for name in ("requirements.txt", "tools.txt")}
# Left to torch's own pins, as constraints.txt says; the rest of the list stands there.
OF_CUDA = ("nvidia-", "cuda-")

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def pinned(path):
    """The packages of a list: name -> (version, number of hashes)."""
    found = {}
    for block in re.split(r"\n(?=\S)", path.read_text().strip()):
        if block.startswith("#"):
            continue
        line, *hashes = block.split(" \\\n")
        match = re.fullmatch(r"([a-z0-9-]+)==([^ ;]+)(?: ; .*)?", line)
        assert match, line
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", h) for h in hashes), line
        found[match[1]] = (match[2], len(hashes))
    return found


def test_there_are_workflows():
    assert {"ci.yml", "gpu.yml", "audit.yml"} <= {path.name for path in WORKFLOWS}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_named_by_digest_and_permissions_are_stated(path):
    text = path.read_text()
    used = re.findall(r"^ *-? *uses: *(.+)$", text, re.MULTILINE)
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+){2}", action), action
    tree = yaml.safe_load(text)
    assert tree["permissions"] == {"contents": "read"}
    steps = [step for job in tree["jobs"].values() for step in job.get("steps", [])]
    assert sum("uses" in step for step in steps) == len(used)
    for step in steps:
        if "actions/checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_one_version_of_every_action():
    used = {}
    for path in WORKFLOWS:
        for name, digest in re.findall(r"uses: *(\S+)@(.+)", path.read_text()):
            used.setdefault(name, set()).add(digest)
    assert used
    assert all(len(versions) == 1 for versions in used.values()), used


@pytest.mark.parametrize("name", LISTS)
def test_every_package_of_a_list_has_hashes_and_no_address(name):
    assert "://" not in LISTS[name].read_text()
    packages = pinned(LISTS[name])
    assert len(packages) > 10
    assert all(hashes for _, hashes in packages.values())


def test_the_lists_fit_the_constraints():
    """Else 'bash .ci/lock' was forgotten, and workflows test other versions than .ci/run here."""
    stated = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==([^ ;]+)", line):
            stated[match[1]] = match[2]
    listed = {name: version for name, (version, _) in pinned(LISTS["requirements.txt"]).items()}
    listed = {n: v for n, v in listed.items() if not n.startswith(OF_CUDA)}
    assert listed == stated


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_list_holds_every_package_that_the_tests_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, left = set(), [*project["dependencies"], *project["optional-dependencies"]["test"]]
    while left:
        item = left.pop()
        if extras := re.match(r"ddimx\[(.*)\]", item):
            for extra in extras[1].split(","):
                left += project["optional-dependencies"][extra.strip()]
        else:
            name = re.match(r"[A-Za-z0-9_.-]+", item)[0]
            wanted.add(re.sub(r"[-_.]+", "-", name).lower())
    assert wanted <= pinned(LISTS["requirements.txt"]).keys()
    assert {"uv", "pip-audit"} <= pinned(LISTS["tools.txt"]).keys()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_version_stands_in_one_place_and_has_a_chapter_in_the_changelog():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert metadata["project"]["dynamic"] == ["version"]
    dynamic = metadata["tool"]["setuptools"]["dynamic"]
    assert dynamic == {"version": {"attr": "ddimx._version.__version__"}}
    chapters = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert chapters[0] == ddimx.__version__


def run(*arguments):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)


@needs_bash
def test_every_part_is_explained_and_runs_weekly():
    listed = run("--list").stdout.split()
    assert len(listed) >= 9
    header = SCRIPT.read_text().split("set -e")[0]
    assert re.findall(r"^#   ([a-z]+)  ", header, re.MULTILINE) == listed
    text = (ROOT / ".github/workflows/full.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["jobs"]["full"]["strategy"]["matrix"]["part"] == listed
    assert workflow["permissions"] == {"contents": "read"}
    for name in listed:
        assert f"\n{name}() {{" in SCRIPT.read_text()


@needs_bash
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: .ci/gpu OUT MINUTES"),
        (["out", "nine"], "MINUTES is 'nine', not a positive number"),
        (["out", "-1"], "MINUTES is '-1', not a positive number"),
        (["out", "9", "tests"], "no part 'tests': check, test, train, bench, tune"),
        (["out", "9", "bench:2,turn"], "no part 'turn': check, test, train, bench, tune"),
        (["out", "9", "bench:much"], "'bench:much' is not PART or PART:SHARE, a whole number"),
    ],
)
def test_the_script_for_a_card_refuses_what_it_does_not_know(arguments, message, tmp_path):
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "gpu", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr


@needs_bash
def test_the_script_for_a_card_says_what_failed(tmp_path):
    """A step that fails is noted, what it wrote is kept, and the exit code is not 0."""
    environment = {**os.environ, "DEVICE": "cpu", "PYTHON": "false", "SUITES": "update:1"}
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "gpu", tmp_path / "out", "1", "bench:2,tune"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "bench update: exit 1" in summary
    assert "tune: exit 1" in summary  # what failed before it does not keep it from its turn
    assert "== bench update" in (tmp_path / "out" / "log.txt").read_text()


@needs_bash
def test_the_script_for_a_card_says_that_a_training_left_no_checkpoint(tmp_path):
    """A training that its time ends before the first step ends well, and has made nothing."""
    environment = {**os.environ, "DEVICE": "cpu", "PYTHON": "true", "DATA": "data"}
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "gpu", tmp_path / "out", "1", "train"],
        env=environment | {"TRAIN": "emoji:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert re.search(r"^train emoji: no checkpoint after \d+ s \(ok\)", summary, re.MULTILINE)


@needs_bash
def test_an_unknown_part_is_refused_before_anything_runs():
    done = run("gate", "cpu")
    assert done.returncode == 2
    assert done.stderr.startswith("full: no part 'cpu': gate full cpus")
