"""The two kinds of failure a user meets, and the exit code that belongs to each."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType


class DdimxError(Exception):
    """Something failed while doing what was asked: the message says what, where, what to do."""

    exit_code = 1


class UsageError(DdimxError):
    """The command line or the configuration is wrong; nothing was started."""

    exit_code = 2


class MissingPackage(UsageError):
    """A package that an extra of this one installs is missing, or cannot be imported."""


def optional_module(name: str, purpose: str, extra: str) -> ModuleType:
    """Import a module of a package that an extra installs.

    Args:
        name: "scipy.ndimage".
        purpose: what it is needed for, as the message says it: "charts".
        extra: that of this package to install: "3d".

    Raises:
        MissingPackage: the package is not installed, or cannot be imported.
    """
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = "is not installed" if missing else f"cannot be imported ({error})"
        raise MissingPackage(
            f'{package}, which {purpose} need, {reason}; run pip install "ddimx[{extra}]"'
        ) from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, or a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def unknown(what: str, word: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is not allowed."""
    names = sorted(known)
    return UsageError(f"unknown {what} '{word}'{nearest(word, names)} Allowed: {', '.join(names)}.")


def check_links() -> None:
    """Refuse a checkout that was made without symbolic links, where git writes text files.

    Raises:
        UsageError: the package's ``kernels`` or ``configs`` is such a file.
    """
    for link in ("kernels", "configs"):
        if (Path(__file__).parent / link).is_file():
            raise UsageError(
                f"the package's '{link}' link is a text file: this checkout was made without "
                "symbolic links; run 'git config core.symlinks true' and check out again"
            )
