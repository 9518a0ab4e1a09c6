"""What a reader of the figures needs: the protocol in words, remarks, a table."""

from __future__ import annotations

import math
from typing import Any

from rich.table import Table

RELIABLE = 100  # shapes a side; below, 1-NNA's standard error is past 3.5 points
CHAMFER_UNIT = 1000.0  # tables of the literature show Chamfer distances times 1000


def protocol_in_words(settings: dict[str, Any]) -> dict[str, str]:
    """Return, by subject, how the figures come about; ``settings`` are a Protocol's fields."""
    points, emd = settings["points"], settings["emd_points"]
    repeats = settings["repeats"]
    words = {
        "points": f"{points} per shape, uniform inside its occupied leaf cells, both sides alike; "
        f"Philox, keyed by (seed {settings['seed']}, CRC-32 of the shape's tokens, side)",
        "normalisation": "the octree's own unit cube [0, 1]^3, both sides alike",
        "chamfer": "mean squared distance to the nearest point, both directions summed",
        "sets": "equal sizes; of the larger side a subset is drawn, keyed in the same way",
        "1-NNA": "leave one out over both sets; ties count by the share of the own kind. "
        "perfect_1-NNA is what a perfect generator has (by_category: if nearest shapes share their "
        "category); below it samples lie nearer to references than these to each other",
        "intervals": "95%. Shares: Wilson's score (1-NNA: two shapes that are each other's nearest "
        "count as one). MMD: normal, variance over references and jackknife over samples. Other "
        "means: bootstrap over shapes (2000 resamples)",
        "point_seeds": f"{repeats}"
        + ("" if repeats == 1 else "; figures and bounds are means over them"),
        "connectivity": "parts of cells that share a face, an edge or a corner",
        "novelty": "greatest IoU of occupied cells with a training shape; 'moved' over mirror "
        "images and quarter turns about y as well",
        "floor": "same_shapes: the reference's distance to itself at other points, both through "
        "the octree; train_as_generator: training shapes in the samples' place",
    }
    if emd:
        words["emd"] = f"exact, mean Euclidean distance, the first {emd} of the points"
    return words


def remarks(record: dict[str, Any]) -> list[str]:
    """Return what weakens the figures."""
    notes = []
    counts, n = record["counts"], record.get("compared")
    if counts["invalid"]:
        notes.append(
            f"{counts['invalid']} samples are not valid octrees and are not measured further"
        )
    if n is None:
        return notes
    for side in ("samples", "reference"):
        if counts[side] > n:
            notes.append(f"{side}: {n} of {counts[side]} were drawn, as the other side has {n}")
    if n < RELIABLE:
        error = 100 * math.sqrt(0.25 / (2 * n))
        notes.append(
            f"{n} shapes a side: 1-NNA's standard error is about {error:.1f} points"
            + (", which makes it meaningless" if error > 7 else "; small differences mean nothing")
        )
    if 0 < counts["train"] < n:
        notes.append(f"{counts['train']} training shapes are too few to compare them as samples")
    return notes


def table(record: dict[str, Any]) -> Table:
    """Return the figures as a table: what the samples reach, and what stands beside it.

    "reference" is what the reference's own shapes have (for MMD: to themselves, at other points),
    "training" what training shapes reach in the samples' place.
    """
    rows = Table(box=None, pad_edge=False, caption_justify="left")
    rows.add_column("")
    for name in ("samples", "95% interval", "reference", "training"):
        rows.add_column(name, justify="right")
    rows.add_row("valid", *_percent(record["validity"]))
    samples, reference = (record["connectivity"][side] for side in ("samples", "reference"))
    for name, title in (("largest_share", "in largest part"), ("one_component", "in one part")):
        rows.add_row(title, *_percent(samples[name]), f"{100 * reference[name]['value']:.1f}%")
    if "novelty" in record:
        _novelty(rows, record["novelty"])
    for kind in ("chamfer", "emd"):
        if kind in record:
            _distances(rows, record, kind)
    if "chamfer" in record:
        perfect = record["perfect_1-NNA"]
        words = f"1-NNA of a perfect generator: {100 * perfect['all']:.1f}%"
        if "by_category" in perfect:
            words += f", {100 * perfect['by_category']:.1f}% if neighbors share their category"
        rows.caption = f"{words}.\nMMD of the reference: to itself, at other points."
    return rows


def _novelty(rows: Table, novelty: dict[str, Any]) -> None:
    samples, reference, moved_reference = (
        novelty[name] for name in ("samples", "reference", "moved")
    )
    for name, of in (("IoU with training", samples), ("  mirrored, turned", moved_reference)):
        reference_value = f"{reference['mean']['value']:.3f}" if of is samples else ""
        value = f"{of['mean']['value']:.3f}"
        rows.add_row(name, value, _interval(of["mean"], 1.0, 3), reference_value)
    rows.add_row("  greatest", f"{samples['max']:.3f}", "", f"{reference['max']:.3f}")
    rows.add_row("  below the median", *_percent(novelty["share_below_reference_median"]), "50.0%")
    copies = novelty["copies"]
    rows.add_row("  copies", str(copies["moved"]), "", str(copies["reference"]))


def _distances(rows: Table, record: dict[str, Any], kind: str) -> None:
    figures, floor = record[kind], record.get("floor", {})
    train = floor.get("train_as_generator", {}).get(kind)
    for name in ("1-NNA", "COV"):
        train_value = f"{100 * train[name]['value']:.1f}%" if train else ""
        rows.add_row(f"{name} {kind}", *_percent(figures[name]), "", train_value)
    scale, digits = (CHAMFER_UNIT, 3) if kind == "chamfer" else (1.0, 4)
    same = floor.get("same_shapes", {}).get(kind)
    rows.add_row(
        f"MMD {kind}" + (" x1000" if scale != 1.0 else ""),
        f"{scale * figures['MMD']['value']:.{digits}f}",
        _interval(figures["MMD"], scale, digits),
        "" if same is None else f"{scale * same:.{digits}f}",
        f"{scale * train['MMD']['value']:.{digits}f}" if train else "",
    )


def _percent(figure: dict[str, float]) -> tuple[str, str]:
    return f"{100 * figure['value']:.1f}%", _interval(figure, 100.0, 1)


def _interval(figure: dict[str, float], scale: float, digits: int) -> str:
    low, high = (f"{scale * figure[end]:.{digits}f}" for end in ("low", "high"))
    return f"{low} to {high}"
