"""``python -m ddimx`` and the ``ddimx`` script."""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends in SystemExit with the exit code."""
    from ddimx.cli.app import run

    run()


if __name__ == "__main__":
    main()
