"""The steps-versus-quality study: draw, count the network's calls, measure, keep a record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ... import __version__
from ...errors import UsageError
from ...models.octree.process import DiscreteProcess
from ...progress import Progress
from ...sampling.settings import Settings, labels_for
from ...signals import Stop
from ...weights.model import Model
from ..shapes.quality import Protocol, quality
from ..shapes.sets import ShapeSet, named_on_both_sides
from .drawing import counted_calls, drawn, mixed_as
from .variants import Way, Ways

Row = dict[str, Any]
Record = dict[str, Any]
FIGURES = ("largest_share", "one_component", "iou", "1-NNA", "COV", "MMD")
"""Columns of a row that are {"value", "low", "high"}; the last three with distances only."""


@dataclass(frozen=True, eq=False)
class Sets:
    """What drawn shapes are compared with: shapes nobody trained on, and the training shapes."""

    reference: ShapeSet
    train: ShapeSet | None


@dataclass(frozen=True)
class StepsSettings:
    """How every way is measured.

    Attributes:
        count: shapes for each way, always of the same noise.
        mix: "reference" draws the reference's categories in its proportions, "even" draws each
            shape's class as ``ddimx sample`` does.
    """

    count: int
    protocol: Protocol
    seed: int = 0
    mix: str = "reference"
    batch_size: int | None = None


class Study:
    """Measures ways one by one and keeps a record that is complete after each of them."""

    def __init__(
        self, model: Model, sets: Sets, settings: StepsSettings, before: Record | None = None
    ) -> None:
        """Prepare; ``before`` is the record of an interrupted study, whose rows are kept.

        Raises:
            UsageError: a model of images, or a ``before`` of other shapes or settings.
        """
        if not isinstance(model.process, DiscreteProcess):
            raise UsageError(f"this needs a model of octrees, and '{model.name}' draws images")
        self._model, self._sets, self._settings = model, sets, settings
        self.record: Record = {"status": "running", **_facts(model, sets, settings), "rows": []}
        if before is not None:
            self._continue(before)

    def run(
        self, ways: Ways, progress: Progress, after_row: Callable[[Record], None], stop: Stop
    ) -> Record:
        """Measure all ways that the record lacks and return it, with what was left out in words.

        Args:
            after_row: is given the record after each way; an interruption loses one way at most.
            stop: true once somebody asked to stop; then the status is "interrupted".

        Raises:
            UsageError: options that do not exist or do not go together; nothing was drawn then.
        """
        wanted = self._resolved(ways, progress)
        done = {_way_of(row) for row in self.record["rows"]}
        left = {way: settings for way, settings in wanted.items() if way not in done}
        if len(left) < len(wanted):
            progress.say(f"{len(wanted) - len(left)} of {len(wanted)} ways are measured already")
        self._baseline(progress)
        for place, (way, settings) in enumerate(left.items(), start=len(wanted) - len(left) + 1):
            row = self._measured(way, settings, f"way {place} of {len(wanted)}", progress, stop)
            if row is None:
                break
            self.record["rows"].append(row)
            after_row(self.record)
        found = {_way_of(row) for row in self.record["rows"]}
        whole = all(way in found for way in wanted)
        self.record["status"] = "complete" if whole else "interrupted"
        after_row(self.record)
        return self.record

    def _resolved(self, ways: Ways, progress: Progress) -> dict[Way, Settings]:
        chosen = self._settings
        found, notes = {}, dict[str, None]()
        for way in ways.all():
            settings = way.settings(self._model, chosen.seed, chosen.count, chosen.batch_size)
            notes.update(dict.fromkeys(settings.notes))
            found[way] = settings
        for note in notes:
            progress.say(f"note: {note}")
        return found

    def _continue(self, before: Record) -> None:
        own = {key: value for key, value in self.record.items() if key not in ("status", "rows")}
        # A newer version measures the same.
        differ = [key for key, v in own.items() if key != "ddimx" and before.get(key) != v]
        if differ:
            raise UsageError(
                f"the results there are of another study ({', '.join(differ)}); "
                "choose another --out or --overwrite"
            )
        self.record = {**before, "status": "running", "ddimx": __version__}

    def _baseline(self, progress: Progress) -> None:
        """Measure once what training shapes reach in the samples' place."""
        train, reference = self._sets.train, self._sets.reference
        if train is None or "training" in self.record:
            return
        assert isinstance(self._model.process, DiscreteProcess)
        depth = self._model.process.depth
        found = quality(
            [tree.coarser(depth) for tree in train.trees],
            [tree.coarser(depth) for tree in reference.trees],
            protocol=self._settings.protocol,
            categories=named_on_both_sides(train.categories, reference.categories),
        )
        self.record["training"] = _figures(found)
        self.record["reference_connectivity"] = found["connectivity"]["reference"]
        if "perfect_1-NNA" in found:
            self.record["perfect_1-NNA"] = found["perfect_1-NNA"]["all"]

    def _measured(
        self, way: Way, settings: Settings, what: str, progress: Progress, stop: Stop
    ) -> Row | None:
        """Draw and measure one way; None where somebody asked to stop meanwhile."""
        progress.start(what, settings.count * len(settings.token_plan))
        begun = time.perf_counter()
        labels = self._labels(settings)
        with counted_calls(self._model) as calls:
            trees = drawn(self._model, settings, labels, progress, stop)
        seconds = time.perf_counter() - begun
        if trees is None:
            return None
        progress.stop()
        batches = -(-settings.count // settings.batch_size)
        reference, train = self._sets.reference, self._sets.train
        categories = [] if labels is None else [self._model.classes[i] for i in labels]
        found = quality(
            trees,
            reference.trees,
            None if train is None else train.trees,
            self._settings.protocol,
            categories=(categories, reference.categories) if categories else None,
        )
        return {
            **asdict(way),
            "nfe": settings.token_plan.nfe,
            "calls": calls["network"] / batches,
            "seconds_per_shape": seconds / settings.count,
            "leaves": float(np.mean([tree.counts[-1] for tree in trees])),
            **_figures(found),
        }

    def _labels(self, settings: Settings) -> Tensor | None:
        """Return all samples' classes, int64 [count], or None for a model without."""
        if self._settings.mix == "even":
            return labels_for(settings, self._model, settings.indices)
        return mixed_as(self._sets.reference.categories, self._model.classes, settings.count)


def _way_of(row: Row) -> Way:
    return Way(**{name: row[name] for name in Way.__dataclass_fields__})


def _figures(found: dict[str, Any]) -> Row:
    """Return the columns of one set's row out of everything that was measured of it."""
    row: Row = dict(found["connectivity"]["samples"])
    if "novelty" in found:
        novelty = found["novelty"]
        row |= {
            "iou": novelty["samples"]["mean"],
            "iou_moved": novelty["moved"]["mean"]["value"],
            "iou_reference": novelty["reference"]["mean"]["value"],
            "share_below_reference_median": novelty["share_below_reference_median"]["value"],
            "copies": novelty["copies"]["moved"],
        }
    if "chamfer" in found:
        row |= {name: found["chamfer"][name] for name in ("1-NNA", "COV", "MMD")}
        row["perfect_1-NNA"] = found["perfect_1-NNA"].get("by_category")
        row["compared"] = found["compared"]
    return row


def _facts(model: Model, sets: Sets, settings: StepsSettings) -> Record:
    protocol = settings.protocol.to_json()
    return {
        "ddimx": __version__,
        "model": model.name,
        "model_sha256": model.sha256,
        "weights": model.weights,
        "dtype": model.precision.name,
        "seed": settings.seed,
        "count": settings.count,
        "mix": settings.mix if model.classes else None,
        "categories": sorted(set(sets.reference.categories)),
        "reference": sets.reference.label,
        "reference_shapes": len(sets.reference.shapes),
        "train_shapes": 0 if sets.train is None else len(sets.train.shapes),
        "shapes_sha256": _fingerprint(sets),
        "protocol": protocol,
    }


def _fingerprint(sets: Sets) -> str:
    digest = hashlib.sha256()
    for side in (sets.reference, sets.train):
        for shape in () if side is None else side.shapes:
            digest.update(shape.tree.tokens().tobytes())
    return digest.hexdigest()
