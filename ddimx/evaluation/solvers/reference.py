"""What the deterministic samplers approximate: the same x_T carried to x_0 in many small steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...sampling.batch import finish_all
from ...sampling.settings import Settings
from ...solvers.executor import Step
from ...solvers.plan import Plan
from ...solvers.registry import SolverChoice, make_plan
from ...solvers.timesteps import Times
from ...weights.model import Model

SOLVER = "unipc:2"  # of third order with its corrector: the most accurate one at many steps

AfterRow = Callable[[Step, Sequence[int]], None]


@dataclass(frozen=True, eq=False)
class Reference:
    """Results that a solver's are compared with.

    Attributes:
        x0: float32 [N, ...], on the CPU.
        own_error: RMSE to what half as many evaluations give, which bounds the reference's own
            error from above as long as it falls with their number.
        evaluations: how many the reference made.
    """

    x0: Tensor
    own_error: float
    evaluations: int


def rmse(a: Tensor, b: Tensor) -> float:
    """Return the root mean squared difference over everything."""
    return float((a - b).double().square().mean().sqrt())


def run_plan(
    model: Model, settings: Settings, plan: Plan, after_row: AfterRow | None = None
) -> Tensor:
    """Return the results of a plan for the samples of ``settings``, float32 [N, ...]."""
    plan_settings = replace(settings, plan=plan)
    return torch.stack(finish_all(model, plan_settings, settings.indices, after_row=after_row))


def fine_times(model: Model, evaluations: int) -> Times:
    """Return equally spaced real-valued times from 0 to T - 1."""
    return np.linspace(0, model.process.schedule.num_timesteps - 1, evaluations)


def fine_plan(model: Model, evaluations: int, guided: tuple[float, float] = (0.0, 1.0)) -> Plan:
    """Return the plan of a reference with that many evaluations.

    ``guided``: the fractions of its rows between which guidance acts.
    """
    times = fine_times(model, evaluations)
    schedule, prediction = model.process.schedule, model.config.diffusion.prediction
    plan = make_plan(SolverChoice(SOLVER), schedule, times, prediction)
    return plan.guided_within(*guided)


def refine(
    model: Model,
    settings: Settings,
    evaluations: int,
    after_row: AfterRow | None = None,
    guided: tuple[float, float] = (0.0, 1.0),
) -> Reference:
    """Compute the reference for the samples of ``settings``; ``guided`` as of `fine_plan`."""
    half = run_plan(model, settings, fine_plan(model, evaluations // 2, guided), after_row)
    x0 = run_plan(model, settings, fine_plan(model, evaluations, guided), after_row)
    return Reference(x0, rmse(x0, half), evaluations)
