"""The steps-versus-quality study: draw, count the network's calls, measure, keep a record."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ... import __version__
from ...errors import UsageError
from ...models.octree.process import DiscreteProcess
from ...progress import Progress
from ...sampling.settings import Settings, labels_for
from ...signals import Stop
from ...weights.model import Model
from ..shapes.quality import Protocol, quality
from ..shapes.sets import ShapeSet, named_on_both_sides
from .drawing import counted_calls, draw_trees, mixed_as
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
        clean: measure shapes without their crumbs and holes, as ``ddimx sample --clean`` writes.
    """

    count: int
    protocol: Protocol
    seed: int = 0
    mix: str = "reference"
    batch_size: int | None = None
    clean: bool = False


class StepsStudy:
    """Measures ways one by one and keeps a record that is complete after each of them."""

    def __init__(
        self, model: Model, sets: Sets, settings: StepsSettings, earlier: Record | None = None
    ) -> None:
        """Prepare; ``earlier`` is the record of an interrupted study, whose rows are kept.

        Raises:
            UsageError: a model of images, or a ``earlier`` of other shapes or settings.
        """
        self._depth = DiscreteProcess.of(model.process, "evaluate steps").depth
        self._model, self._sets, self._settings = model, sets, settings
        protocol = settings.protocol.to_json()
        digest = hashlib.sha256()
        for side in (sets.reference, sets.train):
            for shape in () if side is None else side.shapes:
                digest.update(shape.tree.tokens().tobytes())
        self.record: Record = {
            "status": "running",
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
            "shapes_sha256": digest.hexdigest(),
            "protocol": protocol,
            "clean": settings.clean,
            "rows": [],
        }
        if earlier is not None:
            earlier = {"clean": False, **earlier}  # version 0.2 had no cleaning
            own = {
                key: value for key, value in self.record.items() if key not in ("status", "rows")
            }
            # A newer version measures the same.
            differ = [key for key, v in own.items() if key != "ddimx" and earlier.get(key) != v]
            if differ:
                raise UsageError(
                    f"the results there are of another study ({', '.join(differ)}); "
                    "choose another --out or --overwrite"
                )
            self.record = {**earlier, "status": "running", "ddimx": __version__}

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
        runs = self._resolved(ways, progress)
        measured_ways = {_way_of(row) for row in self.record["rows"]}
        pending = {way: settings for way, settings in runs.items() if way not in measured_ways}
        if len(pending) < len(runs):
            progress.say(f"{len(runs) - len(pending)} of {len(runs)} ways are measured already")
        self._baseline(progress)
        for place, (way, settings) in enumerate(
            pending.items(), start=len(runs) - len(pending) + 1
        ):
            row = self._measured(way, settings, f"way {place} of {len(runs)}", progress, stop)
            if row is None:
                break
            self.record["rows"].append(row)
            after_row(self.record)
        ways_now = {_way_of(row) for row in self.record["rows"]}
        whole = all(way in ways_now for way in runs)
        self.record["status"] = "complete" if whole else "interrupted"
        after_row(self.record)
        return self.record

    def _resolved(self, ways: Ways, progress: Progress) -> dict[Way, Settings]:
        options = self._settings
        settings_by_way, notes = {}, dict[str, None]()
        for way in ways.all():
            settings = way.settings(
                self._model, options.seed, options.count, options.batch_size, clean=options.clean
            )
            notes.update(dict.fromkeys(settings.notes))
            settings_by_way[way] = settings
        for note in notes:
            progress.say(f"note: {note}")
        return settings_by_way

    def _baseline(self, progress: Progress) -> None:
        """Measure once what training shapes reach in the samples' place."""
        train, reference = self._sets.train, self._sets.reference
        if train is None or "training" in self.record:
            return
        depth = self._depth
        record = quality(
            [tree.coarser(depth) for tree in train.trees],
            [tree.coarser(depth) for tree in reference.trees],
            protocol=self._settings.protocol,
            categories=named_on_both_sides(train.categories, reference.categories),
        )
        self.record["training"] = _figures(record)
        self.record["reference_connectivity"] = record["connectivity"]["reference"]
        if "perfect_1-NNA" in record:
            self.record["perfect_1-NNA"] = record["perfect_1-NNA"]["all"]

    def _measured(
        self, way: Way, settings: Settings, what: str, progress: Progress, stop: Stop
    ) -> Row | None:
        """Draw and measure one way; None where somebody asked to stop meanwhile."""
        progress.start(what, settings.count * len(settings.plan))
        start_seconds = time.perf_counter()
        labels = (
            labels_for(settings, self._model, settings.indices)
            if self._settings.mix == "even"
            else mixed_as(self._sets.reference.categories, self._model.classes, settings.count)
        )
        if labels is not None:
            names = (*self._model.classes, "none")
            settings = replace(settings, category=tuple(names[label] for label in labels))
        with counted_calls(self._model) as calls:
            trees = draw_trees(self._model, settings, progress, stop)
        seconds = time.perf_counter() - start_seconds
        if trees is None:
            return None
        progress.stop()
        reference, train = self._sets.reference, self._sets.train
        categories = [] if labels is None else [self._model.classes[i] for i in labels]
        record = quality(
            trees,
            reference.trees,
            None if train is None else train.trees,
            self._settings.protocol,
            categories=(categories, reference.categories) if categories else None,
        )
        return {
            **asdict(way),
            "nfe": settings.plan.nfe,
            "calls": calls["shapes"] / settings.count,
            "seconds_per_shape": seconds / settings.count,
            "leaves": float(np.mean([tree.counts[-1] for tree in trees])),
            **_figures(record),
        }


def _way_of(row: Row) -> Way:
    # Rows of version 0.2 lack what it had no option for.
    return Way(**{name: row[name] for name in Way.__dataclass_fields__ if name in row})


def _figures(record: dict[str, Any]) -> Row:
    """Return the columns of one set's row out of everything that was measured of it."""
    row: Row = dict(record["connectivity"]["samples"])
    if "novelty" in record:
        novelty = record["novelty"]
        row |= {
            "iou": novelty["samples"]["mean"],
            "iou_moved": novelty["moved"]["mean"]["value"],
            "iou_reference": novelty["reference"]["mean"]["value"],
            "share_below_reference_median": novelty["share_below_reference_median"]["value"],
            "copies": novelty["copies"]["moved"],
        }
    if "chamfer" in record:
        row |= {name: record["chamfer"][name] for name in ("1-NNA", "COV", "MMD")}
        row["perfect_1-NNA"] = record["perfect_1-NNA"].get("by_category")
        row["compared"] = record["compared"]
    return row
