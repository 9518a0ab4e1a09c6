"""The ``ddimx`` command: its verbs, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import __version__
from ..errors import DdimxError, check_links
from . import convert, encode, export, info, inpaint, interpolate, sample, sequence, train
from .evaluate import app as evaluate
from .help import SETTINGS, VerbGroup, add_verb
from .output import steady_output
from .prepare import app as prepare

app = typer.Typer(
    name="ddimx",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=VerbGroup,
    context_settings=SETTINGS,
)
for verb in (sample.sample, sequence.sequence, export.export):
    add_verb(app, verb, "Draw images and shapes")
for verb in (inpaint.inpaint, interpolate.interpolate, encode.encode):
    add_verb(app, verb, "Change images")
app.add_typer(prepare.app, name="prepare", rich_help_panel="Train a model")
add_verb(app, train.train, "Train a model")
for verb in (convert.convert, info.info):
    add_verb(app, verb, "Models and measurements")
app.add_typer(evaluate.app, name="evaluate", rich_help_panel="Models and measurements")


def _version(show: bool) -> None:
    if show:
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


# What the system refuses, whatever the program does: a disk that is full or broken, and rights.
_DISK = {errno.ENOSPC, errno.EIO, errno.EDQUOT}
_RIGHTS = {errno.EROFS, errno.EACCES, errno.EPERM}


def run() -> NoReturn:
    """Run the command line and exit: 0 done, 2 wrong usage, 1 failed, 130 interrupted."""
    from ..signals import exit_on_interrupt

    steady_output()
    exit_on_interrupt()
    try:
        check_links()
        app()
    except DdimxError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as end:
        sys.exit(end.code or _results_lost())
    except Exception as error:  # noqa: BLE001 - a fault of ours is one line too, not a traceback
        if isinstance(error, OSError) and error.errno in _DISK | _RIGHTS:
            _fail(_refused(error), 1)
        name = type(error).__name__
        _fail(f"{name}: {error}\nThis is a fault of ddimx; DDIMX_DEBUG=1 shows where.", 1)
    sys.exit(_results_lost())


def _refused(error: OSError) -> str:
    """Say what the system refused; files are written whole, so that all others are valid."""
    from ..files import final_path

    what = "" if error.filename is None else f"{final_path(Path(os.fsdecode(error.filename)))}: "
    rest = "; what was written before is whole, and the same command does the rest"
    return f"{what}{error.strerror}{rest if error.errno in _DISK else ''}"


def _results_lost() -> int:
    """Write out the results; return 1, having said why, if they went nowhere.

    A reader that went away has read enough.
    """
    sys.stdout.flush()
    lost = getattr(sys.stdout, "lost", None)
    if lost is None or lost.errno == errno.EPIPE:
        return 0
    print(f"error: cannot write to standard output: {lost.strerror}", file=sys.stderr)
    return 1


def _fail(message: str, code: int) -> NoReturn:
    """Print one message and exit; under DDIMX_DEBUG=1 raise what is being handled instead."""
    if os.environ.get("DDIMX_DEBUG") == "1":
        raise  # called from an except block only
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
