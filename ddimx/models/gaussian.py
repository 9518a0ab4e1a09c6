"""The Gaussian process: what is added to an image in training, and what the network learns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..config import Config, DataConfig, Prediction, SamplingConfig
from ..device import sent
from ..noise import Noise, Stream
from ..options import Options
from ..pixels import to_bytes
from ..runs.formats import FORMATS
from ..runs.sinks import Sink, open_sink
from ..solvers.continuous import schedule_of
from ..solvers.ddpm import Variance
from ..solvers.executor import Draw, Step, execute
from ..solvers.plan import Plan
from ..solvers.schedule import Schedule
from ..timing import timed
from .denoiser import Denoiser, network_input
from .peak_memory import PeakMemory
from .plans import plan_for
from .process import Draws, Given, drawn_labels, drawn_timesteps

MICRO_BATCH = 8  # the fixed size of --invariant; part of what makes its files reproducible
# State, prediction, x0, noise and their temporaries in float32, and Philox's int64 words.
STATE_COPIES = 16
PREVIEW_STEPS = 20


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """DDPM's forward process (arXiv 2006.11239) for any beta schedule and parametrisation."""

    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, ...]
    num_classes: int = 0
    class_dropout: float = 0.0
    null_class: bool = True  # whether the network has a prediction without a class
    antithetic: bool = True
    snr_clip: tuple[float, float] | None = None
    data: DataConfig | None = None  # how samples become pixels; None: [-1, 1]
    defaults: SamplingConfig = field(default_factory=SamplingConfig)
    variance: Variance = "large"

    draws = "images"
    formats = FORMATS
    micro_batch = MICRO_BATCH
    even_rows = True
    fixed_shapes = True

    @classmethod
    def from_config(cls, config: Config) -> GaussianProcess:
        """Build the process that a configuration describes."""
        return cls(
            schedule=schedule_of(config.diffusion),
            prediction=config.diffusion.prediction,
            shape=config.sample_shape,
            num_classes=len(config.model.classes),
            class_dropout=config.training.class_dropout if config.model.null_class else 0.0,
            null_class=config.model.null_class,
            antithetic=config.training.antithetic,
            snr_clip=config.training.snr_clip,
            data=config.data,
            defaults=config.sampling,
            variance="small" if config.model.var_type == "fixedsmall" else "large",
        )

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Return the squared error of the prediction, averaged over elements: float32 [B].

        With ``snr_clip`` it is the error of x0 that the prediction implies, times the
        signal-to-noise ratio clipped to these bounds: 0 and 5 are min-SNR (arXiv 2303.09556,
        equation 4), 1 and infinity truncated SNR (arXiv 2202.00512, section 4).

        ``batch`` holds ``x`` float32 [B, C, H, W] and, for a conditional model, ``label``
        int64 [B].
        """
        x0 = batch["x"]
        t = self.schedule.training_times(self.timesteps(draws).numpy())
        alpha_bar = _column(self.schedule.alpha_bar(t), x0)
        positions = sent(draws.positions, x0.device)
        noise = draws.noise.normal(positions, self.shape, row=draws.step, stream=Stream.TRAIN_NOISE)
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        noisy = (signal * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        times = sent(torch.from_numpy(t), x0.device, torch.float32)
        point, network_times = network_input(self.schedule, noisy, times)
        out = network(point, network_times, self._labels(batch, draws))
        target = self.schedule.network_target(self.prediction, x0, noise, signal, sigma)
        error = out.to(torch.float32) - target
        losses: Tensor = error.square().flatten(1).mean(dim=1)
        if self.snr_clip is None:
            return losses
        signal, noise = alpha_bar.flatten(), (1 - alpha_bar).flatten()
        least, most = self.snr_clip
        # The clipped ratio is of_x0 / noise. An error of epsilon is that of x0 times the ratio, an
        # error of v that of x0 times the ratio + 1, which is 1 / noise.
        of_x0 = torch.minimum(torch.maximum(signal, least * noise), most * noise)
        tiny = torch.finfo(signal.dtype).tiny
        divisor = {"epsilon": signal, "x0": noise}.get(self.prediction)
        return losses * (of_x0 if divisor is None else of_x0 / divisor.clamp(min=tiny))

    def time_shares(self, draws: Draws) -> Tensor:
        """Return the examples' times as shares of the schedule: float64 [B]."""
        t = self.schedule.training_times(self.timesteps(draws).numpy())
        return torch.from_numpy(t).double() / self.schedule.num_timesteps

    @property
    def decoder_name(self) -> str | None:
        """Return None: the states are images."""
        return None

    @property
    def can_guide(self) -> bool:
        """Return whether there are classes to lead towards, and a prediction without any."""
        return self.num_classes > 0 and self.null_class

    @property
    def preview(self) -> Options:
        """Return the options of the samples that training shows: few evaluations, no clipping."""
        steps = min(PREVIEW_STEPS, self.schedule.num_timesteps)
        return Options(solver="ddim", steps=steps, spacing="trailing", eta=0.0, clip="none")

    def plan(self, options: Options) -> Plan:
        """Return the plan that the options describe; see :func:`ddimx.models.plans.plan_for`."""
        return plan_for(options, self.schedule, self.prediction, self.defaults, self.variance)

    def run(
        self,
        network: nn.Module,
        plan: Plan,
        indices: Tensor,
        noise: Noise,
        *,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        given: Given | None = None,
    ) -> Iterator[Step]:
        """Run ``plan`` from x_T, drawn or given, and yield after every row."""
        given = given or Given()
        start = given.start
        if start is None:
            with timed("noise"):
                start = noise.normal(indices, self.shape, stream=Stream.INIT, device=indices.device)
        null = self.num_classes if self.num_classes else None
        denoiser = Denoiser(
            network,
            schedule=self.schedule,
            labels=labels,
            null_label=null,
            guidance=guidance,
        )
        draw = Draw(noise, indices)
        return execute(
            plan,
            denoiser,
            start,
            draw,
            guidance=guidance,
            unguided=denoiser.unguided,
            known=given.known,
            graphs=getattr(network, "graphs", None),  # of a network that an engine runs
        )

    def finish(self, step: Step) -> Tensor:
        """Return the results float32 [B, C, H, W] on the CPU, in the network's range."""
        return step.y.to("cpu", torch.float32)

    def sink(
        self,
        folder: Path,
        kind: str,
        *,
        classes: Sequence[str] = (),
        about: Mapping[str, str] | None = None,
    ) -> Sink:
        """Return what writes images, or one array of them."""
        return open_sink(kind, folder, self._range, classes, about)

    def picture(self, sample: Tensor) -> npt.NDArray[np.uint8]:
        """Return an image [C, H, W] as uint8 [H, W, C]."""
        pixels: npt.NDArray[np.uint8] = to_bytes(sample[None], self._range)[0].numpy()
        return pixels

    def bytes_per_sample(self, network: Callable[[], nn.Module], guidance: float) -> int:
        """Return the peak bytes of activations and state, by a run on the network's device.

        On the meta device, where tensors have no data, that takes no time and no memory.

        Memory that views keep alive after their base's Python object is gone is not seen; networks
        here hold their skip connections by name, so that the peak is right to a few percent.
        """
        own = network()
        like = next(own.parameters(), torch.empty(0, device="meta"))
        with torch.device(like.device), torch.no_grad():
            x = torch.zeros(1, *self.shape, dtype=like.dtype)
            arguments = [x, torch.zeros(1)]
            if self.num_classes:
                arguments.append(torch.zeros(1, dtype=torch.int64))
            try:
                with PeakMemory() as memory:
                    own(*arguments)
            except RuntimeError as error:
                if "overflowed" not in str(error):
                    raise
                return 1 << 62  # attention over more positions than bytes can be counted of
        passes = 2 if guidance != 1.0 else 1
        peak: int = memory.peak
        return peak * passes + x.numel() * 4 * STATE_COPIES

    @property
    def _range(self) -> DataConfig:
        channels, *sides = self.shape
        return self.data or DataConfig(dataset="", image_size=max(sides), channels=channels)

    def timesteps(self, draws: Draws) -> Tensor:
        """Draw int64 [B] in 0..T-1; with ``antithetic`` the two halves of a batch pair t, T-1-t."""
        return drawn_timesteps(draws, self.schedule.num_timesteps, antithetic=self.antithetic)

    def _labels(self, batch: Mapping[str, Tensor], draws: Draws) -> Tensor | None:
        if not self.num_classes:
            return None
        return drawn_labels(draws, batch["label"], self.num_classes, self.class_dropout)


def _column(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    """Return values [B] as float32 [B, 1, ...] beside ``like`` [B, ...]."""
    column = sent(torch.from_numpy(values), like.device, torch.float32)
    return column.view(-1, *(1 for _ in like.shape[1:]))
