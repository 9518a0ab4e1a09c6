"""One measurement by several processes, whoever starts them: a folder of parts is all they share.

Process K of N computes a contiguous range of the sets' parts (:class:`.Parts`) and writes them
into a folder of the cache that belongs to the command: to the images, what is done to them, and the
feature network. Whoever finds all parts there, which the last to finish does, puts the result
together; the others end. There is no process group and no network. N may change from one launch to
the next, since a part is the same whoever made it.

In the folder, ``~/.cache/ddimx/fid/KEY``:

* ``samples-00001-of-00050.npz``, ``reference-...``: parts, whole;
* ``.ddimx-1-of-2.lock``: held by the living process that is shard 1 of 2; beside it
  ``1-of-2.json`` says who that is;
* ``result.json``: what the result is of, who puts it together, and the figures when that is done
  (:class:`.Result`). A process of the same launch that comes after that has nothing to do. This
  file stays, where there were several processes; the parts are removed.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import DdimxError, UsageError
from ...files import sweep, write_json
from ...launch import Launch
from ...progress import Progress
from ...runs.lock import lock_folder, lock_name
from ...weights.locate.cache import cache_folder
from .parts import Parts
from .result import Result, me, who

DAYS = 14  # after which the parts of a measurement that nobody went on with are removed
LISTED = 8  # shards in a message
_KEY = re.compile(r"[0-9a-f]{16}")


class Shards:
    """This process among those of a measurement.

    Args:
        asked: what is measured, as JSON values: the same for all processes.
        launch: which process this is.
        began: when it was started, in seconds of the epoch.
        command: how it was started, for messages.
        outputs: the files that are to be written, by their options; None where none is.
        options: what else the result depends on and its parts do not, as JSON values.
    """

    def __init__(
        self,
        asked: Mapping[str, Any],
        launch: Launch,
        began: float,
        command: Sequence[str],
        progress: Progress,
        *,
        outputs: Mapping[str, Path | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        text = json.dumps(asked, sort_keys=True)
        key = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]
        self.folder = cache_folder() / "fid" / key
        self._launch, self._progress, self._is_held = launch, progress, False
        self.result = Result(self.folder, launch, began, outputs or {}, options or {})
        self._command = [w for w in command if not w.startswith("--shard=")]
        if "--shard" in self._command:
            at = self._command.index("--shard")
            del self._command[at : at + 2]

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Be the only living process that is this shard; yield whether the folder can be used.

        Raises:
            UsageError: another process is this shard, which is named.
            DdimxError: the folder cannot be made; where a process is alone this is a note.
        """
        key = f"{self._launch.rank + 1}-of-{self._launch.size}"
        holder = self.folder / f"{key}.json"
        with ExitStack() as stack:
            stack.callback(self._remove_if_empty)
            try:
                stack.enter_context(lock_folder(self.folder, key))
                stack.callback(holder.unlink, missing_ok=True)
                write_json(holder, me())
            except UsageError:
                what = "this" if self._launch.is_alone else f"shard {self._label} of this"
                raise UsageError(
                    f"{what} measurement is at work already, as {who(holder)}; wait for its "
                    "end, or end it"
                ) from None
            except (DdimxError, OSError) as error:
                if not self._launch.is_alone:
                    raise DdimxError(
                        f"{error}; DDIMX_CACHE names another folder, the same for all processes"
                    ) from None
                self._progress.say(f"note: {error}; if this is interrupted, it begins again")
                yield False
                return
            self._is_held = True
            yield True

    def make(self, sets: Sequence[Parts]) -> bool:
        """Compute this shard's parts; return whether all parts of all shards are there.

        If they are not, it is said which shards are missing, and how they are made. A process that
        is alone leaves the computing to :meth:`.Parts.statistics`.
        """
        launch, say = self._launch, self._progress.say
        if launch.is_alone:
            return True
        if self.result.is_over():
            say(f"shard {self._label}: nothing to do; {self.result.where()}")
            return False
        own = self._share(launch.rank, sets)
        for parts, numbers in own:
            parts.fill(numbers, f", shard {self._label}", self.result.is_over)
        missing = dict[int, int]()
        for rank in range(launch.size):
            if rank != launch.rank:
                share = self._share(rank, sets)
                absent = sum(not parts.is_there(n) for parts, numbers in share for n in numbers)
                missing |= {rank: absent} if absent else {}
        # Perhaps all was there already, and was removed and made once more meanwhile.
        if self.result.is_over():
            say(f"shard {self._label}: done; {self.result.where()}")
            for parts, numbers in own:
                parts.remove(numbers)
            return False
        if missing:
            shards = ", ".join(f"{rank + 1}/{launch.size}" for rank in list(missing)[:LISTED])
            more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
            first = shlex.join([*self._command, "--shard", f"{next(iter(missing)) + 1}/"])
            say(
                f"shard {self._label}: its {sum(len(numbers) for _, numbers in own)} of "
                f"{sum(map(len, sets))} parts are there; "
                f"{sum(missing.values())} are missing, of the shards {shards}{more}. The process "
                "that finishes last prints the result. If none of them is at work, begin it "
                f"again: {first}{launch.size} (or --shard 1/1 for all that is missing)"
            )
        return not missing

    @contextmanager
    def merging(self) -> Iterator[bool]:
        """Yield whether this is the process that puts the result together."""
        if self._launch.is_alone:
            yield True
            return
        wait = (
            f"shard {self._label}: waits for another measurement of the same images, whose result "
            "is being put together"
        )
        with self.result.begun(wait, self._progress.say) as is_ours:
            if not is_ours:
                self._progress.say(f"shard {self._label}: done; {self.result.where()}")
            yield is_ours

    def finish(self, sets: Sequence[Parts], figures: Any) -> None:
        """Remove the parts, and those of measurements that nobody went on with for ``DAYS`` days.

        To be called when the result is printed. What cannot be removed stays.

        Args:
            figures: the result, as JSON values; processes that come late say where it is kept.
        """
        if not self._is_held:
            return
        if not self._launch.is_alone:
            with suppress(OSError, ValueError):  # then a process that comes late measures again
                self.result.finish(figures)
        with suppress(OSError):
            for parts in sets:
                parts.remove(range(len(parts)))
            sweep(self.folder)
            for holder in self.folder.glob("*-of-*.json"):  # of processes that were killed
                sweep(self.folder, f"ddimx-{holder.stem}")
                if not (self.folder / lock_name(holder.stem)).exists():
                    holder.unlink(missing_ok=True)
            for folder in self.folder.parent.iterdir():
                times = [folder.stat().st_mtime, *(f.stat().st_mtime for f in folder.iterdir())]
                if _KEY.fullmatch(folder.name) and max(times) < time.time() - DAYS * 86400:
                    shutil.rmtree(folder, ignore_errors=True)

    @property
    def _label(self) -> str:
        return f"{self._launch.rank + 1}/{self._launch.size}"

    def _share(self, rank: int, sets: Sequence[Parts]) -> list[tuple[Parts, range]]:
        """Return the numbers of a shard's parts of each set.

        The parts of all sets, one set after the other, are divided as evenly as can be.
        """
        total, size = sum(map(len, sets)), self._launch.size
        first, stop = total * rank // size, total * (rank + 1) // size
        shares, before = [], 0
        for parts in sets:
            inside = [min(max(n - before, 0), len(parts)) for n in (first, stop)]
            shares.append((parts, range(*inside)))
            before += len(parts)
        return shares

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.folder.rmdir()
