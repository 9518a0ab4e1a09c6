"""Several processes that train one network: what they sum, and when all of them stop.

How they meet and what they tell each other is :mod:`ddimx.training.meeting`'s; only numbers on the
device, gradients and losses, go through a process group of torch's (NCCL or gloo).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import DdimxError, UsageError
from ..launch import Launch
from ..signals import Stop
from .measure import Distance
from .meeting import Meeting, c10d
from .state import TrainState
from .watch import ALONE, GO_ON, PREPARING, TRAINING, WAITING

# Who is missing says the watch, for both back ends alike. Their own limits only end the process.
_NEVER = timedelta(days=30)
# Buffers are constants here. PyTorch 2.13 has another name for what it deprecates.
_NAMES = ("forward_sync_buffers", "broadcast_buffers")
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: Any = {next(name for name in _NAMES if name in _PARAMETERS): False}


class Group(Meeting):
    """The processes of one training, of which this is one; by default it is alone."""

    def __init__(self, launch: Launch | None = None) -> None:
        """Describe the group; nothing is begun."""
        super().__init__(launch)
        self._device, self._begun = torch.device("cpu"), False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave as a meeting is left; after a failure the process group ends with the process."""
        super().__exit__(kind, error, trace)
        if self._begun and error is None:
            dist.destroy_process_group()

    def begin(
        self, backend: Literal["auto", "gloo", "nccl"], device: torch.device, limit: float
    ) -> None:
        """Open the process group for numbers on ``device``.

        Args:
            backend: ``training.backend``.
            limit: ``training.rank_timeout``, in seconds.

        Raises:
            UsageError: NCCL without CUDA, or a device that no back end knows.
        """
        if backend == "nccl" and (device.type != "cuda" or not dist.is_nccl_available()):
            reason = (
                f"this process computes on {device.type}"
                if device.type != "cuda"
                else "this PyTorch was built without it"
            )
            raise UsageError(
                f"training.backend nccl needs CUDA devices, and {reason}: "
                "--set training.backend=gloo, or auto"
            )
        if self.is_alone or self._watch is None:
            return
        if backend == "auto":
            backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"several processes train on cpu or cuda, not on {device.type}")
        self._watch.limit, self._device = limit, device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self._watch.at(WAITING)
        dist.init_process_group(
            backend,
            store=c10d.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=_NEVER,
        )
        self._watch.at(PREPARING)
        self._begun = True

    def trainable(self, network: nn.Module) -> nn.Module:
        """Return a network whose backward pass sums the gradients of all ranks."""
        if self.is_alone:
            return network
        # To look for weights without a gradient costs little, lets any network train, and leaves
        # the gradients where they are in the buffers that are summed. DDP would else move them
        # after the first step, and of three ranks and more the place decides the order of a sum:
        # a run that goes on would not have the same bits.
        wrapped: Any
        with self.together():
            wrapped = DistributedDataParallel(
                network, gradient_as_bucket_view=True, find_unused_parameters=True, **_NO_BUFFERS
            )
        # DDP's own way divides by the number of ranks before it sums. Every rank's loss is divided
        # by the examples of all ranks already, for ranks may have one example more than others.
        wrapped.register_comm_hook(None, _summed)
        module: nn.Module = wrapped
        return module

    @contextmanager
    def part(self, network: nn.Module, *, last: bool) -> Iterator[None]:
        """Compute the forward and backward pass of a part of a step; the last one sums."""
        if self.is_alone:
            yield
            return
        with ExitStack() as stack:
            if not last:
                assert isinstance(network, DistributedDataParallel)
                stack.enter_context(network.no_sync())
            stack.enter_context(self.together())
            yield

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of all ranks' 0-d tensors, on the device and without waiting for it."""
        if self.is_alone:
            return value
        with self.together():
            dist.all_reduce(value)
        return value

    @contextmanager
    def first_of_machine(self) -> Iterator[None]:
        """Let the first process of every machine do something before the others there do it."""
        if self.is_alone:
            yield
            return
        turn = torch.zeros((), device=self._device)
        if self._local_rank:
            float(self.total(turn))
        try:
            yield
        finally:
            if not self._local_rank:
                float(self.total(turn))

    def stopping(self, stop: Stop, *, now: bool) -> bool:
        """Return whether a signal has asked any rank to stop; then all of them have been asked.

        Args:
            now: whether this is a step at which all ranks ask; at others the answer is no. A
                process alone always asks.
        """
        if self.is_alone:
            return bool(stop)
        if not now:
            return False
        number = torch.tensor(stop.signal or 0, device=self._device)
        with self.together():
            dist.all_reduce(number, dist.ReduceOp.MAX)
        stop.signal = int(number) or None
        return bool(stop)

    def at(self, step: int) -> None:
        """Note that this rank computes a step."""
        if self._watch is not None:
            self._watch.at(TRAINING, step)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Do what rank 0 does alone, for as long as it takes: the others wait at their next sum."""
        watch = self._watch
        if watch is None:
            yield
            return
        before = watch.own.doing
        watch.at(ALONE if before != PREPARING else PREPARING)
        try:
            yield
        finally:
            watch.at(before)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Do what every rank has to take part in.

        Raises:
            Elsewhere: another rank has failed, and said why.
            DdimxError: a rank has gone; it says which one, and at which step.
        """
        try:
            yield
        except RuntimeError as error:
            if not _of_connection(error) or self._watch is None:
                raise
            self._watch.explain()
            self.raise_failure()
            first = str(error).partition("\n")[0]
            raise DdimxError(
                f"rank {self.rank} of {self.size} lost the others at step "
                f"{self._watch.own.step}: {first}{GO_ON}"
            ) from None


class SilentReporter:
    """The reporter of ranks that do not speak: it keeps nothing."""

    def start(self, state: TrainState, total: int) -> None:
        """Drop what rank 0 writes into its next line."""
        state.clear()

    def step(self, state: TrainState, losses: list[float], norm: float, waited: float) -> None:
        """Drop the losses, which rank 0 has too."""
        state.clear()

    def validation(self, state: TrainState, losses: dict[str, float]) -> None:
        """Do nothing."""

    def validated(self, step: int) -> bool:
        """Return that there is nothing to do."""
        return True

    def distance(self, state: TrainState, distance: Distance, value: float) -> None:
        """Do nothing."""

    def measured(self, step: int) -> bool:
        """Return that there is nothing to do."""
        return True

    def curves(self, state: TrainState) -> None:
        """Do nothing."""

    def saved(self, state: TrainState) -> None:
        """Do nothing."""

    def problem(self, state: TrainState, what: str, error: OSError) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _summed(_state: object, bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Any] = work.get_future()
    return future.then(lambda done: done.value()[0])


_summed.__annotations__.clear()  # DDP compares them with its own as they are, here as texts


def _of_connection(error: RuntimeError) -> bool:
    """Return whether a back end failed, and not a network of ours."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
