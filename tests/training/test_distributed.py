"""Parts of a step and ranks: the same losses as by one process, one voice, and nobody waits."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ddimx.config_file import dump_yaml, override
from ddimx.data.batches import divided
from ddimx.data.examples import open_batches, open_examples
from ddimx.data.shapes.batches import packed
from ddimx.errors import UsageError
from ddimx.launch import Launch
from ddimx.models.factory import build
from ddimx.models.layers import AttnBlock, ResnetBlock
from ddimx.noise import Noise
from ddimx.progress import Progress
from ddimx.signals import Stop
from ddimx.training.distributed import Group
from ddimx.training.launches import launched
from ddimx.training.loop import Trainer
from ddimx.training.meeting import Elsewhere
from ddimx.training.run import _train_in
from ddimx.training.settings import TrainRequest
from ddimx.training.state import TrainState, checkpoints
from ddimx.training.watch import Watch
from ddimx.weights.formats.native import read_header
from tests.conftest import FULL, cli_environment, examples
from tests.data.shapes.prepared import write_set
from tests.models.octree.small import octree_config, trees
from tests.sampling import invoke
from tests.training.small import finish

STEPS = 20
# Of float32 sums in another order: one rounding is 6e-8 of a value. Measured over 20 steps: up to
# 3e-7, in all configurations below and on 1 to 4 ranks.
SAME = 1e-6
EVERYTHING = (  # that draws; dropout, flips, classes and families are in the configuration already
    *("data.uniform_dequantization=true", "data.balance=class", "training.class_dropout=0.4"),
    *("training.antithetic=true", "training.batch_size=7"),
)
EACH = {
    "nothing": ("data.random_flip=false", "model.dropout=0", "data.balance=none"),
    "flips": ("model.dropout=0", "training.class_dropout=0"),
    "dropout": ("data.random_flip=false", "model.dropout=0.3"),
    "antithetic pairs": ("training.antithetic=true", "model.dropout=0", "training.batch_size=5"),
    "no pairs": ("training.antithetic=false", "model.dropout=0"),
    "class dropout": ("training.class_dropout=0.5", "model.dropout=0"),
    "uniform dequantization": ("data.uniform_dequantization=true", "model.dropout=0"),
    "Gaussian dequantization": ("data.gaussian_dequantization=true", "model.dropout=0"),
    "families": ("data.balance=family", "model.dropout=0", "data.random_flip=false"),
    "flow": ("diffusion.prediction=flow",),
    "Muon": ("optim.optimizer=Muon",),
}
OCTREES = {
    "data": {"random_flip": True, "random_scale": 0.1, "balance": "family"},
    "model": {"dropout": 0.1, "num_layers": 2},
    "diffusion": {"transitions": ["absorbing", "uniform"]},
    "training": {
        "parent_corruption": 0.1,
        "parent_drawing": 0.5,
        "class_dropout": 0.2,
        "batch_size": 5,
        "n_iters": STEPS,
    },
}


def losses_of(run, steps=STEPS):
    """Do some steps and return their losses, float64 [steps]."""
    for step, positions, batch in run._batches().steps(0, steps):
        run.step(step, positions, batch, steps)
    return np.array(run.state.losses)


# --- parts of a step ------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.full), 3])
def test_parts_of_a_step_have_the_losses_of_the_whole(trainer, parts):
    whole = losses_of(trainer("whole", EVERYTHING))
    divided_run = trainer("parts", [*EVERYTHING, f"training.accumulate={parts}"])
    assert losses_of(divided_run) == pytest.approx(whole, rel=SAME, abs=0)


@pytest.mark.full
@pytest.mark.parametrize("what", EACH)
@pytest.mark.parametrize("parts", [2, 4, 100])
def test_each_draw_in_parts_is_that_of_the_whole(trainer, what, parts):
    whole = losses_of(trainer("whole", EACH[what]))
    in_parts = losses_of(trainer("parts", [*EACH[what], f"training.accumulate={parts}"]))
    assert in_parts == pytest.approx(whole, rel=SAME, abs=0)


def octree_trainer(root, folder, items=()):
    config = override(octree_config(root, **OCTREES), items)
    torch.manual_seed(0)
    network, process = build(config)
    parts = [open_examples(config, held_out=held_out) for held_out in (False, True)]
    state = TrainState.fresh(network, config)
    return Trainer(config, state, process, *parts, folder, Noise(0), torch.device("cpu"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("shapes"))


@pytest.mark.parametrize("optimizer", ["AdamW", pytest.param("Muon", marks=pytest.mark.full)])
def test_octrees_in_parts_have_the_losses_of_the_whole(shapes, tmp_path, optimizer):
    item = f"optim.optimizer={optimizer}"
    whole = losses_of(octree_trainer(shapes, tmp_path, [item]))
    for parts in (2, 4) if FULL else (2,):
        run = octree_trainer(shapes, tmp_path, [item, f"training.accumulate={parts}"])
        assert losses_of(run) == pytest.approx(whole, rel=SAME, abs=0)


@examples(20)
@given(st.integers(1, 9), st.integers(1, 12))
def test_the_parts_of_a_batch_are_the_batch(count, parts):
    positions = torch.arange(count) + 40
    images = {"x": torch.randn(count, 3, 2, 2), "label": torch.arange(count)}
    result = divided(positions, images, parts)
    sizes = [len(own) for own, _ in result]
    assert len(sizes) == min(count, parts)
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat([own for own, _ in result]), positions)
    for name, value in images.items():
        assert torch.equal(torch.cat([part[name] for _, part in result]), value)
    own_trees = (trees() * 3)[:count]
    for places, part in divided(positions, packed(own_trees), parts):
        own = [own_trees[int(place) - 40] for place in places]
        assert all(torch.equal(part[name], value) for name, value in packed(own).items())


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_ranks_read_the_batch_between_them(trainer, shapes, tmp_path, ranks):
    for run in (trainer("run", EVERYTHING), octree_trainer(shapes, tmp_path)):
        own = run.config.training.batch_size
        arguments = run.source, run.config.data, run.noise, own
        places, whole = open_batches(*arguments).batch(3)
        parts = [open_batches(*arguments, (rank, ranks)).batch(3) for rank in range(ranks)]
        assert torch.equal(torch.cat([part for part, _ in parts]), places)
        for name, value in whole.items():
            assert torch.equal(torch.cat([part[name] for _, part in parts]), value)


# --- activation checkpointing ---------------------------------------------------------------------


def test_blocks_that_are_computed_again_give_the_same_gradient(trainer):
    items = ["model.dropout=0.3"]
    plain = trainer("plain", items)
    again = trainer("again", [*items, "training.activation_checkpointing=true"])
    calls = []
    for block in again.state.network.modules():
        if isinstance(block, ResnetBlock | AttnBlock):
            norm = block.norm1 if isinstance(block, ResnetBlock) else block.norm
            norm.register_forward_hook(lambda *_: calls.append(1))
    assert np.array_equal(losses_of(plain, 3), losses_of(again, 3))
    blocks = sum(isinstance(m, ResnetBlock | AttnBlock) for m in again.state.network.modules())
    assert len(calls) == 3 * 2 * blocks  # forward, and again for the gradient
    pairs = zip(plain.state.network.parameters(), again.state.network.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_other_networks_have_no_blocks_to_compute_again(shapes):
    with pytest.raises(UsageError, match=r"activation_checkpointing is for model\.name 'unet'"):
        override(octree_config(shapes), ["training.activation_checkpointing=true"])


# --- which process this is ------------------------------------------------------------------------

SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0"}
ADDRESS = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


def test_torchrun_and_a_slurm_step_make_groups():
    torchrun = {"RANK": "2", "WORLD_SIZE": "3", "LOCAL_RANK": "0", **ADDRESS}
    assert (launched(torchrun).rank, launched(torchrun).size) == (2, 3)
    assert (launched(SLURM | ADDRESS).rank, launched(SLURM | ADDRESS).size) == (1, 4)


def test_alone_and_each_task_of_a_job_array_train_by_themselves():
    assert launched({}).is_alone
    array = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7"}
    launch = launched(array)
    assert launch.is_alone
    assert (launch.rank, launch.source) == (0, "SLURM array")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (SLURM, "MASTER_ADDR and MASTER_PORT, where the processes meet, are not set: export"),
        (SLURM | {"MASTER_PORT": "1"}, "and MASTER_ADDR, where the processes meet, is not set"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": ""}, "MASTER_PORT"),
        (SLURM | ADDRESS | {"MASTER_PORT": "x"}, "MASTER_PORT=x is not a port"),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", **ADDRESS},
            "a batch script begins one process.*Write 'srun ddimx train",
        ),
    ],
)
def test_where_processes_cannot_meet_it_is_said(environment, words):
    with pytest.raises(UsageError, match=words):
        launched(environment)


# --- who is missing -------------------------------------------------------------------------------


def watched(limit=1.0):
    """Two ranks of one store in this process, of which the second gives one sign only."""
    store = torch.distributed.HashStore()
    first, second = (Watch(store, rank, 2, limit) for rank in range(2))
    first.hear()  # else it would end this process
    first.start()
    return first, second


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_rank_without_signs_is_named_with_the_step():
    first, _ = watched()
    first.at("training", 12)
    until(lambda: first.verdict)
    assert first.verdict == (
        f"rank 1 of 2 (process {os.getpid()} on {socket.gethostname()}) has given no sign for "
        "1 s, at step 12"
    )
    assert first.missing == (1,)
    assert first.speaks
    first.close()


@pytest.mark.full
def test_a_rank_that_stays_behind_is_named_and_one_that_works_alone_is_not():
    first, second = watched()
    second.start()
    second.hear()
    second.at("training", 4)
    first.at("alone", 5)
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > 2.5 or first.verdict)
    assert first.verdict is None
    first.at("training", 5)
    until(lambda: first.verdict)
    assert "rank 1 of 2" in first.verdict
    assert "is behind the others" in first.verdict
    first.close()
    second.close()


@pytest.mark.full
def test_a_rank_that_prepares_is_waited_for_and_ranks_that_all_wait_are_not():
    first, second = watched()
    group, ends = Group(Launch(1, 2)), []
    group._store, group._watch = second._store, second
    second.start()
    second.hear()

    def wait():
        try:
            group.told()
        except Elsewhere as error:
            ends.append(error.code)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    until(lambda: second.own.doing == "waiting")
    begun = time.monotonic()
    until(lambda: time.monotonic() - begun > 2.5 or second.verdict)
    assert second.verdict is None
    first.at("waiting", awaits=1)
    until(lambda: first.verdict and second.verdict)
    names = [
        f"rank {rank} of 2 (process {os.getpid()} on {socket.gethostname()})" for rank in (0, 1)
    ]
    words = "wait for each other, and no process has gone on for 1 s, at step 0"
    assert first.verdict == second.verdict == f"{names[0]} and {names[1]} {words}"
    assert (first.speaks, second.speaks) == (True, False)
    group._store.set("failed", json.dumps({"rank": 0, "text": first.verdict, "code": 1}))
    thread.join(60)
    assert ends == [1]
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("out", Path("run"), '--out: rank 0: "run"; rank 1: null'),
        ("resume", "run", '--resume: rank 0: "run"; rank 1: null'),
        ("init", "a.safetensors", '--init: rank 0: "a.safetensors"; rank 1: null'),
        ("data", "pictures", '--data: rank 0: "pictures"; rank 1: null'),
        ("classes", False, "--no-classes: rank 0: true; rank 1: false"),
    ],
)
def test_ranks_begun_by_different_commands_all_learn_it_first_of_all(name, value, text):
    store, errors = torch.distributed.HashStore(), {}

    def begin(group, request):
        try:
            _train_in(group, request, Stop(), Progress(), None)
        except UsageError as error:
            errors[group.rank] = str(error), group._watch.own.doing

    requests = TrainRequest("run", None, **{name: value}), TrainRequest("run", None)
    threads = []
    for rank, request in enumerate(requests):
        group = Group(Launch(rank, 2))
        group._store, group._watch = store, Watch(store, rank, 2, 60.0)
        threads.append(threading.Thread(target=begin, args=(group, request), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert sorted(errors) == [0, 1]
    assert errors[0] == errors[1]
    words, doing = errors[0]
    assert words.startswith(f"the processes differ in {text}. Begin all of them by the same")
    assert doing == "preparing"


@pytest.mark.full
def test_a_process_that_has_ended_is_named_before_the_limit():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    store = torch.distributed.HashStore()
    first = Watch(store, 0, 2, 4.0)
    sign = {"host": socket.gethostname(), "pid": gone.pid, "doing": "preparing", "number": 1}
    store.set("sign/1", json.dumps(sign))
    first.hear()
    first.start()
    until(lambda: first.verdict)
    assert f"(process {gone.pid} on {socket.gethostname()}) has ended without" in first.verdict
    first.close()


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture
def start(tmp_path, tiny_config):
    """Return a function that starts ranks of ``ddimx train`` in the test's folder."""
    (tmp_path / "tiny.yml").write_text(dump_yaml(tiny_config))
    processes = []

    def start(ranks, *args, each=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = []
        for rank in range(ranks):
            variables = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
            command = [sys.executable, "-m", "ddimx", "train", *map(str, args)]
            own.append(
                subprocess.Popen(
                    [*command, *(each[rank] if each else ())],
                    cwd=tmp_path,
                    env=cli_environment() | {k: str(value) for k, value in variables.items()},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        processes.extend(own)
        return own

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(processes):
    """Wait for processes; return their exit codes and what they said on stderr."""
    texts = [process.communicate(timeout=120)[1] for process in processes]
    return [process.returncode for process in processes], texts


def saved(folder, step):
    return folder / "checkpoints" / f"checkpoint-{step:08d}.safetensors"


def pending(path):
    """The losses that a checkpoint holds: those since the log's last line."""
    return read_header(path).info["losses"]


LONG = ("--set", "training.n_iters=1000000", "--set", "training.validation_freq=1000000")


def test_two_ranks_train_as_one_and_a_stop_of_one_stops_both(start, tiny_config, tmp_path):
    items = [*EVERYTHING, "training.accumulate=2", f"training.snapshot_freq={STEPS}"]
    settings = [word for item in items for word in ("--set", item)]
    ranks = start(2, "-c", "tiny.yml", *settings, *LONG, "-o", "run", "--seed", 3)
    until(lambda: saved(tmp_path / "run", STEPS).exists())
    ranks[1].send_signal(signal.SIGTERM)
    codes, (first, second) = ended(ranks)
    assert codes == [143, 143], (first, second)
    assert second == ""
    assert "on 2 processes" in first
    newest = checkpoints(tmp_path / "run" / "checkpoints")[-1]
    header = read_header(newest)
    assert f"stopped at step {header.info['step']}; go on: ddimx train --resume run" in first
    assert header.info["processes"] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "tiny.yml"]
    # One process, from the same random weights.
    config = override(tiny_config, items)
    torch.manual_seed(3)
    network, process = build(config)
    parts = [open_examples(config, held_out=held_out) for held_out in (False, True)]
    state, place = TrainState.fresh(network, config), tmp_path / "one"
    alone = losses_of(
        Trainer(config, state, process, *parts, place, Noise(3), torch.device("cpu"))
    ).tolist()
    both = pending(saved(tmp_path / "run", STEPS))
    assert both == pytest.approx(alone, rel=SAME, abs=0)
    assert both != alone  # or nothing was summed in another order


@pytest.mark.full
@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 1), (3, 2), (4, 1)])
@pytest.mark.parametrize("what", ["pictures", "octrees"])
def test_any_number_of_ranks_has_the_losses_of_one(
    start, tmp_path, shapes, ranks, accumulate, what
):
    items = [*EVERYTHING, f"training.n_iters={STEPS}"]
    if what == "octrees":
        items = [f"training.n_iters={STEPS}"]
        (tmp_path / "tiny.yml").write_text(dump_yaml(octree_config(shapes, **OCTREES)))
    settings = [word for item in items for word in ("--set", item)]
    one = invoke("train", "-q", "-c", str(tmp_path / "tiny.yml"), *settings, "-o", tmp_path / "one")
    assert one.code == 0, one.err
    codes, texts = ended(
        start(
            ranks,
            *("-q", "-c", "tiny.yml", *settings, "-o", "run"),
            *("--set", f"training.accumulate={accumulate}"),
        )
    )
    assert codes == [0] * ranks
    assert texts == [""] * ranks
    alone = pending(saved(tmp_path / "one", STEPS))
    assert pending(saved(tmp_path / "run", STEPS)) == pytest.approx(alone, rel=SAME, abs=0)


