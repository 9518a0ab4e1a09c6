"""Decoding and writing as the seed project does: a token at a time, a line of text at a time.

    python -m benchmarks.seed list|deque TOKENS.npz FILE.ply

does both with NumPy alone, which favors it: the project itself imports PyTorch and more first.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

Leaf = tuple[float, float, float, float]  # x, y, z and half of the edge
Row = tuple[Sequence[float], Sequence[float], Sequence[int], float]

FIELDS = ("x", "y", "z", "scale_x", "scale_y", "scale_z", "red", "green", "blue", "opacity")
COLOR = (200, 160, 112)


def list_decode(tokens: Sequence[int], depth: int) -> list[Leaf]:
    """Decode with a list as the queue, popped at its front."""
    queue = [(0.0, 0.0, 0.0, 0.5, 0)]
    leaves: list[Leaf] = []
    for token in tokens:
        x, y, z, half, level = queue.pop(0)
        if level == depth:
            leaves.append((x, y, z, half))
        else:
            queue += _below(x, y, z, half / 2, level + 1, token)
    return leaves


def deque_decode(tokens: Sequence[int], depth: int) -> list[Leaf]:
    """Decode with a queue that is one: what the way above would be without its slip."""
    queue = deque([(0.0, 0.0, 0.0, 0.5, 0)])
    leaves: list[Leaf] = []
    for token in tokens:
        x, y, z, half, level = queue.popleft()
        if level == depth:
            leaves.append((x, y, z, half))
        else:
            queue.extend(_below(x, y, z, half / 2, level + 1, token))
    return leaves


def _below(
    x: float, y: float, z: float, half: float, level: int, token: int
) -> list[tuple[float, float, float, float, int]]:
    return [
        (
            x + (half if child & 4 else -half),
            y + (half if child & 2 else -half),
            z + (half if child & 1 else -half),
            half,
            level,
        )
        for child in range(8)
        if token >> child & 1
    ]


def text_ply(rows: Iterable[Row], count: int) -> str:
    """Return a PLY as text, a line at a time: of each row position, sigma, color and opacity."""
    kinds = ["uchar" if name in ("red", "green", "blue") else "float" for name in FIELDS]
    lines = ["ply", "format ascii 1.0", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for kind, name in zip(kinds, FIELDS, strict=True)]
    lines.append("end_header")
    for position, sigma, color, alpha in rows:
        lines.append(" ".join(str(value) for value in (*position, *sigma, *color, alpha)))
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Decode a token file and write its splats."""
    queue, source, target = arguments
    with np.load(source) as fields:
        tokens, depth = fields["tokens"].tolist(), int(fields["max_depth"])
    leaves = (list_decode if queue == "list" else deque_decode)(tokens, depth)
    rows = (((x, y, z), (half,) * 3, COLOR, 1.0) for x, y, z, half in leaves)
    Path(target).write_text(text_ply(rows, len(leaves)), encoding="ascii")


if __name__ == "__main__":
    main(sys.argv[1:])
