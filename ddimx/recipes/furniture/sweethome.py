"""Sweet Home 3D's furniture libraries: what they hold, whose it is, and each model's mesh.

A library (``.sh3f``) is a zip of ``PluginFurnitureCatalog.properties``, which describes the items
by numbered keys (``name#7=Chair``), and their OBJ models. Models stand upright along +y and face
+z, once the item's ``modelRotation`` is applied. Page 'Furniture library' of Sweet Home 3D's manual
describes the keys.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from ...data.shapes.meshes import Surface, read_mesh
from ...errors import DdimxError, UsageError
from ...untrusted import limits
from ...untrusted.archives import Archive, open_zip
from ...untrusted.names import relative
from .licenses import Credit, credit_of, licence_name

INSTALLED = Path("/usr/share/sweethome3d/furniture")
PACKAGE = "sweethome3d-furniture"
CATALOGUE = "PluginFurnitureCatalog.properties"
# Bytes of a licence page and of the catalogue; Debian's have up to 6 KB and 150 KB. Some patterns
# that a page is searched for take quadratic time.
PAGE_BYTES, CATALOGUE_BYTES = 64 << 10, 16 << 20
COPIES = 16  # of an OBJ's bytes while it is read: text, words, numbers, triangles
LARGEST = 1e9  # of an item, cm: ten thousand kilometres
_WORD = 80  # characters of a number, blanks included


@dataclass(frozen=True)
class Item:
    """One piece of furniture in a library.

    Attributes:
        library: the library's file.
        key: what the library calls it, "Scopia#bed1".
        name, tags, room: its English name, words beside it, and the catalogue's own category.
        model: the OBJ's name within the zip.
        size: width (x), depth (z), height (y) in centimetres.
        rotation: ``modelRotation``, nine numbers row by row; None where there is none.
        credit: whose work it is, and under which licence.
        checksum: the OBJ's CRC-32 and size, from the zip's directory.
        model_size: bytes of the OBJ.
    """

    library: Path
    key: str
    name: str
    tags: tuple[str, ...]
    room: str
    model: str
    size: tuple[float, ...]
    rotation: tuple[float, ...] | None
    credit: Credit
    checksum: str = field(compare=False)
    model_size: int = field(default=0, compare=False)

    @property
    def shape_id(self) -> str:
        """The item's name among all libraries, fit for a file's name: "scopia-bed1"."""
        return re.sub(r"[^a-z0-9]+", "-", self.key.lower()).strip("-")


def find_libraries(files: list[Path]) -> list[Path]:
    """Return the libraries to read: those given, or those that Debian installs.

    Raises:
        UsageError: a path that is not a file, or no path and no installed library.
    """
    for path in files:
        if not path.is_file():
            raise UsageError(f"no library {path}")
    paths = files or sorted(INSTALLED.glob("*.sh3f"))
    if not paths:
        raise UsageError(
            f"no furniture libraries in {INSTALLED}: install the Debian package {PACKAGE}, or "
            "give Sweet Home 3D libraries (.sh3f) with --library"
        )
    return paths


@dataclass(frozen=True)
class Library:
    """A library file: its catalogue's id and name, its licence, and its items in order."""

    path: Path
    key: str
    name: str
    licence: str
    items: tuple[Item, ...]


def read_library(path: Path) -> Library:
    """Return what a library holds.

    Raises:
        DdimxError: no such library, an item without a name or a model, or a member whose name leads
            out of the library.
    """
    try:
        with open_zip(path) as archive:
            for name in archive.names:
                relative(name, path)
            about, entries = parse_catalogue(_text(archive, CATALOGUE, CATALOGUE_BYTES, "latin-1"))
            licence = licence_name(about.get("license", ""))
            names = [PurePosixPath(name) for name in sorted(archive.names)]
            pages = {
                n.parent: str(n) for n in names if "license" in n.name.lower() and len(n.parts) > 1
            }
            items = [
                _item(path, archive, number, entry, licence, pages) for number, entry in entries
            ]
    except (OSError, ValueError) as error:
        raise DdimxError(f"{path}: not a Sweet Home 3D furniture library ({error})") from None
    return Library(path, about.get("id", ""), about.get("name", path.stem), licence, tuple(items))


