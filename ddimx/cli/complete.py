"""The values that a shell completes: none of them needs torch, NumPy or pydantic."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from ..categories import groups_of
from ..option_values import Option
from ..runs.formats import FORMATS
from ..solvers.registry import AUTO, SOLVERS, all_names

PRETRAINED = Path(__file__).parent.parent / "pretrained"
CONFIGS = Path(__file__).parent.parent / "configs"
SPLAT_FORMATS = ("3dgs", "ply", "splat", "spz", "glb", "json")
PUBLISHED = ("cifar10", "bedroom", "cat", "church", "celeba")
SUFFIX = ".safetensors"
MOST_HEADER = 4 << 20  # bytes: a header that is longer is not read while somebody types

Values = Callable[[Any], Sequence[str]]


def of(name: str, option: Option) -> Callable[..., list[str]] | None:
    """Return what completes an option, or None where the shell's own file names do.

    Args:
        name: of the option's field.
        option: its declaration.
    """
    if option.choices:
        return from_values(lambda _: option.choices)
    return from_values(SOURCES[name]) if name in SOURCES else None


def from_values(values: Values) -> Callable[..., list[str]]:
    """Return a completion, as Typer calls it, from a function of the context."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        return [value for value in values(ctx) if value.startswith(incomplete)]

    return complete


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.name.removesuffix(SUFFIX) for path in PRETRAINED.glob(f"*{SUFFIX}"))


def classes_of(model: str) -> list[str]:
    """Return a model's classes, from the header of its file; none where it does not say.

    Args:
        model: a shipped name or a ``.safetensors`` of ours.
    """
    from ..untrusted.text import parse_json

    path = PRETRAINED / f"{model}{SUFFIX}" if model in shipped_models() else Path(model)
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = parse_json(stream.read(length)) if length <= MOST_HEADER else {}
        classes = parse_json(header["__metadata__"]["ddimx.config"])["model"]["classes"]
        return [name for name in classes if isinstance(name, str)]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return []


def _categories(ctx: Any) -> list[str]:
    classes = classes_of(ctx.params.get("model") or "emoji")
    return [*groups_of(classes), *classes, "none"] if classes else []


splat_formats = from_values(lambda _: SPLAT_FORMATS)
models = from_values(lambda _: [*shipped_models(), *PUBLISHED])

SOURCES: dict[str, Values] = {
    "model": lambda _: [*shipped_models(), *PUBLISHED],
    "category": _categories,
    "solver": lambda _: list(dict.fromkeys([*SOLVERS, *all_names(), AUTO])),
    "device": lambda _: ("auto", "cpu", "cuda", "mps"),
    "kind": lambda _: FORMATS,
    "export": lambda _: SPLAT_FORMATS,
    "config": lambda _: sorted(path.stem for path in CONFIGS.glob("*.yml")),
    "resume": lambda _: ("last",),
}
