"""Several processes that train one network: how they meet, what they agree on, what they sum.

Which process this is, its launcher has said (:mod:`ddimx.launch`). The processes meet in a store
of torch's, through which they tell each other words: what rank 0 has decided, what all must have
alike, who has failed. Only numbers on the device, gradients and losses, go through a process group
(NCCL or gloo). Nothing is ever pickled.
"""

from __future__ import annotations

import inspect
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import DdimxError, UsageError
from ..launch import Launch, this_process
from ..signals import Stop
from .measure import Distance
from .state import TrainState
from .watch import ALONE, ENDED, GO_ON, GRACE, PREPARING, TRAINING, Watch

JOIN_SECONDS = 600.0  # for all processes to begin; what is loaded from a network takes long
# Who is missing says the watch, for both back ends alike. Their own limits only end the process.
_NEVER = timedelta(days=30)
# Buffers are constants here. PyTorch 2.13 has another name for what it deprecates.
_NAMES = ("forward_sync_buffers", "broadcast_buffers")
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: Any = {next(name for name in _NAMES if name in _PARAMETERS): False}
c10d: Any = dist  # of which torch's own stubs do not name the stores
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class Elsewhere(SystemExit):
    """The end of a process because another one failed, which has said why."""


def launched(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return which process of one training this is.

    The tasks of a SLURM job array know nothing of each other: each trains by itself.

    Raises:
        UsageError: variables that contradict each other, that do not say where the processes meet,
            or that belong to a batch script which begins one process only.
    """
    launch = this_process(environment=environment)
    if launch.is_alone or launch.source == "SLURM array":
        return Launch(0, 1, launch.local_rank, launch.source, launch.variables)
    if launch.notes:
        raise UsageError(
            f"SLURM_NTASKS={launch.size} and no SLURM_STEP_ID: a batch script begins one process, "
            f"and training would wait for the others. Write 'srun ddimx train ...' for "
            f"{launch.size} processes, or unset SLURM_NTASKS for one"
        )
    lacking = [name for name in _ADDRESS if not environment.get(name, "").strip()]
    if lacking:
        how = (
            "export MASTER_ADDR=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1) "
            "MASTER_PORT=29500"
            if launch.source == "SLURM"
            else "torchrun sets them; by hand, MASTER_ADDR is the machine of rank 0, MASTER_PORT "
            "a free port there"
        )
        raise UsageError(
            f"this is process {launch}, and {' and '.join(lacking)}, where the processes meet, "
            f"{'is' if len(lacking) == 1 else 'are'} not set: {how}"
        )
    if not environment["MASTER_PORT"].isdecimal() or int(environment["MASTER_PORT"]) > 65535:
        raise UsageError(f"MASTER_PORT={environment['MASTER_PORT'][:40]} is not a port")
    return launch


class MissingRank(DdimxError):
    """Another process of the training has gone; the message says which one."""


class Group:
    """The processes of one training, of which this is one; by default it is alone.

    As a context it joins the others at its beginning. At its end all wait for rank 0, and what
    one of them fails of, the others learn: it is said once.
    """

    def __init__(self, launch: Launch | None = None) -> None:
        """Describe the group; nothing is begun."""
        launch = launch or Launch()
        self.rank, self.size, self._local_rank = launch.rank, launch.size, launch.local_rank
        self._store: Any = None
        self._watch: Watch | None = None
        self._device = torch.device("cpu")
        self._told, self._begun = 0, False

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    # --- beginning and end ------------------------------------------------------------------------

    def __enter__(self) -> Group:
        """Meet the others.

        Raises:
            DdimxError: they cannot be reached, or do not come.
        """
        if self.is_alone:
            return self
        if not dist.is_available():
            raise DdimxError("this PyTorch was built without torch.distributed")
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # torchrun keeps a store for its processes; else rank 0 keeps it.
        keeps = self.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        limit = timedelta(seconds=JOIN_SECONDS)
        try:
            stores = [
                c10d.TCPStore(host, port, is_master=master, timeout=limit, wait_for_workers=False)
                for master in (keeps, False)  # the watch has a connection of its own
            ]
        except (RuntimeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            what = "keep the store of all processes at" if keeps else "reach rank 0 at"
            raise DdimxError(
                f"rank {self.rank} of {self.size} cannot {what} {host}:{port} (MASTER_ADDR, "
                f"MASTER_PORT): {first}"
            ) from None
        name = f"ddimx/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._store, own = (c10d.PrefixStore(name, store) for store in stores)
        self._watch = Watch(own, self.rank, self.size, JOIN_SECONDS)
        end = time.monotonic() + JOIN_SECONDS
        absent = [*range(self.size)]
        while absent := [r for r in absent if not self._store.check([f"sign/{r}"])]:
            if time.monotonic() > end:
                names = ", ".join(str(rank) for rank in absent[:8])
                raise DdimxError(
                    f"of {self.size} processes {len(absent)} did not come within "
                    f"{JOIN_SECONDS:g} s: rank {names}"
                )
            time.sleep(0.05)
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave: wait for rank 0 at a good end, tell the others at a bad one."""
        watch = self._watch
        if self._store is None or watch is None:
            return
        failed = error is not None and not (isinstance(error, SystemExit) and not error.code)
        watch.hear()
        try:
            if error is not None and failed:
                self._fail(error)
            else:
                watch.at(ALONE if self.is_first else ENDED)
                self.told(None)
        finally:
            self._leave()
            watch.close()
        if self._begun and not failed:
            dist.destroy_process_group()

    def _fail(self, error: BaseException) -> None:
        """Tell the others; of the same words by several ranks, the lowest rank's are shown.

        Raises:
            Elsewhere: a lower rank fails of the same.
            DdimxError: the same error, which names this rank.
        """
        text, code = str(error), getattr(error, "exit_code", 1)
        if isinstance(error, SystemExit):
            text, code = "", error.code
        record = json.dumps({"rank": self.rank, "text": text, "code": code})
        with suppress(RuntimeError):  # the store may be gone with the process that kept it
            self._store.set(f"failed/{self.rank}", record)
            if isinstance(error, Elsewhere | MissingRank):
                return
            self._store.set("failed", record)
            end = time.monotonic() + GRACE
            while not self.is_first and time.monotonic() < end:
                if self._store.check(["failed/0"]):
                    if json.loads(self._store.get("failed/0"))["text"] == text:
                        raise Elsewhere(code) from None
                    break
                time.sleep(0.02)
        if isinstance(error, DdimxError) and not self.is_first:
            raise type(error)(f"rank {self.rank} of {self.size}: {text}") from None

    def _leave(self) -> None:
        """Say that this rank needs the store no more; rank 0, which may keep it, waits for all."""
        missing = self._watch.missing if self._watch is not None else ()
        names = [f"ended/{rank}" for rank in range(self.size) if rank not in missing]
        end = time.monotonic() + GRACE
        with suppress(RuntimeError):
            self._store.set(f"ended/{self.rank}", "")
            while self.is_first and not self._store.check(names) and time.monotonic() < end:
                time.sleep(0.01)

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
        if self.is_alone or self._watch is None:
            return
        if backend == "auto":
            backend = "nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"
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
        if device.type not in ("cpu", "cuda"):
            raise UsageError(f"several processes train on cpu or cuda, not on {device.type}")
        self._watch.limit, self._device = limit, device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(
            backend,
            store=c10d.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=_NEVER,
        )
        self._begun = True

    # --- words, through the store -----------------------------------------------------------------

    def told(self, value: Any = None) -> Any:
        """Return rank 0's ``value`` on all ranks: what JSON holds. The others' is not looked at.

        Raises:
            Elsewhere: another rank has failed.
            DdimxError: one is missing.
        """
        if self._store is None:
            return value
        key = f"told/{self._told}"
        self._told += 1
        if self.is_first:
            self._store.set(key, json.dumps(value))
            return value
        return self._awaited(key)

    def check_same(self, facts: Mapping[str, Any]) -> None:
        """Compare what all ranks must have alike: values that JSON holds, by their names.

        Raises:
            UsageError: on all ranks; it names what differs, and which ranks have what.
            Elsewhere, DdimxError: as :meth:`told`.
        """
        if self._store is None:
            return
        number, own = self._told, json.dumps(facts, sort_keys=True)
        self._store.set(f"same/{number}/{self.rank}", own)
        all_facts = [self._awaited(f"same/{number}/{rank}") for rank in range(self.size)]
        self.told(None)  # nobody ends before all have compared
        for name in all_facts[0]:
            ranks: dict[str, list[int]] = {}
            for rank, values in enumerate(all_facts):
                ranks.setdefault(json.dumps(values.get(name)), []).append(rank)
            if len(ranks) > 1:
                texts = [
                    f"rank {', '.join(map(str, some[:8]))}{' ...' if len(some) > 8 else ''}: "
                    f"{value[:120]}"
                    for value, some in ranks.items()
                ]
                raise UsageError(
                    f"the processes differ in {name}: {'; '.join(texts)}. Begin all of them by the "
                    "same command, with the same files; nothing was written"
                )

    def _awaited(self, key: str) -> Any:
        assert self._watch is not None
        pause = 0.005
        try:
            while not self._store.check([key]):
                self._raise_failure()
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
            return json.loads(self._store.get(key))
        except RuntimeError as error:  # torch's store errors are such
            self._watch.without_store(str(error).partition("\n")[0])
            self._raise_failure()
            raise

    def _raise_failure(self) -> None:
        watch = self._watch
        assert watch is not None
        try:
            if watch.failure is None and self._store.check(["failed"]):
                watch.failure = json.loads(self._store.get("failed"))
        except RuntimeError as error:
            watch.without_store(str(error).partition("\n")[0])
        if watch.failure is not None:
            watch.hear()
            raise Elsewhere(watch.failure["code"])
        if watch.verdict is not None:
            watch.hear()
            if not watch.speaks:
                raise Elsewhere(1)
            raise MissingRank(f"{watch.verdict}{GO_ON}")

    # --- numbers, through the process group -------------------------------------------------------

    def trainable(self, network: nn.Module) -> nn.Module:
        """Return a network whose backward pass sums the gradients of all ranks."""
        if self.is_alone:
            return network
        # A network of ours uses all its weights in every step, whatever is drawn; of others nobody
        # here knows, and to look for those without a gradient takes some time.
        ours = type(getattr(network, "_orig_mod", network)).__module__.startswith("ddimx.")
        wrapped: Any
        with self.together():
            wrapped = DistributedDataParallel(
                network,
                **_NO_BUFFERS,
                gradient_as_bucket_view=True,
                find_unused_parameters=not ours,
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
            self._raise_failure()
            first = str(error).partition("\n")[0]
            raise DdimxError(
                f"rank {self.rank} of {self.size} lost the others at step "
                f"{self._watch.own.step}: {first}{GO_ON}"
            ) from None


def _summed(_state: object, bucket: Any) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Any] = work.get_future()
    return future.then(lambda done: done.value()[0])


_summed.__annotations__.clear()  # DDP compares them with its own as they are, here as texts


def _of_connection(error: RuntimeError) -> bool:
    """Return whether a back end failed, and not a network of ours."""
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text


def agent(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return which torchrun begins this process, empty without one.

    ``run_id`` is its ``--rdzv-id``; ``agent`` its process, which goes on over all attempts, by
    machine, number and time of its beginning.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return {}
    parent, begun = os.getppid(), ""
    with suppress(OSError, IndexError):
        stat = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8")
        begun = stat.rpartition(")")[2].split()[19]
    name = f"{socket.gethostname()}:{parent}:{begun}"
    return {"run_id": environment["TORCHELASTIC_RUN_ID"], "agent": name}


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
