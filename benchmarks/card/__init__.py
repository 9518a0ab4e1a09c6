"""``python -m benchmarks card MODEL``: everything that a model card shows, by a user's commands.

It draws samples with ``ddimx sample``, measures them, and writes into one folder ``figures.json``,
PNG pictures and ``card.md``, a Markdown fragment. Each part can run alone (``--only
grids,novelty``); the others' figures stay. Samples are runs in ``OUT/runs``: the same command again
goes on where it was stopped.

What is reported is of the seeds 7 to 10, unselected. Settings are chosen on seeds from 20 on: the
part ``steps``, which compares settings, refuses smaller ones.

``--only judge`` writes a numbered contact sheet for each seed, without the classes' names, and the
classes in a JSON file beside it: a person writes down what the pictures show, and looks then.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddimx.device import choose_device
from ddimx.errors import UsageError, unknown
from ddimx.files import write_bytes, write_json
from ddimx.progress import Progress
from ddimx.untrusted.text import read_object

from .. import machine
from . import images, shapes
from .drawing import Card, Part, facts, grids, judge, likelihood
from .markdown import fragment

__all__ = ["main"]

SEEDS = (7, 8, 9, 10)  # of what is reported
CHOOSING = 20  # the least seed on which settings are chosen

BOTH: dict[str, Callable[[Card], Part]] = {"grids": grids, "loss": likelihood, "judge": judge}
OF_IMAGES = BOTH | {
    "novelty": images.novelty,
    "distance": images.distance,
    "paired": images.paired,
    "steps": images.steps,
}
OF_SHAPES = BOTH | {
    "pieces": shapes.pieces,
    "quality": shapes.quality,
    "novelty": shapes.novelty,
    "steps": shapes.steps,
}
# Settings that "steps" compares where none are named.
IMAGE_SETTINGS = (
    "",
    "--solver unipc:2 --steps 10",
    "--solver unipc:2 --steps 15",
    "--solver dpm++:2 --steps 15",
    "--eta 0 --steps 50",
    "--eta 1 --steps 50 --guidance 2",
)
SHAPE_SETTINGS = (
    "",
    "--steps 2",
    "--steps 8",
    "--transition absorbing --routing confidence",
    "--temperature 1",
)


def main(words: Sequence[str]) -> int:
    """Make the parts that were named, all by default, and the fragment; return the exit code."""
    args = _parser().parse_args(words)
    with Progress(quiet=args.quiet) as progress:
        card = Card.of(args, progress)
        is_shapes = card.model.process.draws == "octrees"
        makers = OF_SHAPES if is_shapes else OF_IMAGES
        names = list(makers) if args.only is None else args.only.split(",")
        for name in names:
            if name not in makers:
                raise unknown("--only", name, list(makers))
        if "steps" in names and min(card.setting_seeds) < CHOOSING:
            raise UsageError(
                f"--setting-seeds {min(card.setting_seeds)}: settings are chosen on seeds from "
                f"{CHOOSING} on, so that the reported seeds say something new"
            )
        if not card.settings:
            card.settings = SHAPE_SETTINGS if is_shapes else IMAGE_SETTINGS
        card.out.mkdir(parents=True, exist_ok=True)
        path = card.out / "figures.json"
        record: dict[str, Any] = read_object(path) if path.is_file() else {}
        parts = record.get("parts", {})
        if record.get("model", {}).get("sha256", card.model.sha256) != card.model.sha256:
            raise UsageError(f"{card.out} holds the figures of another model; choose another --out")
        for name in names:
            progress.say(f"{name}:")
            part = makers[name](card)
            command = machine.describe(choose_device(args.device), ["card", *words])
            parts[name] = part.to_json() | {"machine": command}
            parts = {each: parts[each] for each in makers if each in parts}  # in the card's order
            record = {"model": facts(card), "parts": parts}
            write_json(path, record)
            write_bytes(card.out / "card.md", fragment(record).encode())
        progress.say(f"{card.out}: figures.json, card.md and their pictures")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks card", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("model", help="emoji, furniture, or a model's file or run")
    parser.add_argument("--data", help="the prepared set (default: the model's own data.root)")
    parser.add_argument("--out", type=Path, help="default: card-MODEL")
    parser.add_argument("--only", metavar="PART,...", help="these parts (default: all)")
    parser.add_argument("--seeds", type=_numbers, default=SEEDS, metavar="S,S,...")
    parser.add_argument(
        "--grid", type=int, metavar="N", help="samples of a grid (default: 64, shapes 32)"
    )
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="samples of each seed that are measured (default: 500, shapes 80)",
    )
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="'WORDS'",
        help="options of 'ddimx sample' that the part steps measures; repeatable, '' is none",
    )
    parser.add_argument("--setting-seeds", type=_numbers, default=(20, 21), metavar="S,S,...")
    parser.add_argument(
        "--setting-count", type=int, metavar="N", help="default: 250 of each seed, shapes 80"
    )
    parser.add_argument(
        "--against",
        type=shlex.split,
        default=["--solver", "ddim", "--eta", "0", "--steps", "100"],
        metavar="'WORDS'",
        help="what the part paired holds the defaults against (default: %(default)s)",
    )
    parser.add_argument(
        "--examples", type=int, default=64, help="of the bounds of the part loss (default: 64)"
    )
    parser.add_argument(
        "--log", type=Path, help="log.jsonl of the training run, for its last held-out loss"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quiet", "-q", action="store_true")
    return parser


def _numbers(words: str) -> tuple[int, ...]:
    return tuple(int(word) for word in words.split(","))
