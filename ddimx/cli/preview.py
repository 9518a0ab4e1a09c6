"""What ``--explain`` and ``--dry-run`` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sampling.run import SampleRequest
    from ..solvers.table import AnyPlan


def show_plan(plan: AnyPlan, guidance: float, *, as_json: bool) -> None:
    """Print a plan's table under guidance of that weight, or the plan as JSON."""
    from rich.console import Console

    from ..sampling.explain import plan_table
    from .output import print_json

    if as_json:
        print_json({"plan": plan.to_json()})
        return
    console, table = Console(), plan_table(plan, guidance)
    # As wide as it is: a table that is fitted to 80 columns loses its digits.
    needed = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def preview(request: SampleRequest, *, costs_too: bool, as_json: bool) -> None:
    """Print a run's plan, and with ``costs_too`` what it costs."""
    from rich.console import Console

    from ..sampling.explain import costs
    from .output import print_json

    plan = request.settings.plan
    spent = costs(request.model, request.settings) if costs_too else None
    if as_json and spent is not None:
        print_json({"plan": plan.to_json(), "costs": spent})
        return
    show_plan(plan, request.settings.guidance, as_json=as_json)
    if spent is not None:
        memory = spent["memory_bytes"]
        megabytes = "" if memory is None else f"{memory / 1e6:,.0f} MB and "
        Console().print(
            f"{spent['count']} samples in batches of {spent['batch_size']}: "
            f"{spent['forward_passes_per_sample']} forward passes each, about "
            f"{megabytes}{spent['estimated_seconds']:g} s on "
            f"{request.model.device}, {request.model.precision.name}",
            highlight=False,
            soft_wrap=True,
        )
