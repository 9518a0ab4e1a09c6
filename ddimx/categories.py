"""What a category stands for: a class, or a group of classes, as "animals" of "animals/bird"."""

from __future__ import annotations

from collections.abc import Sequence


def groups_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the groups that classes such as "animals/bird" belong to, each once; () if to none."""
    return tuple(dict.fromkeys(name.partition("/")[0] for name in classes if "/" in name))


def classes_within(classes: Sequence[str], category: str) -> list[int]:
    """Return the labels that a category stands for: a class, or all classes of a group."""
    if category in classes:
        return [classes.index(category)]
    return [i for i, name in enumerate(classes) if name.startswith(f"{category}/")]
