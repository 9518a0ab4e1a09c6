"""A verb that fills a run folder: its command line, and what ``--resume`` takes from the run.

Every such verb is a function of :class:`ddimx.options.RunOptions` and parameters of its own that
returns its :class:`Work`. :func:`run_verb` makes the command of it: Typer's parameters from the
declared options, the values that an interrupted run remembers, and the run itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from ..errors import UsageError
from ..option_values import SAMPLING_VERBS, Option, checked
from ..options import RunOptions
from . import options as shared

if TYPE_CHECKING:
    from ..progress import Progress
    from ..sampling.run import SampleRequest
    from ..weights.model import Model

Record = dict[str, Any]

_ANNOTATED: Any = Annotated  # made at run time, which mypy cannot follow


@dataclass(frozen=True)
class Work:
    """What a verb does once its options are checked.

    Attributes:
        request: makes the run from the loaded model; where it goes and what ``--resume`` needs
            are filled in afterwards.
        summary: says in one line what a complete run has made, from its record and folder.
        after: is called with the record and folder of a complete run.
    """

    request: Callable[[Model, Progress], SampleRequest]
    summary: Callable[[Record, Path], str]
    after: Callable[[Record, Path, Progress], None] | None = None


@dataclass(frozen=True)
class Command:
    """A verb as it was called.

    Attributes:
        verb: its name.
        options: what the command line says, and with ``--resume`` what the run was begun with;
            ``out`` is then the run's folder, and ``resume`` None.
        remembered: what a later ``--resume`` takes from the manifest, as JSON values.
        begun: whether ``--resume`` names the run.
    """

    verb: str
    options: RunOptions
    remembered: dict[str, Any]
    begun: bool


@dataclass(frozen=True)
class _Own:
    """A parameter that only one verb has."""

    name: str
    kind: Any  # of its value: str, Path, int, float, bool or list[str]
    info: Any  # Typer's description
    required: bool

    def parsed(self, value: Any) -> Any:
        """Return a value from a manifest.

        Raises:
            UsageError: it is of another type.
        """
        if self.kind == list[str]:
            right = isinstance(value, list) and all(isinstance(word, str) for word in value)
        elif self.kind is float:
            right = isinstance(value, int | float) and not isinstance(value, bool)
        else:
            expected = str if self.kind is Path else self.kind
            right = type(value) is expected
        if not right:
            raise UsageError(f"{self.name}: {value!r}")
        return Path(value) if self.kind is Path else value


def run_verb(
    panel: str = "", **changes: Mapping[str, Any]
) -> Callable[[Callable[..., Work]], Callable[..., None]]:
    """Return a decorator that makes a command of a verb's function.

    The function takes the options and then parameters of its own, annotated for Typer, and returns
    its :class:`Work`. A parameter without a default must come from the command line or from
    ``--resume``. The function itself imports nothing heavy, so that wrong options are told at once.

    Args:
        panel: where ``--help`` lists the verb's own options, before all others.
        **changes: for declared options that differ in this verb, the fields of
            :class:`ddimx.options.Option` that do.
    """

    def decorate(function: Callable[..., Work]) -> Callable[..., None]:
        verb = function.__name__
        declared = {
            name: replace(option, **changes.get(name, {}))
            for name, option in shared.DECLARED.items()
            if verb in option.verbs
        }
        own = _own_parameters(function, panel)

        @wraps(function)
        def command(**parameters: Any) -> None:
            values = {name: value for name, value in parameters.items() if value is not None}
            _options(declared, values)
            gathers = values.get("gather", False)
            begun = "resume" in values or gathers
            if begun:
                name = str(values["out"]) if gathers else values.pop("resume")
                flag = "--out" if gathers else "--resume"
                folder, before = read_remembered(verb, declared, own, name, flag)
                values = before | values | {"out": folder}
            options = _options(declared, values)
            for parameter in own:
                if parameter.required and parameter.name not in values:
                    raise UsageError(f"give {parameter.info.metavar}, or --resume last|DIR")
            mine = {p.name: values[p.name] for p in own if p.name in values}
            plain = {k: str(v) if isinstance(v, Path) else v for k, v in mine.items()}
            from .execute import execute

            work = function(options, **mine)
            execute(Command(verb, options, options.remembered() | plain, begun), work)

        typed = {p.name: _ANNOTATED[p.kind | None, p.info] for p in own}
        for name, option in declared.items():
            kind: Any = shared.VALUES[option.kind]
            typed[name] = _ANNOTATED[kind | None, shared.parameter(name, option)]
        # Typer reads both; a default other than None would hide whether an option was given.
        command.__annotations__ = typed
        vars(command)["__signature__"] = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a)
                for name, a in typed.items()
            ]
        )
        return command

    return decorate


def read_remembered(
    verb: str,
    declared: Mapping[str, Option],
    own: list[_Own],
    resume: str,
    flag: str = "--resume",
) -> tuple[Path, dict[str, Any]]:
    """Return the folder that ``--resume`` names, and what its run was begun with.

    ``flag`` is the option that names it, for messages.

    Raises:
        UsageError: no run of this verb, or values in its manifest that are not of their type.
        DdimxError: no run at all, or a manifest that cannot be read.
    """
    from ..runs.folder import last_run
    from ..runs.record import NAME

    folder = last_run(verb) if resume == "last" else Path(resume)
    if not (folder / NAME).is_file():
        raise UsageError(f"{flag} {resume}: no run in {folder}")
    from ..sampling import manifest

    before = manifest.read(folder)
    assert before is not None
    other = before["identity"].get("verb", "sample")
    if other != verb:
        if other not in SAMPLING_VERBS:
            raise UsageError(f"{flag} {resume}: no run of 'ddimx {verb}' in {folder}")
        raise UsageError(
            f"{flag} {resume}: {folder} holds a run of 'ddimx {other}', not of 'ddimx {verb}'"
        )
    stored = before["asked"]
    values: dict[str, Any] = {}
    try:
        for name, option in declared.items():
            if option.remembered and name in stored:
                values[name] = checked(name, option, stored[name])
                if option.kind == "path" and not isinstance(stored[name], str):
                    raise UsageError(f"{name}: {stored[name]!r}")
        for parameter in own:
            if parameter.name in stored:
                values[parameter.name] = parameter.parsed(stored[parameter.name])
    except UsageError as error:
        text = str(error)[:80]
        raise UsageError(f"{flag} {resume}: its manifest is damaged (asked: {text})") from None
    return folder, values


def _options(declared: Mapping[str, Option], values: Mapping[str, Any]) -> RunOptions:
    """Return the declared options among the values, checked as this verb declares them."""
    mine = {name: values[name] for name in declared if name in values}
    for name, value in mine.items():
        checked(name, declared[name], value)
    return RunOptions.of(mine)


def _own_parameters(function: Callable[..., Work], panel: str) -> list[_Own]:
    """Return the parameters of a verb's function after the first, which is the options."""
    own = []
    for parameter in list(inspect.signature(function, eval_str=True).parameters.values())[1:]:
        value, described = get_args(parameter.annotation)
        info = copy(described)  # verbs share some
        kind = next((a for a in get_args(value) if a is not type(None)), value)
        kind = value if value == list[str] else kind
        info.rich_help_panel = panel or None
        info.show_default = False
        own.append(_Own(parameter.name, kind, info, parameter.default is parameter.empty))
    return own
