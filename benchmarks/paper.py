"""``python -m benchmarks paper``: the table of the DDIM paper, measured beside its figures.

FID by steps and eta (arXiv 2010.02502, table 1): CIFAR-10 on quadratic timesteps, CelebA on
uniform ones; "sigma-hat" is DDPM with the large variance. Samples are drawn batch by batch and
never kept; every finished cell is in the file, so that the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ddimx
from ddimx.device import choose_device, forbid_tf32
from ddimx.errors import UsageError
from ddimx.evaluation.fid.compare import compare, statistics_of
from ddimx.evaluation.fid.features import Features, inception
from ddimx.evaluation.fid.frechet import Accumulator, Statistics
from ddimx.files import write_json
from ddimx.pixels import to_bytes
from ddimx.progress import Progress

STEPS = (10, 20, 50, 100, 1000)
NOISES = ("0", "0.2", "0.5", "1", "sigma-hat")
COUNT = 50_000


@dataclass(frozen=True)
class Table:
    """One data set of the paper: its timesteps and its FID by eta (rows) and ``STEPS``."""

    spacing: str
    fid: dict[str, tuple[float, ...]]


TABLES = {
    "cifar10": Table(
        "quad",
        {
            "0": (13.36, 6.84, 4.67, 4.16, 4.04),
            "0.2": (14.04, 7.11, 4.77, 4.25, 4.09),
            "0.5": (16.66, 8.35, 5.25, 4.46, 4.29),
            "1": (41.07, 18.36, 8.01, 5.78, 4.73),
            "sigma-hat": (367.43, 133.37, 32.72, 9.99, 3.17),
        },
    ),
    "celeba": Table(
        "ddim",
        {
            "0": (17.33, 13.73, 9.17, 6.53, 3.51),
            "0.2": (17.66, 14.11, 9.51, 6.79, 3.64),
            "0.5": (19.86, 16.06, 11.01, 8.09, 4.28),
            "1": (33.12, 26.03, 18.48, 13.93, 5.98),
            "sigma-hat": (299.71, 183.83, 71.71, 45.20, 3.26),
        },
    ),
}
OTHER = Table("ddim", {})  # a model that the paper does not have


def main(words: Sequence[str]) -> int:
    """Fill the table and print it; return the exit code."""
    asked = _parser().parse_args(words)
    with Progress() as progress:
        device = choose_device(asked.device)
        forbid_tf32()
        features = inception(asked.features, device, offline=asked.offline, progress=progress)
        record = fill(asked, features, progress)
    print(json.dumps(record, indent=2) if asked.json else text(record))
    return 0


def fill(asked: argparse.Namespace, features: Features, progress: Progress) -> dict[str, Any]:
    """Measure the cells that are not in ``asked.out`` yet and return the record.

    Raises:
        UsageError: ``asked.out`` was made with something else.
    """
    model = ddimx.load_model(asked.model, device=asked.device, dtype=asked.dtype)
    table = TABLES.get(asked.model, OTHER)
    reference = statistics_of(asked.reference, features, asked.batch_size, progress)
    facts = {
        "ddimx": ddimx.__version__,
        "model": model.name,
        "model_sha256": model.sha256,
        "device": str(model.device),
        "dtype": model.precision.name,
        "spacing": asked.spacing or table.spacing,
        "count": asked.count,
        "seed": asked.seed,
        "reference": {"count": reference.count, **reference.about},
        "features": features.about,
    }
    cells = _begun(asked.out, facts)
    for noise in asked.noise:
        for steps in asked.steps:
            name = f"{noise} {steps}"
            if name in cells:
                continue
            begun = time.perf_counter()
            drawn = _drawn(model, facts, noise, steps, asked.batch_size, features, progress)
            cells[name] = {
                "fid": compare(drawn, reference)["fid"],
                "paper": _paper(table, noise, steps),
                "seconds": round(time.perf_counter() - begun, 1),
            }
            progress.say(f"eta {noise}, {steps} steps: FID {cells[name]['fid']:.2f}")
            write_json(asked.out, {**facts, "cells": cells})
    return {**facts, "cells": cells}


def text(record: dict[str, Any]) -> str:
    """Return the table as Markdown: our figure, and in brackets the paper's."""
    cells = record["cells"]
    noises = list(dict.fromkeys(name.split()[0] for name in cells))
    steps = sorted({int(name.split()[1]) for name in cells})
    lines = [
        f"FID of {record['count']} samples of {record['model']}, timesteps "
        f"'{record['spacing']}', against {record['reference']['count']} images",
        "",
        "| eta | " + " | ".join(str(s) for s in steps) + " |",
        "|---|" + "---|" * len(steps),
    ]
    for noise in noises:
        row = [_cell(cells.get(f"{noise} {s}")) for s in steps]
        lines.append(f"| {noise} | " + " | ".join(row) + " |")
    if any(cell["paper"] is not None for cell in cells.values()):
        lines += ["", "In brackets: arXiv 2010.02502, table 1 (50,000 samples)."]
    return "\n".join(lines)


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    return f"{cell['fid']:.2f}" + (f" ({cell['paper']:.2f})" if cell["paper"] else "")


