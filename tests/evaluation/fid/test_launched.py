"""``ddimx evaluate fid`` by processes that live at the same time, and are killed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import cli_environment

PROGRAM = Path(__file__).with_name("program.py")
WORDS = ("evaluate", "fid", "--samples", "samples.npy", "--reference", "reference.npy", "-q")
ARGS = (str(PROGRAM), *WORDS, "--device", "cpu", "--out", "fid.json", "--overwrite")

pytestmark = pytest.mark.full  # each process imports torch


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a process in the folder of the images."""
    random = np.random.default_rng(0)
    for name, count in (("samples", 43), ("reference", 22)):
        np.save(tmp_path / f"{name}.npy", random.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8))

    def started(*command, **environment):
        return subprocess.Popen(
            [*command, *ARGS],
            cwd=tmp_path,
            env=cli_environment()
            | {"DDIMX_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
            | {name: str(value) for name, value in environment.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def ended(processes):
    """Return exit codes, and what was printed on stdout, of all processes."""
    outputs = [process.communicate(timeout=300) for process in processes]
    codes = [process.returncode for process in processes]
    assert all(code in (0, -9) for code in codes), outputs
    return codes, [out for out, _ in outputs]


def test_four_tasks_of_a_step_one_of_which_is_killed(start, tmp_path):
    ((code,), (alone,)) = ended([start(sys.executable)])
    record = (tmp_path / "fid.json").read_bytes()
    assert (code, alone[:4]) == (0, "FID ")

    def launched(size, **of_third):
        step = {"SLURM_NTASKS": size, "SLURM_JOB_ID": size, "SLURM_STEP_ID": 0}
        thirds = [of_third if rank == 2 else {} for rank in range(size)]
        return ended(
            [start(sys.executable, SLURM_PROCID=k, **step, **one) for k, one in enumerate(thirds)]
        )

    (tmp_path / "fid.json").unlink()
    codes, printed = launched(4, DIE_AFTER=5)
    assert (codes, printed) == ([0, 0, -9, 0], [""] * 4)
    assert not (tmp_path / "fid.json").exists()
    codes, printed = launched(3)  # the same command, with another number of processes
    assert codes == [0] * 3
    assert sorted(printed) == ["", "", alone]
    assert (tmp_path / "fid.json").read_bytes() == record
    left = [path.name for path in (tmp_path / "cache" / "fid").rglob("*") if path.is_file()]
    assert left == ["result.json"]


def test_torchrun(start, tmp_path):
    _, (alone,) = ended([start(sys.executable)])
    record = (tmp_path / "fid.json").read_bytes()
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    port = ("--master-port", str(20_000 + os.getpid() % 20_000))
    codes, printed = ended([start(*torchrun, *port)])
    assert (codes, printed) == ([0], [alone])
    assert (tmp_path / "fid.json").read_bytes() == record
