"""Interpolation between seeds, latents and images: a row, or a grid between four corners."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.images.named import stored_pixels
from ..errors import UsageError
from ..noise import Noise
from ..options import Options
from ..runs.contact_sheet import write_grid
from ..runs.sinks import Sink
from ..sampling.batch import Inputs
from ..sampling.hooks import Task
from ..sampling.run import load_init_noise
from ..sampling.settings import Settings
from ..untrusted.arrays import map_npy
from ..weights.model import Model
from . import slerp
from .animation import write_animation
from .encode import Codec, differences, make_codec, run_all
from .pictures import Picture, as_states, fingerprint, picture_in, read_picture
from .settings import resolve_editing

ROW, SQUARE = 11, 7  # frames from end to end by default; 11 is the original's number
_ARRAY = re.compile(r"^(?P<path>.+\.np[yz])(:(?P<which>\d+))?$", re.IGNORECASE)

End = Tensor | Picture


def read_end(text: str, model: Model, *, resize: bool = False) -> End:
    """Return what an end of the interpolation is called: a seed, FILE.npy[:K], or an image.

    A seed stands for the x_T of its sample 0. FILE.npz[:K], and an ``.npy`` of uint8 [N, H, W, C],
    stand for image K of an array.

    Raises:
        UsageError: a seed out of range, no such file, or one that does not fit the model.
        DdimxError: an array of images that cannot be read.
    """
    if re.fullmatch(r"\d+", text):
        return Noise(int(text)).normal([0], model.process.shape)[0]
    array = _ARRAY.match(text)
    if array is None:
        return read_picture(Path(text), model, resize=resize)
    path, which = Path(array["path"]), int(array["which"] or 0)
    images = path.suffix.lower() == ".npz" or _holds_pixels(path)
    states: Any = (
        stored_pixels(path)
        if images
        else (load_init_noise(path, model.process.shape, what="latents"))
    )
    kind = "images" if images else "latents"
    if array["which"] is None and len(states) > 1:
        raise UsageError(f"{text} holds {len(states)} {kind}; say which, as {text}:0")
    if which >= len(states):
        raise UsageError(f"{text}: there are {len(states)} {kind}, counted from 0")
    if images:
        return picture_in(states, which, path, model, resize=resize)
    return torch.tensor(states[which], dtype=torch.float32)


def _holds_pixels(path: Path) -> bool:
    """Return whether an ``.npy`` is of bytes; what cannot be read is not."""
    try:
        return map_npy(path).dtype.kind == "u"
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The states between the ends, the settings to decode them, and the frames' layout."""

    settings: Settings
    states: Tensor
    columns: int
    pictures: dict[int, Picture]  # by the index of the frame that should show them again

    @property
    def tour(self) -> list[int]:
        """The frames of the animation: there and back, or around the square's edge."""
        n = self.columns
        if len(self.states) == n:
            return [*range(n), *range(n - 2, 0, -1)]
        down, up = range(n - 1, n * n, n), range(n * (n - 1), 0, -n)
        return [*range(n - 1), *down[:-1], *range(n * n - 1, n * (n - 1), -1), *up]


def interpolation_settings(
    options: Options, model: Model, *, pictures: bool, refine: int | None
) -> tuple[Settings, Codec | None]:
    """Return the settings of decoding, without noise by default, and of encoding.

    Raises:
        UsageError: options out of range, or a way that images cannot be encoded for.
    """
    if pictures:
        codec = make_codec(options, model, refine)
        return codec.down, codec
    if refine is not None:
        raise UsageError("--refine belongs to the encoding of images, and there is none")
    solver = options.solver or "ddim"
    eta = 0.0 if options.eta is None and solver == "ddim" else options.eta
    return resolve_editing(replace(options, solver=solver, eta=eta), model), None


