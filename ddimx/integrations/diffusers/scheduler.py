"""diffusers' DDIMScheduler with its numbers from our tables and its step in one fused launch."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.autograd import forward_ad

from ...errors import UsageError
from ...files import whole_file
from ...kernels import philox
from ...kernels.update import Extras, update
from ...kernels.update.columns import BY_DEPTH, NEUTRAL, TABLE
from ...noise import Noise, Stream
from ...solvers.executor import thresholded
from ...solvers.plan import Plan
from ...weights.formats.diffusers.scheduler import OWN_SPACING, spacing_of, spacing_settings
from .route import Levels, Route

Generators = torch.Generator | list[torch.Generator] | None


class SchedulerError(UsageError, ValueError):
    """A setting or argument that cannot be used: diffusers and its users expect a ValueError."""


class _Table(NamedTuple):
    """The update's table on a device: coefficients [rows, 13], and ordinals int64 [rows]."""

    coefficients: Tensor
    rows: Tensor


class DDIMScheduler(diffusers.DDIMScheduler):  # type: ignore[misc] # untyped for the checker
    """A drop-in for ``diffusers.DDIMScheduler``; same configuration, same methods.

    Equal to it wherever its steps go to the next time of its own list: "leading", and "trailing"
    where the number of steps divides T. Elsewhere (:mod:`.route`) each step here goes to the next
    time of the list. A step from a time outside the list goes to t - T // N in both. Beyond it
    there are ``set_timesteps(timesteps=[...])``, the spacings "ddim" and "quad", and noise that
    belongs to the sample. The arithmetic is in float32 (float64 for a float64 sample) whatever the
    model's dtype; results have the dtype that diffusers' have.

    A step can be differentiated, by every mode of PyTorch, and compiled as part of a larger graph;
    it is then plain PyTorch instead of the fused update. What is saved, alone or with a pipeline,
    bears the name of diffusers' own class and can be loaded without this package.

    ``alphas_cumprod`` and ``final_alpha_cumprod`` may be replaced before ``set_timesteps``.

    The noise of a step with eta > 0 is, in this order:

    1. ``variance_noise``, if given;
    2. after :meth:`use_seed`, drawn in the kernel from (seed, sample index, row of the timestep):
       independent of batch, device and of any generator. Time t outside the list of n times has
       row n + t;
    3. that of ``generator``, drawn as diffusers draws it. From a list, image i's noise comes from
       generator i alone and is the same in a batch of another size; from a single generator it
       depends on the batch. Without any, PyTorch's global generator.

    As in diffusers the generator is read in every step with eta > 0, though the last one to clean
    data adds nothing.
    """

    _route: Route | None = None
    _noise: Noise | None = None
    _samples: Sequence[int] | None = None

    @functools.wraps(diffusers.DDIMScheduler.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Wrapped, for diffusers reads the names of the settings from the parameters.
        super().__init__(*args, **kwargs)
        # Pipelines write this module's name and the class's into model_index.json. Those of the
        # instance only: pickle finds the class by its own.
        self.__module__ = diffusers.DDIMScheduler.__module__
        self._configured = self.alphas_cumprod.clone(), float(self.final_alpha_cumprod)

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any] | None = None,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return a scheduler with the settings of another one, as diffusers' method does.

        Args:
            config: settings of a scheduler that is compatible with DDIM.
            return_unused_kwargs: return a tuple with the settings that DDIM does not have.
            kwargs: settings to change.
        """
        if isinstance(config, Mapping):
            settings = {key: value for key, value in config.items() if key != OWN_SPACING}
            if OWN_SPACING in config:
                settings["timestep_spacing"] = spacing_of(config)
            config = settings
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the settings as diffusers' own class takes them, and beside them what is ours."""
        settings = json.loads(self.to_json_string())
        settings |= spacing_settings(settings["timestep_spacing"])
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        with whole_file(Path(json_file_path)) as part:
            part.write_text(text, encoding="utf-8")

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
            SchedulerError: neither or both, or times that cannot be sampled.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise SchedulerError("set_timesteps takes either num_inference_steps or timesteps")
        alpha_bars, final = self.alphas_cumprod.cpu(), float(self.final_alpha_cumprod)
        is_configured = torch.equal(alpha_bars, self._configured[0])
        try:
            route = Route.of(
                self.config,
                num_inference_steps,
                timesteps,
                None if is_configured else alpha_bars.double().numpy(),
                None if is_configured and final == self._configured[1] else final,
            )
        except UsageError as error:
            raise SchedulerError(str(error)) from None
        self._follow(route)
        self.num_inference_steps = len(route.times)
        self.timesteps = torch.tensor(route.times, dtype=torch.int64, device=device)

    def _follow(self, route: Route) -> None:
        """Keep a route and its numbers: as tensors, so that a compiled step holds none of them."""
        levels = np.stack([*vars(route.levels()).values()], axis=1)
        self._route = route
        self._levels = torch.from_numpy(levels)
        self._rows = torch.tensor(route.rows)
        self._can_step = np.isfinite(levels).all(axis=1).tolist()
        self._tables: dict[Any, _Table] = {}

    def plan(self, eta: float = 0.0) -> Plan:
        """Return the table of the run that ``set_timesteps`` has laid out, without its clip.

        Raises:
            UsageError: eta out of range, or a forward process that no plan can describe.
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
            timestep: one of ``timesteps``, or any other of 0..T-1, from which the step goes to
                t - T // N.
            sample: the state at that time, [B, ...].
            eta: in [0, 1].
            use_clipped_model_output: epsilon follows from the clipped x0.
            generator, variance_noise: see the class.
            return_dict: return an object with ``prev_sample`` and ``pred_original_sample`` instead
                of the two in a tuple.

        Raises:
            SchedulerError: eta out of range, or a time at which no step is defined.
            ValueError: no timesteps yet, a time outside 0..T-1, both a generator and noise, or
                shapes that do not fit.
        """
        if not 0.0 <= eta <= 1.0:
            raise SchedulerError(f"eta must lie in [0, 1], got {eta}")
        if eta > 0 and variance_noise is not None and generator is not None:
            raise ValueError("give either generator or variance_noise, not both")
        config, rederived = self.config, bool(use_clipped_model_output)
        clip = float(config.clip_sample_range) if config.clip_sample else None
        row = self._row(timestep)
        z = variance_noise if eta > 0 else None
        if eta > 0 and z is None and self._noise is None:
            z = randn_tensor(
                model_output.shape,
                generator=generator,
                device=model_output.device,
                dtype=model_output.dtype,
            )
        of_x0 = torch.promote_types(sample.dtype, model_output.dtype)
        of_state = of_x0 if z is None else torch.promote_types(of_x0, z.dtype)
        if config.prediction_type == "sample":
            of_x0 = model_output.dtype
        x = sample.to(torch.float64 if of_state == torch.float64 else torch.float32)
        if not sample.shape == model_output.shape == (sample if z is None else z).shape:
            inputs = [x, model_output] if z is None else [x, model_output, z]
            try:
                shape = np.broadcast_shapes(*[tensor.shape for tensor in inputs])
            except ValueError:
                shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
                raise ValueError(
                    f"sample, model_output and noise have shapes that do not fit: {shapes}"
                ) from None
            x, model_output = x.expand(shape), model_output.expand(shape)
            z = None if z is None else z.expand(shape)
        noise: dict[str, Any] = {} if z is None else {"z": z}
        if eta > 0 and self._noise is not None and z is None:
            samples = range(len(x)) if self._samples is None else self._samples
            noise = {
                "seed": self._noise.key_bits(x.device),
                "samples": torch.tensor(list(samples), dtype=torch.int64, device=x.device),
                "step_stream": int(Stream.STEP),
            }
        if config.thresholding or x.dim() < 2 or _is_transformed(x, model_output, z):
            previous, x0 = self._plain_step(row, x, model_output, eta, rederived, noise)
        else:
            table = self._table(eta, rederived, x)
            extras = Extras(same_point=True, clip=clip, **noise)
            ordinal = table.rows[int(row)]
            stepped = update(table.coefficients, ordinal, x, x, model_output, None, extras)
            assert stepped.x0 is not None  # the network was called
            previous, x0 = stepped.x, stepped.x0
        previous, x0 = previous.to(of_state), x0.to(of_x0)
        if not return_dict:
            return previous, x0
        return DDIMSchedulerOutput(prev_sample=previous, pred_original_sample=x0)

    def _row(self, timestep: int | Tensor) -> Tensor:
        """Return the row of a time in the tables, 0-d int64."""
        if self._route is None:
            raise ValueError("call set_timesteps before the first step")
        stride = self.config.num_train_timesteps // self.num_inference_steps
        if (
            stride != self._route.stride
        ):  # somebody has set num_inference_steps, as diffusers allows
            self._follow(dataclasses.replace(self._route, stride=stride))
        if torch.compiler.is_compiling() and isinstance(timestep, Tensor):
            # Its value is not known here; outside the table PyTorch itself raises the error.
            rows = self._rows.to(timestep.device)
            return rows.index_select(0, timestep.reshape(1).long())[0]
        time = int(timestep)
        if not 0 <= time < len(self._rows):
            raise ValueError(f"timestep {time} lies outside 0..{len(self._rows) - 1}")
        row = self._rows[time]
        if not torch.compiler.is_compiling() and not self._can_step[int(row)]:
            raise SchedulerError(
                f"no step leads from timestep {time}: alpha_bar there, or where the step goes, is "
                f"not between 0 and 1, or is 0 where the model predicts epsilon; see the betas"
            )
        return row

    def _plain_step(
        self,
        row: Tensor,
        x: Tensor,
        out: Tensor,
        eta: float,
        rederived: bool,
        noise: Mapping[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Return the previous sample and x0 as :meth:`step` does, in plain PyTorch.

        ``row``: 0-d int64; ``x``, ``out``: [B, ...] of one shape; ``noise``: the extras of the
        update that say what to add.
        """
        levels = self._levels.to(x.dtype).to(row.device)
        level = Levels(*levels.index_select(0, row.reshape(1))[0].unbind())
        out = out.to(x.dtype)
        x0 = level.r * x + level.s * out
        if self.config.thresholding:
            x0 = self._threshold_sample(x0)
        elif self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        mixture = _mixture(level, float(eta), rederived)
        previous = mixture["w"] * x0
        if rederived:
            previous = previous + mixture["a"] * x
        else:
            previous = previous + mixture["b"] * (level.u * x + level.v * out)
        z = noise.get("z")
        if "seed" in noise:
            address = noise["seed"], noise["samples"], row.to(x.device), noise["step_stream"]
            z = philox.normal(*address, x[0].numel(), dtype=x.dtype).view(x.shape)
        if z is not None:
            previous = previous + mixture["c"] * z.to(x.dtype)
        return previous, x0

    def _threshold_sample(self, sample: Tensor) -> Tensor:
        """Return x0 [B, ...] under dynamic thresholding, where torch.compile can follow it."""
        x0 = sample if sample.dtype == torch.float64 else sample.float()
        ratio, most = self.config.dynamic_thresholding_ratio, self.config.sample_max_value
        return thresholded(x0, ratio, most).to(sample.dtype)

    def _table(self, eta: float, rederived: bool, x: Tensor) -> _Table:
        """Return the table of all rows for the fused update, on the device of x, in its dtype."""
        key = (float(eta), rederived, x.device, x.dtype)
        if key not in self._tables:
            level = Levels(*self._levels.unbind(dim=1))
            columns = {"r": level.r, "s": level.s, "u": level.u, "v": level.v}
            columns |= _mixture(level, float(eta), rederived)
            table = torch.stack(
                [
                    columns.get(name, torch.full_like(level.r, NEUTRAL.get(name, 0.0)))
                    for name in (*TABLE, *BY_DEPTH)
                ],
                dim=1,
            )
            rows = torch.arange(len(table), device=x.device)
            self._tables[key] = _Table(table.to(x.dtype).to(x.device), rows)
        return self._tables[key]


def _mixture(level: Levels[Tensor], eta: float, rederived: bool) -> dict[str, Tensor]:
    """Return a, w, b, c of x' = a x + w x0 + b epsilon + c z, tensors of the shape of a level.

    That is equation 12 of arXiv 2010.02502, where ``rederived`` with epsilon = (x - sqrt(ab) x0) /
    sqrt(1 - ab) put into it.
    """
    c = eta * level.spread
    b = (level.variance_to - c**2).clamp(min=0).sqrt()
    if not rederived:
        return {"a": torch.zeros_like(b), "w": level.signal_to, "b": b, "c": c}
    a = b / level.sigma
    return {"a": a, "w": level.signal_to - a * level.signal, "b": torch.zeros_like(b), "c": c}


def _is_transformed(*tensors: Tensor | None) -> bool:
    """Whether a step on these tensors is compiled, differentiated or batched by PyTorch.

    To autograd, forward-mode differentiation and vmap the fused update is opaque.
    """
    if torch.compiler.is_compiling():
        return True
    return any(
        (tensor.requires_grad and torch.is_grad_enabled())
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        or forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
        if tensor is not None
    )
