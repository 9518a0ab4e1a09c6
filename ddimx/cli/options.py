"""The options of the command line, made from their declarations in :mod:`ddimx.options`.

A verb that fills a run folder takes them all at once (:func:`ddimx.cli.verbs.run_verb`). Other
verbs name those that they share, as ``device: options.Device = "auto"``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..option_values import Option, checked
from ..options import RunOptions
from ..options import options as declared
from . import complete

VALUES = {
    "whole": int,
    "number": float,
    "flag": bool,
    "text": str,
    "path": Path,
    "times": str,
    "clip": str,
    "size": str,
    "guidance": str,
    "steps": str,
    "temperature": str,
}
# What --help lists first of a panel; the others follow as they are declared.
FIRST = ("model", "count", "category", "guidance", "seed", "start_index")
_FIELDS = declared(RunOptions)
DECLARED = {name: _FIELDS[name] for name in dict.fromkeys((*FIRST, *_FIELDS))}


def parameter(name: str, option: Option) -> Any:
    """Return Typer's description of an option.

    Args:
        name: of the field, by which its completion is found.
        option: its declaration, with what the verb changes.
    """
    return typer.Option(
        *option.flags,
        metavar=option.metavar,
        help=option.help,
        show_default=False,  # defaults are part of the help: most are the model's
        rich_help_panel=option.panel,
        callback=_limit_memory if name == "limit_memory" else None,
        autocompletion=complete.of(name, option),
    )


def shared(name: str, **changes: Any) -> Any:
    """Return Typer's description of a declared option, for a verb that has some of them.

    Args:
        name: of the field of :class:`ddimx.options.RunOptions`.
        **changes: fields of :class:`ddimx.options.Option` that differ.
    """
    option = replace(DECLARED[name], **changes)
    described = parameter(name, option)

    def check(value: Any) -> Any:
        """Check the value as declared, before anything heavy is imported."""
        return None if value is None else checked(name, option, value)

    described.callback = described.callback or check
    return described


def workers(help: str) -> Any:
    """Return Typer's description of ``--workers``."""
    return typer.Option(
        "--workers", metavar="N", min=1, help=help, show_default=False, rich_help_panel="Running"
    )


def _limit_memory(text: str | None) -> str | None:
    """Raise the bounds on what a file may become, before any is read."""
    from ..untrusted.limits import raise_memory

    if text is not None:
        raise_memory(text)
    return text


Config = Annotated[
    str | None, shared("config", help="A shipped configuration or a .yml.", panel="What to train")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key: training.batch_size=64.",
        rich_help_panel="What to train",
    ),
]
Out = Annotated[Path | None, shared("out")]
Seed = Annotated[int, shared("seed")]
Device = Annotated[str, shared("device")]
Dtype = Annotated[str, shared("dtype")]
ExactDtype = Annotated[str, shared("dtype", help="Precision of the network (default: fp32).")]
Quiet = Annotated[bool, shared("quiet")]
LimitMemory = Annotated[str | None, shared("limit_memory")]
Model = Annotated[str | None, shared("model")]
ModelConfig = Annotated[str | None, shared("config")]
Weights = Annotated[str | None, shared("weights")]
Offline = Annotated[bool, shared("offline")]
TrustCode = Annotated[bool, shared("trust_code")]
Steps = Annotated[
    int | None,
    shared("steps", help="Number of steps (default: the model's, else 50).", metavar="N"),
]
Count = Annotated[int | None, shared("count")]
Guidance = Annotated[str | None, shared("guidance")]
Json = Annotated[bool, shared("json")]
BatchSize = Annotated[int | None, shared("batch_size")]
