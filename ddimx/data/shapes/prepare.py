"""Making a folder of octrees out of many meshes: in parallel, one bad one skipped, restartable.

    DST/shapes/<category>/<shape_id>.npz    the octrees
    DST/train.jsonl, val.jsonl, test.jsonl  which belongs to which part, a JSON object a line
    DST/prepare.json                        the settings and the counts
    DST/failures.json                       what could not be made and why, if anything
    DST/journal.jsonl                       what has been made; by it a stopped run goes on

A shape is made again only if its source has changed since or its file is not as it was written. The
manifests are written last, so that a folder with manifests is complete. Shards
(:mod:`.prepare_shards`) have a journal each, which counts as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import DdimxError, UsageError
from ...files import sweep, write_bytes, write_json
from ...progress import Progress
from ...runs.lock import lock_folder
from ...runs.run import only_ours, reporting
from ...runs.shards import SHARDS
from ...runs.shared import begun_in_shards, check_idle, remove_shared
from ...untrusted.names import all_inside, inside, relative
from ...untrusted.text import parse_json, read_bytes, read_object, shown
from .jobs import Job, Made, PrepareSettings, check_names, make_all
from .lists import PARTS, RECORD

JOURNALS = "*-of-*.jsonl"  # of shards
NUMBERS = ("bytes", "nodes", "leaves", "variants")  # of a shape, in the journal


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the shapes that are there, in the jobs' order, and the failures.

    Attributes:
        found: how many of ``made`` were there before.
    """

    made: tuple[Made, ...]
    failed: tuple[Made, ...]
    found: int


