"""The suite of start-up times in miniature: verbs end well, and exports agree with the seed's."""

import subprocess

import numpy as np
import pytest

from benchmarks import seed, startup
from benchmarks.runner import Budget
from tests.sampling import invoke


@pytest.fixture
def without_processes(monkeypatch):
    """Do in this process what the suite gives to fresh ones; what it gave is returned."""
    commands = []

    def run(words, folder):
        monkeypatch.chdir(folder)
        commands.append(" ".join(words[2:]))
        if words[:2] == ["-m", "benchmarks.seed"]:
            seed.main(words[2:])
        elif words[1] in (startup.RUN, startup.TELL):
            done = invoke(*words[2:])
            assert done.code == 0, done.err
        return subprocess.CompletedProcess(words, 0, "", "warning\nnumpy pydantic")

    monkeypatch.setattr(startup, "_run", run)
    monkeypatch.setattr(startup, "QUICK_DEPTH", 3)
    monkeypatch.setattr("benchmarks.runner.measure.__kwdefaults__", {"wait": None, "shortest": 0.0})
    return commands


def test_every_verb_and_every_export_has_its_row(without_processes):
    of_verbs, of_export = (job() for job in startup.jobs(1, quick=True, budget=Budget()))
    rows = {row["name"]: row for row in of_verbs["rows"]}
    assert list(rows) == [
        *('python -c "import torch"', 'python -c "pass"', 'python -c "import numpy"'),
        *(f"ddimx {verb}" for verb in startup.VERBS),
    ]
    assert rows["ddimx info emoji"]["imports"] == "numpy, pydantic"
    assert [row["name"] for row in of_export["rows"]] == [
        "seed: list as queue, text PLY",
        "the same with a deque",
        *(f"ddimx export: {name}" for name in startup.EXPORTS),
    ]
    assert of_export["title"].endswith("splats")
    assert "list sphere.npz list.ply" in without_processes


def test_other_centers_than_the_seeds_are_seen(tmp_path):
    rows = [((0.25 * i, 0.0, 0.0), (0.5,) * 3, seed.COLOR, 1.0) for i in range(2)]
    (tmp_path / "a.ply").write_text(seed.text_ply(rows, 2))
    kinds = [("center", "<f4", 3), ("rest", "u1", 19)]
    other = np.zeros(2, dtype=kinds)
    (tmp_path / "b.ply").write_bytes(b"end_header\n" + other.tobytes())
    with pytest.raises(ValueError, match="other centers"):
        startup._check_same(tmp_path / "a.ply", tmp_path / "b.ply", 2)