@pytest.mark.full
@pytest.mark.parametrize(
    ("each", "words"),
    [
        ([(), ("--seed", "1")], "the processes differ in seed: rank 0: 0; rank 1: 1"),
        ([(), ("--set", "optim.lr=0.5")], "differ in optim.lr: rank 0: 0.002; rank 1: 0.5"),
        ([("--set", "training.backend=nccl")] * 2, "backend nccl needs CUDA devices, and this"),
        ([("--batch-size", "1")] * 2, "batch_size 1 is that of all 2 processes"),
        ([("--set", "data.root=nowhere.npz")] * 2, "no data file nowhere.npz"),
        ([(), ("--set", "training.bakend=gloo")], "rank 1 of 2: --set: invalid configuration"),
    ],
)
def test_ranks_that_differ_or_cannot_begin_say_it_once_and_write_nothing(
    start, tmp_path, each, words
):
    codes, texts = ended(start(2, "-c", "tiny.yml", "-o", "run", "--device", "cpu", each=each))
    assert codes[0] == codes[1] != 0
    assert sum(words in text for text in texts) == 1, texts
    assert sum(text != "" for text in texts) == 1, texts
    assert not (tmp_path / "run").exists()


@pytest.mark.full
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("option", ["--out", "--resume", "--data"])
def test_an_option_of_one_rank_only_is_refused_once(start, tmp_path, which, option):
    each = [(), ()]
    each[which] = (option, "run")
    args = ("-c", "tiny.yml") if option != "--resume" else ()
    if option == "--resume":
        each[1 - which] = ("-c", "tiny.yml")
    codes, texts = ended(start(2, *args, "--device", "cpu", each=each))
    assert codes == [2, 2], texts
    assert sum(f"the processes differ in {option}: rank" in text for text in texts) == 1, texts
    assert sum(text != "" for text in texts) == 1, texts
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yml"]


