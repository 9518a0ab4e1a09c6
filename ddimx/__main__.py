"""``python -m ddimx`` and the ``ddimx`` script."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; ends in SystemExit with the exit code."""
    # Python's own way for the processes that are started from here, from its version 3.11 on.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    from ddimx.cli.app import run

    run()


def forget_current_folder() -> None:
    """Take the folder that ``python -m`` puts first out of the places that are imported from.

    Else a file beside the data could pass for any package that is imported later, torch and what
    registers itself there included. It stays where ddimx itself is run from it, a checkout, and
    where --trust-code asks for a class that may lie there.
    """
    here = os.path.realpath(os.curdir)
    own = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir))
    first = os.path.realpath(sys.path[0] or os.curdir) if sys.path else ""
    if first == here != own and "--trust-code" not in sys.argv:
        del sys.path[0]


if __name__ == "__main__":
    forget_current_folder()
    main()
