"""glTF 2.0, ``.glb`` and ``.gltf``: the triangles and points of its scene, each where it stands.

Read here and not by a library, since those at hand leave out what makes another shape of it: they
take integers of a ``normalized`` accessor as they are, and pass over sparse accessors, instances
and compressed buffers without a word. Skins, morph targets and animations are not applied. Section
numbers are of the specification, version 2.0.1.

A small file can ask for any amount of memory: an accessor without a view stands for zeros, as many
as it says, and each node may place a mesh again. Both are held against the file first.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt

from ...untrusted import limits
from ...untrusted.text import parse_json, shown
from .polygons import Array, Index

Read = Callable[[str, int], bytes]  # a file beside a .gltf by its name, as many bytes of it

_HEAD = struct.Struct("<4sII")  # magic, version, length
_CHUNK = struct.Struct("<II")  # length, kind
_JSON, _BINARY = 0x4E4F534A, 0x004E4942
_TYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_POINTS, _TRIANGLES, _STRIP, _FAN = 0, 4, 5, 6
_PLACED = 8 * 3  # bytes of a point or a triangle once it is placed in the scene
_COPIES = 4  # of the scene's arrays, while they are put together

_DRACO = "KHR_draco_mesh_compression"
_MESHOPT = ("EXT_meshopt_compression", "KHR_meshopt_compression", "MESHOPT_compression")
_INSTANCES = "EXT_mesh_gpu_instancing"
# What a file may require: it is read here, or it changes what surfaces look like and not where they
# are. Anything else is refused, as section 3.12 demands.
_KNOWN = re.compile(
    "KHR_mesh_quantization|EXT_mesh_gpu_instancing|KHR_(?:materials|texture|lights|animation|xmp)_?.*"
    "|(?:EXT|ADOBE|AGI|MSFT|NV)_(?:materials|texture|lights|packing).*|KHR_gaussian_splatting.*"
)


def read_gltf(content: bytes, read: Read | None = None) -> list[tuple[Array, Index | None]]:
    """Return a scene's parts: vertices, float64 [V, 3], with triangles, int64 [F, 3], or points.

    Args:
        content: of a ``.glb`` or a ``.gltf``.
        read: reads the files beside it that a ``.gltf`` names; None: there are none.

    Raises:
        ValueError: not a glTF, one that is cut off, that is compressed or needs an extension that
            is not read, or arrays beyond what ``content`` may become.
    """
    document, binary = _split(content)
    return _Scene(document, binary, len(content), read).parts()


def names_beside(content: bytes) -> list[str]:
    """Return the names of the files that a ``.gltf`` needs, as it writes them.

    What is no glTF needs none.
    """
    try:
        document, _ = _split(content)
        buffers = _list(document, "buffers")
    except ValueError:
        return []
    uris = [buffer.get("uri") for buffer in buffers]
    return [uri for uri in uris if isinstance(uri, str) and not uri.startswith("data:")]


def _split(content: bytes) -> tuple[dict[str, Any], bytes | None]:
    """Return the JSON object and the binary chunk, by section 4.4."""
    binary = None
    text = content
    if content[:4] == b"glTF" or b"{" not in content[:64]:
        if len(content) < _HEAD.size + _CHUNK.size:
            raise ValueError("it is shorter than a GLB's header")
        magic, version, total = _HEAD.unpack_from(content)
        length, kind = _CHUNK.unpack_from(content, _HEAD.size)
        if magic != b"glTF" or version != 2 or kind != _JSON:
            raise ValueError("not a GLB of version 2 that begins with JSON")
        if total > len(content):
            raise ValueError(f"it is cut off: {total} bytes are declared, {len(content)} are there")
        start = _HEAD.size + _CHUNK.size
        text = content[start : start + length]
        start += length
        if len(content) >= start + _CHUNK.size:
            length, kind = _CHUNK.unpack_from(content, start)
            start += _CHUNK.size
            binary = content[start : start + length] if kind == _BINARY else None
    document = parse_json(text.removeprefix(b"\xef\xbb\xbf"))
    if not isinstance(document, dict):
        raise ValueError("its JSON is not an object")
    return document, binary


class _Scene:
    """A glTF's document with its buffers."""

    def __init__(
        self, document: dict[str, Any], binary: bytes | None, size: int, read: Read | None
    ) -> None:
        keys = ("accessors", "bufferViews", "buffers", "meshes", "nodes", "scenes")
        lists = {key: _list(document, key) for key in keys}
        self._accessors, self._views = lists["accessors"], lists["bufferViews"]
        self._meshes, self._nodes = lists["meshes"], lists["nodes"]
        self._scenes, self._scene = lists["scenes"], document.get("scene", 0)
        self._required = document.get("extensionsRequired", [])
        if not isinstance(self._required, list):
            raise ValueError("its extensionsRequired are not a list")
        self._buffers = [
            _content(number, buffer, binary, read) for number, buffer in enumerate(lists["buffers"])
        ]
        self._check_memory(max(size, sum(len(content or b"") for content in self._buffers)))

    def _check_memory(self, stored: int) -> None:
        """Raise ValueError if the arrays, or the scene, take more than ``stored`` bytes may."""
        counts = [_number(accessor, "count") for accessor in self._accessors]
        size = sum(
            count * _WIDTHS.get(str(accessor.get("type")), 0) * _component(accessor).itemsize
            for count, accessor in zip(counts, self._accessors, strict=True)
        )
        limits.refused("what its accessors declare", size, stored, _COPIES)
        size = 0
        for node in self._nodes:
            times = max([1, *(_of(counts, i, 0) for i in self._instances(node).values())])
            mesh = _of(self._meshes, node.get("mesh", -1), {})
            for primitive in _list(mesh, "primitives"):
                named = (_object(primitive, "attributes").get("POSITION"), primitive.get("indices"))
                size += times * _PLACED * sum(_of(counts, number, 0) for number in named)
        limits.refused("what its nodes place", size, stored, _COPIES)

    def parts(self) -> list[tuple[Array, Index | None]]:
        """Return the parts of the scene, of several the one to be shown first (3.5.1)."""
        children = {i for node in self._nodes for i in _numbers(node, "children")}
        roots = [i for i in range(len(self._nodes)) if i not in children]
        if self._scenes:
            roots = _numbers(_item(self._scenes, self._scene, "scene"), "nodes")
        meshes: dict[int, list[tuple[Array, Index | None]]] = {}
        parts, seen = [], set()
        pending = [(root, np.eye(4)) for root in reversed(roots)]
        while pending:
            number, above = pending.pop()
            if number in seen:  # each node has one parent; of a circle it is placed once
                continue
            seen.add(number)
            node = _item(self._nodes, number, "node")
            here = above @ _transform(node)
            pending += [(child, here) for child in reversed(_numbers(node, "children"))]
            if "mesh" not in node:
                continue
            mesh = node["mesh"]
            primitives = _list(_item(self._meshes, mesh, "mesh"), "primitives")
            if mesh not in meshes:
                parts_of_mesh = (self._primitive(primitive) for primitive in primitives)
                meshes[mesh] = [part for part in parts_of_mesh if part is not None]
            for place in self._placings(node):
                matrix = here @ place
                for points, faces in meshes[mesh]:
                    parts.append((points @ matrix[:3, :3].T + matrix[:3, 3], faces))
        for name in self._required:  # last, so that what is known to be wrong is said instead
            if not _KNOWN.fullmatch(str(name)) and name not in (_DRACO, *_MESHOPT):
                raise ValueError(f"it requires the extension {shown(name)}, which is not read")
        return parts

    def _primitive(self, primitive: dict[str, Any]) -> tuple[Array, Index | None] | None:
        """Return a primitive's points and triangles in the mesh's own space; None of lines."""
        mode = primitive.get("mode", _TRIANGLES)
        position = _object(primitive, "attributes").get("POSITION")
        if mode not in (_POINTS, _TRIANGLES, _STRIP, _FAN) or position is None:
            return None
        accessor = _item(self._accessors, position, "accessor")
        if _DRACO in _object(primitive, "extensions") and (
            _DRACO in self._required or "bufferView" not in accessor
        ):
            raise ValueError(
                f"its meshes are compressed by Draco ({_DRACO}), which is not read; open it in "
                "Blender and export it without compression"
            )
        points = self._values(position, ("VEC3",)).astype(np.float64)
        if "indices" in primitive:
            corners = self._values(primitive["indices"], ("SCALAR",))[:, 0]
            if corners.dtype.kind != "u" and corners.size:
                raise ValueError("its indices are not whole numbers")
            corners = corners.astype(np.int64)
        else:
            corners = np.arange(len(points))
        if corners.size and corners.max() >= len(points):
            raise ValueError(f"a triangle names vertex {corners.max()} of {len(points)}")
        if mode == _POINTS:
            return points[corners], None
        if mode == _TRIANGLES:
            if len(corners) % 3:
                raise ValueError(f"its triangles have {len(corners)} corners together")
            return points, corners.reshape(-1, 3)
        first = np.broadcast_to(corners[:1], len(corners[2:])) if mode == _FAN else corners[:-2]
        return points, np.stack([first, corners[1:-1], corners[2:]], axis=-1)

    def _instances(self, node: dict[str, Any]) -> dict[str, Any]:
        extension = _object(_object(node, "extensions"), _INSTANCES)
        return _object(extension, "attributes")

    def _placings(self, node: dict[str, Any]) -> list[Array]:
        """Return where a node's mesh stands within the node: once, or once for each instance."""
        names = {"TRANSLATION": ("VEC3",), "ROTATION": ("VEC4",), "SCALE": ("VEC3",)}
        numbers = self._instances(node)
        columns = {
            name.lower(): self._values(numbers[name], kinds)
            for name, kinds in names.items()
            if name in numbers
        }
        if not columns:
            return [np.eye(4)]
        count = min(len(values) for values in columns.values())
        return [
            _transform({name: values[i].tolist() for name, values in columns.items()})
            for i in range(count)
        ]

    def _values(self, number: Any, kinds: tuple[str, ...]) -> npt.NDArray[Any]:
        """Return an accessor's values, [count, width]; normalized ones are divided (3.6.2)."""
        accessor = _item(self._accessors, number, "accessor")
        count, dtype = _number(accessor, "count"), _component(accessor)
        if accessor.get("type") not in kinds:
            raise ValueError(
                f"an accessor of {shown(accessor.get('type'))} where {kinds[0]} is due"
            )
        width = _WIDTHS[kinds[0]]
        values = np.zeros((count, width), dtype)
        if "bufferView" in accessor:
            values[:] = self._viewed(accessor, count, width, dtype)
        if "sparse" in accessor:
            sparse = _object(accessor, "sparse")
            changed = _number(sparse, "count")
            indices, others = _object(sparse, "indices"), _object(sparse, "values")
            places = self._viewed(indices, changed, 1, _component(indices))[:, 0]
            if places.dtype.kind != "u" or (changed and places.max() >= count):
                raise ValueError("a sparse accessor changes values that it does not have")
            values[places] = self._viewed(others, changed, width, dtype)
        if accessor.get("normalized") is True and dtype.kind in "iu":
            values = np.maximum(values / np.iinfo(dtype).max, -1)
        return values

    def _viewed(
        self, holder: dict[str, Any], count: int, width: int, dtype: np.dtype[Any]
    ) -> npt.NDArray[Any]:
        """Return what an accessor, or a part of a sparse one, sees of a buffer: [count, width]."""
        view = _item(self._views, holder.get("bufferView"), "bufferView")
        content = _item(self._buffers, view.get("buffer"), "buffer")
        for name in _MESHOPT:
            if name in _object(view, "extensions") and (name in self._required or content is None):
                raise ValueError(
                    f"its buffers are compressed by meshopt ({name}), which is not read; "
                    "'gltfpack -i IN -o OUT' writes them without"
                )
        if content is None:
            raise ValueError("a buffer has no data")
        offset, start = _number(holder, "byteOffset", 0), _number(view, "byteOffset", 0)
        each = width * dtype.itemsize
        stride = _number(view, "byteStride", 0) or each
        end = offset + (stride * (count - 1) + each if count else 0)
        if end > _number(view, "byteLength") or start + end > len(content):
            raise ValueError(
                "an accessor reaches beyond its buffer: the file is damaged or cut off"
            )
        values: npt.NDArray[Any] = np.ndarray(
            (count, width), dtype, content, start + offset, (stride, dtype.itemsize)
        )
        return values


