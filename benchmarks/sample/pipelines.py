"""diffusers' DDIMPipeline around the same weights: as people run it, and at its best.

At its best is bfloat16, channels_last and ``torch.compile``, on a CPU with inductor's freezing, on
a GPU with CUDA graphs; where OpenVINO is installed its compiled network is a further peer on a CPU.
The pipeline itself is diffusers', unchanged; what is exchanged is its network's ``forward``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

Forward = Callable[..., Any]
# Of the CIFAR-10 network without a cache of compiled code: two CPU cores, and an H200's host.
COMPILE_SECONDS = {"cpu": 90.0, "cuda": 26.0}
LAYERS = 164  # with weights, that it has
# In units of these: compiling with every kernel tried in many shapes, and OpenVINO's conversion.
AUTOTUNE, OPENVINO = 5.0, 0.33


class CompileTimes:
    """How long compiling takes: by what it took on other machines, and in this process so far."""

    def __init__(self, device: torch.device) -> None:
        """Begin without having seen any."""
        self._each = COMPILE_SECONDS.get(device.type, COMPILE_SECONDS["cpu"]) / LAYERS
        self._slower: list[float] = []

    def estimate(self, layers: int, cost: float = 1.0) -> float:
        """Return the seconds for a network of so many layers with weights."""
        return layers * cost * self._each * max([*self._slower, 0.5] if self._slower else [1.0])

    def note(self, seconds: float, layers: int, cost: float = 1.0) -> None:
        """Learn how long it took; the slowest that was seen counts."""
        self._slower.append(seconds / (layers * cost * self._each))


@dataclass(frozen=True)
class Peer:
    """One way to run the pipeline: what makes it ready but for its first call.

    ``cost`` is how long the first call compiles, in units of a plain compilation.
    """

    make: Callable[[], Pipeline]
    cost: float = 0.0


def missing() -> str | None:
    """Return why there are no such peers here, or None."""
    return None if find_spec("diffusers") else "diffusers is not installed"


class Pipeline:
    """One DDIMPipeline on a device.

    Attributes:
        pipe: diffusers' own object.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Load the folder that ``ddimx convert --to diffusers`` writes."""
        from diffusers import DDIMPipeline
        from diffusers.utils import logging

        logging.disable_progress_bar()  # of loading; the other is of sampling
        logging.set_verbosity_error()
        pipe: Any = DDIMPipeline.from_pretrained(
            folder, local_files_only=True, low_cpu_mem_usage=False
        )
        pipe.set_progress_bar_config(disable=True)
        self.pipe, self.device = pipe.to(device, dtype), device
        self.network: Any = self.pipe.unet
        self.network.eval().requires_grad_(False).to(memory_format=layout)
        self._plain = self.network.forward

    def draw(self, batch: int, steps: int) -> Tensor:
        """Return images [batch, C, H, W] as bytes in main memory."""
        images: Tensor = self._images(batch, steps)
        return images.mul(255).round_().to(torch.uint8).cpu()

    def draw_from(self, start: Tensor, steps: int) -> Tensor:
        """Return images [B, C, H, W] in [-1, 1] from the starting noise x_T instead of its own."""

        def noise(shape: Any, *, dtype: torch.dtype, **_: Any) -> Tensor:
            return start.to(self.device, dtype).view(shape)

        with mock.patch("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", noise):
            images: Tensor = self._images(len(start), steps)
        return images.float().mul(2).sub(1).cpu()

    def plain_calls(self, steps: int) -> int:
        """Return how often a sample of so many steps calls the network, counted by a hook.

        The sample is one image by the network as it was loaded, compiled or not since.
        """
        now, self.network.forward = self.network.forward, self._plain
        try:
            with counting(self.network) as calls:
                self.draw(1, steps)
        finally:
            self.network.forward = now
        return len(calls)

    def compile(self, mode: str | None) -> None:
        """Compile the network; it happens at its next call.

        Args:
            mode: of ``torch.compile``. None is for a CPU: freezing, which folds and packs weights.
        """
        from torch._inductor import config as inductor

        config: Any = inductor
        fast: Any = torch.compile(self.network.forward, fullgraph=True, dynamic=False, mode=mode)
        first = mode is None  # the call that compiles, under the settings of inductor

        def forward(sample: Tensor, timestep: Tensor, **options: Any) -> Any:
            nonlocal first
            # The scheduler's times lie in main memory, and a graph may read only the device's.
            timestep = timestep.to(self.device)
            if not first:
                return fast(sample, timestep, **options)
            first = False
            with config.patch(freezing=True):
                return fast(sample, timestep, **options)

        self.network.forward = forward

    def to_openvino(self, precision: str, batch: int) -> None:
        """Let OpenVINO run the network at one batch size, on as many threads as PyTorch.

        Args:
            precision: "f32" or "bf16", what it may compute in.
        """
        import openvino  # type: ignore[import-not-found, unused-ignore]
        from diffusers.models.unets.unet_2d import UNet2DOutput

        class Plain(nn.Module):
            def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
                out: Tensor = network.forward(sample, timestep, return_dict=False)[0]
                return out

        network, size = self.network, self.network.config.sample_size
        example = torch.zeros(batch, network.config.in_channels, size, size), torch.tensor(1)
        with torch.no_grad():
            model = openvino.convert_model(
                Plain(), example_input=example, input=[e.shape for e in example]
            )
        options = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        run = openvino.Core().compile_model(model, "CPU", options)

        def forward(sample: Tensor, timestep: Tensor) -> Any:
            out = run([sample.numpy(), timestep.numpy()])[0]
            return UNet2DOutput(sample=torch.from_numpy(out))

        network.forward = forward

    def _images(self, batch: int, steps: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(0)
        options = {"eta": 0.0, "num_inference_steps": steps, "output_type": "pt"}
        cudnn: Any = torch.backends.cudnn
        # Convolutions by the algorithm that was measured, as one would run a pipeline for speed.
        before, cudnn.benchmark = cudnn.benchmark, True
        try:
            out: Tensor = self.pipe(batch_size=batch, generator=generator, **options).images
        finally:
            cudnn.benchmark = before
        return out


@contextmanager
def counting(network: nn.Module) -> Iterator[list[None]]:
    """Yield a list that grows by one at every call of a network, by a hook."""
    calls: list[None] = []
    handle = network.register_forward_hook(lambda *_: calls.append(None))
    try:
        yield calls
    finally:
        handle.remove()


def peers(
    folder: Path, device: torch.device, half: str | None, batch: int, compiled: bool
) -> dict[str, Peer | str]:
    """Return the ways to run the pipeline by their names, the plain one first.

    Args:
        half: why bfloat16 is no peer on this device, None if it is.

    In place of one that cannot run here stands the reason.
    """
    if (reason := missing()) is not None:
        return {f"diffusers {name}": reason for name in ("fp32", "bf16", "bf16, compiled")}
    dtype = torch.float32 if half else torch.bfloat16
    name = "fp32" if half else "bf16"

    def compiled_by(mode: str | None, cost: float = 1.0) -> Peer | str:
        def make() -> Pipeline:
            pipeline = Pipeline(folder, device, dtype, torch.channels_last)
            pipeline.compile(mode)
            return pipeline

        return Peer(make, cost) if compiled else "--no-compile"

    ways: dict[str, Peer | str] = {
        "diffusers fp32": Peer(lambda: Pipeline(folder, device)),
        "diffusers bf16": half or Peer(lambda: Pipeline(folder, device, dtype)),
        f"diffusers {name} channels_last": Peer(
            lambda: Pipeline(folder, device, dtype, torch.channels_last)
        ),
    }
    on_gpu = device.type == "cuda"
    best = f"diffusers {name} channels_last, compiled"
    ways[best] = compiled_by("reduce-overhead" if on_gpu else None)
    if on_gpu:
        tuned = "max-autotune"
        ways[f"{best} ({tuned})"] = compiled_by(tuned, AUTOTUNE)
    if device.type == "cpu" and find_spec("openvino"):
        for precision in ("f32",) if half else ("f32", "bf16"):
            make = partial(_openvino, folder, device, precision, batch)
            ways[f"OpenVINO {precision}"] = Peer(make, OPENVINO) if compiled else "--no-compile"
    return ways


def _openvino(folder: Path, device: torch.device, precision: str, batch: int) -> Pipeline:
    pipeline = Pipeline(folder, device)
    pipeline.to_openvino(precision, batch)
    return pipeline
