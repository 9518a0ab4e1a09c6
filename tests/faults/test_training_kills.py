"""Training killed at any moment: it goes on to the bits of a run that nobody disturbed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ddimx.config_file import dump_yaml, load_config, override
from tests.faults.compare import differences, tree
from tests.faults.inject import KILL, MOMENT

CHANGES = 8  # with which a checkpoint is written
STEPS, EVERY = 24, 5  # lines of the log fall between two checkpoints, whose losses they hold too
# What has to come back: a rate that rises and falls, two averages, families that an epoch visits
# once (it has 3 steps, so that most checkpoints lie within one), losses by time, a distance.
ITEMS = (
    f"training.n_iters={STEPS}",
    "training.snapshot_freq=4",
    "training.validation_freq=8",
    "training.keep_checkpoints=2",
    "training.keep_every=8",
    "training.fid_every=8",
    "training.fid_samples=4",
    "model.ema_rate=0.6",  # averages move faster in the first steps: (1 + step) / (10 + step)
    "model.ema2_rate=0.2",
    "optim.warmup_steps=5",
    "optim.decay_steps=9",
)
SAME = ["train", "-c", "config.yml", "--device", "cpu", "-o", "run"]
RESUME = ["train", "--resume", "run", "--device", "cpu"]
# How many processes train one network; each number is a run of its own.
RANKS = (1, pytest.param(2, marks=pytest.mark.full))


class Training:
    """A command that trains in a folder, killed and given again."""

    def __init__(self, server, folder: Path, ranks: int) -> None:
        self._server, self.folder, self._ranks = server, folder, ranks
        folder.mkdir()
        config = override(load_config(server.inputs / "tiny.yml"), ITEMS)
        (folder / "config.yml").write_text(dump_yaml(config))

    def run(self, argv, kind=None, at=0):
        within = "checkpoint-" if kind == KILL else ""
        return self._server.command(
            argv, self.folder, kind, at, within=within, every=EVERY, ranks=self._ranks
        )

    def killed(self, argv, kind, at):
        ended = self.run(argv, kind, at)
        if argv == RESUME and ended.code == 2:  # killed before it could say how it began
            assert "give its command again" in ended.said
            ended = self.run(SAME, kind, at)
        assert ended.code == -9, ended.said

    def finished(self, argv):
        ended = self.run(argv)
        if argv == RESUME and ended.code == 2:
            assert "give its command again" in ended.said
            ended = self.run(SAME)
        assert ended.code == 0, ended.said
        return result(self.folder)


def result(folder: Path) -> dict[str, object]:
    """All that a run leaves, besides times and the commands by which it was started."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if key != "command"}
        return type(value)(map(plain, value)) if isinstance(value, list | tuple) else value

    return {name: plain(content) for name, content in tree(folder).items()}


@pytest.fixture(scope="module", params=RANKS)
def ranks(request):
    """The number of processes; a run has the bits of runs with as many."""
    return request.param


@pytest.fixture(scope="module")
def whole(server, ranks, tmp_path_factory):
    """A run that nobody disturbed: its files, its changes, and the number of its calls."""
    training = Training(server, tmp_path_factory.mktemp("whole") / "cwd", ranks)
    ended = training.run(SAME, MOMENT)
    assert ended.code == 0, ended.said
    return result(training.folder), ended.calls, ended.moments


def test_the_run_has_all_that_has_to_come_back(whole):
    files, _, moments = whole
    names = [Path(name).name for name in files if "checkpoints/" in name]
    assert names == [f"checkpoint-{step:08d}.safetensors" for step in (8, 16, 20, 24)]
    header, data = files["run/checkpoints/checkpoint-00000024.safetensors"]
    kinds = {name.partition(".")[0] for name in header if name != "__metadata__"}
    assert kinds == {"model", "ema", "ema2", "optim"}
    assert data
    log = files["run/log.jsonl"]
    lines = [line for line in log if "loss" in line]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [0.002, 0.002, 0.002, 0.002 * 5 / 9]
    )
    assert [line["step"] for line in log if "fid" in line] == [8, 16, 24]
    assert [line["step"] for line in log if "validation_held_out_ema2" in line] == [8, 16, 24]
    assert moments > 10_000
    info = header["__metadata__"]["ddimx.info"]
    assert len(info["losses"]) == sum(info["time_counts"]) / 4 == 4  # since the last line


@pytest.mark.parametrize(("count", "seed"), [(3, 5), pytest.param(12, 12, marks=pytest.mark.full)])
def test_killed_again_and_again(server, whole, ranks, count, seed, tmp_path):
    """In turn at any moment and inside the writing of a checkpoint, by both commands in turn."""
    expected, _, moments = whole
    random_number = random.Random(seed)  # with 5 the second kill is within a checkpoint's bytes
    training = Training(server, tmp_path / "cwd", ranks)
    for number in range(count):
        argv = RESUME if number % 2 else SAME
        if number % 2:
            training.killed(argv, KILL, random_number.randint(1, CHANGES * 3 // 2))
        else:
            # Parts of a whole run, so that each gets somewhere and none to the end.
            part = 0.5 if number == 0 else 0.75 / count
            training.killed(argv, MOMENT, int(moments * part * random_number.uniform(0.5, 1)))
    assert differences(expected, training.finished(SAME if count % 2 else RESUME)) == []


@pytest.mark.full
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_a_random_moment(server, whole, ranks, seed, tmp_path):
    expected, calls, moments = whole
    random_number = random.Random(seed)
    training = Training(server, tmp_path / "cwd", ranks)
    commands = (SAME, RESUME)
    if seed % 4 == 3:
        changes = sum("checkpoint-" in call for call in calls)
        training.killed(SAME, KILL, random_number.randrange(1, changes + 1))
    else:
        training.killed(SAME, MOMENT, random_number.randrange(1, moments))
    assert differences(expected, training.finished(commands[seed % 2])) == []
