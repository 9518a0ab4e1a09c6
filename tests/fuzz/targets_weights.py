"""Weights: models in our own and in other formats, and checkpoints."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import torch

from ddimx.config import Config
from ddimx.config_file import dump_yaml, validate
from ddimx.errors import DdimxError
from ddimx.models.factory import build
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


TARGETS = [
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
]
