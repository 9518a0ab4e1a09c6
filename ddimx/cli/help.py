"""Help as a page: options in panels, as wide as the terminal, examples as they are typed.

Typer's own panels are drawn by Rich, whose import takes longer than all else that ``--help`` does.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from ..option_values import Panel

Panels = dict[str, list[tuple[str, str]]]

PANELS = get_args(Panel)
# Where what no other verb has is listed.
OWN = {
    "train": "What to train",
    "prepare": "What to prepare",
    "evaluate": "What to measure",
    "export": "What to export",
    "convert": "What to convert",
    "info": "What to describe",
}
# How Typer names the type of a value, by its version.
_TYPES = {
    "N": re.compile(r"<int( range)?>|\bINTEGER( RANGE)?\b"),
    "X": re.compile(r"<float( range)?>|\bFLOAT( RANGE)?\b"),
}
EXAMPLES = "Examples:"
WIDEST = 1000  # columns: as wide as the terminal; for a file or a pipe there are 80
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}
WIDEST_NAME = 30  # characters of an option with its value; a longer one has a line of its own


class Verb(TyperCommand):
    """A verb whose help lists options in panels, and its examples last."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the verb does, without its examples."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the panels: the verb's own, then those that verbs share."""
        panels = _options(self.get_params(ctx), ctx)
        own = [title for title in panels if title not in PANELS]
        _write_panels({t: panels[t] for t in (*own, *PANELS) if t in panels}, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, unbroken."""
        _write_examples(self.help or "", formatter)


class VerbGroup(TyperGroup):
    """A verb with verbs of its own, which its help lists in panels too.

    Typer looks at every parameter of a verb when it makes the verb's command, and that of all verbs
    takes longer than all else: :func:`add_verb` names a verb, and the command of the one that is
    called is made when it is.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a verb, made now; None if there is none of that name."""
        command: Any = self.commands.get(cmd_name)
        function = getattr(getattr(command, "callback", None), "verb", None)
        if function is None:
            return command
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        same = {"hidden": command.hidden, "deprecated": command.deprecated}
        alone.command(cmd_name, cls=Verb, **same)(function)
        return typer.main.get_command(alone)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the group is for."""
        _write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs, and then the few options."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            verb: Any = self.commands[name]
            if verb.hidden:
                continue
            about = (verb.help or "").partition("\n\n")[0]
            panels.setdefault(verb.rich_help_panel or "Commands", []).append((name, about))
        _write_panels(panels, formatter)
        _write_panels(_options(self.get_params(ctx), ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, unbroken."""
        _write_examples(self.help or "", formatter)


def add_verb(
    app: typer.Typer,
    function: Callable[..., Any],
    panel: str | None = None,
    former_name: str | None = None,
) -> None:
    """Add a verb to a group.

    Args:
        app: the group's, of the class :class:`VerbGroup`.
        function: with Typer's parameters; its name and documentation are the verb's.
        panel: where the group's help lists the verb.
        former_name: by which an earlier version knew it; no help lists it, and it warns.
    """

    def name_only() -> None:
        """Stand for the verb until it is called."""

    name_only.__name__, name_only.__doc__ = function.__name__, function.__doc__
    vars(name_only)["verb"] = function  # Typer's own wrapper takes it over
    app.command(function.__name__, cls=Verb, rich_help_panel=panel)(name_only)
    if former_name is not None:
        app.command(former_name, cls=Verb, hidden=True, deprecated=True)(name_only)


def _write_text(text: str, formatter: Any) -> None:
    text = text.partition(EXAMPLES)[0].strip()
    if text:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)


def _options(parameters: Iterable[Any], ctx: Any) -> Panels:
    """Return the parameters of a verb by panel: each with its value's form, and its help."""
    panels: Panels = {}
    verb = ctx
    while verb.parent is not None and verb.parent.parent is not None:
        verb = verb.parent
    own = OWN.get(verb.info_name) if isinstance(ctx.command, Verb) else None
    for parameter in parameters:
        row = parameter.get_help_record(ctx)
        if row is not None:
            name, text = row
            for value, types in _TYPES.items():
                name = types.sub(value, name)
            if parameter.param_type_name == "argument":
                name = parameter.metavar or name  # Typer adds the type, which says nothing
            text = re.sub(r" *\[([^]]*)\]$", _in_words, text)
            title = getattr(parameter, "rich_help_panel", None) or own or "Options"
            if title == "What to draw" and own:
                title = own  # such verbs draw nothing
            if parameter.name == "help" and "Running" in panels:
                title = "Running"
            panels.setdefault(title, []).append((name, text))
    return panels


def _in_words(notes: re.Match[str]) -> str:
    """Return what Typer adds to a help text, as ``[default: 64; x>=1]``, as we write it."""
    words = re.sub(r"(\d+)<=x<=(\d+)", r"\1 to \2", notes[1]).replace("x>=", "at least ")
    return f" ({words.replace('; ', ', ')})"


def _write_panels(panels: Panels, formatter: Any) -> None:
    names = [name for rows in panels.values() for name, _ in rows]
    width = min(max(map(len, names), default=0), WIDEST_NAME)
    for title, rows in panels.items():
        formatter.write_paragraph()
        formatter.write(f"{_bold(title)}\n")
        with formatter.indentation():  # the columns of all panels stand below each other
            aligned = [(name.ljust(width), text) for name, text in rows]
            formatter.write_dl(aligned, col_max=WIDEST_NAME)


def _write_examples(text: str, formatter: Any) -> None:
    examples = [line.strip() for line in text.partition(EXAMPLES)[2].splitlines()]
    if any(examples):
        formatter.write_paragraph()
        formatter.write(f"{_bold('Examples')}\n")
        for line in filter(None, examples):
            formatter.write(f"  {line}\n")


def _bold(title: str) -> str:
    """Return a title, bold where somebody looks at a terminal that shows it."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return title if plain else f"\x1b[1m{title}\x1b[0m"
