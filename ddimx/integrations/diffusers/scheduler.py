"""diffusers' DDIMScheduler with its numbers from our tables and its step in one fused launch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...errors import UsageError
from ...kernels.update import Extras, update
from ...noise import Noise, Stream
from ...solvers.plan import Plan
from .route import Route

Generators = torch.Generator | list[torch.Generator] | None


class _Table(NamedTuple):
    """A plan on a device: coefficients [rows, 13] and the ordinals of its rows, int64 [rows]."""

    coefficients: Tensor
    rows: Tensor


class DDIMScheduler(diffusers.DDIMScheduler):  # type: ignore[misc] # untyped for the checker
    """A drop-in for ``diffusers.DDIMScheduler``; same configuration, same methods.

    Equal to it wherever its steps go to the next time of its own list: "leading", and "trailing"
    where the number of steps divides T. Elsewhere (:mod:`.route`) each step here goes to the next
    time of the list. Beyond it there are ``set_timesteps(timesteps=[...])``, the spacings "ddim"
    and "quad", and noise that belongs to the sample. The arithmetic is in float32 (float64 for a
    float64 sample) whatever the model's dtype; results have the sample's.

    The noise of a step with eta > 0 is, in this order:

    1. ``variance_noise``, if given;
    2. after :meth:`use_seed`, drawn in the kernel from (seed, sample index, row of the timestep):
       independent of batch, device and of any generator;
    3. that of ``generator``, drawn as diffusers draws it. From a list, image i's noise comes from
       generator i alone and is the same in a batch of another size; from a single generator it
       depends on the batch. Without any, PyTorch's global generator.

    As in diffusers the generator is read in every step with eta > 0, though the last one to clean
    data adds nothing.
    """

    _route: Route | None = None
    _noise: Noise | None = None
    _samples: Sequence[int] | None = None

    def use_seed(self, seed: int | None, samples: Sequence[int] | None = None) -> None:
        """Draw the noise of steps from a 64-bit seed, or (None) as diffusers does.

        Args:
            seed: key of the noise.
            samples: the index of every sample of the batch, by default 0, 1, ...

        Raises:
            UsageError: a seed outside 0..2^64-1.
        """
        self._noise = None if seed is None else Noise(seed)
        self._samples = None if samples is None else [int(index) for index in samples]

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Choose the times to visit: a number of steps in the configured spacing, or a list.

        Raises:
            UsageError: neither or both, or times that cannot be sampled.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise UsageError("set_timesteps takes either num_inference_steps or timesteps")
        self._route = Route.of(self.config, num_inference_steps, timesteps)
        self._tables: dict[Any, _Table] = {}
        self.num_inference_steps = len(self._route.times)
        self.timesteps = torch.tensor(self._route.times, dtype=torch.int64, device=device)

    def plan(self, eta: float = 0.0) -> Plan:
        """Return the table of the run that ``set_timesteps`` has laid out, without its clip.

        Raises:
            UsageError: eta out of range.
            ValueError: no timesteps yet.
        """
        if self._route is None:
            raise ValueError("call set_timesteps first")
        return self._route.plan(float(eta))

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Take the sample from ``timestep`` to the next time of the list.

        Args:
            model_output: what the model predicts (``prediction_type``), [B, ...].
            timestep: one of ``timesteps``.
            sample: the state at that time, [B, ...].
            eta: in [0, 1].
            use_clipped_model_output: epsilon follows from the clipped x0.
            generator, variance_noise: see the class.
            return_dict: return an object with ``prev_sample`` and ``pred_original_sample`` instead
                of the two in a tuple.

        Raises:
            UsageError: eta out of range.
            ValueError: no timesteps yet, a time that is not among them, both a generator and
                noise, or shapes that do not fit.
        """
        row = self._row(timestep)
        if variance_noise is not None and generator is not None:
            raise ValueError("give either generator or variance_noise, not both")
        x = sample if sample.dtype == torch.float64 else sample.float()
        rederived = bool(use_clipped_model_output)
        config = self.config
        clip = float(config.clip_sample_range) if config.clip_sample else None
        out = model_output
        extras = self._noise_of_step(model_output, eta, generator, variance_noise)
        state = x
        if config.thresholding:
            clip = None
            out, epsilon = self._thresholded(row, x, model_output)
            state = x if rederived else epsilon
        table = self._table(eta, rederived, bool(config.thresholding), x)
        arguments = Extras(same_point=True, clip=clip, **extras)
        result = update(table.coefficients, table.rows[row], state, x, out, None, arguments)
        assert result.x0 is not None  # the network was called
        previous, x0 = result.x.to(sample.dtype), result.x0.to(sample.dtype)
        if not return_dict:
            return previous, x0
        return DDIMSchedulerOutput(prev_sample=previous, pred_original_sample=x0)

    def _row(self, timestep: int | Tensor) -> int:
        if self._route is None:
            raise ValueError("call set_timesteps before the first step")
        time = int(timestep)
        if time not in self._route.row_of:
            raise ValueError(
                f"timestep {time} is not in the scheduler's list, so its next time is unknown; "
                "set_timesteps(timesteps=[...]) takes any list"
            )
        return self._route.row_of[time]

    def _table(self, eta: float, rederived: bool, thresholded: bool, x: Tensor) -> _Table:
        assert self._route is not None
        key = (float(eta), rederived, thresholded, x.device, x.dtype)
        if key not in self._tables:
            plan = self._route.plan(float(eta), rederived=rederived, thresholded=thresholded)
            coefficients = torch.from_numpy(plan.table()).to(x.device, x.dtype)
            self._tables[key] = _Table(coefficients, torch.arange(len(plan), device=x.device))
        return self._tables[key]

    def _thresholded(self, row: int, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return x0 under dynamic thresholding (arXiv 2205.11487, section 2.3), and epsilon.

        A quantile needs the whole sample, so that this is a step of its own before the update.
        """
        r, s, u, v = self._table(0.0, False, False, x).coefficients[row, :4].unbind()
        out = out.to(x.dtype)
        return self._threshold_sample(r * x + s * out), u * x + v * out

    def _noise_of_step(
        self, like: Tensor, eta: float, generator: Generators, variance_noise: Tensor | None
    ) -> dict[str, Any]:
        """Return the update's arguments for the noise, by the rule in the class."""
        if not eta > 0:
            return {}
        if variance_noise is not None:
            return {"z": variance_noise}
        if self._noise is None:
            z = randn_tensor(like.shape, generator=generator, device=like.device, dtype=like.dtype)
            return {"z": z}
        samples = range(len(like)) if self._samples is None else self._samples
        return {
            "seed": self._noise.key_bits(like.device),
            "samples": torch.tensor(list(samples), dtype=torch.int64, device=like.device),
            "step_stream": int(Stream.STEP),
        }
