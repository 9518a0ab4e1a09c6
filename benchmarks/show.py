"""Records as tables: for a terminal, and as the page of figures, which is made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

COLUMNS = {
    "median_ms": "median ms",
    "p20_ms": "p20",
    "p80_ms": "p80",
    "verdict": "times as fast",
    "gb_per_s": "GB/s",
    "share_of_copy": "of copy",
    "tflop_per_s": "TFLOP/s",
    "share_of_matmul": "of matmul",
    "images_per_s": "images/s",
    "mtokens_per_s": "M tokens/s",
    "msplats_per_s": "M splats/s",
    "bytes_per_splat": "B/splat",
    "ms_per_call": "ms/call",
    "rms_difference": "rms diff.",
    "max_error": "max error",
    "launches": "launches",
    "kernels_per_call": "kernels/call",
    "launches_per_call": "launches/call",
    "operators_per_call": "operators/call",
    "shapes_per_s": "shapes/s",
    "compile_s": "compile s",
    "first_call_s": "first call s",
    "processes": "processes",
    "p95_ms": "p95 ms",
    "largest_ms": "largest ms",
    "syncing_ms": "disk ms",
    "processor_ms": "processor ms",
    "percent_of_work": "% of 60 s",
    "coordinating_ms": "coordination ms",
    "peak_mb": "peak MB",
}
BEGIN, END = "<!-- figures: python -m benchmarks figures -->", "<!-- end of figures -->"

QUICK = "Quick: few rounds, kept whether the machine was steady or not."

Record = dict[str, Any]


def text(record: Record) -> str:
    """Return a suite's record as aligned tables for people."""
    about = record["machine"]
    lines = [f"{about['device']}, torch {about['versions']['torch']}, load {about['load_average']}"]
    lines += [QUICK] if record.get("quick") else []
    for table in record["tables"]:
        lines += ["", table["title"], *_aligned(table), *(f"  {note}" for note in table["notes"])]
    lines += ["", *(f"left out: {reason}" for reason in record.get("left_out", []))]
    lines += [f"FAILED {reason}" for reason in record.get("failed", [])]
    return "\n".join(lines) + "\n"


def markdown(records: dict[str, Record]) -> str:
    """Return all suites of one device as Markdown: every row, wins and losses alike."""
    lines = []
    for record in records.values():
        about = record["machine"]
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        lines += [
            f"`{about['command']}` on {about['device']}, {about['date'][:10]}, commit "
            f"{about['commit']}, {versions}:",
            "",
        ]
        lines += [QUICK, ""] if record.get("quick") else []
        if about.get("clocks"):
            lines += [
                f"Clocks, power and temperature before: {about['clocks']}; after: "
                f"{about.get('clocks_after')}.",
                "",
            ]
        for table in record["tables"]:
            lines += [*_markdown_table(table), ""]
        lines += [f"Left out: {reason}\n" for reason in record.get("left_out", [])]
        lines += [f"Failed: {reason}\n" for reason in record.get("failed", [])]
    return "\n".join(lines)


def section(folder: Path) -> str:
    """Return what stands between the page's markers, from every file of the results folder."""
    files = sorted(folder.glob("*.json"))
    parts = [markdown(json.loads(path.read_text(encoding="utf-8"))) for path in files]
    return f"{BEGIN}\n\n" + "\n".join(parts) + f"{END}\n"


def with_section(page: str, section: str) -> str:
    """Return the page's text with its section replaced.

    Raises:
        ValueError: a page without the two markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise ValueError(f"the page lacks the lines '{BEGIN}' and '{END}'")
    return before + section + after


def _shown(table: dict[str, Any]) -> list[str]:
    return [key for key in COLUMNS if any(key in row for row in table["rows"])]


def _aligned(table: dict[str, Any]) -> list[str]:
    shown = _shown(table)
    cells = [["", *(COLUMNS[key] for key in shown)]]
    for row in table["rows"]:
        if "absent" not in row:
            cells.append([row["name"], *(_cell(row, key, table) for key in shown)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    ]
    absent = [f"  {r['name']}: absent, {r['absent']}" for r in table["rows"] if "absent" in r]
    return [*lines, *absent]


def _markdown_table(table: dict[str, Any]) -> list[str]:
    shown = [key for key in _shown(table) if key not in ("p20_ms", "p80_ms", "compile_s")]
    lines = [
        f"| {table['title']} | " + " | ".join(COLUMNS[key] for key in shown) + " |",
        "|---|" + "---:|" * len(shown),
    ]
    for row in table["rows"]:
        if "absent" not in row:
            cells = [_cell(row, key, table) for key in shown]
            lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    absent = [row["name"] for row in table["rows"] if "absent" in row]
    # The reasons stand in the record; here they would be most of the text.
    return [*lines, "", f"Cannot run there: {'; '.join(absent)}."] if absent else lines


def _cell(row: dict[str, Any], key: str, table: dict[str, Any]) -> str:
    if key == "verdict" and row["name"] == table["baseline"]:
        return "baseline"
    value = row.get(key, "")
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
