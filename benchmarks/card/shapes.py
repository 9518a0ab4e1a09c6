"""The parts of a model of octrees: pieces by category, 1-NNA and its like, novelty, settings."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ddimx.evaluation.shapes import sets
from ddimx.evaluation.shapes.novelty import Training
from ddimx.evaluation.shapes.quality import Protocol, connectivity
from ddimx.evaluation.shapes.quality import quality as measure
from ddimx.options import options

from .drawing import COLUMNS, Card, Part, Run, previews

PAIRS = 16  # samples beside their nearest training shapes
REFERENCE = ("val", "test")  # the parts of the data that nobody trained on


def pieces(card: Card) -> Part:
    """Count shapes in one piece by category, before and after what mends them."""
    part = Part()
    ways: dict[str, list[str]] = {"as drawn": []}
    if "clean" in options():
        ways = {"as drawn": ["--no-clean"], "cleaned": ["--clean"]}
    if card.model.config.sampling.redraw:
        ways["drawn once"] = [*ways["as drawn"], "--redraw", "0"]
    counts: dict[str, dict[str, Any]] = {}
    for way, words in ways.items():
        runs = [card.draw(seed, card.count, words) for seed in card.seeds]
        trees = [tree for run in runs for tree in run.trees]
        classes = np.array([name for run in runs for name in run.classes])
        counts[way] = {"all": connectivity(trees)}
        for name in sorted({*classes.tolist()}):
            members = [trees[i] for i in np.flatnonzero(classes == name)]
            counts[way][name] = connectivity(members) | {"count": len(members)}
        counts[way]["all"]["count"] = len(trees)
    part.figures = counts
    seeds = ", ".join(str(seed) for seed in card.seeds)
    rows = []
    for name in counts["as drawn"]:
        row = [name, str(counts["as drawn"][name]["count"])]
        for way in ways:
            figures = counts[way][name]
            one, largest = figures["one_component"]["value"], figures["largest_share"]["value"]
            row += [f"{one:.0%}", f"{largest:.1%}"]
        rows.append(row)
    header = ["category", "shapes"]
    for way in ways:
        header += [f"in one piece, {way}", f"cells in the largest piece, {way}"]
    part.tables.append((f"Pieces, {card.count} shapes of each of the seeds {seeds}", header, rows))
    for way in ways:
        share = counts[way]["all"]["one_component"]
        figure = f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%})"
        how = f"{card.count} samples of each of the seeds {seeds}"
        part.rows.append((f"shapes in one piece, {way}", figure, how))
    return part


def quality(card: Card) -> Part:
    """Measure 1-NNA, COV, MMD and novelty against the shapes that nobody trained on."""
    part = Part()
    reference, train = _sets(card)
    results = []
    for seed in card.seeds:
        run = card.draw(seed, card.count)
        record = _measured(run, reference, train, floors=seed == card.seeds[0])
        results.append(record)
        part.figures[str(seed)] = record
    seeds = ", ".join(str(seed) for seed in card.seeds)
    how = f"{results[0]['compared']} shapes a side in the reference's proportions, seeds {seeds}"
    for key, name, unit in (
        ("1-NNA", "1-NNA", "%"),
        ("COV", "COV", "%"),
        ("MMD", "MMD x 1000", ""),
    ):
        values = [record["chamfer"][key]["value"] for record in results]
        factor = 100 if unit else 1000
        each = ", ".join(f"{value * factor:.1f}" for value in values)
        figure = f"{np.mean(values) * factor:.1f}{unit} (by seed {each})"
        floor = results[0].get("floor", {}).get("train_as_generator")
        if floor is not None:
            figure += f"; training shapes: {floor['chamfer'][key]['value'] * factor:.1f}{unit}"
        part.rows.append((f"{name}, Chamfer", figure, how))
    ious = [record["novelty"]["samples"]["mean"]["value"] for record in results]
    unseen = results[0]["novelty"]["reference"]["mean"]["value"]
    copies = sum(record["novelty"]["copies"]["samples"] for record in results)
    part.rows.append(
        (
            "IoU with the nearest training shape",
            f"{np.mean(ious):.2f}, {copies} copies; unseen shapes have {unseen:.2f}",
            how,
        )
    )
    return part


def novelty(card: Card) -> Part:
    """Put samples beside the training shapes that overlap most with them."""
    part = Part()
    _, train = _sets(card)
    training = Training(train.trees)
    seed = card.seeds[0]
    by_seed = {each: card.draw(each, card.grid) for each in card.seeds}
    near = {each: [training.nearest(t) for t in run.trees] for each, run in by_seed.items()}
    ious = np.array([iou for each in near.values() for iou, _ in each])
    all_trees = [tree for run in by_seed.values() for tree in run.trees]
    all_near = [index for each in near.values() for _, index in each]
    part.figures = {
        "count": len(ious),
        "mean": float(ious.mean()),
        "median": float(np.median(ious)),
        "max": float(ious.max()),
        "copies": int((ious >= 1).sum()),
    }
    closest = np.argsort(-ious)[:PAIRS]
    for name, order, what in (
        ("novelty.png", range(min(PAIRS, len(ious))), f"the first {PAIRS} samples of seed {seed}"),
        ("novelty-closest.png", closest, f"the {PAIRS} samples that overlap most, all seeds"),
    ):
        trees = [t for i in order for t in (all_trees[i], train.trees[all_near[i]])]
        card.sheet(name, previews(trees, 96), COLUMNS, scale=1)
        part.pictures[name] = f"{what}, each left of its nearest training shape"
    seeds = ", ".join(str(each) for each in card.seeds)
    part.rows.append(
        (
            "IoU with the nearest training shape, greatest",
            f"{ious.max():.2f}, {part.figures['copies']} copies",
            f"of {len(ious)} samples of the seeds {seeds}",
        )
    )
    return part


def steps(card: Card) -> Part:
    """Measure settings of the sampler, on seeds that are not reported elsewhere."""
    part = Part()
    reference, train = _sets(card)
    table = []
    for setting in card.settings:
        label, figures = setting or "the defaults", []
        passes = 0.0
        for seed in card.setting_seeds:
            run = card.draw(seed, card.setting_count, shlex.split(setting))
            passes = run.passes
            record = _measured(run, reference, train, floors=False)
            pieces_of = connectivity(run.trees)
            figures.append(
                {
                    "one_component": pieces_of["one_component"]["value"],
                    "largest_share": pieces_of["largest_share"]["value"],
                    "iou": record["novelty"]["samples"]["mean"]["value"],
                    **{key: record["chamfer"][key]["value"] for key in ("1-NNA", "COV", "MMD")},
                }
            )
        mean = {key: float(np.mean([each[key] for each in figures])) for key in figures[0]}
        part.figures[label] = {"passes": passes, "by_seed": figures, **mean}
        row = [label, f"{passes:.0f}", f"{mean['one_component']:.0%}"]
        row += [f"{mean['largest_share']:.1%}", f"{mean['1-NNA']:.1%}", f"{mean['COV']:.0%}"]
        table.append([*row, f"{mean['MMD'] * 1000:.1f}", f"{mean['iou']:.2f}"])
    header = ["setting", "passes", "in one piece", "cells in the largest piece"]
    header += ["1-NNA", "COV", "MMD x 1000", "IoU, nearest training shape"]
    seeds = ", ".join(str(seed) for seed in card.setting_seeds)
    title = f"Settings, {card.setting_count} shapes of each of the seeds {seeds}"
    part.tables.append((title, header, table))
    return part


def _sets(card: Card) -> tuple[sets.ShapeSet, sets.ShapeSet]:
    """Read the held-out and the training shapes of the model's classes, at its depth."""
    place, classes = Path(card.data), list(card.model.classes)
    depth = card.model.config.data.max_depth
    assert depth is not None  # a model of octrees has one

    def read(part: str) -> sets.ShapeSet:
        listed = sets.find(place, part)
        whole = sets.read(listed, categories=classes, depth=depth, progress=card.progress)
        cut = [replace(shape, tree=shape.tree.coarser(depth)) for shape in whole.shapes]
        return replace(whole, shapes=tuple(cut))

    present = [part for part in REFERENCE if part in sets.parts_of(place)]
    return sets.joined([read(part) for part in present]), read("train")


def _in_proportion(run: Run, categories: Sequence[str]) -> list[int]:
    """Choose samples in the proportions of ``categories``, as many as the classes' draw allows.

    Of each category the first samples are taken; where there are too few, the set stays smaller.
    """
    left = Counter(categories)
    chosen = []
    for i, name in enumerate(run.classes):
        if left[name] > 0:
            left[name] -= 1
            chosen.append(i)
    return chosen


def _measured(
    run: Run, reference: sets.ShapeSet, train: sets.ShapeSet, *, floors: bool
) -> dict[str, Any]:
    """Compare a run's samples, in the reference's proportions, with the held-out shapes."""
    chosen = _in_proportion(run, reference.categories)
    return measure(
        [run.trees[i] for i in chosen],
        reference.trees,
        train.trees,
        Protocol(floors=floors, workers=1),
        categories=([run.classes[i] for i in chosen], reference.categories),
    )