def _content(
    number: int, buffer: dict[str, Any], binary: bytes | None, read: Read | None
) -> bytes | None:
    """Return a buffer's bytes; None where there are none, as behind a compressed one."""
    uri, length = buffer.get("uri"), _number(buffer, "byteLength")
    if uri is None:
        return binary if number == 0 else None
    if not isinstance(uri, str):
        raise ValueError("a buffer's uri is not a text")
    if uri.startswith("data:"):
        head, comma, data = uri.partition(",")
        if not comma or not head.endswith(";base64"):
            raise ValueError("a buffer's data: address is not in base64")
        try:
            return base64.b64decode(unquote_to_bytes(data), validate=True)
        except binascii.Error as error:
            raise ValueError(f"a buffer's data: address is damaged ({error})") from None
    if read is None:
        raise ValueError(f"its buffer is the file {shown(uri)}, and here are no files beside it")
    return read(uri, length)


def _transform(node: dict[str, Any]) -> Array:
    """Return a node's matrix [4, 4]: its own, or translation, rotation (x, y, z, w) and scale."""
    matrix = np.eye(4)
    if "matrix" in node:
        matrix[:] = np.reshape(_floats(node, "matrix", 16), (4, 4)).T
        return matrix
    x, y, z, w = _floats(node, "rotation", 4, [0, 0, 0, 1])
    length = float(np.sqrt(x * x + y * y + z * z + w * w)) or 1.0
    x, y, z, w = x / length, y / length, z / length, w / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix[:3, :3] = rotation * _floats(node, "scale", 3, [1, 1, 1])
    matrix[:3, 3] = _floats(node, "translation", 3, [0, 0, 0])
    return matrix


