"""Checking a GLB before trimesh reads it: what its JSON declares is held against the file.

An accessor without a view stands for zeros, as many as it says; and each node may place a mesh
again. So a file of a few hundred bytes can ask for any amount of memory. The form is that of glTF
2.0, sections 3.6.2 (accessors), 3.5.3 (nodes) and 4.4 (GLB).
"""

from __future__ import annotations

import struct
from typing import Any

from ...untrusted import limits
from ...untrusted.text import parse_json

_HEAD = struct.Struct("<4sIIII")  # magic, version, length; length and kind of the first chunk
_JSON = 0x4E4F534A
_COMPONENT = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_PLACED = 8 * 3  # bytes of a point or a triangle once it is placed in the scene
_COPIES = 4  # of the scene's arrays, while they are put together


def check_glb(content: bytes) -> None:
    """Raise ValueError unless the arrays that a GLB declares may be held in memory.

    Raises:
        ValueError: not a GLB, or arrays beyond what ``len(content)`` bytes may become.
    """
    if len(content) < _HEAD.size:
        raise ValueError("it is shorter than a GLB's header")
    magic, version, _, length, kind = _HEAD.unpack_from(content)
    if magic != b"glTF" or version != 2 or kind != _JSON:
        raise ValueError("not a GLB of version 2 that begins with JSON")
    document = parse_json(content[_HEAD.size : _HEAD.size + length])
    if not isinstance(document, dict):
        raise ValueError("its JSON is not an object")
    counts = []
    size = 0
    for accessor in _list(document, "accessors"):
        counts.append(_number(accessor, "count"))
        each = _COMPONENT.get(_number(accessor, "componentType"), 0)
        size += counts[-1] * each * _COMPONENTS.get(str(accessor.get("type")), 0)
    limits.refused("what its accessors declare", size, len(content), _COPIES)
    meshes = [_placed(mesh, counts) for mesh in _list(document, "meshes")]
    size = 0
    for node in _list(document, "nodes"):
        number = _number(node, "mesh") if "mesh" in node else len(meshes)
        size += meshes[number] if number < len(meshes) else 0
    limits.refused("what its nodes place", size, len(content), _COPIES)


def _placed(mesh: dict[str, Any], counts: list[int]) -> int:
    """Return how many bytes a mesh takes wherever a node places it."""
    size = 0
    for primitive in _list(mesh, "primitives"):
        attributes = primitive.get("attributes", {})
        if not isinstance(attributes, dict):
            raise ValueError("a primitive's attributes are not an object")
        for holder, key in ((attributes, "POSITION"), (primitive, "indices")):
            number = _number(holder, key) if key in holder else len(counts)
            size += counts[number] * _PLACED if number < len(counts) else 0
    return size


def _list(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = holder.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError(f"its {key} are not a list of objects")
    return value


def _number(holder: dict[str, Any], key: str) -> int:
    value = holder.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key} is not a whole number of at least 0")
    return value
