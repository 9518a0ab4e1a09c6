"""``ddimx info``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from . import options


def info(
    models: Annotated[
        bool, typer.Option("--models", help="Only the models and how they were trained.")
    ] = False,
    json_output: options.Json = False,
) -> None:
    """Print versions, devices, the kernels that run here and why, cache and models.

    Examples:

      ddimx info

      ddimx info --models --json
    """
    from ..about import about, about_models
    from .output import print_json

    facts = {"models": about_models()} if models else about()
    if json_output:
        print_json(facts)
        return
    for title, values in facts.items():
        typer.echo(f"{title}")
        for line in _lines(values):
            typer.echo(f"  {line}")


def _lines(values: Any, indent: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [f"{indent}{values}"]
    if not values:
        return [f"{indent}(none)"]
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines
