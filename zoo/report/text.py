"""The comparison as CSV (full precision, one row a variant) and as Markdown (for people and issues)."""

import csv
import io

from zoo.report.digits import column_decimals, mean_and_half, number
from zoo.report.table import Cell, Table
from zoo.report.variants import MISSING, Variant


def to_csv(table: Table) -> str:
    """Columns `M`, `M:ci95` (half-width), `M:n`, `M:diff`, `M:diff_ci95` for each metric M; the
    difference is to the variant that the column `baseline` names."""
    parts = ("", ":ci95", ":n", ":diff", ":diff_ci95")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = ["variant", "baseline", "runs", "finished", "seeds"]
    writer.writerow(heads + [m.name + part for m in table.metrics for part in parts])
    for variant, cells in zip(table.variants, table.cells):
        seeds = " ".join(dict.fromkeys(run.seed for run in variant.finished if run.seed))
        row: list[object] = [variant.label, table.variants[table.baseline].label]
        row += [len(variant.runs), len(variant.finished), seeds]
        for cell in cells:
            value, against = cell.estimate, cell.against
            row += [value.mean, value.half, value.n] if value else [None, None, 0]
            row += [against.mean, against.half] if against else [None, None]
        writer.writerow(["" if item is None else item for item in row])
    return out.getvalue()


def to_markdown(table: Table, title: str) -> str:
    """The table of means and the table of differences, the runs that did not finish, the caveats."""
    lines = [f"# {_plain(title)}", ""]
    lines += _grid(table, "Variant", lambda cell, column: _value(cell, column))
    lines += [
        "",
        "Mean ± 95% t-interval over seeds; ↓ lower is better, ↑ higher is better. Bold: best,",
    ]
    lines += ["where the interval of the difference to the runner-up excludes 0."]
    base = table.variants[table.baseline].label
    if len(table.variants) > 1:
        lines += ["", f"## Difference from {_plain(base)}", ""]
        lines += _grid(table, "Variant", _against, skip=table.baseline)
    unfinished = [run for variant in table.variants for run in variant.runs if not run.done]
    if unfinished:
        lines += ["", "## Runs that did not finish", "", "| run | variant | status | error |"]
        lines += ["|---|---|---|---|"]
        for variant in table.variants:
            for run in variant.runs:
                if not run.done:
                    cells = (run.name, variant.label, run.status, run.error or "")
                    lines.append("| " + " | ".join(map(_plain, cells)) + " |")
    if table.constants:
        lines += ["", "The same in every run: " + constants_text(table) + "."]
    lines += ["", *(f"- {_plain(note)}" for note in table.caveats)] if table.caveats else []
    return "\n".join(lines) + "\n"


def constants_text(table: Table) -> str:
    """`baseline/unigram_bits_per_byte 4.520, …`"""
    return ", ".join(f"{name} {number(value)}" for name, value in table.constants.items())


def run_count(variant: Variant) -> str:
    """`3`, or `2 of 3` where some did not finish."""
    done, total = len(variant.finished), len(variant.runs)
    return str(total) if done == total else f"{done} of {total}"


def _grid(table: Table, corner: str, text, skip: int | None = None) -> list[str]:
    heads = [f"{m.name} {m.arrow}".strip() for m in table.metrics]
    lines = [f"| {corner} | runs | " + " | ".join(map(_plain, heads)) + " |"]
    lines += ["|---|---:|" + "---:|" * len(heads)]
    places = [
        column_decimals([row[column].estimate for row in table.cells])
        for column in range(len(table.metrics))
    ]
    for row, (variant, cells) in enumerate(zip(table.variants, table.cells)):
        if row != skip:
            texts = [text(cell, place) for cell, place in zip(cells, places)]
            lines.append(
                f"| {_plain(variant.label)} | {run_count(variant)} | " + " | ".join(texts) + " |"
            )
    return lines


def _value(cell: Cell, places: int | None) -> str:
    if cell.estimate is None:
        return "not finite" if cell.bad else MISSING
    mean, half = mean_and_half(cell.estimate, places)
    mean = f"**{mean}**" if cell.best else mean
    missing = f" ({cell.bad} not finite)" if cell.bad else ""
    return (f"{mean} ± {half}" if half else mean) + missing


def _against(cell: Cell, places: int | None) -> str:
    if cell.against is None:
        return MISSING
    mean, half = mean_and_half(cell.against, None, sign=True)
    return f"{mean} ± {half}" if half else mean


def _plain(text: str) -> str:
    """Text that Markdown and its tables leave alone."""
    text = " ".join(text.split())
    for sign in "\\|*`<>[]":
        text = text.replace(sign, "\\" + sign)
    return text
