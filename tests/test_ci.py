"""The parts of ``.ci/full`` are those that its first lines explain and that run every week."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.conftest import ROOT

SCRIPT = ROOT / ".ci" / "full"

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def run(*arguments):
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)


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


def test_an_unknown_part_is_refused_before_anything_runs():
    done = run("gate", "cpu")
    assert done.returncode == 2
    assert done.stderr.startswith("full: no part 'cpu': gate full cpus")
