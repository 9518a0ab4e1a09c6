"""The two kinds of failure a user meets, and the exit code that belongs to each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class DdimxError(Exception):
    """Something failed while doing what was asked: the message says what, where, what to do."""

    exit_code = 1


class UsageError(DdimxError):
    """The command line or the configuration is wrong; nothing was started."""

    exit_code = 2


class MissingPackage(UsageError):
    """A package that an extra of this one brings is not installed, or cannot be imported."""

    def __init__(self, what: str, package: str, extra: str, reason: ImportError) -> None:
        """Say that ``what`` needs ``package``, and which extra to install."""
        missing = isinstance(reason, ModuleNotFoundError)
        why = "which is not installed" if missing else f"which cannot be imported ({reason})"
        super().__init__(f'{what} needs {package}, {why}: pip install "ddimx[{extra}]"')


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word, or a full stop."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "."


def unknown(what: str, word: str, known: Iterable[str]) -> UsageError:
    """Build the error for a name that is none of the allowed ones."""
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
