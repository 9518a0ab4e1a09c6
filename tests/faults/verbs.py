"""Every verb that writes, as one small command, and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ddimx.config import Config
from ddimx.config_file import dump_yaml, override
from tests.data.images.official import encoded, smooth
from tests.data.shapes.meshes import npz, obj
from tests.data.shapes.prepared import chair, write_set
from tests.models.octree.small import octree_config, write_model
from tests.recipes.emoji.test_font import save_tiny_font
from tests.recipes.emoji.test_names import EMOJI_TEST

IMAGES = ["-m", "{in}/tiny.safetensors", "--device", "cpu", "--steps", "2"]
SHAPES = ["-m", "{in}/shapes.safetensors", "--device", "cpu", "--steps", "1"]
MEASURE = ["-m", "{in}/tiny.safetensors", "--device", "cpu", "--out", "out"]

ONE = ["--workers", "1"]

# "{in}" is the folder that write_inputs filled; a command runs in an empty folder of its own.
VERBS: dict[str, list[str]] = {
    "train": ["train", "-c", "{in}/tiny.yml", "--device", "cpu", "-o", "run"],
    "sample": ["sample", *IMAGES, "-n", "3", "--batch-size", "2", "-o", "run"],
    "sample npz": ["sample", *IMAGES, "-n", "3", "--batch-size", "2", "--format", "npz", "-o", "r"],
    # The only shard of two that owns a sample, and so the one that ends the run.
    "sample --shard": ["sample", *IMAGES, "-n", "1", "--shard", "2/2", "-o", "run"],
    "sample --shard npz": [
        *("sample", *IMAGES, "-n", "1", "--shard", "2/2", "--format", "npz", "-o", "run"),
    ],
    "sample --profile": ["sample", *IMAGES, "-n", "2", "--profile", "-o", "run"],
    "sample --export": ["sample", *SHAPES, "-n", "2", "--export", "ply", "-o", "run"],
    "inpaint": ["inpaint", "{in}/a.png", "--mask", "center", "-n", "2", *IMAGES, "-o", "run"],
    "sequence": ["sequence", *IMAGES, "-n", "1", "-o", "run"],
    "interpolate": ["interpolate", "3", "4", "--frames", "3", *IMAGES, "-o", "run"],
    "encode": ["encode", "{in}/a.png", *IMAGES, "-o", "run"],
    "export": ["export", "{in}/octrees", "--format", "ply,glb", "--preview", "-o", "out"],
    "export --merge": ["export", "{in}/octrees", "--format", "splat", "--merge", "-o", "out"],
    "export --shard": [
        *("export", "{in}/octrees/1.npz", "--format", "ply", "-o", "out", "--shard", "2/2"),
    ],
    "convert": ["convert", "{in}/plain.safetensors", "new/m.safetensors"],
    "convert --to diffusers": ["convert", "{in}/plain.safetensors", "m", "--to", "diffusers"],
    "convert --to ddim": ["convert", "{in}/plain.safetensors", "m.pth", "--to", "ddim"],
    "prepare emoji": [
        *("prepare", "emoji", "--font", "{in}/tiny.ttf", "--emoji-test", "{in}/emoji-test.txt"),
        *("--size", "8", "--out", "set.npz", "--preview", "set.png"),
    ],
    "prepare images": ["prepare", "images", "{in}/pictures", "p.npy", "--size", "8"],
    "prepare octrees": ["prepare", "octrees", "{in}/meshes", "out", "--depth", "3", *ONE],
    "prepare images --shard": [
        *("prepare", "images", "{in}/picture", "p.npy", "--size", "8", "--shard", "2/2"),
    ],
    "prepare octrees --shard": [
        *("prepare", "octrees", "{in}/meshes", "out", "--depth", "3", *ONE),
        *("--extension", ".obj", "--shard", "2/2"),
    ],
    "evaluate solvers": [
        *("evaluate", "solvers", *MEASURE, "--reference", "20", "--count", "2", "--nfe", "2"),
        *("--solver", "ddim", "--search", "--search-count", "2", "--trials", "2"),
    ],
    "evaluate steps": [
        *("evaluate", "steps", "-m", "{in}/shapes.safetensors", "--reference", "{in}/set"),
        *("--count", "2", "--points", "16", "--workers", "1", "--device", "cpu", "--steps", "1"),
        *("--out", "out"),
    ],
    "evaluate nll": ["evaluate", "nll", *MEASURE, "--terms", "2", "--flow-steps", "1", "-n", "2"],
    "evaluate fid": [
        *("evaluate", "fid", "--samples", "{in}/pictures", "--reference", "{in}/pictures"),
        *("--device", "cpu", "--save-stats", "stats.npz", "--out", "fid.json"),
    ],
    "sample tar": ["sample", *IMAGES, "-n", "3", "--batch-size", "2", "--format", "tar", "-o", "r"],
}


def write_inputs(folder: Path, config: Config, model: Path, plain: Callable[[Path], None]) -> None:
    """Write what the commands read: models, pictures, meshes, octrees, a font."""
    (folder / "tiny.safetensors").write_bytes(model.read_bytes())
    few = ["training.n_iters=4", "training.snapshot_freq=2", "training.validation_freq=2"]
    (folder / "tiny.yml").write_text(dump_yaml(override(config, few)))
    plain(folder / "plain.safetensors")
    (folder / "emoji-test.txt").write_text(EMOJI_TEST, encoding="utf-8")
    save_tiny_font(folder).rename(folder / "tiny.ttf")
    Image.fromarray(smooth(0, 8, 8)).save(folder / "a.png")
    for name in ("pictures", "picture", "meshes", "octrees"):
        (folder / name).mkdir()
    for i in range(24):
        (folder / "pictures" / f"{i:02d}.png").write_bytes(encoded(smooth(i, 8, 8)))
    (folder / "picture" / "a.png").write_bytes(encoded(smooth(0, 8, 8)))
    rng = np.random.default_rng(0)
    for i in range(3):
        cloud = npz(points=rng.normal(size=(40, 3)))
        (folder / "meshes" / f"cloud{i}.npz").write_bytes(cloud)
    (folder / "meshes" / "box.obj").write_bytes(obj())
    write_set(folder / "set")
    from ddimx.octree.file import Shape, write_shape

    for i in range(2):
        write_shape(folder / "octrees" / f"{i}.npz", Shape(chair(2 + i, 3), "chair", f"{i}"))
    write_model(folder / "shapes.safetensors", octree_config())
