"""The parts of a model of images: novelty, the Fréchet distance, two settings, many settings."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ddimx.evaluation.fid import features as networks
from ddimx.evaluation.fid.compare import compare
from ddimx.evaluation.fid.frechet import (
    Accumulator,
    Statistics,
    read_statistics,
    write_statistics,
)
from ddimx.evaluation.fid.images import Images
from ddimx.evaluation.neighbors import Neighbors, neighbors, side_by_side

from .drawing import Card, Part, Pictures, Run

BATCH = 8  # images whose features are computed together
PAIRS = 16  # samples beside their nearest training images
HEADER = ["", "training images", "held-out images", "kernel, training", "kernel, held-out"]


def novelty(card: Card) -> Part:
    """Find the nearest training image of every sample of the grids."""
    part = Part()
    near = []
    for seed in card.seeds:
        run = card.draw(seed, card.grid)
        neighborhood = _nearest(card, run.pixels)
        near.append((seed, run, neighborhood))
        part.figures[str(seed)] = _neighbor_figures(neighborhood)
    shares = ", ".join(f"{neighborhood.share_beyond:.0%}" for _, _, neighborhood in near)
    seeds = ", ".join(str(seed) for seed in card.seeds)
    how = f"of {card.grid} samples of each of the seeds {seeds}"
    median = float(
        np.median(np.concatenate([neighborhood.distances for _, _, neighborhood in near]))
    )
    part.rows = [
        ("samples farther from the training set than the median held-out image", shares, how),
        ("median distance of samples to the nearest training image", f"{median:.3f} RMS", how),
        ("the same of held-out images", f"{near[0][2].held_out_median:.3f} RMS", "all of them"),
    ]
    seed, run, neighborhood = near[0]
    scale = max(1, 64 // run.pixels.shape[1])
    first = side_by_side(run.pixels, neighborhood)[: 2 * PAIRS]
    name = card.sheet("novelty.png", first, scale=scale)
    part.pictures[name] = f"the first {PAIRS} samples of seed {seed}, each left of its nearest"
    pixels, nearest, distances = (
        np.concatenate(each)
        for each in zip(*((r.pixels, n.nearest, n.distances) for _, r, n in near), strict=True)
    )
    order = np.argsort(distances)[:PAIRS]
    closest = Neighbors(distances[order], nearest[order], neighborhood.held_out_median)
    name = card.sheet("novelty-closest.png", side_by_side(pixels[order], closest), scale=scale)
    part.pictures[name] = f"the {PAIRS} samples of all seeds that are nearest to a training image"
    return part


def distance(card: Card) -> Part:
    """Take the Fréchet distance of the default's samples to both parts of the data."""
    part = Part()
    measure = _Measure(card)
    runs = [card.draw(seed, card.count) for seed in card.seeds]
    ours = _joined(runs)
    equal = measure.training_like([name for run in runs for name in run.classes])
    sets = {"samples": ours, "training images drawn like them": equal}
    table = []
    for label, pixels in sets.items():
        figures = measure.figures(pixels)
        part.figures[label] = figures
        table.append([f"{len(pixels)} {label}", *_cells(figures)])
    seeds = ", ".join(str(seed) for seed in card.seeds)
    part.figures["network"] = measure.network.about
    title = f"Fréchet distance on features of {networks.LITE} (no FID), seeds {seeds}"
    part.tables.append((title, HEADER, table))
    for split in ("train", "held-out"):
        value, perfect = (part.figures[label][split]["frechet_distance"] for label in sets)
        part.rows.append(
            (
                f"Fréchet distance of {len(ours)} samples to the {split} images (no FID)",
                f"{value:.1f}; training images in the model's place: {perfect:.1f}",
                f"features of {networks.LITE}, seeds {seeds}",
            )
        )
    return part


