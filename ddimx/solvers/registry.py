"""The solvers by name, ``pfdiff:2,1``, ``dpm++:3``: each is declared here and nowhere else.

The command line's help is made from this module, so that it imports neither NumPy nor torch; a
solver's own module is imported when a plan is made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, nearest

if TYPE_CHECKING:
    from ..config import Prediction
    from .ddpm import Variance
    from .plan import Plan
    from .schedule import Schedule
    from .timesteps import Times

AUTO = "auto"  # stands for one of the others, see ddimx.solvers.auto


@dataclass(frozen=True)
class Solver:
    """What there is to know of a solver besides its formulas.

    Attributes:
        function: ``module.function`` in this package, called with (schedule, times, prediction=...)
            and the solver's arguments and options as keywords; it returns the plan.
        about: one line for people.
        arguments: names of the whole numbers that follow the solver's name.
        allowed: the lists of arguments there are, the first one being the default.
        options: the options of :class:`SolverChoice` that the solver has, with their defaults.
        evaluations: how many network evaluations n times cost, from n and the arguments. More
            times never cost less.
        adds_noise: whether it does in any case, and not only with an option.
        version: part of what identifies a run. Whoever changes the numbers that a solver computes
            raises it, so that no run goes on with other numbers than it began with.
    """

    function: str
    about: str
    arguments: tuple[str, ...] = ()
    allowed: tuple[tuple[int, ...], ...] = ((),)
    options: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Callable[..., int] = lambda n, *arguments: n
    adds_noise: bool = False
    version: int = 1

    def make(self) -> Callable[..., Plan]:
        """Return the function, importing its module."""
        module, name = self.function.split(".")
        make: Callable[..., Plan] = getattr(import_module(f".{module}", __package__), name)
        return make


SOLVERS: dict[str, Solver] = {
    "ddim": Solver("ddim.ddim", "DDIM; with --eta also stochastic", options={"eta": 0.0}),
    "ddpm": Solver(
        "ddpm.ddpm",
        "DDPM's ancestral sampler, with --variance",
        options={"variance": "large"},
        adds_noise=True,
    ),
    "pfdiff": Solver(
        "pfdiff.pfdiff",
        "PFDiff k,h: DDIM that skips k of k + 1 evaluations, asking h intervals ahead",
        arguments=("k", "h"),
        allowed=((2, 1), (1, 1), (2, 2), (3, 1), (3, 2), (3, 3)),
        evaluations=lambda n, k, h: 1 + -(-(n - 1) // (k + 1)),
    ),
    "dpm++": Solver(
        "dpmpp.dpmpp",
        "DPM-Solver++ multistep of that order",
        arguments=("order",),
        allowed=((2,), (1,), (3,)),
    ),
    "sde-dpm++": Solver(
        "dpmpp.sde_dpmpp",
        "DPM-Solver++ with noise (--eta, 1 as DDPM): fewer steps than ddim's",
        arguments=("order",),
        allowed=((2,), (1,)),
        options={"eta": 1.0},
    ),
    "sa": Solver(
        "sa.sa",
        "SA-Solver: Adams steps with noise (--eta, 1 as DDPM), each corrected by the next",
        arguments=("order",),
        allowed=((2,), (1,), (3,)),
        options={"eta": 1.0},
    ),
    "ipndm": Solver(
        "ipndm.ipndm",
        "DDIM steps with Adams-Bashforth of that order",
        arguments=("order",),
        allowed=((4,), (1,), (2,), (3,)),
    ),
    "unipc": Solver(
        "unipc.unipc",
        "UniPC (bh2) of that order, with its corrector",
        arguments=("order",),
        allowed=((2,), (1,), (3,)),
    ),
}


@dataclass(frozen=True)
class SolverName:
    """A solver with its arguments; ``str`` gives the full name back."""

    kind: str
    args: tuple[int, ...] = ()

    def __str__(self) -> str:
        return ":".join([self.kind, *([",".join(map(str, self.args))] if self.args else [])])


@dataclass(frozen=True)
class SolverChoice:
    """A solver's full name with its options; those that the solver does not have stay None."""

    name: str = "ddim"
    eta: float | None = None
    variance: Variance | None = None


