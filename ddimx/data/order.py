"""The order in which training sees its examples: a function of (seed, position), nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch

from ..noise import Noise, Stream
from .arrays import Integers

_SHUFFLE, _VARIANT = 0, 1  # rows of the stream: the epoch's permutation, the choice of a variant


class Order:
    """Map global example positions (0, 1, 2, ...) to indices of a data set.

    Every epoch is a permutation, drawn by sorting Philox words, so that it is the same on every
    platform. With ``families``, an epoch visits every family once, by one variant chosen at
    random: a motif with thirty skin tones then weighs no more than a motif with one form.
    """

    def __init__(
        self,
        noise: Noise,
        size: int,
        families: Integers | None = None,
        visits: Integers | None = None,
    ) -> None:
        """Lay out epochs over ``size`` examples, or over ``families`` (int64 [size]).

        Args:
            visits: how often an epoch visits each family, int64 in the order of the families'
                numbers; None is once each.
        """
        self._noise = noise
        self._members: list[Integers] | None = None
        if families is not None:
            by_family = np.argsort(families, kind="stable")
            _, starts = np.unique(families[by_family], return_index=True)
            self._members = np.split(by_family.astype(np.int64), starts[1:])
            if visits is not None:
                pairs = zip(self._members, visits.tolist(), strict=True)
                self._members = [own for own, times in pairs for _ in range(times)]
        self.epoch_size = size if self._members is None else len(self._members)
        self._cache: tuple[int, Integers] | None = None

    def indices(self, positions: Integers) -> Integers:
        """Return the data set's indices at these positions: int64, same shape."""
        return np.array([self._index(int(p)) for p in positions], dtype=np.int64)

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.epoch_size)
        if self._cache is None or self._cache[0] != epoch:
            self._cache = (epoch, self._draw(epoch))
        return int(self._cache[1][place])

    def _draw(self, epoch: int) -> Integers:
        shuffled: Integers = np.argsort(self._words(epoch, _SHUFFLE), kind="stable")
        if self._members is None:
            return shuffled
        sizes = np.array([len(m) for m in self._members], dtype=np.int64)
        variant = (self._words(epoch, _VARIANT) * sizes) >> 32
        members = np.array([m[v] for m, v in zip(self._members, variant, strict=True)])
        return members[shuffled].astype(np.int64)

    def _words(self, epoch: int, row: int) -> Integers:
        sample = torch.tensor([epoch], dtype=torch.int64)
        words = self._noise.integers(
            sample, (self.epoch_size,), 2**32, row=row, stream=Stream.TRAIN_ORDER
        )
        draws: Integers = words[0].numpy()
        return draws


class Balanced(Protocol):
    """What of a source decides how often its examples are trained on."""

    labels: Integers | None
    families: Integers | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, empty if there are none."""
        ...

    def __len__(self) -> int: ...


def order_of(source: Balanced, balance: Literal["none", "family", "class"], noise: Noise) -> Order:
    """Return the order of a source's examples as ``data.balance`` asks for it."""
    families, visits = (None if balance == "none" else source.families), None
    if balance == "class" and source.labels is not None:
        families = np.arange(len(source)) if families is None else families
        visits = visits_by_class(families, source.labels, source.classes)
    return Order(noise, len(source), families, visits)


def visits_by_class(families: Integers, labels: Integers, classes: Sequence[str]) -> Integers:
    """Return how often an epoch visits each family, so that classes count as samples draw them.

    Every group of classes ("animals" of "animals/bird") counts the same, in it every class, and in
    that every family. The family that counts least is visited once, the others as many times as
    they count more, rounded.

    Args:
        families: int64 [N]; labels: int64 [N], of which a family's first example counts.
        classes: the names; where there are none, every label is a class.

    Returns:
        int64, in the order of the families' numbers.
    """
    _, first = np.unique(families, return_index=True)
    own = labels[first]
    present, place, of_class = np.unique(own, return_inverse=True, return_counts=True)
    names = [classes[i] if len(classes) else str(i) for i in present.tolist()]
    groups = [name.partition("/")[0] for name in names]
    of_group = np.array([groups.count(group) for group in groups])
    share = 1 / (of_group[place] * of_class[place])
    visits: Integers = np.round(share / share.min()).astype(np.int64)
    return visits
