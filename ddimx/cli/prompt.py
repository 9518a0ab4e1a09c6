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
from .common import DEFAULT_MODEL, check_begun

if TYPE_CHECKING:
    from ..integrations.diffusers.text import TextModel
    from ..options import RunOptions
    from ..solvers.plan import Plan
    from .verbs import Command

Work = Callable[..., tuple[dict[str, Any], Path]]

DEFAULT_STEPS = 50
# What of the options of ``ddimx sample`` has a meaning here; the rest is refused.
TAKEN = {"model", "prompt", "steps", "eta", "spacing", "timesteps", "clip", "guidance", "seed"}
TAKEN |= {"start_index", "count", "batch_size", "kind", "dtype", "solver"}


def prompt_work(command: Command) -> tuple[Work, Plan]:
    """Load the pipeline, resolve what is asked of it, and return the run and its plan.

    Raises:
        UsageError: an option that has no meaning with a prompt, a value out of range, a model that
            draws without a text, or a package that is missing.
        DdimxError: a pipeline that cannot be loaded.
    """
    options, asked = command.options, command.remembered
    _check_options(options, asked)
    _check_packages()
    from ..noise import Noise
    from ..sampling.manifest import dtype_for

    indices = _indices(options)
    noise = Noise(options.seed)
    name, device = options.model or DEFAULT_MODEL, options.device or "auto"

    from ..integrations.diffusers import attach
    from ..integrations.diffusers.prompt import run_prompt
    from ..integrations.diffusers.request import PromptRequest
    from ..integrations.diffusers.text import load_text_model, text_model_sha256

    folder = None if options.overwrite else options.out
    if command.begun and folder is not None:
        check_begun(command, folder, lambda: text_model_sha256(name, offline=options.offline))
    model = load_text_model(
        name,
        device=device,
        dtype=dtype_for(options.dtype, folder, device),
        offline=options.offline,
    )
    _check_pipeline(options, model)
    assert options.prompt is not None
    guidance = options.guidance
    request = PromptRequest(
        model=model,
        scheduler=attach(model.pipe, **_changes(options)),
        prompt=options.prompt,
        steps=options.timesteps or options.steps or DEFAULT_STEPS,
        eta=options.eta or 0.0,
        guidance=model.default("guidance_scale", 1.0) if guidance is None else guidance,
        noise=noise,
        indices=indices,
        batch_size=min(options.batch_size or 1, len(indices)),
        kind=options.kind or "png",
        out=options.out,
        overwrite=options.overwrite,
        command=shlex.join(["ddimx", *sys.argv[1:]]),
        asked=asked,
    )
    return partial(run_prompt, request), request.plan()


def _check_packages() -> None:
    for package in ("diffusers", "transformers", "huggingface_hub"):
        if find_spec(package) is None:
            raise UsageError(f"--prompt needs {package}: pip install 'ddimx[hub]'")


def _check_options(options: RunOptions, asked: dict[str, Any]) -> None:
    strange = [name for name in asked if name not in TAKEN]
    strange += [name for name in ("dry_run", "trust_code") if getattr(options, name)]
    if strange:
        names = ", ".join(options.flags_given(strange))
        raise UsageError(f"{names}: not for a run with --prompt")
    if options.solver not in (None, "ddim"):
        raise UsageError("a run with --prompt has one solver, ddim")
    if options.prompt is not None and not options.prompt.strip():
        raise UsageError("--prompt is empty; write what to draw")


def _check_pipeline(options: RunOptions, model: TextModel) -> None:
    kind = type(model.pipe).__name__
    for name in ("timesteps", "eta"):
        if getattr(options, name) and not model.takes(name):
            raise UsageError(f"--{name}: {kind} takes none")


def _indices(options: RunOptions) -> range:
    first, count = options.start_index, options.count or 1
    if first + count > 2**32:
        raise UsageError(f"sample indices must lie in 0..2^32-1, got {first}+{count}")
    return range(first, first + count)


def _changes(options: RunOptions) -> dict[str, Any]:
    """Return what the command line changes in the scheduler's settings."""
    changes: dict[str, Any] = {}
    if options.spacing is not None:
        changes["timestep_spacing"] = options.spacing
    if options.clip == "none":
        changes |= {"clip_sample": False, "thresholding": False}
    elif options.clip is not None:
        changes |= {
            "clip_sample": True,
            "clip_sample_range": options.clip,
            "thresholding": False,
        }
    return changes
