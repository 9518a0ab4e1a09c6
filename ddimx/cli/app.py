"""The ``ddimx`` command: its verbs, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import DdimxError, check_links
from . import (
    convert,
    encode,
    evaluate,
    export,
    info,
    inpaint,
    interpolate,
    prepare,
    sample,
    sequence,
    train,
)

app = typer.Typer(
    name="ddimx",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("sample")(sample.sample)
app.command("inpaint")(inpaint.inpaint)
app.command("sequence")(sequence.sequence)
app.command("interpolate")(interpolate.interpolate)
app.command("encode")(encode.encode)
app.command("train")(train.train)
app.add_typer(prepare.app, name="prepare")
app.add_typer(evaluate.app, name="evaluate")
app.command("export")(export.export)
app.command("convert")(convert.convert)
app.command("info")(info.info)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ddimx {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Denoising diffusion implicit models for images and 3D shapes."""


def run() -> NoReturn:
    """Run the command line and exit: 0 done, 2 wrong usage, 1 failed, 130 interrupted."""
    from ..signals import exit_on_interrupt

    exit_on_interrupt()
    try:
        check_links()
        app()
    except DdimxError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 - a fault of ours is one line too, not a traceback
        name = type(error).__name__
        _fail(f"{name}: {error}\nThis is a fault of ddimx; DDIMX_DEBUG=1 shows where.", 1)
    sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    """Print one message and exit; under DDIMX_DEBUG=1 raise what is being handled instead."""
    if os.environ.get("DDIMX_DEBUG") == "1":
        raise  # called from an except block only
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
