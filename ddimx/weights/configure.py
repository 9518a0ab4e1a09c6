"""From what was found beside the weights to a whole configuration, without guessing in silence."""

from __future__ import annotations

import json
from typing import Any

from ..config import Config, DiffusionConfig, ModelConfig
from ..config_file import load_config, shipped_configs, validate
from ..errors import UsageError
from ..untrusted.text import shortened
from .architecture import Architecture, from_config
from .weight_set import WeightSet

# Another file's habits rather than facts about its weights, and what is compared as levels.
_NOT_COMPARED = {"dropout", "attn_resolutions", "attn_resolutions_up"}
# Of a schedule what every version knows.
_WRITTEN = {"beta_schedule", "beta_start", "beta_end", "num_diffusion_timesteps", "prediction"}
_SAME_CURVE = {"scaled-linear": "quad", "scaled_linear": "quad"}
# Of another program's folder, which says nothing of the data it was trained on.
_UNSAID: dict[str, Any] = {
    "data": {"dataset": "FOLDER"},
    "model": {},
    "diffusion": {},
    "training": {},
    "sampling": {},
    "optim": {},
}


def configure(
    weights: WeightSet, explicit: Config | None, label: str
) -> tuple[Config, tuple[str, ...]]:
    """Return the configuration of found weights, and remarks on where it comes from.

    What the file says is taken. A configuration that is given (``--config``) fills in the rest
    and may not contradict it. Without one, a file of bare tensors is matched with the shipped
    configurations.

    Raises:
        UsageError: a contradiction, each by its key; or nothing that says what is missing.
    """
    if weights.architecture is None:
        if weights.config is None or explicit is not None:
            raise UsageError(f"{label} carries its own configuration: omit --config")
        return weights.config, ()
    if explicit is None and weights.config is None and not weights.stated:
        return _matched(weights.architecture, label)
    base = explicit or weights.config
    if base is None and "diffusion" not in weights.stated:
        raise UsageError(
            f"{label}: no scheduler_config.json, so nothing says which noise the network was "
            "trained on: give --config"
        )
    config = _reconciled(weights, base, label)
    return config, () if explicit is None else (
        "what the file does not say is taken from --config",
    )


def _matched(architecture: Architecture, label: str) -> tuple[Config, tuple[str, ...]]:
    """Return the one shipped configuration of this architecture, up to what sampling ignores."""
    fitting = {
        name: config for name in shipped_configs() if _is(config := load_config(name), architecture)
    }
    if not fitting:
        raise UsageError(
            f"{label}: no shipped configuration has these tensors ({architecture}): give --config"
        )
    kinds = {_sampled(config) for config in fitting.values()}
    names = " and ".join(fitting)
    if len(kinds) > 1:
        raise UsageError(
            f"{label}: the tensors fit the configurations {names}, which differ in more than their "
            "data: choose with --config"
        )
    name, config = next(iter(fitting.items()))
    note = (
        f"the configuration is inferred: the tensors have the shapes of {names}, so image size "
        f"{config.data.image_size} and the {config.diffusion.beta_schedule} noise schedule are "
        f"{name}'s; --config says otherwise"
    )
    return config, (note,)


def _is(config: Config, architecture: Architecture) -> bool:
    """Return whether a configuration describes a plain UNet of this architecture."""
    model = config.model
    plain = model.name == "unet" and model.patch_size == 1 and not model.classes
    return plain and from_config(config) == architecture


def _sampled(config: Config) -> str:
    """Return what of a configuration decides how samples look, in a form that can be compared."""
    tree = config.model_dump(mode="json")
    parts = (tree["model"], tree["diffusion"], tree["sampling"], tree["data"]["image_size"])
    return json.dumps(parts, sort_keys=True)


def _reconciled(weights: WeightSet, base: Config | None, label: str) -> Config:
    """Return ``base`` completed by what was found; refuse what contradicts it."""
    architecture = weights.architecture
    assert architecture is not None  # configure asked
    tree = _UNSAID if base is None else json.loads(base.model_dump_json(exclude_unset=True))
    facts = {name: dict(values) for name, values in weights.stated.items()}
    of_shapes = architecture.keys()
    facts["model"] = {**of_shapes, **facts.get("model", {})}
    facts.setdefault("data", {})["channels"] = architecture.in_channels
    size = facts["data"].get("image_size") or (base.data.image_size if base else 1)
    facts["model"] |= architecture.attended(size)
    if architecture.class_rows and not (base and base.model.classes):
        # Nothing names the classes, nor says whether one of the rows stands for none of them.
        facts["model"]["classes"] = [str(i) for i in range(architecture.class_rows)]
        facts["model"]["null_class"] = False
    problems = [] if base is None else _contradictions(facts, base, architecture)
    if problems:
        raise UsageError(
            f"{label}: the configuration contradicts the file:\n"
            + "\n".join(f"  {line}" for line in problems)
        )
    # What is as by default is not written down: earlier versions do not know all of these keys.
    for section, kind in (("model", ModelConfig), ("diffusion", DiffusionConfig)):
        facts[section] = {
            key: value
            for key, value in facts.get(section, {}).items()
            if key in _WRITTEN or key in of_shapes or value != kind.model_fields[key].default
        }
    merged = {
        name: {**facts.get(name, {}), **values} if base else {**values, **facts.get(name, {})}
        for name, values in tree.items()
    }
    if base is None:
        merged["sampling"] = dict(weights.defaults)
    return validate(merged, label)


def _contradictions(
    facts: dict[str, dict[str, Any]], base: Config, architecture: Architecture
) -> list[str]:
    """Return the keys that ``base`` sets otherwise than the file says."""
    problems = []
    for section, values in facts.items():
        own = getattr(base, section)
        for key, value in values.items():
            if key in _NOT_COMPARED or key not in own.model_fields_set:
                continue
            if _plain(getattr(own, key)) != _plain(value):
                mine, theirs = (shortened(str(v)) for v in (getattr(own, key), value))
                problems.append(f"{section}.{key} is {mine}, the file has {theirs}")
    model, of_base = base.model, from_config(base)
    if model.patch_size != 1:
        problems.append(f"model.patch_size is {model.patch_size}, the file's format has none")
    if model.classes and not architecture.class_rows:
        problems.append(f"model.classes is {model.classes}, the file's format has none")
    elif model.classes and of_base.class_rows != architecture.class_rows:
        rows = "with one for no class" if model.null_class else "without one for no class"
        problems.append(
            f"model.classes has {len(model.classes)} names, {rows} (model.null_class), the file "
            f"{architecture.class_rows} rows of classes"
        )
    for key, part in (("attn_resolutions", "attention"), ("attn_resolutions_up", "attention_up")):
        levels, levels_there = getattr(of_base, part), getattr(architecture, part)
        if not problems and key in model.model_fields_set and levels != levels_there:
            problems.append(
                f"model.{key} {list(getattr(model, key) or ())} means attention on levels "
                f"{sorted(levels)}, the file has it on {sorted(levels_there)}"
            )
    return problems


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(value)
    return _SAME_CURVE.get(value, value) if isinstance(value, str) else value