@pytest.mark.full
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_is_killed_or_stopped_ends_the_others_who_name_it(
    start, tmp_path, which, number
):
    # A busy machine lets a process wait for some seconds.
    own = ("--set", "training.rank_timeout=30", "--set", "training.snapshot_freq=3")
    ranks = start(3, "-c", "tiny.yml", "-o", "run", *LONG, *own)
    until(lambda: saved(tmp_path / "run", 3).exists())
    ranks[which].send_signal(number)
    others = [rank for place, rank in enumerate(ranks) if place != which]
    codes, texts = ended(others)
    assert codes == [1, 1]
    assert f"rank {which} of 3 (process {ranks[which].pid}" in texts[0]
    assert "at step" in texts[0]
    assert "goes on from the last checkpoint" in texts[0]
    assert "error" not in texts[1]


@pytest.mark.full
@pytest.mark.parametrize("ranks", [2, 3])
def test_torchrun_begins_again_in_the_same_folder(start, tmp_path, ranks):
    """Kill one rank of a run without --out: torchrun starts all again, and they go on."""
    settings = ("--set", "training.n_iters=40", "--set", "training.snapshot_freq=4", "-q")
    codes, _ = ended(start(ranks, "-c", "tiny.yml", *settings, "-o", "whole"))
    assert codes == [0] * ranks
    module = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    launcher = subprocess.Popen(
        [*module, "--max-restarts=2", "-m", "ddimx", "train", "-c", "tiny.yml", *settings],
        cwd=tmp_path,
        env=cli_environment() | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: any(tmp_path.glob("runs/*/checkpoints/*-00000004.safetensors")))
    os.kill(_children(launcher.pid)[-1], signal.SIGKILL)
    _, text = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, text
    (folder,) = (tmp_path / "runs").iterdir()
    assert "has ended without a word" in text
    before = read_header(saved(tmp_path / "whole", 40)).info["losses"]
    assert read_header(saved(folder, 40)).info["losses"] == before
    assert read_header(saved(folder, 40)).info["resumed"]


