"""Weights, settings, plans, arrays and records of runs: what the verbs around models read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image

from ddimx.config import Config
from ddimx.config_file import dump_yaml, load_config, validate
from ddimx.errors import DdimxError
from ddimx.models.factory import build
from ddimx.progress import Progress
from ddimx.signals import Stop
from ddimx.solvers.plan_file import write_plan
from ddimx.weights.formats.diffusers.folder import write_folder
from ddimx.weights.formats.native import Header, read_tensors, save, write_safetensors
from ddimx.weights.formats.pickled import write_list
from ddimx.weights.model import Model, load_model

from .target import Target
from .values import DIGITS, NUMBERS
from .zips import bomb, packed, spanned, stored, unpacked

IMAGES: dict[str, Any] = {
    "data": {"dataset": "FOLDER", "image_size": 8, "channels": 3},
    "model": {"ch": 4, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]}
    | {"norm_groups": 2},
    "diffusion": {"num_diffusion_timesteps": 20},
    "training": {},
    "sampling": {},
    "optim": {},
}
OCTREES: dict[str, Any] = {
    "data": {"dataset": "OCTREE", "image_size": 8, "channels": 1, "max_depth": 3},
    "model": {"name": "octree", "hidden_dim": 8, "num_layers": 1, "num_heads": 2}
    | {"classes": ["chair", "table"]},
    "diffusion": {"num_diffusion_timesteps": 20},
    "training": {},
    "sampling": {},
    "optim": {},
}


def images() -> Config:
    return validate(IMAGES, "images")


def tensors(config: Config) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(build(config)[0].state_dict())


def write_model(path: Path, tree: dict[str, Any]) -> None:
    config = validate(tree, "model")
    values = tensors(config)
    save(path, values, Header("model", config, {"step": 3}))


@lru_cache
def model() -> Model:
    """The model that plans and runs are read with."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_model(path, IMAGES)
        return load_model(path, device="cpu", dtype="fp32")


# Configurations


def make_config(folder: Path) -> None:
    (folder / "tiny.yml").write_text(
        dump_yaml(images()) + "# classes below\n" + "defaults: &d {a: 1}\n".replace("defaults", "#")
    )


def read_config(folder: Path) -> None:
    load_config(folder / "tiny.yml", ["training.batch_size=2"])


# Weights


def make_pth(folder: Path) -> None:
    values = tensors(images())
    write_list(folder / "model.pth", values, values, images(), 3)
    (folder / "plain.yml").write_text(dump_yaml(images()))


def read_pth(folder: Path) -> None:
    path = folder / "model.pth"
    for config in (None, folder / "plain.yml"):
        try:
            load_model(path, device="cpu", dtype="fp32", config=config)
        except DdimxError as error:
            if config is not None or len(str(error)) > 6000:
                raise


def make_ckpt(folder: Path) -> None:
    torch.save(tensors(images()), folder / "model.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.yml").write_text(dump_yaml(images()))


def make_guided(folder: Path) -> None:
    model = {"name": "guided", "heads": 2, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1}
    config = override_model(model | {"attn_resolutions": [4]})
    torch.save(tensors(config), folder / "model.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.yml").write_text(dump_yaml(config))


def make_lucidrains(folder: Path) -> None:
    model = {"name": "lucidrains", "ch": 8, "ch_mult": [1, 2], "heads": 2, "head_dim": 8}
    config = override_model(model)
    betas = torch.linspace(1e-3, 0.1, 30)
    alpha_bar = torch.cumprod(1 - betas, 0)
    state = {f"model.{name}": value for name, value in tensors(config).items()}
    state |= {"betas": betas, "alphas_cumprod": alpha_bar, "loss_weight": torch.ones(30)}
    torch.save(state, folder / "model.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.yml").write_text(dump_yaml(override_model({"name": "lucidrains"})))


def make_edm(folder: Path) -> None:
    kept = {name: IMAGES[name] for name in IMAGES if name not in ("model", "diffusion")}
    model = {"name": "song", "ch": 8, "ch_mult": [1, 2], "num_res_blocks": 1}
    model |= {"attn_resolutions": [4], "classes": ["a"], "null_class": False}
    config = validate({**kept, "model": model, "diffusion": {"prediction": "edm"}}, "x")
    torch.save(tensors(config), folder / "model.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.yml").write_text(dump_yaml(config))


