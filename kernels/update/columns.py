"""The columns of a plan: the one list of them.

The plan's dataclass, its table, files and JSON are made from this list, and so are the offsets in
the kernel. A new column is a field here, with the neutral value that it has where a solver does not
set it (0 unless its metadata says otherwise), and a place in the formulas of the reference and
the kernel. It goes before ``b``, marked as added: plans without a use for it then keep their files
and their identity, and older files stay readable.

    share: T = field(metadata={"neutral": 1.0, "added": True})
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Coefficients(Generic[T]):
    """The coefficients of a plan's rows. In a plan each is float64 [rows], b and q [rows, depth].

    Attributes:
        r, s: x0 = clip(r y + s out), from the point y and the network's raw output.
        u, v: eps = u y + v out.
        a, w, b, c: x' = a x + w x0 + sum_j b_j m_j + c z, from the state x, the j-th last
            prediction m_j and unit noise z.
        p, q: y' = p x' + sum_j q_j m_j, where the network is evaluated next.
        known_signal, known_sigma: sqrt(alpha_bar) and sqrt(1 - alpha_bar) at the time of x', with
            which known pixels are brought to the row's noise level.
        g: the row's share of the run's guidance. With a weight G, ``out`` is
            uncond + (g G + 1 - g) (out - uncond): G where g is 1, none where it is 0.
    """

    r: T
    s: T
    u: T
    v: T
    a: T
    w: T
    c: T
    p: T = field(metadata={"neutral": 1.0})
    known_signal: T
    known_sigma: T
    g: T = field(metadata={"neutral": 1.0, "added": True})
    b: T
    q: T


BY_DEPTH = ("b", "q")  # one number for each prediction that a row may use, the current one included
SCALARS = tuple(f.name for f in fields(Coefficients) if f.name not in BY_DEPTH)
NEUTRAL = {f.name: float(f.metadata.get("neutral", 0.0)) for f in fields(Coefficients)}
ADDED = frozenset(f.name for f in fields(Coefficients) if f.metadata.get("added"))

# A row of the table: these, then b_0, b_1, ... and q_0, q_1, ... of the plan's depth. "calls" is
# the number of network calls in earlier rows; it tells which slots of the history are whose.
TABLE = (*SCALARS, "calls")
