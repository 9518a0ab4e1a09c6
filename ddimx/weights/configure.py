"""From what was found beside the weights to a whole configuration, without guessing in silence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..config import Config, DiffusionConfig, ModelConfig
from ..config_file import load_config, shipped_configs, validate
from ..errors import UsageError
from ..untrusted.text import shortened, shown
from .architecture import Architecture, from_config
from .weight_set import Facts, WeightSet

# Another file's habits rather than facts about its weights, and what is compared as levels.
_NOT_COMPARED = {"dropout", "attn_resolutions", "attn_resolutions_up"}
# Of a schedule what every version knows.
_WRITTEN = {"beta_schedule", "beta_start", "beta_end", "num_diffusion_timesteps", "prediction"}
_SAME_CURVE = {"scaled-linear": "quad", "scaled_linear": "quad"}
# What a network of another process (flow, edm) has no need of.
_OF_BETAS = ("diffusion.beta_schedule", "diffusion.num_diffusion_timesteps")
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
    if weights.facts is not None:
        return _with_facts(weights.facts, explicit, label)
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
            f"{label}: no shipped configuration has these tensors ({architecture}): give --config, "
            "which says the images' size, its levels with attention and the noise schedule"
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


def _with_facts(
    facts: Facts, explicit: Config | None, label: str
) -> tuple[Config, tuple[str, ...]]:
    """Return the configuration of another program's network, of what its file and --config say."""
    name = facts.stated["model"]["name"]
    required = dict(facts.required)
    if "image_size" not in facts.stated["data"]:
        required = {"data.image_size": "height and width of the images", **required}
    if explicit is None:
        raise UsageError(
            f"{label}: this is a {facts.form}, whose tensors do not tell all:\n"
            + "".join(f"  {keys} ({words})\n" for keys, words in required.items())
            + f"Write these into a configuration with model.name: {name} and give it with "
            f"--config (docs/weights.md has examples):\n{_outline(facts, required)}"
        )
    if explicit.diffusion.prediction in ("flow", "edm"):
        required = {keys: w for keys, w in required.items() if not keys.startswith(_OF_BETAS)}
    settings = json.loads(explicit.model_dump_json(exclude_unset=True))
    merged = {section: {**values} for section, values in settings.items()}
    problems = [
        f"{keys} is missing ({words})"
        for keys, words in required.items()
        if not any(key in settings[section] for section, key in _split(keys))
    ]
    for section, values in facts.stated.items():
        for key, value in values.items():
            own = settings[section].get(key, value)
            if key in ("classes", "null_class"):
                continue
            if _plain(own) != _plain(value):
                problems.append(f"{section}.{key} is {shown(own)}, the file has {shown(value)}")
            merged[section][key] = value
    rows, model, class_count = len(facts.stated["model"].get("classes", ())), merged["model"], 0
    if rows:
        # A row for no class is there where its training dropped classes; only a person knows.
        model["null_class"] = model.get("null_class", False)
        class_count = rows - (facts.null_row and model["null_class"])
        model.setdefault("classes", [str(i) for i in range(class_count)])
    if len(model.get("classes", ())) != class_count:
        problems.append(
            f"model.classes has {len(model.get('classes', ()))} names, the file {rows} rows of "
            "classes"
            + (", one of them for no class where model.null_class is true" * facts.null_row)
        )
    if explicit.model.name != name:
        problems = [f"model.name is {explicit.model.name}, the file's network is {name}"]
    if facts.attention is not None:
        longer = max(explicit.data.sides)
        sizes = [longer // 2**level for level in facts.attention]
        if {*settings["model"].get("attn_resolutions", sizes)} != {*sizes}:
            problems.append(
                f"model.attn_resolutions is {settings['model']['attn_resolutions']}, the file has "
                f"attention at {sizes}"
            )
        merged["model"]["attn_resolutions"] = sizes
    steps, diffusion = explicit.diffusion.num_diffusion_timesteps, settings["diffusion"]
    of_flow = explicit.diffusion.prediction == "flow"
    if "diffusion.time_scale" in facts.defaults and "time_scale" not in diffusion:
        if of_flow:
            problems.append(
                "diffusion.time_scale is missing: 1 where the network is given t in [0, 1], as "
                "TorchCFM's is, 1000 where it is given 1000 t"
            )
        elif steps != 1000:
            problems.append(
                f"diffusion.time_scale is missing: {1000 / steps:g} where the network was trained "
                "with rescale_timesteps (improved-diffusion's default), else 1"
            )
    schedule = diffusion.get("beta_schedule") if any("beta_" in keys for keys in required) else None
    if schedule == "linear" and 20 / steps < 1:  # all these programs scale it so
        ends = {"beta_start": 0.1 / steps, "beta_end": 20 / steps}
        merged["diffusion"] = {**ends, **merged["diffusion"]}
    if schedule == "sigmoid":
        problems.append(
            "diffusion.beta_schedule is sigmoid, which is not the curve of that name where this "
            "network is from: write its table as diffusion.trained_betas"
        )
    if problems:
        lines = "\n".join(f"  {line}" for line in problems)
        raise UsageError(f"{label}: a {facts.form} and a configuration that do not fit:\n{lines}")
    config = validate(merged, label)
    defaults = [
        f"{section}.{key} is {getattr(getattr(config, section), key)}"
        for keys in facts.defaults
        for section, key in _split(keys)
        if key not in settings[section] and getattr(getattr(config, section), key) is not None
    ]
    remark = "what the file does not say is taken from --config"
    if defaults:
        remark += f", and assumed where that does not say it either: {', '.join(defaults)}"
    return config, (remark, *facts.notes)


def _outline(facts: Facts, required: Mapping[str, str]) -> str:
    """Return the least configuration of another program's network, "..." for what is to be said."""
    tree: dict[str, dict[str, Any]] = {section: {} for section in _UNSAID}
    tree["data"] = {"dataset": "FOLDER", **facts.stated["data"]}
    tree["model"]["name"] = facts.stated["model"]["name"]
    for keys in required:
        section, key = _split(keys)[0]
        tree[section][key] = "..."
    return "\n".join(
        f"  {section}: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}"
        for section, values in tree.items()
    )


def _split(keys: str) -> list[tuple[str, str]]:
    """Return the sections and names of "section.key or section.key"."""
    pairs = (part.partition(".") for part in keys.split(" or "))
    return [(section, key) for section, _, key in pairs]


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