def read_item(item: Item, *, fans: bool = False) -> Surface:
    """Read an item's mesh as Sweet Home 3D shows it: rotated, and of the catalogue's size in cm.

    Args:
        fans: cut every polygon from its first corner, which fills the notches of some.

    Raises:
        DdimxError: the model is missing or cannot be read, or has no faces.
    """
    name = f"{item.library.name}: {item.model}"
    surface = read_mesh(io.BytesIO(_model_bytes(item)), ".obj", name, fans=fans)
    assert surface.faces is not None  # only a .ply may be without
    vertices = surface.vertices[surface.faces].reshape(-1, 3)  # others count for nothing
    if item.rotation is not None:
        vertices = vertices @ np.array(item.rotation).reshape(3, 3).T
    extent = np.ptp(vertices, axis=0)
    width, depth, height = item.size
    # Nearly always the same factor for all three; a television was stretched to 16:9.
    scale = np.array([width, height, depth]) / np.where(extent > 0, extent, 1)
    faces = np.arange(len(vertices)).reshape(-1, 3)
    return Surface(vertices * np.where(scale > 0, scale, scale.max()), faces)


def _model_bytes(item: Item) -> bytes:
    try:
        with open_zip(item.library) as archive:
            return archive.read(item.model, COPIES)
    except (OSError, ValueError) as error:
        raise DdimxError(f"{item.library}: cannot read {item.model} ({error})") from None


def parse_catalogue(text: str) -> tuple[dict[str, str], list[tuple[int, dict[str, str]]]]:
    """Return a catalogue's own keys, and those of each item in order of their numbers.

    The format is Java's: ``key=value``, ``#`` and ``!`` begin comments, ``\\uXXXX`` is a character,
    a backslash at the end of a line joins the next one to it.
    """
    library: dict[str, str] = {}
    entries: dict[int, dict[str, str]] = {}
    for line in re.sub(r"\\\r?\n[ \t]*", "", text).splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or key.startswith(("#", "!")):
            continue
        value = re.sub(r"\\u([0-9a-fA-F]{4})|\\(.)", _unescaped, value)
        name, mark, number = key.partition("#")
        if not mark:
            library[key] = value
        elif re.fullmatch("[0-9]{1,9}", number):
            entries.setdefault(int(number), {})[name] = value
    return library, sorted(entries.items())


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16)) if match[1] else match[2]


def _text(archive: Archive, name: str, most: int, encoding: str) -> str:
    """Return a member that is a text of no more than ``most`` bytes; ValueError of a longer one."""
    if archive.declared(name) > most:
        raise ValueError(f"{name} is longer than {limits.readable(most)}")
    return archive.read(name).decode(encoding, "replace")


def _item(
    path: Path,
    archive: Archive,
    number: int,
    entry: dict[str, str],
    licence: str,
    pages: dict[PurePosixPath, str],
) -> Item:
    model = entry.get("model", "").lstrip("/")  # Java's paths within a library begin with it
    if not entry.get("name") or not model:
        raise DdimxError(f"{path}: item {number} has no name or no model")
    key = entry.get("id", f"{path.stem}#{PurePosixPath(model).stem}")
    if model not in archive.names:
        raise DdimxError(
            f"{path}: not a Sweet Home 3D furniture library (item {number}: no {model[:200]} in it)"
        )
    page = pages.get(PurePosixPath(model).parent)
    words = None if page is None else _text(archive, page, PAGE_BYTES, "utf-8")
    return Item(
        library=path,
        key=key,
        name=entry["name"],
        tags=tuple(tag.strip() for tag in entry.get("tags", "").split(",") if tag.strip()),
        room=entry.get("category", ""),
        model=model,
        size=_numbers(path, number, [entry.get(k, "0") for k in ("width", "depth", "height")]),
        rotation=_rotation(path, number, entry.get("modelRotation")),
        credit=credit_of(entry.get("creator", "unknown"), licence, words),
        checksum=f"{archive.checksum(model):08x}-{archive.declared(model)}",
        model_size=archive.declared(model),
    )


def _rotation(path: Path, number: int, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    values = _numbers(path, number, text.split())
    if len(values) != 9:
        raise DdimxError(f"{path}: modelRotation of item {number} has {len(values)} numbers, not 9")
    return values


def _numbers(path: Path, number: int, words: list[str]) -> tuple[float, ...]:
    try:
        values = tuple(float(word[:_WORD]) for word in words)
    except ValueError:
        values = (math.nan,)
    if not all(abs(value) <= LARGEST for value in values):
        raise DdimxError(f"{path}: item {number}: not numbers: {' '.join(words)[:200]}")
    return values
