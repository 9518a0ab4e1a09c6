"""What libraries raise that read foreign files, when a file is not what its name says.

plyfile and Pillow trust much of what they read, so that a wrong number shows itself anywhere: as an
index that is out of range, a variable that was never set, an array of another shape.
"""

from __future__ import annotations

import struct
import zipfile
import zlib

# To be caught around a call of the library, and around nothing else. MemoryError is not among
# them: it says that a file is too large, not that it is wrong.
FAULTS: tuple[type[Exception], ...] = (
    *(ValueError, TypeError, LookupError, AttributeError, NameError, ArithmeticError),
    *(AssertionError, RuntimeError, OSError, EOFError, ImportError, SyntaxError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def reason(error: Exception) -> str:
    """Return what an error says in one line of bounded length, with its kind."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else f"{text[:200]}..."
    return f"{type(error).__name__}: {text}".rstrip(": ")
