"""Which of several processes this one is: from ``--shard K/N``, torchrun, SLURM, or alone.

Nothing here starts or reaches another process. A launcher tells each process in environment
variables which one it is, and all that is done with them is to read them: rank r of N is shard
r + 1 of N. Sources in the order in which they count:

1. ``--shard K/N``: whoever calls says it;
2. torchrun: RANK, WORLD_SIZE, LOCAL_RANK (https://docs.pytorch.org/docs/stable/elastic/run.html);
3. a SLURM step (srun): SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID;
4. a SLURM job array: SLURM_ARRAY_TASK_ID with _MIN, _MAX and _STEP
   (https://slurm.schedmd.com/job_array.html).

A batch script of one task sees SLURM_PROCID=0 and SLURM_NTASKS=1 as well, in a job array too: these
say nothing, and the array counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from .errors import UsageError

Source = Literal["--shard", "torchrun", "SLURM", "SLURM array", "alone"]
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
STEP = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
ARRAY = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT"))
_OTHERWISE = "unset them, or say --shard K/N, where 1/1 is this process alone"


@dataclass(frozen=True)
class Launch:
    """One process among those of a launch.

    Attributes:
        rank: which one, from 0.
        size: how many there are.
        local_rank: which one of those on this machine, from 0; it chooses the GPU.
        source: who said so.
        variables: the environment's variables that were read, with their values.
        notes: what a user should know.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    source: Source = "alone"
    variables: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def __str__(self) -> str:
        """Return in a few words which process this is: "17 of 64 (SLURM)"."""
        return f"{self.rank + 1} of {self.size} ({self.source})"


def this_process(shard: str | None = None, environment: Mapping[str, str] = os.environ) -> Launch:
    """Return which process this is.

    Args:
        shard: what ``--shard`` says: "17/64", from 1/64 to 64/64.
        environment: the variables.

    Raises:
        UsageError: a shard outside 1..N, or variables that are empty, no numbers, incomplete or
            contradict each other; the message names them.
    """
    local = local_rank(environment)
    if shard is not None:
        number, of = parse_shard(shard)
        return Launch(number - 1, of, local, "--shard")
    if "RANK" in environment or "WORLD_SIZE" in environment:
        rank, size = _numbers(environment, *TORCHRUN[:2])
        found = {name: environment[name] for name in TORCHRUN if name in environment}
        return _checked(Launch(rank, size, local, "torchrun", found), TORCHRUN)
    array = "SLURM_ARRAY_TASK_ID" in environment
    # Every batch script is process 0. Of how many, is said where tasks were asked for, and by srun.
    unsaid = not array and not {"SLURM_NTASKS", "SLURM_STEP_ID"} & environment.keys()
    if unsaid and environment.get("SLURM_PROCID") == "0":
        return Launch(local_rank=local)
    if "SLURM_PROCID" in environment and ("SLURM_NTASKS" in environment or not array):
        rank, size = _numbers(environment, *STEP[:2])
        found = {name: environment[name] for name in STEP if name in environment}
        if array and size > 1:
            raise UsageError(
                f"SLURM_NTASKS={size} and SLURM_ARRAY_TASK_ID={environment['SLURM_ARRAY_TASK_ID']}:"
                " is this a task of a step, or one of a job array? Say it by --shard K/N"
            )
        notes: tuple[str, ...] = ()
        if size > 1 and "SLURM_JOB_ID" in environment and "SLURM_STEP_ID" not in environment:
            notes = (
                f"note: SLURM_NTASKS={size} and no SLURM_STEP_ID: a batch script begins one "
                f"process, and 'srun ddimx ...' in it all {size}; --shard 1/1 is one alone",
            )
        launch = _checked(Launch(rank, size, local, "SLURM", found, notes), STEP)
        if not array:
            return launch
    if not array:
        return Launch()
    number, least, most, step = _numbers(environment, *ARRAY[:3], SLURM_ARRAY_TASK_STEP=1)
    found = {name: environment[name] for name in ARRAY if name in environment}
    (count,) = _numbers(environment, SLURM_ARRAY_TASK_COUNT=(most - least) // max(step, 1) + 1)
    said = ", ".join(f"{name}={value}" for name, value in found.items())
    if step < 1 or not least <= number <= most or (number - least) % step or (most - least) % step:
        raise UsageError(f"{said}: these contradict each other; {_OTHERWISE}")
    if count != (most - least) // step + 1:
        raise UsageError(f"{said}: an array with gaps; say by --shard K/N which of N this is")
    return Launch((number - least) // step, count, local, "SLURM array", found)


def parse_shard(text: str) -> tuple[int, int]:
    """Return K and N of "K/N".

    Raises:
        UsageError: something else, or K outside 1..N.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise UsageError(f"--shard {text}: write K/N, as 17/64")
    number, of = int(match[1]), int(match[2])
    if not 1 <= number <= of:
        raise UsageError(f"--shard {text}: shards of {of} are 1/{of} to {of}/{of}")
    return number, of


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """Return which process of this machine this is, from 0; 0 where nobody says it.

    Raises:
        UsageError: a variable that is no number.
    """
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if name in environment:
            text = environment[name]
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise UsageError(
                    f"the variable {name}, which chooses the GPU, is '{text[:40]}', no number; set "
                    "it to this process's number on its machine, or unset it"
                )
            return int(text)
    return 0


def _checked(launch: Launch, names: tuple[str, ...]) -> Launch:
    if not 0 <= launch.rank < launch.size or launch.local_rank >= launch.size:
        said = ", ".join(f"{k}={v}" for k, v in launch.variables.items())
        raise UsageError(f"{said}: these contradict each other; {_OTHERWISE}")
    return launch


def _numbers(environment: Mapping[str, str], *names: str, **defaults: int) -> list[int]:
    """Return variables that are whole numbers from 0; without a default they have to be there."""
    numbers = []
    for name in (*names, *defaults):
        text = environment.get(name)
        if text is None and name in defaults:
            numbers.append(defaults[name])
            continue
        if text is None:
            there = [other for other in names if other in environment]
            said = ", ".join(f"{other}={environment[other]}" for other in there)
            raise UsageError(f"{said or 'these variables'} and no {name}; {_OTHERWISE}")
        if not re.fullmatch(r"[0-9]{1,9}", text):
            what = "is empty" if not text.strip() else f"is '{text[:40]}', no number"
            raise UsageError(f"the variable {name} {what}; {_OTHERWISE.replace('them', 'it')}")
        numbers.append(int(text))
    return numbers
