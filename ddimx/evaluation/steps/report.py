"""A steps study as a table, a CSV file and a picture of curves."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.table import Table

from ..chart import HorizontalLine, Panel
from .study import FIGURES, Record, Row
from .variants import Way, names_of

OPTIONS = tuple(Way.__dataclass_fields__)
PANEL_SIZE = (900, 400)  # pixels
PANELS = {
    "one_component": "share of shapes in one piece",
    "largest_share": "share of cells in the largest piece, mean",
    "1-NNA": "1-NNA by Chamfer distance; lower is better, down to what a perfect generator has",
    "iou": "IoU with the nearest training shape, mean; higher is less new",
}


def table(record: Record) -> Table:
    """Return one row for every way, by name and then by number of evaluations."""
    rows, names = _by_name(record)
    distances = any("1-NNA" in row for row in rows)
    grid = Table(box=None, pad_edge=False)
    grid.add_column("way", no_wrap=True)
    heads = ["steps", "calls", "in one piece", "largest", "IoU train", "copies", "leaves"]
    for head in heads + (["1-NNA", "COV", "MMD x1000"] if distances else []):
        grid.add_column(head, justify="right")
    for row in rows:
        grid.add_row(names[_way(row)], str(row["steps"]), f"{row['calls']:g}", *_cells(row))
    if "training" in record:
        grid.add_row("training shapes", "", "", *_cells(record["training"]), style="dim")
    return grid


def csv_text(record: Record) -> str:
    """Return all rows as CSV with a header; a figure has a column for it and its two bounds."""
    text = io.StringIO()
    flat = [_flat(row) for row in record["rows"]]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def panels(record: Record) -> list[Panel]:
    """Return charts of each measured figure over calls, one line for each kind of way."""
    rows, names = _by_name(record)
    connectivity = record.get("reference_connectivity", {})
    charts = []
    for figure, title in PANELS.items():
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if figure in row:
                point = (float(row["calls"]), float(row[figure]["value"]))
                lines.setdefault(names[_way(row)], []).append(point)
        if lines:
            joined = {name: sorted(line) for name, line in lines.items()}
            levels = []
            if figure in connectivity:
                levels.append(HorizontalLine(connectivity[figure]["value"], "reference"))
            if figure == "iou":
                levels.append(HorizontalLine(rows[0]["iou_reference"], "reference"))
            if figure == "1-NNA" and "training" in record:
                levels.append(
                    HorizontalLine(record["training"][figure]["value"], "training shapes")
                )
            charts.append(Panel(joined, title, levels, logarithmic=False))
    return charts


def _by_name(record: Record) -> tuple[list[Row], dict[Way, str]]:
    """Return the rows, each name's together, fewest calls first, and the names."""
    names = names_of([_way(row) for row in record["rows"]])
    order = {name: i for i, name in enumerate(dict.fromkeys(names.values()))}
    rows = sorted(record["rows"], key=lambda row: (order[names[_way(row)]], row["calls"]))
    return rows, names


def _way(row: Row) -> Way:
    return Way(**{name: row[name] for name in OPTIONS if name in row})


def _cells(row: Row) -> list[str]:
    cells = [f"{100 * row['one_component']['value']:.0f}%", f"{row['largest_share']['value']:.3f}"]
    cells += [f"{row['iou']['value']:.3f}", str(row["copies"])] if "iou" in row else ["-", "-"]
    cells.append(f"{row['leaves']:.0f}" if "leaves" in row else "-")
    if "1-NNA" in row:
        cells += [f"{100 * row[name]['value']:.1f}%" for name in ("1-NNA", "COV")]
        cells.append(f"{1000 * row['MMD']['value']:.3f}")
    return cells


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name in FIGURES:
            flat[name] = value["value"]
            flat |= {f"{name}_{end}": value[end] for end in ("low", "high")}
        else:
            flat[name] = value
    return flat
