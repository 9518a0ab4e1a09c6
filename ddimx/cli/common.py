"""What many verbs do: load a model, and end when they were interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import typer

from ..errors import unknown

if TYPE_CHECKING:
    from ..progress import Progress
    from ..signals import Stop
    from ..weights.model import Model
    from .verbs import Command

DEFAULT_MODEL = "emoji"


def load(
    model: str | None,
    *,
    device: str,
    weights: str | None,
    config: str | None,
    offline: bool,
    trust_code: bool,
    progress: Progress,
    dtype: str = "auto",
) -> Model:
    """Load the model that the options name, ``emoji`` where they name none.

    It is said which weights were taken, unless the model's notes say it. Our own model files hold
    one set.

    Raises:
        UsageError: an unknown name, or an option that does not fit the file.
        DdimxError: a file that cannot be read, or a download that failed.
    """
    from ..weights.model import load_model

    loaded = load_model(
        model or DEFAULT_MODEL,
        device=device,
        dtype=dtype,
        weights=which(weights),
        config=config,
        offline=offline,
        trust_code=trust_code,
        progress=progress,
    )
    if loaded.form != "ddimx model" and not loaded.which_is_noted:
        taken = {
            "ema": "the averaged weights",
            "ema2": "the weights of the second average",
            "raw": "the last (raw) weights",
        }
        unstated = "the file does not say whether its weights are an average"
        progress.say(f"note: {loaded.name}: {taken.get(loaded.weights, unstated)}")
    return loaded


def which(weights: str | None) -> Literal["ema", "ema2", "raw"] | None:
    """Return which weights ``--weights`` names, whose value Typer has checked."""
    names: dict[str, Literal["ema", "ema2", "raw"]] = {"ema": "ema", "ema2": "ema2", "raw": "raw"}
    return None if weights is None else names[weights]


def one_of(what: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is allowed.

    Raises:
        UsageError: with the nearest allowed value.
    """
    if value not in allowed:
        raise unknown(what, value, allowed)
    return value


def end_interrupted(progress: Progress, stop: Stop, message: str) -> NoReturn:
    """Say how a run that was interrupted goes on, and end the program with the signal's exit code.

    Raises:
        typer.Exit: always, with 130 for Ctrl-C and 143 for SIGTERM.
    """
    progress.say(message)
    raise typer.Exit(stop.exit_code)


def check_begun(command: Command, folder: Path, sha256: Callable[[], str]) -> None:
    """Refuse another run's folder as far as that can be seen without loading the model.

    Args:
        sha256: returns the digest of the model's tensors; called only where a run is there.

    Raises:
        UsageError: another model, or another value of an option that stands in a run's identity.
        DdimxError: a manifest that cannot be read.
    """
    from ..option_values import parse_guidance
    from ..runs.record import check_same
    from ..sampling import manifest

    before = manifest.read(folder)
    if before is None:
        return
    options = command.options
    count = before["count"]
    now: dict[str, Any] = {}
    if command.verb == "sample":  # the others' identities hold what they make of these
        count = options.count or count
        now = {name: getattr(options, name) for name in ("seed", "start_index")}
        now |= {"format": options.kind, "prompt": options.prompt}
        if options.guidance is not None:
            now["guidance"] = parse_guidance(options.guidance).weight
        now["category"] = options.category
        now = {name: value for name, value in now.items() if value is not None}
    old = {name: value for name, value in before["identity"].items() if name in now}
    check_same(folder, before["count"], old, now, count)
    digest = {"model_sha256": before["identity"].get("model_sha256")}
    check_same(folder, before["count"], digest, {"model_sha256": sha256()}, count)
