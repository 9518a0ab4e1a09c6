"""Changed copies of a file's bytes: plain damage, and edits that know the file's structure."""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from . import zips
from .values import DEPTH, DIGITS, FLOATS, NUMBERS, TEXTS, integer_bytes, position, zeros

Edit = Callable[[bytes, Random], bytes]
_MOST = 4 << 20  # bytes of one input


def mutated(data: bytes, rng: Random) -> bytes:
    """Return a copy with one to three changes; half of them keep the structure around them."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        edit = structured(data)
        data = plain(data, rng) if edit is None or rng.random() < 0.4 else edit(data, rng)
    return data[:_MOST]


def structured(data: bytes) -> Edit | None:
    """Return the edit for what the data look like."""
    if data[:4] == b"PK\x03\x04":
        return zips.edited
    if data[:6] == b"\x93NUMPY":
        return npy
    if data[:2] == b"\x1f\x8b":
        return gzipped
    if data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return safetensors
    if data.lstrip()[:1] in (b"{", b"[") and is_json(data):
        return json_text
    return text if b"\0" not in data[:4096] else None


def is_json(data: bytes) -> bool:
    """Return whether Python's json reads it."""
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def plain(data: bytes, rng: Random) -> bytes:
    """Flip bits, cut, insert, delete, repeat, move, or write a number over something."""
    place = position(rng, len(data))
    end = min(len(data), place + rng.choice((1, 2, 4, 8, 64, 1024)))
    kind = rng.randrange(7)
    if kind == 0 and data:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[min(position(rng, len(data)), len(data) - 1)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[:place]
    if kind == 2:
        return data[:place] + rng.randbytes(rng.choice((1, 4, 64, 1024))) + data[place:]
    if kind == 3:
        return data[:place] + data[end:]
    if kind == 4:
        return data[:place] + data[place:end] * rng.choice((2, 10, 1000)) + data[end:]
    if kind == 5:
        other = position(rng, len(data))
        return data[:place] + data[other : other + end - place] + data[end:]
    field = integer_bytes(rng)
    return data[:place] + field + data[place + len(field) :]


def json_text(data: bytes, rng: Random) -> bytes:
    """Replace, remove, double or add one value anywhere in a JSON document."""
    tree = json.loads(data)
    raw = _RAW[rng.randrange(len(_RAW))]
    mark = "\x01raw\x01"
    holder: dict[str, Any] = {"": tree}
    containers = [item for item in _nodes(holder) if isinstance(item, (dict, list)) and item]
    inside = rng.choice(containers)
    key = rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
    kind = rng.randrange(8)
    if kind == 0 and inside is not holder:
        del inside[key]
    elif kind == 1 and isinstance(inside, dict):
        inside[rng.choice(TEXTS)] = rng.choice((mark, None, [], {}))
    elif kind == 2 and isinstance(inside, list):
        inside *= rng.choice((2, 50))
    elif kind == 3:
        other = rng.choice(containers)
        some = list(other.values()) if isinstance(other, dict) else other
        inside[key] = json.loads(json.dumps(rng.choice(some)))
    else:
        inside[key] = mark
    written = json.dumps(holder[""]).replace(json.dumps(mark), raw)
    if rng.random() < 0.05:
        written = re.sub(r"\{(.)", lambda m: '{"schema": 1, ' + m[1], written, count=1)
    return written.encode("utf-8", "surrogatepass")


_RAW = (
    *map(str, NUMBERS),
    *FLOATS,
    *map(json.dumps, TEXTS),
    *("null", "true", "false", "[]", "{}", "[[]]", "[null]", '[""]', '{"a": 1}', "[1, 2, 3]"),
    *(DIGITS, "-" + DIGITS, "0." + DIGITS, "1e" + DIGITS),
    *("[" * DEPTH + "]" * DEPTH, '{"a":' * DEPTH + "1" + "}" * DEPTH, "[" * 30 + "]" * 30),
    *("[" + ",".join(["1"] * 10000) + "]", "[" + ",".join(["[]"] * 10000) + "]"),
)


def _nodes(value: Any) -> list[Any]:
    found, todo = [], [value]
    while todo:
        item = todo.pop()
        found.append(item)
        if isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return found


def safetensors(data: bytes, rng: Random) -> bytes:
    """Change the header's JSON and state its length right; sometimes the JSON inside of it."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if is_json(header):
        tree = json.loads(header)
        about = tree.get("__metadata__") if isinstance(tree, dict) else None
        inner = sorted(k for k, v in (about or {}).items() if is_json(str(v).encode()))
        if inner and rng.random() < 0.6:
            key = rng.choice(inner)
            about[key] = json_text(about[key].encode(), rng).decode("utf-8", "replace")
            header = json.dumps(tree).encode()
        else:
            header = json_text(header, rng)
    return len(header).to_bytes(8, "little") + header + rest


def npy(data: bytes, rng: Random) -> bytes:
    """Change what an array's header declares and state the header's length right."""
    length = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + length].decode("latin-1"), data[10 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        header = re.sub(r"'shape': \([^)]*\)", f"'shape': {rng.choice(_SHAPES)}", header)
    elif kind == 1:
        header = re.sub(r"'descr': '[^']*'", f"'descr': {rng.choice(_TYPES)}", header)
    elif kind == 2:
        header = plain(header.encode("latin-1"), rng).decode("latin-1")
    else:
        values = struct.pack("<4d", float("nan"), float("inf"), -1e300, 1e-310)
        return data[: 10 + length] + rng.choice((values, b"\xff" * 8, bytes(8))) * (len(rest) // 8)
    content = header.encode("latin-1")[:65535]
    return data[:8] + len(content).to_bytes(2, "little") + content + rest


_SHAPES = (
    *("(1152921504606846976,)", f"({DIGITS},)", "(-1,)", "()", "(0,)", "(0, 9223372036854775807)"),
    *(
        "(4294967296, 4294967296)",
        "(1, 1, 1)",
        "(3,)",
        "(" * 500 + ")" * 500,
        "(" + "1," * 65 + ")",
    ),
    *("[3]", "(1e9,)", "(True,)", "None", "(18446744073709551616,)", "(2, 1073741824, 2147483648)"),
)
_TYPES = (
    *(
        "'O'",
        "'|O'",
        "'<U1073741823'",
        "'<U0'",
        "'|S0'",
        "'|V0'",
        "'|V16'",
        "'<f2'",
        "'>i8'",
        "'|b1'",
    ),
    *("'<c16'", "'<M8[s]'", "'<m8[99999999999s]'", "'<f16'", "''", "'i4,i4'", "[('a', '<f4')]"),
    *("'(3,)f4'", "'f" + "9" * 5000 + "'", "{}", "[" * 200 + "]" * 200, "'<i3'", "'|u1'", "'<U2'"),
)


def gzipped(data: bytes, rng: Random) -> bytes:
    """Change what is inside a gzip stream, or put a bomb in its place."""
    if rng.random() < 0.15:
        packed, crc = zeros(1500)
        return (
            b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
            + packed
            + struct.pack("<2L", crc, (1500 << 20) & 0xFFFFFFFF)
        )
    try:
        inside = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return plain(data, rng)
    return gzip.compress(mutated(inside, rng), 1, mtime=0)


def text(data: bytes, rng: Random) -> bytes:
    """Change a word or a line of a text."""
    if rng.random() < 0.3:
        lines = data.split(b"\n")
        place = rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            del lines[place]
        elif kind == 1:
            lines[place:place] = [lines[place]] * rng.choice((1, 100, 10000))
        elif kind == 2:
            lines[place] = rng.choice(_LINES)
        else:
            lines[place] = lines[place] + rng.choice(_LINES)
        return b"\n".join(lines)
    words = list(re.finditer(rb"[\w.+-]+", data[: 1 << 16]))
    if not words:
        return plain(data, rng)
    word = rng.choice(words)
    new = rng.choice((*(str(n).encode() for n in NUMBERS), *_WORDS))
    return data[: word.start()] + new + data[word.end() :]


_WORDS = (*(f.encode() for f in FLOATS), *(t.encode("utf-8", "surrogatepass") for t in TEXTS))
_WORDS += (DIGITS.encode(), b"null", b"true", b"[]", b"{}", b"*a", b"&a [*a]", b"!!binary x", b"-")
_WORDS += (b"2001-99-99", b"0b_", b"1:1:1", b".inf", b"~", b"!!set {a}", b"[" * DEPTH)
_LINES = (
    *(
        b"",
        b"\t",
        b"- 1",
        b"a: b",
        b"? [a]",
        b"<<: *a",
        b"#",
        b"%YAML 1.2",
        b"---",
        b"...",
        b"x" * 30000,
    ),
    *(b"[" * DEPTH, b"- " * 3000, b"{a: " * DEPTH, b"\xff\xfe", b"\0", b"1 " * 30000),
    b"\n".join(
        [b"a0: &a0 [1, 1]"]
        + [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)]
        + [b"data: *a11"]
    ),
)