def _children(pid):
    text = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True
    )
    return sorted(int(word) for word in text.stdout.split())


@pytest.mark.full
def test_other_ranks_go_on_with_a_run(start, tmp_path):
    settings = ("-q", "-c", "tiny.yml", "--set", "training.n_iters=20")
    whole = ended(start(2, *settings, "-o", "whole"))
    assert whole == ([0, 0], ["", ""])
    own = ("--set", "training.snapshot_freq=5", *settings[:3])
    ranks = start(2, *own, "-o", "run", "--set", "training.n_iters=20")
    until(lambda: saved(tmp_path / "run", 5).exists())
    for rank in ranks:
        rank.kill()
    ended(ranks)
    # The same command, but for how a step is divided.
    changed = ("--set", "training.accumulate=2")
    codes, texts = ended(start(3, *own, "-o", "run", "--set", "training.n_iters=20", *changed))
    assert (codes, texts) == ([0, 0, 0], [""] * 3)
    before = pending(saved(tmp_path / "whole", 20))
    assert pending(saved(tmp_path / "run", 20)) == pytest.approx(before, rel=SAME, abs=0)


@pytest.mark.full
def test_a_loss_that_is_not_finite_ends_all_with_one_error(start, tmp_path):
    codes, texts = ended(
        start(2, "-c", "tiny.yml", "-o", "run", *LONG, "--set", "optim.lr=1e30", "-q")
    )
    assert codes == [1, 1]
    assert texts[1] == ""
    assert "training stopped, there is no checkpoint yet" in texts[0]