def _drawn(
    model: ddimx.Model,
    facts: dict[str, Any],
    noise: str,
    steps: int,
    batch_size: int,
    features: Features,
    progress: Progress,
) -> Statistics:
    """Draw a cell's samples and return the statistics of their features."""
    options: dict[str, Any] = {"solver": "ddpm", "variance": "large"}
    if noise != "sigma-hat":
        options = {"solver": "ddim", "eta": float(noise), "clip": "none"}
    options |= {"steps": steps, "spacing": facts["spacing"], "guidance": 1.0, "seed": facts["seed"]}
    total, count = Accumulator(), facts["count"]
    progress.start(f"eta {noise}, {steps} steps", count)
    for first in range(0, count, batch_size):
        size = min(batch_size, count - first)
        x = ddimx.sample(model, count=size, start_index=first, batch_size=size, **options)
        pixels = to_bytes(x, model.config.data).permute(0, 3, 1, 2).contiguous()
        total.add(features(pixels).numpy())
        progress.advance(size)
    progress.stop()
    return total.statistics({"images": model.name, **features.about})


def _paper(table: Table, noise: str, steps: int) -> float | None:
    row = table.fid.get(noise)
    return row[STEPS.index(steps)] if row is not None and steps in STEPS else None


def _begun(out: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the cells that ``out`` holds already."""
    if not out.is_file():
        return {}
    before = json.loads(out.read_text(encoding="utf-8"))
    cells: dict[str, Any] = before.pop("cells", {})
    other = [name for name in facts if before.get(name) != facts[name]]
    if other:
        raise UsageError(f"{out} was made with another {', '.join(other)}; choose another --out")
    return cells


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks paper", description=__doc__)
    parser.add_argument("--model", default="cifar10", help="cifar10, celeba or any other")
    parser.add_argument("--reference", required=True, help="as of 'ddimx evaluate fid'")
    parser.add_argument("--features", type=Path, help="InceptionV3's file (default: downloaded)")
    parser.add_argument("--out", type=Path, default=Path("paper.json"), help="where cells are kept")
    parser.add_argument("--steps", type=_list(_count), default=STEPS, metavar="S,S,...")
    parser.add_argument("--noise", type=_list(_noise), default=NOISES, metavar="ETA,...,sigma-hat")
    parser.add_argument("--count", type=_count, default=COUNT)
    parser.add_argument("--spacing", choices=("ddim", "quad", "linspace", "trailing", "leading"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=_count, default=100)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--offline", action="store_true", help="refuse to download")
    parser.add_argument("--json", action="store_true", help="the record instead of the table")
    return parser


def _list(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda words: [one(word) for word in words.split(",")]


def _count(word: str) -> int:
    if int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word} is not positive")
    return int(word)


def _noise(word: str) -> str:
    if word not in NOISES and not 0 <= float(word) <= 1:
        raise argparse.ArgumentTypeError(f"{word} is neither in [0, 1] nor sigma-hat")
    return word
