"""What is asked of a text-to-image run, and the record that it leaves."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import torch

from ... import __version__
from ...noise import Noise
from ...sampling import manifest
from ...solvers.plan import Plan
from ...solvers.registry import SOLVERS
from ...solvers.timesteps import as_run
from .scheduler import DDIMScheduler
from .text import TextModel


@dataclass(frozen=True, eq=False)
class PromptRequest:
    """What to draw, with what, and where it goes; ``asked`` is kept for ``--resume``.

    ``scheduler`` has been attached to the model's pipeline; ``steps`` is a number or the timesteps.
    """

    model: TextModel
    scheduler: DDIMScheduler
    prompt: str
    steps: int | Sequence[float]
    eta: float
    guidance: float
    noise: Noise
    indices: range
    batch_size: int
    kind: str
    out: Path | None
    overwrite: bool
    command: str
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def timing(self) -> dict[str, Any]:
        """The argument of a pipeline, or of ``set_timesteps``, that says which times to visit."""
        if isinstance(self.steps, int):
            return {"num_inference_steps": self.steps}
        return {"timesteps": [*self.steps]}

    def plan(self) -> Plan:
        """Return the table that the run will follow.

        Raises:
            UsageError: steps, timesteps or eta out of range.
        """
        self.scheduler.set_timesteps(**self.timing)
        inputs = {
            "solver": "ddim",
            "solver_version": SOLVERS["ddim"].version,
            "times": as_run([float(t) for t in self.scheduler.timesteps]),
            "eta": self.eta,
        }
        return replace(self.scheduler.plan(self.eta), inputs=inputs)


def record_of(request: PromptRequest, plan: Plan) -> dict[str, Any]:
    """Return the run's manifest as far as it is known before the first image."""
    model = request.model
    table = plan.to_json()
    return {
        "schema": manifest.SCHEMA,
        "status": "running",
        "count": len(request.indices),
        "command": request.command,
        "prompt": request.prompt,
        "versions": {
            "ddimx": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "python": platform.python_version(),
        },
        "model": {
            "name": model.name,
            "format": f"diffusers pipeline ({type(model.pipe).__name__})",
            "sha256": model.sha256,
        },
        "device": str(model.device),
        "dtype": {"name": model.precision.name, "reason": model.precision.reason},
        "seed_rule": manifest.SEED_RULE,
        "nfe": plan.nfe,
        "forward_passes_per_sample": plan.nfe * (2 if request.guidance > 1 else 1),
        "batch_size": request.batch_size,
        "plan": table,
        "scheduler": json.loads(request.scheduler.to_json_string()),
        "identity": {
            "schema": manifest.SCHEMA,
            "model_sha256": model.sha256,
            "prompt": request.prompt,
            **plan.identity(),
            "seed_rule": manifest.SEED_RULE_VERSION,
            "seed": request.noise.seed,
            "guidance": request.guidance,
            "start_index": request.indices.start,
            "dtype": model.precision.name,
            "format": request.kind,
            "clip": _clipping(request.scheduler),
        },
        "asked": request.asked,
    }


def _clipping(scheduler: DDIMScheduler) -> float | str | None:
    config = scheduler.config
    if config.thresholding:
        return f"dynamic {config.dynamic_thresholding_ratio:g} {config.sample_max_value:g}"
    return float(config.clip_sample_range) if config.clip_sample else None
