"""Which of several processes this one is, as torchrun, SLURM and --shard say it."""

import json
import re

import pytest
import torch

from ddimx.device import choose_device
from ddimx.errors import UsageError
from ddimx.launch import Launch, parse_shard, this_process
from tests.sampling import invoke

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
STEP = {"SLURM_PROCID": "16", "SLURM_NTASKS": "64", "SLURM_LOCALID": "2"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "11",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_MAX": "21",
    "SLURM_ARRAY_TASK_STEP": "5",
    "SLURM_ARRAY_TASK_COUNT": "5",
}


def where(environment, shard=None):
    launch = this_process(shard, environment)
    return launch.rank, launch.size, launch.local_rank, launch.source


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0, "alone")),
        (TORCHRUN, (5, 8, 1, "torchrun")),
        (STEP, (16, 64, 2, "SLURM")),
        (ARRAY, (2, 5, 0, "SLURM array")),
        (TORCHRUN | STEP | ARRAY, (5, 8, 1, "torchrun")),
        # A job array's script is a batch step of one task, whose own number says nothing.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", **ARRAY}, (2, 5, 0, "SLURM array")),
        ({"SLURM_PROCID": "0", **ARRAY}, (2, 5, 0, "SLURM array")),
        # A batch script that asked for no number of tasks.
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}, (0, 1, 0, "alone")),
        # A shell inside an allocation was not begun as one of its tasks.
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, (0, 1, 0, "alone")),
        # Without _STEP it is 1, and the last of 1,000 tasks is the last shard.
        (
            {
                "SLURM_ARRAY_TASK_ID": "999",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_MAX": "999",
            },
            (999, 1000, 0, "SLURM array"),
        ),
    ],
)
def test_who_says_it(environment, expected):
    assert where(environment) == expected


def test_the_command_line_goes_before_everything():
    assert where(TORCHRUN | STEP | ARRAY, "17/64") == (16, 64, 1, "--shard")
    assert where({"SLURM_ARRAY_TASK_ID": "", "RANK": "9"}, "1/1") == (0, 1, 0, "--shard")
    assert str(this_process("17/64", {})) == "17 of 64 (--shard)"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "17", "1/", "a/b", "-1/4", "1/4/2", "1 /4"])
def test_a_shard_outside_1_to_n_is_refused(text):
    with pytest.raises(UsageError, match=re.escape(f"--shard {text}: ")):
        parse_shard(text)


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"SLURM_ARRAY_TASK_ID": ""}, ["SLURM_ARRAY_TASK_ID is empty"]),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "undefined"}, ["SLURM_ARRAY_TASK_ID is 'undefined'"]),
        ({"RANK": "1"}, ["RANK=1", "no WORLD_SIZE"]),
        ({"WORLD_SIZE": "4"}, ["WORLD_SIZE=4", "no RANK"]),
        ({"RANK": "", "WORLD_SIZE": "4"}, ["RANK is empty"]),
        ({"RANK": "4", "WORLD_SIZE": "4"}, ["RANK=4", "WORLD_SIZE=4", "contradict"]),
        ({"SLURM_PROCID": "3"}, ["SLURM_PROCID=3", "no SLURM_NTASKS"]),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "1"}, ["SLURM_PROCID=0", "no SLURM_NTASKS"]),
        ({"SLURM_PROCID": "64", "SLURM_NTASKS": "64"}, ["SLURM_PROCID=64", "SLURM_NTASKS=64"]),
        (STEP | ARRAY, ["SLURM_NTASKS=64", "SLURM_ARRAY_TASK_ID=11"]),
        ({"SLURM_ARRAY_TASK_ID": "3"}, ["SLURM_ARRAY_TASK_ID=3", "no SLURM_ARRAY_TASK_MIN"]),
        (ARRAY | {"SLURM_ARRAY_TASK_ID": "12"}, ["SLURM_ARRAY_TASK_ID=12", "contradict"]),
        (ARRAY | {"SLURM_ARRAY_TASK_STEP": "0"}, ["SLURM_ARRAY_TASK_STEP=0", "contradict"]),
        (ARRAY | {"SLURM_ARRAY_TASK_COUNT": "3"}, ["SLURM_ARRAY_TASK_COUNT=3", "gaps"]),
    ],
)
def test_empty_and_contradictory_variables_are_named(environment, named):
    with pytest.raises(UsageError) as error:
        this_process(None, environment)
    for text in named:
        assert text in str(error.value)
    assert "--shard" in str(error.value)  # what helps


@pytest.mark.parametrize("name", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_what_chooses_the_gpu_is_no_matter_of_shards(name):
    with pytest.raises(UsageError, match=f"{name}, which chooses the GPU, is ''") as error:
        this_process("1/2", {name: ""})
    assert "--shard" not in str(error.value)


def test_a_batch_script_that_is_no_step_is_remarked_on():
    inside = this_process(None, STEP | {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"})
    (note,) = this_process(None, STEP | {"SLURM_JOB_ID": "7"}).notes
    assert inside.notes == ()
    assert "srun" in note


def test_a_process_that_is_alone():
    assert Launch().is_alone
    assert not this_process("1/2", {}).is_alone


@pytest.mark.parametrize(
    ("gpus", "local", "name", "device"),
    [
        (4, "2", "auto", "cuda:2"),
        (4, "0", "auto", "cuda"),
        (1, "3", "auto", "cuda:0"),  # srun --gpus-per-task=1: each sees its own, as number 0
        (4, "2", "cuda:1", "cuda:1"),
        (4, "2", "cpu", "cpu"),
    ],
)
def test_each_process_takes_a_gpu_of_its_own(monkeypatch, gpus, local, name, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", local)
    assert str(choose_device(name)) == device


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="process 3 on a machine with 2 GPUs"):
        choose_device("auto")


def test_info_prints_what_it_sees(monkeypatch):
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    launch = json.loads(invoke("info", "--json").out)["launch"]
    assert launch["process"] == "17 of 64 (SLURM)"
    assert launch["SLURM_NTASKS"] == "64"