def parse_solver(text: str) -> SolverName:
    """Parse ``name`` or ``name:arguments``; a name alone takes its default arguments.

    Raises:
        UsageError: an unknown name, or arguments that the solver does not have.
    """
    kind, colon, rest = text.strip().partition(":")
    if kind not in SOLVERS:
        allowed_names = ", ".join([*all_names(), AUTO])
        raise UsageError(
            f"unknown solver '{text}'{nearest(kind, [*SOLVERS, AUTO])} Allowed: {allowed_names}."
        )
    solver = SOLVERS[kind]
    if not colon:
        return SolverName(kind, solver.allowed[0])
    if not solver.arguments:
        raise UsageError(f"solver '{text}': {kind} takes no arguments. {solver.about}.")
    try:
        args = tuple(int(part) for part in rest.split(","))
    except ValueError:
        args = ()
    if args not in solver.allowed:
        names = ", ".join(str(SolverName(kind, known)) for known in sorted(solver.allowed))
        raise UsageError(f"unknown solver '{text}'. Allowed: {names}.")
    return SolverName(kind, args)


def all_names() -> list[str]:
    """Return every solver with every argument list, as one would write them."""
    return [str(SolverName(kind, args)) for kind, s in SOLVERS.items() for args in s.allowed]


def name_forms() -> list[str]:
    """Return how each solver's name is written, for help texts: ``ddim``, ``pfdiff:k,h``."""
    forms = []
    for kind, solver in SOLVERS.items():
        orders = [args[0] for args in solver.allowed if args]
        by_order = f"{kind}:{min(orders)}-{max(orders)}" if orders else kind
        several = len(solver.arguments) > 1
        forms.append(f"{kind}:{','.join(solver.arguments)}" if several else by_order)
    return forms


def make_plan(
    choice: SolverChoice,
    schedule: Schedule,
    times: Times,
    prediction: Prediction,
    *,
    final: float | None = None,
) -> Plan:
    """Return the plan of a named solver over ascending ``times``, float64 [n].

    ``final`` is where ddim's last row goes, None for clean data; no other solver has a choice.

    Raises:
        UsageError: an unknown solver, an option it does not have, or a value out of range.
    """
    from .timesteps import as_run

    name = parse_solver(choice.name)
    solver = SOLVERS[name.kind]
    check_options(name, choice)
    options = {
        option: default if getattr(choice, option) is None else getattr(choice, option)
        for option, default in solver.options.items()
    }
    arguments = dict(zip(solver.arguments, name.args, strict=True))
    if final is not None:
        options["final"] = final
    plan = solver.make()(schedule, times, prediction=prediction, **arguments, **options)
    inputs: dict[str, Any] = {
        "solver": str(name),
        "solver_version": solver.version,
        "times": as_run(times),
        **options,
    }
    return replace(plan, inputs=inputs)


def evaluations(name: str, n: int) -> int:
    """Return how many network evaluations a solver makes over ``n`` times."""
    solver = parse_solver(name)
    return SOLVERS[solver.kind].evaluations(n, *solver.args)


def most_times(name: str, nfe: int) -> int:
    """Return the largest number of times that costs at most ``nfe`` evaluations."""
    upper = 1
    while evaluations(name, upper) <= nfe:
        upper *= 2
    return bisect_right(range(1, upper), nfe, key=lambda n: evaluations(name, n))


def check_options(name: SolverName, choice: SolverChoice) -> None:
    """Refuse options that a solver does not have.

    Raises:
        UsageError: which option, and whose it is.
    """
    own = SOLVERS[name.kind]
    has = " and ".join(f"--{option}" for option in own.options)
    for option in ("eta", "variance"):
        value = getattr(choice, option)
        if value is None or option in own.options:
            continue
        if option == "eta" and value == 0 and not own.adds_noise:
            continue  # no noise: what such a solver does anyway
        *others, last = [kind for kind, other in SOLVERS.items() if option in other.options]
        owners = f"{', '.join(others)} or {last}" if others else last
        shown = f" {value:g}" if option == "eta" and not has else ""
        reason = f"{name} has {has or 'no options'}"
        if not own.adds_noise and not has:
            reason = f"{name} adds no noise"
        raise UsageError(f"--{option}{shown} belongs to the solver {owners}; {reason}")