def test_a_group_of_one_does_nothing(trainer):
    with Group() as group:
        assert group.told({"a": 1}) == {"a": 1}
        group.check_same({"a": 1})
        run = trainer()
        assert group.trainable(run.state.network) is run.state.network
    assert finish(run).finished
    assert json.dumps(run.info) == "{}"


@pytest.mark.parametrize(
    "items",
    [
        ("model.attn_resolutions=[4]",),
        ("model.name=guided", "model.ch=32", "model.resblock_updown=true"),
        ("model.name=guided", "model.ch=32", "model.predicts_variance=true"),
        ("model.name=lucidrains", "model.classes=[]", "data.balance=none"),
        ("model.name=song", "model.encoder=residual", "model.fourier_time=true"),
        ("model.name=song", "model.encoder=skip", "model.decoder=skip"),
        ("model.name=dhariwal",),
    ],
)
def test_networks_of_ours_use_all_their_weights_in_every_step(trainer, items):
    """What a rank sums is then the same in every step, whatever is drawn there."""
    run = trainer(items=["model.patch_size=1", *items])
    losses_of(run, 1)
    unused = [n for n, p in run.state.network.named_parameters() if p.grad is None]
    assert unused == []


def test_the_octree_network_uses_all_its_weights_in_every_step(shapes, tmp_path):
    run = octree_trainer(shapes, tmp_path, ["training.parent_drawing=0"])
    losses_of(run, 1)
    unused = [n for n, p in run.state.network.named_parameters() if p.grad is None]
    assert unused == []
