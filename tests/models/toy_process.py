"""A third kind of model, outside the package: rows of whole numbers, noised to chance ones.

It stands for what somebody else may write; docs/extending.md shows it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ddimx.files import whole_file
from ddimx.models.process import Draws, drawn_timesteps
from ddimx.noise import Stream
from ddimx.options import Options
from ddimx.solvers.schedule import Schedule

TOP = 8  # numbers run from 0 to 7


@dataclass
class Plan:
    times: list[int]
    label, notes = "halving", ()

    nfe = property(lambda self: len(self.times))
    __len__ = nfe.fget

    def identity(self):
        return {"solver": self.label, "times": self.times}

    to_json = identity

    def columns(self):
        return {"t": np.array(self.times)}


class Sink:
    one_file = False

    def __init__(self, folder):
        self.folder = folder

    def path(self, index):
        return self.folder / f"{index:06d}.txt"

    def done(self):
        return {int(path.stem) for path in self.folder.glob("*.txt")}

    def write(self, indices, samples, labels):
        for index, row in zip(indices, samples, strict=True):
            with whole_file(self.path(index)) as part:
                part.write_text(" ".join(map(str, row.tolist())))

    def finish(self, indices, *, whole=False):
        return [self.path(i).name for i in indices]

    def tidy(self):
        pass

    def pixels(self, indices):
        rows = [np.array(self.path(i).read_text().split(), np.uint8) for i in indices]
        return np.stack([Integers.picture(row) for row in rows])


@dataclass
class Integers:
    schedule: Schedule
    length: int
    draws, formats, micro_batch, even_rows, num_classes = "integers", ("txt",), 1, True, 0
    shape, decoder_name, can_guide, preview = (), None, False, Options(steps=2)

    @classmethod
    def from_config(cls, config):
        return cls(Schedule.from_config(config.diffusion), config.data.image_size**2)

    def loss(self, network, batch, draws: Draws):
        clean = ((batch["x"].mean(1).flatten(1) + 1) / 2 * (TOP - 1)).round().long()  # [B, length]
        t = drawn_timesteps(draws, self.schedule.num_timesteps)
        chance = draws.noise.uniform(draws.positions, clean.shape[1:], row=draws.step)
        noisy = torch.where(chance < (t / self.schedule.num_timesteps)[:, None], 0, clean)
        logits = network(noisy, t)  # [B, length, TOP]
        return nn.functional.cross_entropy(logits.mT, clean, reduction="none").mean(1)

    def plan(self, options):
        return Plan([2**i for i in reversed(range(options.steps or 3))])

    def run(self, network, plan, indices, noise, *, labels=None, guidance=1.0, given=None):
        state = noise.integers(indices, (self.length,), TOP, stream=Stream.INIT)
        for row, t in enumerate(plan.times):
            gumbel = -noise.uniform(indices, (self.length, TOP), row=row).log()
            state = (network(state, torch.full_like(indices, t)) - gumbel.log()).argmax(-1)
            yield state

    def finish(self, step):
        return step.cpu()

    def sink(self, folder, kind, *, classes=(), about=None):
        return Sink(folder)

    @staticmethod
    def picture(sample):
        return np.asarray(sample, np.uint8).reshape(1, -1, 1) * 30

    def bytes_per_sample(self, network, guidance):
        return None


class Network(nn.Module):
    process = Integers

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(TOP, TOP))

    @classmethod
    def from_config(cls, config):
        return cls()

    def forward(self, state, t):
        return self.table[state]
