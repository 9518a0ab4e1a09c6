"""What the parts of both kinds of models share: samples as runs, pictures, what a part gives."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

import ddimx
from ddimx.evaluation.fid.images import Images, open_images
from ddimx.evaluation.shapes import sets
from ddimx.files import whole_file, write_json
from ddimx.progress import Progress
from ddimx.untrusted.text import read_object

Pictures = npt.NDArray[np.uint8]

GAP = 2  # pixels between the pictures of a sheet
COLUMNS = 8
PREVIEW = 128  # pixels of a shape's picture on a grid; to judge it, as large as it is drawn


@dataclass
class Part:
    """What a part of the card says.

    Attributes:
        figures: JSON values, everything that was measured.
        rows: (what, figure, how) for the card's table.
        tables: further tables: a title, a header, rows of text.
        pictures: file names and what they show.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return asdict(self)


@dataclass
class Run:
    """Samples of one seed.

    Attributes:
        command: the command that draws them.
        pixels: uint8 [N, H, W, 3]; of shapes none.
        trees: octrees; of images none.
        classes: one name for each sample, "" where it has none.
        passes: how often the network sees a sample.
    """

    command: str
    pixels: Pictures
    trees: list[ddimx.Octree]
    classes: list[str]
    passes: float

    @cached_property
    def pictures(self) -> Pictures:
        """The images, or the octrees as the previews of 'ddimx sample', uint8 [N, H, W, 3]."""
        return previews(self.trees, None) if self.trees else self.pixels


@dataclass
class Card:
    """The model, where its data are, and what is drawn of it."""

    name: str
    model: ddimx.Model
    data: str
    out: Path
    seeds: Sequence[int]
    grid: int
    count: int
    settings: Sequence[str]
    setting_seeds: Sequence[int]
    setting_count: int
    against: Sequence[str]
    examples: int
    log: Path | None
    device: str
    progress: Progress
    parts: dict[str, Images] = field(default_factory=dict)
    runs: dict[Path, Run] = field(default_factory=dict)

    @classmethod
    def of(cls, args: argparse.Namespace, progress: Progress) -> Card:
        """Load the model and fill in what depends on its kind."""
        model = ddimx.load_model(args.model, device=args.device)
        is_shapes = model.process.draws == "octrees"
        label = re.sub(r"\W+", "-", Path(args.model).stem)
        return cls(
            name=args.model,
            model=model,
            data=args.data or model.config.data.root or "",
            out=args.out or Path(f"card-{label}"),
            seeds=args.seeds,
            grid=args.grid or (32 if is_shapes else 64),
            count=args.count or (80 if is_shapes else 500),
            settings=args.setting,
            setting_seeds=args.setting_seeds,
            setting_count=args.setting_count or (80 if is_shapes else 250),
            against=args.against,
            examples=args.examples,
            log=args.log,
            device=args.device,
            progress=progress,
        )

    @property
    def is_shapes(self) -> bool:
        """Whether the model draws octrees."""
        return bool(self.model.process.draws == "octrees")

    def draw(self, seed: int, count: int, words: Sequence[str] = ()) -> Run:
        """Draw samples as 'ddimx sample' does, into a run of ``OUT/runs``, or read them there."""
        label = "-".join(re.findall(r"[\w.:]+", " ".join(words))) or "default"
        folder = self.out / "runs" / f"{label.replace(':', '-')}-n-{count}-seed-{seed}"
        if folder in self.runs:
            return self.runs[folder]
        shown = ["ddimx", "sample", "--model", self.name, "-n", str(count), "--seed", str(seed)]
        # Thousands of pictures are kept as one array.
        kind = [] if self.is_shapes or count <= 64 else ["--format", "npz"]
        command = [*shown[1:], *words, *kind, "--out", str(folder), "--device", self.device]
        self.run(command)
        record = read_object(folder / "manifest.json")
        classes = record.get("samples", {}).get("class") or [""] * count
        run = Run(
            shlex.join([*shown, *words]),
            np.zeros((0, 1, 1, 3), dtype=np.uint8),
            [],
            [str(name or "") for name in classes],
            float(record["forward_passes_per_sample"]),
        )
        if self.is_shapes:
            run.trees = sets.read(sets.find(folder)).trees
        else:
            images = open_images(str(folder))
            run.pixels = images.read(range(len(images)))
        self.runs[folder] = run
        return run

    def images(self, split: str) -> Images:
        """Return a part of the data: "train" or "held-out"."""
        if split not in self.parts:
            self.parts[split] = open_images(self.data, split=split)
        return self.parts[split]

    def run(self, words: Sequence[str]) -> None:
        """Run ``ddimx WORDS`` in this process, without its results on stdout.

        Raises:
            DdimxError: as the command does.
        """
        from ddimx.cli.app import app

        app([*words, "-q"], standalone_mode=False)

    def sheet(self, name: str, pictures: Pictures, columns: int = COLUMNS, **how: Any) -> str:
        """Write a sheet of pictures as PNG; return its name."""
        with whole_file(self.out / name) as part:
            Image.fromarray(sheet(pictures, columns, **how)).save(part, "PNG", optimize=True)
        return name


