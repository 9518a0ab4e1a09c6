"""README and the pages in docs/, taken apart: their blocks, commands, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from typer.main import get_command

from ddimx.cli.app import app
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
GENERATED = {"benchmarks.md", "cli.md"}  # which have tests of their own


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the page where it begins."""

    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def commands_of(block: Block) -> Iterator[list[str]]:
    """Every command of a shell block as words, without comments, ``&&`` taken apart."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
            elif words:
                yield words
                words = []


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language == "bash":
            yield from commands_of(block)


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Commands within sentences: ```` `ddimx sample --steps 50` ````, also over two lines."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for code in re.findall(r"`(ddimx [^`]+)`", text):
        if "..." not in code:
            yield shlex.split(code.replace("\n", " "))


def verb_of(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """The verb of a ddimx command, the words that name it, and its arguments; or ValueError."""
    group: Any = get_command(app)
    names, rest = [], words[1:]
    while hasattr(group, "commands"):
        if not rest or rest[0] not in group.commands:
            raise ValueError(f"no command {' '.join(words)}")
        names.append(rest[0])
        group, rest = group.get_command(None, rest[0]), rest[1:]
    return group, names, rest


def parse(words: list[str]) -> None:
    """Hold a ddimx command against the real command line; unknown verbs and options raise."""
    verb, names, rest = verb_of(words)
    verb.make_context(" ".join(names), rest)


def unknown_options(words: list[str]) -> list[str]:
    """The options of a ddimx command that its verb does not have."""
    verb, _, rest = verb_of(words)
    there = {flag for param in verb.params for flag in (*param.opts, *param.secondary_opts)}
    there |= {"--help", "-h"}
    return [word for word in rest if word.startswith("-") and word.partition("=")[0] not in there]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    made = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        word = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        made.add(word.replace(" ", "-"))
    return made