class ShapeFolder:
    """A folder of octrees on its way."""

    def __init__(self, folder: Path, settings: PrepareSettings) -> None:
        """Look at nothing yet."""
        self.folder, self.settings = folder, settings
        self._record, self._journal = folder / RECORD, folder / "journal.jsonl"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be the only process that writes into the folder, from the first shape to the manifests.

        Raises:
            UsageError: it is not a folder, or another process writes there.
            DdimxError: it cannot be made, or written within.
        """
        self.check_folder()
        with lock_folder(self.folder), reporting(self.folder):
            yield

    def run(
        self,
        jobs: Sequence[Job],
        *,
        workers: int,
        progress: Progress,
        overwrite: bool = False,
    ) -> Outcome:
        """Make what is not there yet.

        Raises:
            UsageError: two jobs of one name, or a folder that holds something else.
            DdimxError: a name in the journal or of a job that leads out of the folder (then nothing
                is touched), none could be made, nothing can be written, or a process died.
        """
        with reporting(self.folder):
            self.prepare(jobs, overwrite=overwrite)
            existing, pending = self.existing(jobs, [self._journal])
            progress.start("octrees", len(jobs), len(existing))
            results = self.make(pending, workers, progress, self._journal)
            return self.outcome(jobs, [*existing, *results], len(existing))

    def prepare(self, jobs: Sequence[Job], *, overwrite: bool = False) -> None:
        """Look at what the folder holds, and make it one of these settings and shapes.

        What is unfinished goes, shapes that are not wanted, and the manifests, until all is there.

        Raises:
            UsageError: two jobs of one name, a folder that holds something else, or a shard of it
                is being made.
            DdimxError: a name in the journal or of a job that leads out of the folder; then nothing
                is touched.
        """
        check_names(jobs)
        for job in jobs:
            relative(job.file, job.origin)
        self.check_places(jobs)
        self._absorb()
        entries = self._begun(overwrite)
        self._drop(set(entries) - {job.file for job in jobs})

    def existing(
        self, jobs: Sequence[Job], journals: Sequence[Path]
    ) -> tuple[list[Made], list[Job]]:
        """Return the shapes that are there according to one of the journals, and the other jobs."""
        entries = [self._entries(journal) for journal in journals]
        there, pending = [], []
        for job in jobs:
            valid = (self._valid(job, of_journal) for of_journal in entries)
            entry = next((entry for entry in valid if entry is not None), None)
            if entry is None:
                pending.append(job)
            else:
                there.append(Made(job, entry))
        return there, pending

    def journals(self) -> list[Path]:
        """Return the journals, of shards after that of the set."""
        return [self._journal, *sorted((self.folder / SHARDS).glob(JOURNALS))]

    def _absorb(self) -> None:
        """Take over what shards have made, so that one process goes on with it.

        Raises:
            UsageError: a shard is being made; nothing was touched.
        """
        if not begun_in_shards(self.folder):
            return
        check_idle(self.folder)
        with self._journal.open("ab") as journal:
            for path in self.journals()[1:]:
                journal.write(b"\n" + read_bytes(path))
        remove_shared(self.folder, JOURNALS)

    def finish(self, outcome: Outcome, parts: Sequence[str], about: dict[str, Any]) -> None:
        """Write the manifests; ``parts`` names the part of each shape in ``outcome.made``.

        The journal is brought into the jobs' order, so that a set does not show in which order its
        shapes were made: by how many processes, and where they were stopped.

        Raises:
            DdimxError: they cannot be written.
        """
        lines: dict[str, list[str]] = {part: [] for part in PARTS}
        for shape, part in zip(outcome.made, parts, strict=True):
            about_shape = row(shape)
            if part != "train":
                about_shape.pop("variants", None)
            lines[part].append(json.dumps(about_shape, ensure_ascii=False) + "\n")
        entries = [json.dumps(shape.entry) + "\n" for shape in outcome.made]
        counts = {part: len(text) for part, text in lines.items()}
        with reporting(self.folder):
            write_bytes(self._journal, "".join(entries).encode())
            for part, text in lines.items():
                write_bytes(self.folder / f"{part}.jsonl", "".join(text).encode())
            write_json(self._record, {"settings": asdict(self.settings), "counts": counts} | about)

    def check_folder(self) -> None:
        """Raise UsageError where the folder's name is that of a file."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} exists and is not a folder; give another name")

    def check_places(self, jobs: Sequence[Job]) -> None:
        """Refuse to write, or to remove, anywhere else than in the folder.

        Somebody else may have made it: with a journal that names other files, or with symbolic
        links where this run would write.
        """
        if not self.folder.is_dir():
            return
        all_inside(self.folder, [job.file for job in jobs], self.folder)
        for path in self.journals():
            all_inside(self.folder, self._entries(path), path)
            inside(self.folder, str(path.relative_to(self.folder)), self.folder)  # appended to

    def _begun(self, overwrite: bool) -> dict[str, dict[str, Any]]:
        """Return the journal of an earlier run that this one continues, by file."""
        self.check_folder()
        entries = self._entries(self._journal)
        if self._record.is_file():
            # What an earlier version did not record was as it is by default.
            defaults = {
                f.name: f.default for f in fields(PrepareSettings) if f.default is not MISSING
            }
            settings = defaults | _settings_in(self._record)
            if settings != asdict(self.settings):
                if not overwrite:
                    raise UsageError(_difference(self.folder, settings, asdict(self.settings)))
                self._drop(set(entries))
                self._journal.unlink(missing_ok=True)
                entries = {}
        elif self.folder.exists() and not only_ours(self.folder):
            raise UsageError(f"{self.folder} exists and is not a prepared set; give another name")
        self.sweep()
        for name in (*(f"{part}.jsonl" for part in PARTS), "failures.json"):
            (self.folder / name).unlink(missing_ok=True)
        write_json(self._record, {"settings": asdict(self.settings)})
        return entries

    def sweep(self) -> None:
        """Remove what a process that was stopped had in its hands."""
        for folder in (self.folder, *self.folder.glob("shapes/*")):
            if not folder.is_symlink() or folder == self.folder:
                sweep(folder)

    def _entries(self, journal: Path) -> dict[str, dict[str, Any]]:
        """Read a journal; of two lines for one file the later one counts.

        A line that is not JSON (the last one, after a kill) is passed over.
        """
        entries, names = {}, []
        try:
            lines = read_bytes(journal).splitlines()
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DdimxError(f"{journal}: {error}") from None
        for line in lines:
            with suppress(ValueError):
                entry = parse_json(line)
                if isinstance(entry, dict) and "file" in entry:
                    names.append(entry["file"])
                    if isinstance(entry["file"], str):
                        entries[entry["file"]] = entry
        all_inside(self.folder, names, journal)
        return entries

    def _valid(self, job: Job, entries: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
        """Return the journal's entry of a shape that need not be made again."""
        entry, path = entries.get(job.file), self.folder / job.file
        if entry is None or not _is_whole(entry) or entry["stamp"] != job.stamp:
            return None
        return entry if path.is_file() and path.stat().st_size == entry["bytes"] else None

    def _drop(self, files: set[str]) -> None:
        """Remove shapes that an earlier run made and this one does not want."""
        for path in all_inside(self.folder, sorted(files), self._journal):
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                path.parent.rmdir()

    def make(
        self, jobs: list[Job], workers: int, progress: Progress, journal_path: Path
    ) -> list[Made]:
        """Make shapes and note each in a journal; return what became of them, as it came.

        Raises:
            DdimxError: a process was killed.
            OSError: a shape cannot be written.
        """
        results: list[Made] = []
        if not jobs:
            return results
        try:
            with (
                journal_path.open("a", encoding="utf-8") as journal,
                closing(make_all(jobs, self.settings, self.folder, workers)) as coming,
            ):
                if journal.tell():
                    journal.write("\n")  # after a line that was cut off
                for result in coming:
                    results.append(result)
                    if result.entry is None:
                        progress.say(f"skipped: {result.reason}")
                    else:
                        journal.write(json.dumps(result.entry) + "\n")
                        journal.flush()
                    progress.advance(note=result.job.category)
        finally:
            self.sweep()
        return results

    def outcome(self, jobs: Sequence[Job], results: Sequence[Made], existing: int) -> Outcome:
        """Return what all jobs came to, and write down what has failed.

        Args:
            jobs: in their order.
            results: of all of them, in any order.
            existing: how many were there before.

        Raises:
            DdimxError: none could be made.
        """
        by_file = {result.job.file: result for result in results}
        ordered = [by_file[job.file] for job in jobs]
        failed = tuple(result for result in ordered if result.entry is None)
        told = self.folder / "failures.json"
        if not failed:
            told.unlink(missing_ok=True)
        else:
            write_json(
                told,
                [{"source": result.job.origin, "reason": result.reason} for result in failed],
            )
        if len(failed) == len(ordered):
            raise DdimxError(
                f"none of {len(failed)} shapes could be made; the first: {failed[0].reason}"
            )
        return Outcome(
            tuple(result for result in ordered if result.entry is not None), failed, existing
        )


def row(shape: Made) -> dict[str, Any]:
    """Return a shape's line in a manifest."""
    assert shape.entry is not None
    job = shape.job
    counts = {key: shape.entry[key] for key in NUMBERS[1:] if key in shape.entry}
    entry = {"file": job.file, "category": job.category, "shape_id": job.shape_id}
    return entry | counts | {"source": job.origin} | job.about


def _is_whole(entry: dict[str, Any]) -> bool:
    """Whether a journal's line says all that a manifest's row needs."""
    numbers = (entry.get(key, 1 if key == "variants" else None) for key in NUMBERS)
    return isinstance(entry.get("stamp"), str) and all(type(number) is int for number in numbers)


def _settings_in(record: Path) -> dict[str, Any]:
    try:
        settings = read_object(record)["settings"]
        if not isinstance(settings, dict):
            raise ValueError("its settings are not an object")
    except (ValueError, KeyError) as error:
        raise UsageError(f"{record} is not the record of a prepared set ({error})") from None
    return settings


def _difference(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> str:
    changed = [key for key in new if old.get(key) != new[key]]
    words = ", ".join(f"{key} {shown(old.get(key))} instead of {new[key]}" for key in changed)
    return f"{folder} was prepared with {words}; give --overwrite to make it again, or another name"
