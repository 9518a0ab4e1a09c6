"""Measured errors as a table, a CSV file and a chart."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from rich.table import Table

from ..chart import HorizontalLine, Panel
from .compare import Measured, best_of


def error_table(results: Sequence[Measured]) -> Table:
    """Return one row for every solver and spacing, one column for every number of evaluations.

    The least error of a column is marked with a star.
    """
    nfes = sorted({r.nfe for r in results})
    best = best_of(results)
    cells = {(r.solver, r.spacing, r.nfe): r for r in results}
    table = Table(title="RMSE of x_0 to the reference, by network evaluations", box=None)
    for name in ("solver", "spacing"):
        table.add_column(name)
    for nfe in nfes:
        table.add_column(str(nfe), justify="right")
    for solver, spacing in dict.fromkeys((r.solver, r.spacing) for r in results):
        row = [cells.get((solver, spacing, nfe)) for nfe in nfes]
        texts = [
            "-" if r is None else f"{r.rmse:.4f}{'*' if r is best[r.nfe] else ' '}" for r in row
        ]
        table.add_row(solver, spacing, *texts)
    return table


def csv_text(results: Sequence[Measured]) -> str:
    """Return the results as CSV with a header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["nfe", "solver", "spacing", "rmse", "worst_sample"])
    for r in results:
        writer.writerow([r.nfe, r.solver, r.spacing, f"{r.rmse:.6g}", f"{r.worst:.6g}"])
    return text.getvalue()


def panel(results: Sequence[Measured], floor: float) -> Panel:
    """Return the chart of error against evaluations: for each solver its best spacing.

    ``floor`` is the reference's own error, a dashed line where it lies within the picture.
    """
    lines = {name: [(r.nfe, r.rmse) for r in line] for name, line in _lines(results).items()}
    own = HorizontalLine(floor, "reference's own error")
    return Panel(lines, "RMSE of x_0 to the reference", levels=[own])


def _lines(results: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Return each solver's results with the spacing of least mean log error."""
    groups: dict[str, dict[str, list[Measured]]] = {}
    for r in results:
        groups.setdefault(r.solver, {}).setdefault(r.spacing, []).append(r)
    best_by_nfe = {}
    for solver, spacings in groups.items():
        most = max(len(line) for line in spacings.values())
        whole = {name: line for name, line in spacings.items() if len(line) == most}
        best = min(whole, key=lambda n: sum(math.log(r.rmse + 1e-30) for r in whole[n]))
        best_by_nfe[f"{solver}, {best}"] = sorted(whole[best], key=lambda r: r.nfe)
    return best_by_nfe
