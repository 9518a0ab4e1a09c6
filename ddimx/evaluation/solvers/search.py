"""A plan made for one model: times and weights that follow its own refined trajectories.

Between given times, every row's weights are those of least squares: which mixture of the state and
the last predictions of x0 comes nearest to where the reference is at the next time? A row is
fitted to the state that the rows before it really reached, so that it also undoes their errors.
The times are moved one by one as long as the error at the end falls (GITS, arXiv 2405.11326,
searches times by dynamic programming; fitted weights are as in S4S, arXiv 2502.17423, but closed).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import UsageError
from ...models.denoiser import Denoiser
from ...runs.batches import in_batches
from ...sampling.settings import Settings, labels_for
from ...solvers.executor import Step
from ...solvers.plan import Array, Plan
from ...solvers.rows import one_evaluation_rows
from ...solvers.timesteps import Times
from ...weights.model import Model
from .reference import AfterRow, fine_plan, fine_times, run_plan

DEPTH = 6
RIDGE = 1e-7  # relative to each prediction's own norm: keeps near-copies from cancelling
POWERS = (0.6, 0.8, 1.0, 1.25)
ENDS = (0.03, 0.06, 0.1, 0.14)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Reference states of the search's samples.

    ``times`` rise and include the first one, T - 1; ``states`` maps a time to its state on the
    model's device, float32 [N, ...]; ``x0`` is the end.
    """

    times: Times
    states: dict[float, Tensor]
    x0: Tensor


@dataclass(frozen=True, eq=False)
class _Row:
    """A row before its step: the state, its predictions (newest first) and the fitted weights."""

    y: Tensor
    history: tuple[Tensor, ...]
    weights: Array


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted rows for falling ``times``, and their error at the end on the search's samples."""

    times: tuple[float, ...]
    rows: tuple[_Row, ...]
    rmse: float


def follow(
    model: Model, settings: Settings, evaluations: int, after_row: AfterRow | None = None
) -> Trajectory:
    """Return the reference trajectories of the samples of ``settings``."""
    predictions: dict[float, list[Tensor]] = {}

    def keep(step: Step, samples: Sequence[int]) -> None:
        predictions.setdefault(step.t_to, []).append(step.x[: len(samples)].clone())
        if after_row is not None:
            after_row(step, samples)

    x0 = run_plan(model, settings, fine_plan(model, evaluations), keep)
    times = fine_times(model, evaluations)[1:]  # the last row leaves no state at time 0
    return Trajectory(
        times, {t: torch.cat(predictions[t]) for t in times.tolist()}, x0.to(model.device)
    )


