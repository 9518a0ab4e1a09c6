"""A small training run, what it reports, and what it leaves."""

import torch

from ddimx.data.images.sources import open_source
from ddimx.signals import Stop
from ddimx.training.state import checkpoints
from ddimx.weights.formats.native import read_tensors

# Weights by formula, seed 0; recorded once. A change here changes every training run.
LOSSES = [1.266286, 1.035817, 1.121096, 0.934344, 1.064746]


class Notes:
    """A reporter that keeps what it is told, and can ask for a stop after a step."""

    def __init__(self, stop=None, after=None):
        self.losses, self.norms, self.validations, self.saves = [], [], [], []
        self.distances = []
        self._stop, self._after = stop, after

    def start(self, state, total):
        self.begun = (state.step, total)

    def step(self, state, losses, norm, waited):
        assert waited >= 0.0
        self.losses += losses
        self.norms.append(norm)
        if state.step == self._after:
            self._stop.signal = 15

    def validation(self, state, losses):
        self.validations.append((state.step, losses))

    def validated(self, step):
        return False

    def distance(self, state, distance, value):
        self.distances.append((state.step, value))

    def measured(self, step):
        return False

    def curves(self, state):
        pass

    def saved(self, state):
        self.saves.append(state.step)

    def problem(self, state, what, error):
        raise AssertionError(what)


def finish(trainer, stop=None, after=None):
    stop = stop or Stop()
    notes = Notes(stop, after)
    notes.finished = trainer.run(stop, notes)
    return notes


def newest(trainer):
    return checkpoints(trainer.folder / "checkpoints")[-1]


def same_tensors(one, other):
    a, b = read_tensors(one), read_tensors(other)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def open_source_part(run, count):
    """The first ``count`` examples of a run's source."""
    part = open_source(run.config)
    part._images, part.labels = part._images[:count], part.labels[:count]
    part.families = part.families[:count]
    return part
