"""Which process of one training this is, and which launcher has begun it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import UsageError
from ..launch import Launch, this_process

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")  # where the processes meet


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return which process of one training this is.

    The tasks of a SLURM job array know nothing of each other: each trains by itself.

    Raises:
        UsageError: variables that contradict each other, that do not say where the processes meet,
            or that belong to a batch script which begins one process only.
    """
    launch = this_process(environment=environment)
    if launch.is_alone or launch.source == "SLURM array":
        return Launch(0, 1, launch.local_rank, launch.source, launch.variables)
    if launch.notes:
        raise UsageError(
            f"SLURM_NTASKS={launch.size} and no SLURM_STEP_ID: a batch script begins one process, "
            f"and training would wait for the others. Write 'srun ddimx train ...' for "
            f"{launch.size} processes, or unset SLURM_NTASKS for one"
        )
    lacking = [name for name in ADDRESS if not environment.get(name, "").strip()]
    if lacking:
        how = (
            "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1) "
            "MASTER_PORT=29500"
            if launch.source == "SLURM"
            else "torchrun sets them; by hand, MASTER_ADDR is the machine of rank 0, MASTER_PORT "
            "a free port there"
        )
        raise UsageError(
            f"this is process {launch}, and {' and '.join(lacking)}, where the processes meet, "
            f"{'is' if len(lacking) == 1 else 'are'} not set: {how}"
        )
    if not environment["MASTER_PORT"].isdecimal() or int(environment["MASTER_PORT"]) > 65535:
        raise UsageError(f"MASTER_PORT={environment['MASTER_PORT'][:40]} is not a port")
    return launch


def agent(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return which torchrun begins this process, empty without one.

    ``run_id`` is its ``--rdzv-id``; ``agent`` its process, which goes on over all attempts, by
    machine, number and time of its beginning.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return {}
    parent, begun = os.getppid(), ""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8")
        begun = stat.rpartition(")")[2].split()[19]
    name = f"{socket.gethostname()}:{parent}:{begun}"
    return {"run_id": environment["TORCHELASTIC_RUN_ID"], "agent": name}