class Search:
    """The search for one model and one set of samples."""

    def __init__(self, model: Model, settings: Settings, trajectory: Trajectory) -> None:
        self._model, self._settings, self._along = model, settings, trajectory
        self._labels = labels_for(settings, model, settings.indices)

    def plan(self, fit: Fit) -> Plan:
        """Return a fit as a plan."""
        n = len(fit.rows)
        process, prediction = self._model.process, self._model.config.diffusion.prediction
        rows = one_evaluation_rows(process.schedule, np.array(fit.times[::-1]), prediction)
        a, b = np.zeros(n), np.zeros((n, DEPTH))
        for i, row in enumerate(fit.rows):
            a[i], b[i, : len(row.history)] = row.weights[0], row.weights[1:]
        label = f"searched, {n} evaluations"
        return rows.plan(a=a, w=np.zeros(n), b=b, history="x0", label=label, measured=True)

    def fit(self, times: Sequence[float], base: Fit | None = None, changed: int = 0) -> Fit:
        """Fit the rows of falling ``times``; ``base`` has the same times before ``changed``."""
        rows: list[_Row] = []
        y = self._along.states[times[0]]
        history: tuple[Tensor, ...] = ()
        for i, t in enumerate(times):
            if base is not None and i < changed:
                y, history = base.rows[i].y, base.rows[i].history
            else:
                history = (self._predict(y, t), *history)[:DEPTH]
            last = i == len(times) - 1
            target = self._along.x0 if last else self._along.states[times[i + 1]]
            keep = base is not None and i < changed - 1
            weights = base.rows[i].weights if keep and base else _least_squares(y, history, target)
            rows.append(_Row(y, history, weights))
            tensors = (y, *history)
            y = float(weights[0]) * tensors[0]
            for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
                y = y + float(weight) * tensor
        error = float((y - self._along.x0).double().square().mean().sqrt())
        return Fit(tuple(times), tuple(rows), error)

    def best(self, nfe: int, trials: int, tried: Callable[[Fit], None] | None = None) -> Fit:
        """Search times for ``nfe`` evaluations, trying about ``trials`` lists of times.

        Raises:
            UsageError: more evaluations than the trajectory has times.
        """
        if nfe > len(self._along.times) // 2:
            raise UsageError(f"a search for {nfe} evaluations needs a finer --reference")
        fits = []
        top = self._along.times[-1]
        u = np.linspace(1, 0, nfe) if nfe > 1 else np.ones(1)
        shapes = [(end * (nfe > 1), power) for end in ENDS for power in POWERS]
        lists = {self._snapped(end * top + (1 - end) * top * u**power) for end, power in shapes}
        for times in [times for times in sorted(lists) if len(set(times)) == nfe]:
            fits.append(self.fit(times))
            if tried is not None:
                tried(fits[-1])
        best = min(fits, key=lambda fit: fit.rmse)
        remaining = trials - len(fits)
        # In places of the trajectory: half the mean distance at first.
        stride = max(len(self._along.times) // (2 * nfe), 1)
        while remaining > 0:
            previous = best
            for i in range(1, nfe):
                for neighbor in (
                    self._moved(best.times, i, -stride),
                    self._moved(best.times, i, stride),
                ):
                    if neighbor is None or remaining <= 0:
                        continue
                    remaining -= 1
                    fit = self.fit(neighbor, best, i)
                    best = fit if fit.rmse < best.rmse else best
                    if tried is not None:
                        tried(best)
            if best is previous:
                if stride == 1:
                    break
                stride //= 2
        return best

    def _snapped(self, times: Array) -> tuple[float, ...]:
        nearest = np.abs(self._along.times[:, None] - times).argmin(axis=0)
        return tuple(self._along.times[nearest].tolist())

    def _moved(self, times: tuple[float, ...], i: int, by: int) -> tuple[float, ...] | None:
        place = int(np.searchsorted(self._along.times, times[i])) + by
        if not 0 <= place < len(self._along.times):
            return None
        value = float(self._along.times[place])
        next_time = times[i + 1] if i + 1 < len(times) else -1.0
        return (*times[:i], value, *times[i + 1 :]) if next_time < value < times[i - 1] else None

    @torch.no_grad()
    def _predict(self, y: Tensor, t: float) -> Tensor:
        """Return the guided prediction of x0 at (y, t), in batches of the settings' size."""
        process, guidance = self._model.process, self._settings.guidance
        level = process.schedule.alpha_bar(np.array([t]))
        prediction = self._model.config.diffusion.prediction
        r, s, _, _ = process.schedule.output_coefficients(level, prediction)
        null = process.num_classes if process.num_classes else None

        def predict(places: Sequence[int]) -> Tensor:
            part = slice(places[0], places[-1] + 1)
            labels = None if self._labels is None else self._labels[part].to(y.device)
            ask = Denoiser(
                self._model.network,
                schedule=process.schedule,
                labels=labels,
                null_label=null,
                guidance=guidance,
            )
            raw = ask(y[part], torch.full((len(places),), t, device=y.device))
            out = raw.out.to(y.dtype)
            if raw.uncond is not None:
                out = raw.uncond + guidance * (out - raw.uncond)
            return float(r[0]) * y[part] + float(s[0]) * out

        batches = in_batches(range(len(y)), self._settings.batch_size, predict)
        return torch.cat([x0 for _, x0 in batches])


def _least_squares(y: Tensor, history: Sequence[Tensor], target: Tensor) -> Array:
    """Return the weights of y and the history whose mixture is nearest to ``target``."""
    columns = torch.stack([m.flatten().double() for m in (y, *history)])
    gram = columns @ columns.T
    gram += RIDGE * torch.diag(gram.diagonal())
    weights: Array = torch.linalg.solve(gram, columns @ target.flatten().double()).cpu().numpy()
    return weights
