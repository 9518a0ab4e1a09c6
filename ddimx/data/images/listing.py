"""Which pictures a folder, a zip or tars hold, by names alone: classes, and what is passed over."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import DdimxError
from ...files import HIDDEN, folder_contents, is_passed_over, suffix_of
from ...untrusted.archives import Archive, keep_zip
from ...untrusted.names import relative
from ...untrusted.tars import COMPRESSED, SUFFIX, refuse_compressed
from ...untrusted.text import first_of
from ..arrays import Integers
from .tars import UNCLASSED, Tars, labels_of

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif"}
)
# Top folders of these names are parts of a data set, not classes.
PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
OTHERS, RUNS = "files that are no pictures", "files of runs of ddimx"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_RUN = re.compile(r"(?:^|/)runs/\d{4}-[^/]+$")  # where runs go by themselves
_SHOWN = 3  # names of each kind that is passed over


@dataclass(frozen=True, eq=False)
class Listing:
    """The pictures of a folder, a zip or tars, by their names alone.

    Attributes:
        root: the folder, the zip, the tar, or the folder of tars.
        names: relative paths with slashes, sorted as texts. A name that is no UTF-8 holds its
            bytes as Python's surrogates.
        classes: the names of the folders that are classes, or of the classes that tars state,
            sorted; empty if there are none or if they are numbers.
        labels: int64 [N], the class of every picture; None without classes.
        skipped: what is passed over, relative paths by reason.
        notes: what a user should know, in whole sentences.
        archive: the open zip or tars, None for a folder.
    """

    root: Path
    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Integers | None
    skipped: dict[str, list[str]]
    notes: tuple[str, ...]
    archive: Archive | Tars | None

    def place(self, name: str) -> str:
        """Return a picture's path, or the archive and the name in it, for messages."""
        text = printable(name)
        return str(self.root / text) if self.archive is None else f"{self.root}: {text}"

    def stream(self, name: str) -> Path | io.BytesIO:
        """Return what Pillow opens for a picture; called from several threads.

        Raises:
            OSError, ValueError: a member of an archive that is damaged, or too large.
        """
        return self.root / name if self.archive is None else io.BytesIO(self.archive.read(name))


def printable(name: str) -> str:
    """Return a name as a text that any file and terminal takes: other bytes as ``\\xNN``.

    So are the characters that end a line or steer a terminal.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def passed_over(skipped: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for every reason: how many files, and the first of them by name."""
    return [
        f"{len(names)} {reason}: {first_of(list(map(printable, names)), _SHOWN)}"
        for reason, names in skipped.items()
    ]


