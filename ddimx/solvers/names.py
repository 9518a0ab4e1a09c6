"""Solver names with their arguments: ``pfdiff:2,1``, ``dpm++:3``. Parsing and describing them."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError, nearest

AUTO = "auto"  # stands for one of the others, see ddimx.solvers.auto


@dataclass(frozen=True)
class Kind:
    """What a solver's name may look like.

    Attributes:
        allowed: the argument lists there are, the first one being the default; none if empty.
        about: one line for people.
        version: part of what identifies a run. Whoever changes the numbers that a solver computes
            raises it, so that no run goes on with other numbers than it began with.
    """

    about: str
    allowed: tuple[tuple[int, ...], ...] = ()
    version: int = 1


KINDS = {
    "ddim": Kind("DDIM; with --eta also stochastic"),
    "ddpm": Kind("DDPM's ancestral sampler, with --variance"),
    "pfdiff": Kind(
        "PFDiff k,h: DDIM that skips k of k + 1 evaluations, asking h intervals ahead",
        ((2, 1), (1, 1), (2, 2), (3, 1), (3, 2), (3, 3)),
    ),
    "dpm++": Kind("DPM-Solver++ multistep of that order", ((2,), (1,), (3,))),
    "ipndm": Kind("DDIM steps with Adams-Bashforth of that order", ((4,), (1,), (2,), (3,))),
    "unipc": Kind("UniPC (bh2) of that order, with its corrector", ((2,), (1,), (3,))),
}


@dataclass(frozen=True)
class SolverName:
    """A solver with its arguments; ``str`` gives the full name back."""

    kind: str
    args: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ":".join([self.kind, *([_joined(self.args)] if self.args else [])])


def parse_solver(text: str) -> SolverName:
    """Parse ``name`` or ``name:arguments``; a name alone takes its default arguments.

    Raises:
        UsageError: an unknown name, or arguments that the solver does not have.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind not in KINDS:
        allowed_names = ", ".join([*all_names(), AUTO])
        raise UsageError(
            f"unknown solver '{text}'{nearest(kind, [*KINDS, AUTO])} Allowed: {allowed_names}."
        )
    allowed = KINDS[kind].allowed
    if not colon:
        return SolverName(kind, allowed[0] if allowed else ())
    if not allowed:
        raise UsageError(f"solver '{text}': {kind} takes no arguments. {KINDS[kind].about}.")
    try:
        args = tuple(int(part) for part in rest.split(","))
    except ValueError:
        args = ()
    if args not in allowed:
        names = ", ".join(f"{kind}:{_joined(known)}" for known in sorted(allowed))
        raise UsageError(f"unknown solver '{text}'. Allowed: {names}.")
    return SolverName(kind, args)


def all_names() -> list[str]:
    """Return every solver with every argument list, as one would write them."""
    return [
        str(SolverName(kind, args))
        for kind, spec in KINDS.items()
        for args in spec.allowed or ((),)
    ]


def _joined(args: tuple[int, ...]) -> str:
    return ",".join(str(arg) for arg in args)
