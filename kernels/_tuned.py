"""Tiles that were measured on a card, made by ``python -m benchmarks tune``.

``TILES`` goes from architecture to operation to class of problems to the fields of the operation's
tile. A class never names the batch: a sample's last bits must not depend on its neighbors. What is
not here has its tile in the operation's own ``tiles.py``.
"""

from __future__ import annotations

TILES: dict[str, dict[str, dict[str, tuple[int, ...]]]] = {}


def measured(arch: str, operation: str, problem: str) -> tuple[int, ...] | None:
    """Return a tile's fields for a class of problems, None where none was measured.

    Args:
        arch: as :func:`ddimx.kernels._launch.architecture` returns it.
        operation: the folder's name.
    """
    return TILES.get(arch, {}).get(operation, {}).get(problem)