def list_images(root: Path, *, tars: bool = False) -> Listing:
    """List the pictures of a folder and the folders below it, of a zip, or of tars.

    The folders on the top level are the classes if there are two or more of them and every picture
    lies in one; a single folder that holds all the others is passed through first. Folders that
    are called as parts of a data set are (train, test) are no classes. Tars may state classes
    themselves, see :mod:`.tars`. A folder without pictures is taken for one of tars if it has any.

    Args:
        tars: whether of a folder the tars are read, also where pictures lie beside them.

    Raises:
        DdimxError: no such folder, neither a folder nor a zip nor a tar, an archive that is damaged
            or holds names that lead elsewhere, or no picture in it.
    """
    archive: Archive | Tars | None = None
    skipped: dict[str, list[str]] = {}
    if root.is_dir():
        try:
            files, skipped = folder_contents(root)
        except OSError as error:
            raise DdimxError(f"{root}: cannot be read ({error.strerror or error})") from None
        packed = sorted(name for name in files if name.lower().endswith(SUFFIX))
        if packed:
            own = _of_runs(files)
            packed = [name for name in packed if name not in own]
            seen = any(suffix_of(name) in SUFFIXES and name not in own for name in files)
            if packed and (tars or not seen):
                archive = Tars(root, packed, SUFFIXES, one=False)
                skipped = {}
        if tars and archive is None:
            raise DdimxError(f"{root}: no tars{_hint(files)}")
    elif not root.is_file():
        raise DdimxError(f"no image folder {root}")
    elif root.suffix.lower() == SUFFIX:
        archive = Tars(root.parent, [root.name], SUFFIXES, one=True)
    else:
        try:
            refuse_compressed(root)
            archive = keep_zip(root)
        except (OSError, ValueError) as error:
            raise DdimxError(f"{root}: not a readable zip of images ({error})") from None
    if isinstance(archive, Archive):
        files = []
        for name in archive.names:
            if suffix_of(name) in SUFFIXES:
                relative(name, root)  # harmless in memory, but a name that becomes a message
            if any(map(is_passed_over, name.split("/"))):
                skipped.setdefault(HIDDEN, []).append(name)
            else:
                files.append(name)
    elif archive is not None:
        faults = set(archive.faults)
        files = [name for name in archive.names if name not in faults]
        files += archive.others
        skipped |= {HIDDEN: archive.hidden} if archive.hidden else {}
        skipped |= {UNCLASSED: archive.faults} if archive.faults else {}
    own = _of_runs(files)
    if own:
        skipped[RUNS] = sorted(own)
        files = [name for name in files if name not in own]
    # Sorted as texts, on which the order of training depends: paths sort "a/b" before "a-b".
    names = sorted(name for name in files if suffix_of(name) in SUFFIXES)
    others = [name for name in files if suffix_of(name) not in SUFFIXES]
    if others:
        skipped[OTHERS] = others
    if not names:
        looked = f"looked for {', '.join(sorted(SUFFIXES))}"
        raise DdimxError(f"{root}: no images ({looked}){_hint(files)}")
    if isinstance(archive, Tars) and (archive.classes or archive.note):
        classes, labels, note = labels_of(archive, names)
        classes, note = tuple(map(printable, classes)), printable(note)
        archive.classes.clear()  # a million entries
    else:
        within = names if not isinstance(archive, Tars) else list(map(archive.name_within, names))
        classes, labels, note = classes_of(within)
    sorted_out = {reason: sorted(paths) for reason, paths in sorted(skipped.items())}
    return Listing(
        root, tuple(names), classes, labels, sorted_out, (note,) if note else (), archive
    )


def _hint(files: Sequence[str]) -> str:
    """Return what to do with compressed archives, where there are any among these files."""
    packed = [name for name in files if suffix_of(name) in COMPRESSED]
    if not packed:
        return ""
    return f"; {printable(packed[0])} is compressed: unpack it to a plain .tar, which is read"


def _of_runs(files: Sequence[str]) -> set[str]:
    """Return which files training and sampling have written below pictures.

    That is all that lies in the folder of a training run, or in a run below a folder ``runs``, and
    the contact sheet of any run. Samples in another place may be what somebody trains on.
    """
    everything, folders, own = set(files), list[str](), set[str]()
    for name in files:
        folder, _, last = name.rpartition("/")
        beside = f"{folder}/" if folder else ""
        if last == "train.json" and folder and f"{beside}config.yml" in everything:
            folders.append(beside)
        elif last == "manifest.json":
            own |= {f"{beside}grid.png"} & everything
            folders += [beside] if _RUN.search(folder) else []
    inside = tuple(folders)
    return own | {name for name in files if name.startswith(inside)} if inside else own


def classes_of(names: Sequence[str]) -> tuple[tuple[str, ...], Integers | None, str]:
    """Return the classes that folders make of pictures, their labels, and why there are none."""
    parts = [name.split("/") for name in names]
    shared = 0
    while all(len(path) > shared + 1 for path in parts) and (
        len({path[shared] for path in parts}) == 1
    ):
        shared += 1
    inside = {path[shared] for path in parts if len(path) > shared + 1}
    outside = sum(len(path) == shared + 1 for path in parts)
    if not inside:
        return (), None, ""
    if outside:
        return (), None, f"folders are no classes: {outside} pictures lie beside them"
    if inside <= PARTS | {part.capitalize() for part in PARTS}:
        folders, last = sorted(inside), "/".join([*parts[0][:shared], max(inside)])
        note = (
            f"the folders {', '.join(folders)} are taken for parts of a data set, not for classes, "
            f"and all are read; name the folder of one part, as {printable(last)}, to read it alone"
        )
        return (), None, note
    folders = sorted(inside)
    number = {folder: label for label, folder in enumerate(folders)}
    labels = np.array([number[path[shared]] for path in parts], dtype=np.int64)
    return tuple(map(printable, folders)), labels, ""
