"""Finding, reading and overriding configurations; every error names file, key and a suggestion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .config import Config, DataConfig
from .errors import UsageError, check_links, nearest
from .untrusted import limits
from .untrusted.text import read_bytes, shortened, shown
from .untrusted.yaml_text import parse_yaml

_SHOWN = 20  # problems of one configuration; every key of a section wrong is fewer


def shipped_configs() -> list[str]:
    """Return the names of the configurations that come with the package."""
    check_links()
    folder = resources.files("ddimx") / "configs"
    return sorted(p.name[:-4] for p in folder.iterdir() if p.name.endswith(".yml"))


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration by shipped name or path and apply ``section.key=value`` overrides.

    Raises:
        UsageError: no such file, not YAML, unknown key, wrong type or an impossible combination.
    """
    label, tree = _parsed(source)
    return validate(apply(tree, overrides), label)


def load_data(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> DataConfig:
    """Read only the data section of a configuration, with ``data.key=value`` overrides.

    The other sections need not fit it: a data set may be wanted in a size that no model of this
    configuration has.

    Args:
        source: a shipped name, a path, or the keys of the section.

    Raises:
        UsageError: as :func:`load_config`, or an override of another section.
    """
    label, tree = (
        ("--set", {"data": dict(source)}) if isinstance(source, Mapping) else (_parsed(source))
    )
    for item in overrides:
        if not item.strip().startswith("data."):
            raise UsageError(f"--set {item}: only keys of data count here, as data.root=DIR")
    section = apply(tree, overrides).get("data", {})
    try:
        return DataConfig.model_validate(section)
    except ValidationError as error:
        raise _refusal(error, label, ("data",)) from None


def validate(tree: Mapping[str, Any], label: str) -> Config:
    """Build a :class:`Config` from nested mappings; ``label`` names their origin in errors."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _refusal(error, label) from None


def override(config: Config, overrides: Sequence[str]) -> Config:
    """Return ``config`` with ``section.key=value`` overrides applied and validated again."""
    tree = json.loads(config.model_dump_json(exclude_unset=True))
    return validate(apply(tree, overrides), "--set") if overrides else config


def dump_yaml(config: Config) -> str:
    """Return the configuration as YAML text, without keys left at their defaults."""
    tree = json.loads(config.model_dump_json(exclude_unset=True))
    return yaml.safe_dump(tree, sort_keys=False)


def _parsed(source: str | Path) -> tuple[str, dict[str, Any]]:
    """Return what a configuration is called in messages, and its sections."""
    label, text = _read(source)
    try:
        tree = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"{label}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{label}: expected sections such as 'data:' and 'model:'")
    return label, tree


def _refusal(error: ValidationError, label: str, section: tuple[str, ...] = ()) -> UsageError:
    """Return one message for all that is wrong in a configuration, or in one section of it."""
    errors = error.errors(include_url=False, include_context=False)
    for wrong in errors:
        wrong["loc"] = (*section, *wrong["loc"])
    lines = [f"  {_describe(wrong)}" for wrong in errors[:_SHOWN]]
    more = [f"  and {len(errors) - _SHOWN} more"] if len(errors) > _SHOWN else []
    return UsageError(f"{label}: invalid configuration\n" + "\n".join(lines + more))


def _read(source: str | Path) -> tuple[str, str]:
    path = Path(source)
    if path.suffix in {".yml", ".yaml"} or path.is_file():
        try:
            return str(path), read_bytes(path, limits.YAML_BYTES).decode("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read config {path}: {error}") from None
    name = str(source)
    known = shipped_configs()
    if name not in known:
        raise UsageError(
            f"unknown config '{name}'{nearest(name, known)} "
            f"Give a .yml file or one of: {', '.join(known)}."
        )
    return f"configs/{name}.yml", (resources.files("ddimx") / "configs" / f"{name}.yml").read_text(
        encoding="utf-8"
    )


def apply(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a configuration's sections with ``section.key=value`` overrides put into them.

    The outer dictionary is changed, its sections are replaced.

    Raises:
        UsageError: an override of another form.
    """
    for item in overrides:
        key, sign, text = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (sign and dot and section and name):
            raise UsageError(f"--set {item}: write section.key=value, as training.batch_size=64")
        try:
            value = parse_yaml(text)
        except ValueError:
            value = text
        # YAML 1.1 reads 2e-5 as a word; pydantic turns numeric words into numbers.
        present = {} if tree.get(section) is None else tree[section]
        if isinstance(present, dict):  # what else a file may hold there, validation refuses
            tree[section] = {**present, name: value}
    return tree


def _describe(error: Any) -> str:
    """One line for one of pydantic's errors: key, what is wrong, allowed values, nearest key."""
    where = ".".join(shortened(str(part)) for part in error["loc"]) or "configuration"
    if error["type"] == "extra_forbidden":
        known = _keys_at(error["loc"][:-1])
        return (
            f"{where}: unknown key{nearest(shortened(str(error['loc'][-1])), known)} "
            f"Allowed: {', '.join(sorted(known))}."
        )
    message = shortened(error["msg"].removeprefix("Value error, "), 3 * limits.SHOWN)
    told = error["type"] in {"missing", "value_error"}
    given = "" if told else f" (given: {shown(error['input'])})"
    return f"{where}: {message[0].lower()}{message[1:]}{given}"


def _keys_at(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = Config
    for part in location:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)
