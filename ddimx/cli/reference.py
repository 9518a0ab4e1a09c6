"""The page of the command line, made of the help texts: ``python -m ddimx.cli.reference``.

Its output is ``docs/cli.md``; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

WIDTH = 98  # of the help texts, as the pages around them

HEAD = """\
# Command line

The help text of every command, as `--help` prints it. This page is generated:
`python -m ddimx.cli.reference > docs/cli.md`.
"""


def verbs() -> Iterator[tuple[str, str]]:
    """Yield every command, ``ddimx evaluate nll``, with its help; groups before their verbs."""
    from .app import app

    def walk(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
        context = command.make_context(
            name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH
        )
        yield context.command_path, command.get_help(context)
        for child, named in getattr(command, "commands", {}).items():
            if named.hidden:
                continue
            yield from walk(command.get_command(context, child), child, context)

    return walk(get_command(app), "ddimx", None)


def page() -> str:
    """Return the page, Markdown."""
    parts = [HEAD]
    for name, text in verbs():
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"## {name}\n\n```text\n{lines}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