def _component(holder: dict[str, Any]) -> np.dtype[Any]:
    kind = _number(holder, "componentType")
    if kind not in _TYPES:
        raise ValueError(f"componentType {kind} is none of glTF's")
    return np.dtype(_TYPES[kind])


def _object(holder: dict[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key, {})
    if not isinstance(value, dict):
        raise ValueError(f"{key} is not an object")
    return value


def _list(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = holder.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"its {key} are not a list of objects")
    return value


def _number(holder: dict[str, Any], key: str, default: int | None = None) -> int:
    value = holder.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} is not a whole number of at least 0")
    return value


def _numbers(holder: dict[str, Any], key: str) -> list[int]:
    value = holder.get(key, [])
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError(f"{key} is not a list of whole numbers")
    return value


def _floats(holder: dict[str, Any], key: str, count: int, default: Any = None) -> list[float]:
    value = holder.get(key, default)
    if not (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(item, int | float) for item in value)
    ):
        raise ValueError(f"{key} is not a list of {count} numbers")
    return [float(item) for item in value]


def _item(items: list[Any], number: Any, what: str) -> Any:
    if type(number) is not int or not 0 <= number < len(items):
        raise ValueError(f"there is no {what} {shown(number)}")
    return items[number]


def _of(items: list[Any], number: Any, default: Any) -> Any:
    """Return an item, or ``default`` for a number that names none."""
    return items[number] if type(number) is int and 0 <= number < len(items) else default
