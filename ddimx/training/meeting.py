"""How the processes of one training meet, what they agree on, and how all end when one fails.

They meet in a store of torch's, through which they tell each other words in JSON: what rank 0 has
decided, what all must have alike, who has failed. Nothing is ever pickled.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from ..errors import DdimxError, UsageError
from ..launch import Launch
from .watch import ALONE, ENDED, GO_ON, GRACE, PREPARING, WAITING, Watch

if TYPE_CHECKING:
    from typing_extensions import Self

JOIN_SECONDS = 600.0  # for all processes to begin; what is loaded from a network takes long
c10d: Any = dist  # of which torch's own stubs do not name the stores


class Elsewhere(SystemExit):
    """The end of a process because another one failed, which has said why."""


class MissingRank(DdimxError):
    """Another process of the training has gone; the message says which one."""


class Meeting:
    """The processes of one training, which tell each other words; by default there is one.

    As a context it joins the others at its beginning. At its end all wait for rank 0, and what
    one of them fails of, the others learn: it is said once.
    """

    def __init__(self, launch: Launch | None = None) -> None:
        """Describe the processes; nothing is begun."""
        launch = launch or Launch()
        self.rank, self.size, self._local_rank = launch.rank, launch.size, launch.local_rank
        self._store: Any = None
        self._watch: Watch | None = None
        self._told = 0

    @property
    def is_alone(self) -> bool:
        """Whether there is one process only."""
        return self.size == 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def __enter__(self) -> Self:
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
        is_own = not isinstance(error, Elsewhere | MissingRank)
        with suppress(RuntimeError):  # the store may be gone with the process that kept it
            self._store.set(f"failed/{self.rank}", record)
            if not isinstance(error, Elsewhere):
                self._store.set("failed", record)
            end = time.monotonic() + GRACE
            while is_own and not self.is_first and time.monotonic() < end:
                if self._store.check(["failed/0"]):
                    if json.loads(self._store.get("failed/0"))["text"] == text:
                        raise Elsewhere(code) from None
                    break
                time.sleep(0.02)
        if is_own and isinstance(error, DdimxError) and not self.is_first:
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
        return self._awaited(key, 0)

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
        all_facts = [self._awaited(f"same/{number}/{rank}", rank) for rank in range(self.size)]
        self.told(None)  # nobody ends before all have compared
        for name in dict.fromkeys(name for values in all_facts for name in values):
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

    def _awaited(self, key: str, rank: int) -> Any:
        """Return what another rank says under a key.

        However long that takes, a rank that is alive and has something to do is not given up: to
        load and to look through data may take hours. Ranks that all wait are, by the watch.
        """
        watch = self._watch
        assert watch is not None
        pause, before = 0.005, watch.own.doing
        try:
            if before == PREPARING and not self._store.check([key]):
                watch.at(WAITING, awaits=rank)
            while not self._store.check([key]):
                self.raise_failure()
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
            return json.loads(self._store.get(key))
        except RuntimeError as error:  # torch's store errors are such
            watch.without_store(str(error).partition("\n")[0])
            self.raise_failure()
            raise
        finally:
            if watch.own.doing == WAITING:
                watch.at(before)

    def raise_failure(self) -> None:
        """End if another rank has failed, or is missing.

        Raises:
            Elsewhere: another rank has said why, or will say it.
            MissingRank: a rank is missing, and it is this one that says so.
        """
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
                self._wait_for_words()
                raise Elsewhere(1)
            raise MissingRank(f"{watch.verdict}{GO_ON}")

    def _wait_for_words(self) -> None:
        """Stay until the rank that speaks has spoken, or it would miss this one as well."""
        end = time.monotonic() + GRACE
        with suppress(RuntimeError):
            while time.monotonic() < end and not self._store.check(["failed"]):
                time.sleep(0.05)
