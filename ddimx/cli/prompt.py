"""``ddimx sample --prompt``: a text-to-image pipeline instead of a model of our own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..integrations.diffusers.text import TextModel
    from ..solvers.plan import Plan

Work = Callable[..., tuple[dict[str, Any], Path]]

DEFAULT_MODEL = "emoji"
DEFAULT_STEPS = 50
# What of the options of ``ddimx sample`` has a meaning here; the rest is refused.
TAKEN = {"model", "prompt", "steps", "eta", "spacing", "timesteps", "clip", "guidance", "seed"}
TAKEN |= {"start_index", "count", "batch_size", "kind", "dtype", "solver"}


def prompt_work(
    asked: dict[str, Any],
    out: Path | None,
    *,
    overwrite: bool,
    device: str,
    offline: bool,
    begun: bool = False,
) -> tuple[Work, Plan]:
    """Load the pipeline, resolve what is asked of it, and return the run and its plan.

    ``begun``: ``out`` holds the run, and its manifest may be what names the pipeline.

    Raises:
        UsageError: an option that has no meaning with a prompt, a value out of range, a model that
            draws without a text, or a package that is missing.
        DdimxError: a pipeline that cannot be loaded.
    """
    _check_options(asked)
    _check_packages()
    from ..noise import Noise
    from ..runs.sinks import FORMATS
    from ..sampling.manifest import dtype_for
    from .parse import clip_value, one_of, times

    kind = one_of("format", asked.get("kind", "png"), FORMATS)
    clip, given = clip_value(asked.get("clip")), times(asked.get("timesteps"))
    indices, batch = _indices(asked), asked.get("batch_size", 1)
    noise = Noise(asked.get("seed", 0))

    from ..integrations.diffusers import attach
    from ..integrations.diffusers.prompt import run_prompt
    from ..integrations.diffusers.request import PromptRequest
    from ..integrations.diffusers.text import load_text_model, text_model_sha256
    from .sample_request import check_begun

    if begun and out is not None and not overwrite:
        name = asked.get("model", DEFAULT_MODEL)
        check_begun(asked, out, lambda: text_model_sha256(name, offline=offline))
    model = load_text_model(
        asked.get("model", DEFAULT_MODEL),
        device=device,
        dtype=dtype_for(asked.get("dtype"), None if overwrite else out, device),
        offline=offline,
    )
    _check_pipeline(asked, model)
    request = PromptRequest(
        model=model,
        scheduler=attach(model.pipe, **_changes(asked, clip)),
        prompt=asked["prompt"],
        steps=asked.get("steps", DEFAULT_STEPS) if given is None else given,
        eta=asked.get("eta", 0.0),
        guidance=asked.get("guidance", model.default("guidance_scale", 1.0)),
        noise=noise,
        indices=indices,
        batch_size=min(batch, len(indices)),
        kind=kind,
        out=out,
        overwrite=overwrite,
        command=shlex.join(["ddimx", *sys.argv[1:]]),
        asked=asked,
    )
    return partial(run_prompt, request), request.plan()


def _check_packages() -> None:
    for package in ("diffusers", "transformers", "huggingface_hub"):
        if find_spec(package) is None:
            raise UsageError(f"--prompt needs {package}: pip install 'ddimx[hub]'")


def _check_options(asked: dict[str, Any]) -> None:
    strange = [name for name in asked if name not in TAKEN]
    if strange:
        names = ", ".join("--" + name.replace("_", "-") for name in strange)
        raise UsageError(f"{names}: not for a run with --prompt")
    if asked.get("solver", "ddim") != "ddim":
        raise UsageError("a run with --prompt has one solver, ddim")
    if "timesteps" in asked and ("steps" in asked or "spacing" in asked):
        raise UsageError("--timesteps says which and how many; leave --steps and --spacing away")
    if not asked["prompt"].strip():
        raise UsageError("--prompt is empty; write what to draw")
    for name in ("batch_size", "count"):
        if asked.get(name, 1) < 1:
            raise UsageError(f"{name.replace('_', '-')} must be at least 1, got {asked[name]}")


def _check_pipeline(asked: dict[str, Any], model: TextModel) -> None:
    kind = type(model.pipe).__name__
    for name, parameter in (("timesteps", "timesteps"), ("eta", "eta")):
        if asked.get(name) and not model.takes(parameter):
            raise UsageError(f"--{name}: {kind} takes none")


def _indices(asked: dict[str, Any]) -> range:
    first, count = asked.get("start_index", 0), asked.get("count", 1)
    if first < 0 or first + count > 2**32:
        raise UsageError(f"sample indices must lie in 0..2^32-1, got {first}+{count}")
    return range(first, first + count)


def _changes(asked: dict[str, Any], clip: Any) -> dict[str, Any]:
    """Return what the command line changes in the scheduler's settings."""
    changes: dict[str, Any] = {}
    if "spacing" in asked:
        changes["timestep_spacing"] = asked["spacing"]
    if clip == "none":
        changes |= {"clip_sample": False, "thresholding": False}
    elif clip is not None:
        if not clip > 0:
            raise UsageError(f"clip must be positive, got {clip:g}")
        changes |= {"clip_sample": True, "clip_sample_range": clip, "thresholding": False}
    return changes
