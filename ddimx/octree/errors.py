"""What is wrong with an octree, and where."""

from __future__ import annotations

from ..errors import DdimxError


class OctreeError(DdimxError):
    """A token stream that is not an octree.

    Attributes:
        reason: what is wrong.
        file: the file it came from, if any.
        level: the level at which it shows, if one can be named.
        index: the position in the token stream, if one can be named.
    """

    def __init__(
        self,
        reason: str,
        *,
        file: str | None = None,
        level: int | None = None,
        index: int | None = None,
    ) -> None:
        """Build the message from what is known."""
        self.reason, self.file, self.level, self.index = reason, file, level, index
        places = [] if level is None else [f"level {level}"]
        places += [] if index is None else [f"token {index}"]
        where = f" ({', '.join(places)})" if places else ""
        super().__init__(f"{file}: {reason}{where}" if file else f"{reason}{where}")

    def within(self, file: str) -> OctreeError:
        """Return the same error, naming the file."""
        return type(self)(self.reason, file=file, level=self.level, index=self.index)