def paired(card: Card) -> Part:
    """Hold the defaults against another setting, sample by sample from the same x_T."""
    part = Part()
    measure = _Measure(card)
    table, drawn = [], []
    for words in ((), card.against):
        runs = [card.draw(seed, card.count, words) for seed in card.seeds]
        drawn.append(runs)
        label = shlex.join(words) or "the defaults"
        figures = _setting(card, measure, runs)
        part.figures[label] = figures
        table.append(_row(label, figures))
    pairs = zip(_joined(drawn[0]), _joined(drawn[1]), strict=True)
    rms = [float(np.sqrt(np.mean((a / 255.0 - b / 255.0) ** 2))) for a, b in pairs]
    part.figures["median_rms_between_pairs"] = float(np.median(rms))
    seeds = ", ".join(str(seed) for seed in card.seeds)
    title = f"{len(rms)} samples each of the seeds {seeds}, from the same x_T"
    part.tables.append((title, _setting_header(), table))
    for seed, a, b in zip(card.seeds, *drawn, strict=True):
        both = np.stack([a.pixels, b.pixels], axis=1)[: 2 * PAIRS].reshape(-1, *a.pixels.shape[1:])
        scale = max(1, 64 // both.shape[1])
        name = card.sheet(f"paired-seed-{seed}.png", both, scale=scale)
        what = f"left the defaults, right {shlex.join(card.against)}"
        part.pictures[name] = f"the first {2 * PAIRS} samples of seed {seed}: {what}"
    return part


def steps(card: Card) -> Part:
    """Measure settings of the sampler, on seeds that are not reported elsewhere."""
    part = Part()
    measure = _Measure(card)
    table = []
    for setting in card.settings:
        words = shlex.split(setting)
        runs = [card.draw(seed, card.setting_count, words) for seed in card.setting_seeds]
        label = setting or "the defaults"
        part.figures[label] = _setting(card, measure, runs)
        table.append(_row(label, part.figures[label]))
    seeds = ", ".join(str(seed) for seed in card.setting_seeds)
    count = card.setting_count * len(card.setting_seeds)
    part.tables.append(
        (f"Settings, {count} samples each of the seeds {seeds}", _setting_header(), table)
    )
    return part


class _Measure:
    """The feature network, and both parts of the data under it."""

    def __init__(self, card: Card) -> None:
        self.network = networks.EfficientNetLite(card.model.device)
        self.progress = card.progress
        self.parts = {split: card.images(split) for split in ("train", "held-out")}
        self.references = {}
        for split, images in self.parts.items():
            digest = images.source.fingerprint[:12]
            path = card.out / "runs" / f"features-{split}-{digest}.npz"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_statistics(path, self.statistics(_all(images), f"the {split} images"))
            self.references[split] = read_statistics(path)

    def statistics(self, pixels: Pictures, label: str) -> Statistics:
        """Return the statistics of images, uint8 [N, H, W, 3]."""
        self.progress.start(f"features of {label}", len(pixels))
        batches = []
        for first in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(pixels[first : first + BATCH]).permute(0, 3, 1, 2)
            batches.append(self.network(batch.contiguous()).numpy())
            self.progress.advance(len(batch))
        self.progress.stop()
        features: npt.NDArray[np.float32] = np.concatenate(batches).astype(np.float32)
        total = Accumulator()
        total.add(features)
        return replace(total.statistics({"images": label, **self.network.about}), features=features)

    def figures(self, pixels: Pictures) -> dict[str, Any]:
        """Compare images with both parts of the data."""
        ours = self.statistics(pixels, f"{len(pixels)} images")
        kept = ("frechet_distance", "kernel_distance", "precision", "recall")
        figures: dict[str, Any] = {"count": len(pixels)}
        for split, reference in self.references.items():
            record = compare(ours, reference)
            figures[split] = {key: record[key] for key in kept if key in record}
            figures[split]["count"] = reference.count
        return figures

    def training_like(self, classes: Sequence[str]) -> Pictures:
        """Draw a training image of each class, every family of the class as likely as another.

        This is what a model would draw that knows the training images and nothing else.
        """
        source = self.parts["train"].source
        random = np.random.default_rng(0)
        labels = np.zeros(len(source), np.int64) if source.labels is None else source.labels
        families = np.arange(len(source)) if source.families is None else source.families
        names = list(source.classes)
        chosen = []
        for name in classes:
            members = np.arange(len(source))
            if name in names:
                members = np.flatnonzero(labels == names.index(name))
            family = random.choice(np.unique(families[members]))
            chosen.append(random.choice(members[families[members] == family]))
        return self.parts["train"].read(chosen)


def _setting(card: Card, measure: _Measure, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the figures of one setting's samples."""
    pixels = _joined(runs)
    near = _neighbor_figures(_nearest(card, pixels))
    return {"passes": runs[0].passes, "novelty": near, **measure.figures(pixels)}


def _setting_header() -> list[str]:
    return ["setting", "passes", *HEADER[1:], "precision", "recall", "beyond held-out"]


def _row(label: str, figures: dict[str, Any]) -> list[str]:
    train = figures["train"]
    shares = [f"{train.get(key, float('nan')):.2f}" for key in ("precision", "recall")]
    beyond = f"{figures['novelty']['share_beyond_held_out_median']:.0%}"
    return [label, f"{figures['passes']:.0f}", *_cells(figures), *shares, beyond]


def _cells(figures: dict[str, Any]) -> list[str]:
    splits = [figures[split] for split in ("train", "held-out")]
    distances = [f"{split['frechet_distance']:.1f}" for split in splits]
    return distances + [f"{split['kernel_distance']['mean']:.4f}" for split in splits]


def _nearest(card: Card, pixels: Pictures) -> Neighbors:
    train, held_out = (card.images(split).source for split in ("train", "held-out"))
    return neighbors(pixels, train, held_out, mirrored=card.model.config.data.random_flip)


def _neighbor_figures(near: Neighbors) -> dict[str, Any]:
    return {
        "count": len(near.distances),
        "share_beyond_held_out_median": near.share_beyond,
        "held_out_median": near.held_out_median,
        "median": float(np.median(near.distances)),
        "least": float(near.distances.min()),
    }


def _joined(runs: Sequence[Run]) -> Pictures:
    return np.concatenate([run.pixels for run in runs])


def _all(images: Images) -> Pictures:
    return images.read(range(len(images)))