def interpolate(
    ends: Sequence[End],
    frames: int,
    model: Model,
    settings: Settings,
    encode: Callable[[Tensor], Tensor],
) -> Interpolation:
    """Return the interpolation between two ends, or over the square of four.

    Args:
        frames: from end to end, at least 2.
        settings: how to decode; count and start index are set here.
        encode: maps images [N, C, H, W] to latents.
    """
    places = [i for i, end in enumerate(ends) if isinstance(end, Picture)]
    images = [end for end in ends if isinstance(end, Picture)]
    corners = [end for end in ends if isinstance(end, Tensor)]
    if images:
        latents = encode(as_states(images, model))
        for place, latent in zip(places, latents, strict=True):
            corners.insert(place, latent)
    if len(ends) == 2:
        states, where = slerp.row(corners[0], corners[1], frames), [0, frames - 1]
    else:
        states = slerp.square(corners, frames)
        where = [0, frames - 1, frames * (frames - 1), frames**2 - 1]
    return Interpolation(
        settings=replace(
            settings, count=len(states), batch_size=min(settings.batch_size, len(states))
        ),
        states=states,
        columns=frames,
        pictures={where[place]: picture for place, picture in zip(places, images, strict=True)},
    )


def check_ends(count: int, frames: int | None) -> int:
    """Return the number of frames from end to end for this many ends.

    Raises:
        UsageError: neither two ends nor four, or fewer frames than ends on a line.
    """
    if count not in (2, 4):
        raise UsageError(f"interpolate between two ends or four corners, not {count}")
    number = (ROW if count == 2 else SQUARE) if frames is None else frames
    if number < 2:
        raise UsageError(f"frames must be at least 2, the two ends, got {number}")
    return number


def end_identity(text: str, end: End) -> str:
    """Return what tells an end from others: a seed, or a hash of the numbers that were given."""
    if re.fullmatch(r"\d+", text):
        return f"seed {int(text)}"
    return fingerprint(end.pixels if isinstance(end, Picture) else end.numpy())


def interpolate_task(
    interpolation: Interpolation, animation: str, ends: Sequence[str], refine: int | None = None
) -> Task:
    """Return the run that decodes an interpolation; all frames share the noise of sample 0.

    Args:
        interpolation: the states to decode.
        animation: the animation's format.
        ends: what the ends are, by :func:`end_identity`. The states between them are computed, and
            another machine computes other last bits.
        refine: the corrections of every step where images were encoded.
    """
    results: dict[str, Any] = {}
    identity = {"ends": list(ends), "refine": refine}

    def translate(record: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
        """Version 0.1 hashed the states; from seeds alone they are the same on any machine."""
        if "states_sha256" not in old:
            return old
        seeds = [f"seed {end}" for end in record.get("asked", {}).get("ends", ())]
        same = old.pop("states_sha256") == fingerprint(interpolation.states.numpy())
        return old | (identity if same or seeds == identity["ends"] else {"ends": None})

    def finish(folder: Path, sink: Sink, indices: range) -> list[str]:
        write_grid(folder / "grid.png", sink.pixels(indices), interpolation.columns)
        name = f"animation.{animation}"
        write_animation(folder / name, [folder / f"{i:06d}.png" for i in interpolation.tour])
        if interpolation.pictures:
            frames = [sink.pixels(range(i, i + 1))[0] for i in interpolation.pictures]
            results["reconstruction_rms"] = differences(
                list(interpolation.pictures.values()), frames
            )
        return [name]

    return Task(
        verb="interpolate",
        inputs=Inputs(
            start=lambda samples: interpolation.states[list(samples)], noise_index=lambda _: 0
        ),
        identity={
            "verb": "interpolate",
            **identity,
            "columns": interpolation.columns,
            "animation": animation,
        },
        about={
            "verb": "interpolate",
            "ends": json.dumps(ends),
            "frames": str(interpolation.columns),
        },
        translate=translate,
        finish=finish,
        results=results,
    )


def encoder(model: Model, codec: Codec | None, after_row: Any = None) -> Callable[[Tensor], Tensor]:
    """Return the function that encodes images, for :func:`interpolate`."""

    def encode(states: Tensor) -> Tensor:
        assert codec is not None
        return run_all(model, codec.up, states, after_row)

    return encode