def sheet(pictures: Pictures, columns: int, *, scale: int = 2, numbers: bool = False) -> Pictures:
    """Lay pictures out in rows on white, enlarged by nearest neighbor.

    Args:
        pictures: uint8 [N, H, W, 3].
        scale: a whole factor.
        numbers: write 1, 2, ... above them.

    Returns:
        uint8 [H', W', 3].
    """
    count, height, width, _ = pictures.shape
    head = 14 if numbers else 0
    rows = -(-count // columns)
    cell_h, cell_w = height * scale + GAP + head, width * scale + GAP
    image = Image.new("RGB", (columns * cell_w + GAP, rows * cell_h + GAP), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for i, picture in enumerate(pictures):
        left, top = i % columns * cell_w + GAP, i // columns * cell_h + GAP
        if numbers:
            draw.text((left, top), str(i + 1), fill="black", font=font)
        large = picture.repeat(scale, axis=0).repeat(scale, axis=1)
        image.paste(Image.fromarray(large), (left, top + head))
    return np.array(image)


def previews(trees: Sequence[ddimx.Octree], size: int | None) -> Pictures:
    """Draw octrees as the previews of 'ddimx sample' are, uint8 [N, H, W, 3], H and W ``size``."""
    drawn = np.stack([np.asarray(image.convert("RGB")) for image in ddimx.to_pil(list(trees))])
    return drawn if size is None else resized(drawn, size)


def resized(pictures: Pictures, size: int) -> Pictures:
    """Scale pictures to uint8 [N, size, size, 3], smoothly."""
    how = Image.Resampling.LANCZOS
    images = [Image.fromarray(picture).resize((size, size), how) for picture in pictures]
    return np.stack([np.asarray(image) for image in images])


def grids(card: Card) -> Part:
    """Draw the default command's samples of each seed, all of them, in their order."""
    part = Part()
    for seed in card.seeds:
        run = card.draw(seed, card.grid)
        pictures = resized(run.pictures, PREVIEW) if card.is_shapes else run.pictures
        scale = 1 if card.is_shapes else max(1, 96 // pictures.shape[1])
        name = card.sheet(f"grid-seed-{seed}.png", pictures, scale=scale)
        part.pictures[name] = f"`{run.command}`, all of them"
        part.figures[str(seed)] = {"command": run.command, "classes": dict(Counter(run.classes))}
    return part


def judge(card: Card) -> Part:
    """Write numbered sheets without the classes' names, and the classes in a file for later."""
    part = Part()
    for seed in card.seeds:
        run = card.draw(seed, card.grid)
        pictures = run.pictures
        side = pictures.shape[1]
        scale = 1 if card.is_shapes else 3 if side < 64 else 2
        name = card.sheet(f"judge-seed-{seed}.png", pictures, scale=scale, numbers=True)
        part.pictures[name] = "to be judged before the classes are looked at"
        classes = {str(i): name for i, name in enumerate(run.classes, start=1)}
        answers = {"command": run.command, "sheet": name, "classes": classes}
        write_json(card.out / f"judge-seed-{seed}.json", answers)
    return part


def likelihood(card: Card) -> Part:
    """Report the losses that the training printed, and the bounds of both parts of the data."""
    part = Part()
    stated = {k: v for k, v in card.model.info.items() if "loss" in k or "validation" in k}
    where = "the weights' header"
    if card.log is not None:
        lines = [json.loads(line) for line in card.log.read_text(encoding="utf-8").splitlines()]
        validations = [line for line in lines if "validation_train" in line]
        stated, where = validations[-1] if validations else {}, "the training's log"
    for key, value in stated.items():
        if key not in ("step", "seconds"):
            words = key.replace("validation_", "loss, ").replace("_", " ")
            step = f" at step {stated['step']}" if "step" in stated else ""
            part.rows.append((words, f"{value:.4g}", f"{where}{step}"))
    part.figures["training"] = stated
    for split in ("train", "held-out"):
        folder = card.out / f"nll-{split}"
        verb = ["evaluate", "nll", "--model", card.name, "--data", card.data, "--split", split]
        verb += ["--count", str(card.examples)]
        verb += ["--terms", "16"] if card.is_shapes else ["--flow-steps", "0"]
        shown = shlex.join(["ddimx", *verb])
        card.run([*verb, "--device", card.device, "--out", str(folder), "--overwrite"])
        record = read_object(folder / "nll.json")
        part.figures[split] = {"command": shown, **record}
        if card.is_shapes:
            bounds = {"nats per shape": record["bound"]["nats"]}
        else:
            bounds = {"bits per dimension": record["bits_per_dimension"]["bound"]}
        for unit, bound in bounds.items():
            figure = f"{bound['mean']:.4g} +- {bound['standard_error']:.2g} {unit}"
            part.rows.append((f"bound, {split}", figure, f"`{shown}`"))
    return part


def facts(card: Card) -> dict[str, Any]:
    """Return what the model is and how it was trained, as its file says."""
    info = card.model.info
    keys = ("command", "data_sha256", "device", "hours", "images_seen", "shapes_seen", "step")
    parameters = sum(p.numel() for p in card.model.network.parameters())
    return {
        "name": card.name,
        "sha256": card.model.sha256,
        "parameters": parameters,
        "dtype": card.model.precision.name,
        **{key: info[key] for key in keys if key in info},
    }