def override_model(model: dict[str, Any]) -> Config:
    kept = {name: IMAGES[name] for name in IMAGES if name not in ("model", "diffusion")}
    diffusion = {"beta_schedule": "linear", "num_diffusion_timesteps": 1000}
    lucidrains = model["name"] == "lucidrains"
    return validate({**kept, "model": model, "diffusion": {} if lucidrains else diffusion}, "x")


def edit_saved(folder: Path, rng: Random) -> None:
    """As :func:`edit_pth`, with what the file holds."""
    edit_pth(folder, rng, dict(torch.load(folder / "model.pth", weights_only=True)))


def edit_pth(folder: Path, rng: Random, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write a file of torch.save with wrong names, shapes, types or other contents."""
    path = folder / "model.pth"
    zipped = path.read_bytes()[:4] == b"PK\x03\x04"
    if zipped and rng.random() < 0.3:
        data = path.read_bytes()
        if rng.random() < 0.4:
            path.write_bytes(spanned(data))
            return
        members = [stored(n, c, rng.choice((0, 8))) for n, c in unpacked(data)]
        place = rng.randrange(len(members))
        members[place] = bomb(members[place].name.decode(), 600)
        path.write_bytes(packed(members))
        return
    values: Any = tensors(images()) if state is None else state
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(sorted(values, key=str))
        value = values.pop(name)
        kind = rng.randrange(4) if isinstance(name, str) else 3
        if kind == 0:
            number = str(rng.choice((*NUMBERS, DIGITS, 999999999, 10**12)))
            parts = name.split(".")
            places = [i for i, part in enumerate(parts) if part.isdigit()] or [0]
            parts[rng.choice(places)] = number
            values[".".join(parts)] = value
        elif kind == 1:
            values[name] = rng.choice(_STRANGE)(value)
        elif kind == 2:
            values[rng.choice((5, None, "", "x" * 30000, ("a", 1), DIGITS, "conv_in.weight"))] = (
                value
            )
    content: Any = rng.choice(
        (values, values, {"state_dict": values}, [values, {}, 0, 10**30, values])
    )
    if rng.random() < 0.1:
        content = rng.choice(([], {}, None, 5, "text", [[[]]], torch.zeros(2), [values] * 3))
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


_STRANGE = (
    lambda value: value[:0],
    lambda value: value.to(torch.float16),
    lambda value: value.to(torch.int64),
    lambda value: value.to(torch.complex64),
    lambda value: value.to(torch.float8_e4m3fn),
    lambda value: value > 0,
    lambda value: value * float("nan"),
    lambda value: value.to_sparse(),
    lambda value: torch.zeros(1).expand(10**10),
    lambda value: torch.zeros(1).expand(1, 10**6, 10**6),
    lambda value: torch.zeros(()),
    lambda value: value.reshape(-1),
    lambda value: torch.zeros(0, 4, 3, 3),
    lambda value: torch.zeros(4, 3, 3, 3)[:, ::3],
    lambda value: torch.nn.Parameter(value),
    lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
)


def make_diffusers(folder: Path) -> None:
    write_folder(folder / "model", tensors(images()), images(), {"step": 3}, "ema")


def make_foreign_diffusers(folder: Path) -> None:
    """As another program leaves it: without our own file."""
    make_diffusers(folder)
    (folder / "model" / "ddimx.json").unlink()


def make_shards(folder: Path) -> None:
    """As diffusers cuts large networks: two files of tensors, and an index of both."""
    make_foreign_diffusers(folder)
    unet, stem = folder / "model" / "unet", "diffusion_pytorch_model"
    whole = read_tensors(unet / f"{stem}.safetensors")
    (unet / f"{stem}.safetensors").unlink()
    names = sorted(whole)
    places = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}-{i:05d}-of-00002.safetensors"
        write_safetensors(unet / file, {name: whole[name] for name in part}, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (unet / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def edit_shards(folder: Path, rng: Random) -> None:
    """Move one tensor in the index to another file, or to none."""
    path = next((folder / "model" / "unet").glob("*.index.json"))
    index = json.loads(path.read_text())
    names = sorted(index["weight_map"])
    elsewhere = (
        "../x.safetensors",
        "/x.safetensors",
        "C:x.safetensors",
        "x/y.safetensors",
        "x.bin",
    )
    value = rng.choice((*index["weight_map"].values(), *elsewhere, "", None, 3, [], {}))
    index["weight_map"][rng.choice((*names, "strange"))] = value
    path.write_text(json.dumps(index))


def edit_diffusers(folder: Path, rng: Random) -> None:
    """Set one of the settings to a value of its own kind that no tensor bears out."""
    path = folder / "model" / rng.choice(("unet/config.json", "scheduler/scheduler_config.json"))
    settings = json.loads(path.read_text())
    numbers = [k for k, v in settings.items() if isinstance(v, int | float | list)]
    key = rng.choice(sorted(numbers))
    big = rng.choice((0, 1, 2, 3, 7, 64, 10**6, 10**9, 10**12, 2**62, 0.5, -1, None))
    settings[key] = [big] * rng.choice((1, 2, 1000)) if isinstance(settings[key], list) else big
    path.write_text(json.dumps(settings))


def read_diffusers(folder: Path) -> None:
    load_model(folder / "model", device="cpu", dtype="fp32")


def read_native(folder: Path) -> None:
    load_model(folder / "model.safetensors", device="cpu", dtype="fp32")


def edit_native(folder: Path, rng: Random) -> None:
    """Write the header's configuration with a number that no tensor bears out."""
    path = next(folder.glob("*.safetensors"))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    config = json.loads(header["__metadata__"]["ddimx.config"])
    section = config[rng.choice(("model", "model", "model", "data", "diffusion"))]
    extra = rng.choice(
        ("num_res_blocks", "patch_size", "num_layers", "window", "norm_groups", "ch")
    )
    extra = extra if section is config["model"] else rng.choice(sorted(section))
    key = rng.choice([*sorted(section), extra])
    big = rng.choice((0, 1, 2, 3, 64, 4096, 10**6, 10**9, 10**12, 2**62))
    value = section.get(key)
    section[key] = [big] * rng.choice((1, 2, 1000)) if isinstance(value, list) else big
    if rng.random() < 0.1:
        section[key] = [f"c{i}" for i in range(100_000)]
    header["__metadata__"]["ddimx.config"] = json.dumps(config)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def make_checkpoint(folder: Path) -> None:
    from ddimx.training.state import TrainState, save_checkpoint

    torch.manual_seed(0)
    network, _ = build(images())
    state = TrainState.fresh(network, images())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    state.step = 3
    save_checkpoint(folder, state, images(), {"seed": 0}, keep=1)


def read_checkpoint(folder: Path) -> None:
    from ddimx.config_file import override
    from ddimx.training.state import TrainState, restore
    from ddimx.weights.formats.native import read_header, read_shapes
    from ddimx.weights.model import check_fits

    path = folder / "checkpoint-00000003.safetensors"
    config = override(read_header(path).config, ["training.batch_size=2"])
    check_fits(config, read_shapes(path, "model."), str(path))
    network, _ = build(config)
    restore(path, TrainState.fresh(network, config))


# Plans, arrays


def make_plan(folder: Path) -> None:
    from ddimx.options import Options
    from ddimx.sampling.settings import resolve

    settings = resolve(Options(count=1, steps=3, solver="dpm++:2"), model())
    write_plan(folder / "plan.json", settings.plan, {"model": "tiny", "model_sha256": "0" * 64})


def read_plan(folder: Path) -> None:
    from ddimx.api import sample

    sample(model(), count=1, plan=folder / "plan.json")


def make_init_noise(folder: Path) -> None:
    np.save(folder / "noise.npy", np.zeros((2, 3, 8, 8), np.float32))


def read_init_noise(folder: Path) -> None:
    from ddimx.sampling.run import _Start, load_init_noise

    states = load_init_noise(folder / "noise.npy", (3, 8, 8))
    settings: Any = type("Settings", (), {"start_index": 0})
    _Start(folder / "noise.npy", settings)(range(len(states)))


def tree() -> Any:
    from ddimx.octree.tree import from_leaves

    return from_leaves(np.unique(np.random.default_rng(0).integers(0, 8**4, 60)), 4)


def make_octree(folder: Path) -> None:
    from ddimx.octree.file import Shape, write_shape

    write_shape(folder / "shape.npz", Shape(tree(), "chair", "a1"))
    tokens = tree().tokens()
    padded = np.zeros((1, len(tokens) + 9), np.int32)
    padded[0, : len(tokens)] = tokens
    np.save(folder / "tokens.npy", padded)


def read_octree(folder: Path) -> None:
    from ddimx.exporting.sources import items_of
    from ddimx.octree.file import holds_tokens, read_shape

    refused = []
    for item in items_of(folder, None):
        assert isinstance(item.source, Path)
        holds_tokens(item.source)
        try:
            read_shape(item.source)
        except DdimxError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def make_statistics(folder: Path) -> None:
    from ddimx.evaluation.fid.frechet import Statistics, write_statistics

    about = {"network": "n", "library": "l", "images": "x", "size": [8, 8], "files": {"JPEG": 4}}
    about |= {"preprocessing": "8-bit RGB, 8x8 as stored", "decoding": "d"}
    features = np.arange(30, dtype=np.float32).reshape(5, 6)
    made = Statistics(np.zeros(6), np.eye(6), 40, about, features)
    write_statistics(folder / "stats.npz", made)


def read_statistics(folder: Path) -> None:
    from ddimx.evaluation.fid import compare as fid

    features: Any = type("Features", (), {"about": {"network": "n"}})
    saved = fid.statistics_of(str(folder / "stats.npz"), features, 2, Progress(quiet=True))
    if len(saved.mean) == 6:
        fid.compare(saved, saved)
        fid.remarks(saved, saved)


def make_image_sets(folder: Path) -> None:
    """Images in the forms that measuring and editing read beside folders and data sets."""
    pixels = np.arange(5 * 8 * 8 * 3, dtype=np.uint8).reshape(5, 8, 8, 3)
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        for i, image in enumerate(pixels):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG" if i == 4 else "PNG")
            archive.writestr(f"{i}.{'jpg' if i == 4 else 'png'}", stream.getvalue())
    np.save(folder / "plain.npy", pixels)
    np.savez(folder / "adm.npz", arr_0=pixels, mu=np.zeros(3), sigma=np.eye(3), mu_s=np.zeros(2))


def read_image_sets(folder: Path) -> None:
    from ddimx.editing.pictures import read_pictures
    from ddimx.evaluation.fid import compare as fid

    class Features:
        about: ClassVar[dict[str, Any]] = {"network": "n"}

        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.double().mean(dim=(2, 3))

    refused = []
    for name in ("pictures.zip", "plain.npy", "adm.npz"):
        for read in (
            lambda path: fid.statistics_of(str(path), Features(), 2, Progress(quiet=True)),
            lambda path: read_pictures(path, model(), resize=True),
        ):
            try:
                read(folder / name)
            except DdimxError as error:
                refused.append(error)
    if refused:
        raise refused[0]


def make_image_array(folder: Path) -> None:
    pixels = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    np.savez_compressed(folder / "images.npz", arr_0=pixels, labels=np.arange(4), notes=np.zeros(9))
    np.savez(
        folder / "data.npz",
        images=pixels,
        labels=np.array([0, 1, 0, 1]),
        families=np.arange(4),
        held_out=np.arange(4) > 2,
        groups=np.array(["a", "b"]),
    )


def read_image_array(folder: Path) -> None:
    from ddimx.data.images.npz import NpzSource
    from ddimx.evaluation.fid.images import open_images

    images = open_images(str(folder / "images.npz"))
    images.read(range(len(images)))
    source = NpzSource(folder / "data.npz", held_out=False)
    source.images(np.arange(len(source)))


# Runs


def request(out: Path, kind: str, count: int = 3) -> Any:
    from ddimx.options import Options
    from ddimx.sampling.run import SampleRequest
    from ddimx.sampling.settings import resolve

    asked = {
        "count": count,
        "steps": 2,
        "model": "model.safetensors",
        "eta": 0.5,
        "spacing": "quad",
    }
    settings = resolve(Options(count=count, steps=2, batch_size=2), model())
    return SampleRequest(model(), settings, kind, out, asked=asked)


def make_run(folder: Path) -> None:
    from ddimx.sampling.run import run

    run(request(folder / "run", "png", 2), Stop(), Progress(quiet=True))
    write_model(folder / "model.safetensors", IMAGES)


def read_run(folder: Path) -> None:
    from ddimx.cli.app import app
    from ddimx.sampling import manifest
    from ddimx.sampling.run import clear, run

    os.chdir(folder)
    copy = folder / "copy"
    shutil.copytree(folder / "run", copy)
    refused = []
    try:
        resume = ["sample", "--resume", str(folder / "run"), "--device", "cpu", "--offline", "-q"]
        with contextlib.redirect_stdout(io.StringIO()):
            app([*resume, "--explain", "--json"], standalone_mode=False)
        run(request(folder / "run", "png"), Stop(), Progress(quiet=True))
    except DdimxError as error:
        refused.append(error)
    clear(copy, manifest.read(copy))
    if refused:
        raise refused[0]


def make_array_run(folder: Path) -> None:
    """As a full disk leaves it: parts of an array, and a manifest of a run that was begun."""
    from ddimx.runs.sinks import ArraySink
    from ddimx.sampling.run import run

    def full(self: ArraySink, indices: range, **_: bool) -> list[str]:
        raise OSError("no space left on device")

    finish = ArraySink.finish
    ArraySink.finish = full  # type: ignore[method-assign]
    try:
        run(request(folder / "run", "npy"), Stop(), Progress(quiet=True))
    except DdimxError:
        pass
    finally:
        ArraySink.finish = finish  # type: ignore[method-assign]


def read_array_run(folder: Path) -> None:
    from ddimx.sampling.run import run

    run(request(folder / "run", "npy"), Stop(), Progress(quiet=True))


def make_study(folder: Path) -> None:
    record = {"rows": [{"steps": 2, "coverage": 0.5}], "identity": {"model": "x"}, "seconds": 1.5}
    (folder / "steps.json").write_text(json.dumps(record))


def read_study(folder: Path) -> None:
    from ddimx.cli.evaluate.steps import _before

    _before(folder)


TARGETS = [
    Target("configuration", make_config, read_config),
    Target("pth", make_pth, read_pth, edit_pth, ("*.pth",)),
    Target("ckpt", make_ckpt, read_pth, edit_pth, ("*.pth",)),
    Target("guided", make_guided, read_pth, edit_saved, ("*.pth",)),
    Target("edm", make_edm, read_pth, edit_saved, ("*.pth",)),
    Target("lucidrains", make_lucidrains, read_pth, edit_saved, ("*.pth",)),
    Target("diffusers", make_diffusers, read_diffusers, edit_diffusers),
    Target("diffusers of others", make_foreign_diffusers, read_diffusers, edit_diffusers),
    Target("diffusers in shards", make_shards, read_diffusers, edit_shards),
    Target(
        "model", lambda f: write_model(f / "model.safetensors", IMAGES), read_native, edit_native
    ),
    Target(
        "octree model",
        lambda f: write_model(f / "model.safetensors", OCTREES),
        read_native,
        edit_native,
    ),
    Target("checkpoint", make_checkpoint, read_checkpoint, edit_native),
    Target("plan", make_plan, read_plan),
    Target("init noise", make_init_noise, read_init_noise),
    Target("octree", make_octree, read_octree),
    Target("statistics", make_statistics, read_statistics),
    Target("sets of images", make_image_sets, read_image_sets),
    Target("images in npz", make_image_array, read_image_array),
    Target("run", make_run, read_run, changed=("run/manifest.json", "run/*.png")),
    Target("array run", make_array_run, read_array_run),
    Target("study", make_study, read_study),
]
