"""Programs beside what the model says of them: `python -m tasks.code_execution.show RUN`.

Prints, for some programs of a run's test, the code and then its trace line by line, expected and
predicted side by side with the differences marked, and writes predictions/samples.html with more.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.code_execution.formats import SETS
from tasks.code_execution.metrics import line_key, segments, state
from tasks.code_execution.scores import Prediction, read_predictions

_PAGE = Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width">
<style>
  body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
         color: #1c1c1c; background: #fff }
  pre, td { font-family: ui-monospace, monospace; font-size: 13px; white-space: pre-wrap }
  pre { background: #f5f5f5; padding: .7rem; border-radius: 4px; counter-reset: line -1 }
  pre span::before { counter-increment: line; content: counter(line); color: #767676;
                     display: inline-block; width: 2.2em }
  table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600 }
  td, th { padding: .15rem .6rem; vertical-align: top; border-bottom: 1px solid #e4e4e4 }
  tr.wrong td:last-child { background: #fdeceb } mark { background: #f5b5ae; color: inherit }
  .right { color: #1a6b30 } .no { color: #a3261b } section { margin: 2.5rem 0 }
  @media (prefers-color-scheme: dark) {
    body { background: #161616; color: #e6e6e6 } pre { background: #232323 }
    td, th { border-color: #333 } tr.wrong td:last-child { background: #3a1f1d }
    mark { background: #8c2f26 } .right { color: #7fd394 } .no { color: #ff9d92 } }
</style>
<h1>{{ title }}</h1>
<p>{% for name, right, all in totals %}{{ name }}: {{ right }} of {{ all }} traces right.
{% endfor %}Line numbers count from 0; a row is the state after a line has run.</p>
{% for sample in samples %}<section><h2>{{ sample.prediction.source_set }} · {{ sample.prediction.id }}
<small class="{{ 'right' if sample.right else 'no' }}">{{ 'right' if sample.right else 'wrong' }}</small>
</h2>
<pre>{% for line in sample.prediction.code.splitlines() %}<span>{{ line }}
</span>{% endfor %}</pre>
<table><tr><th>line<th>expected<th>predicted</tr>
{% for row in sample.rows %}<tr class="{{ '' if row.same else 'wrong' }}"><td>{{ row.line }}
<td>{% for text, same in row.expected %}{{ text if same else mark(text) }}{% endfor %}
<td>{% for text, same in row.predicted %}{{ text if same else mark(text) }}{% endfor %}</tr>
{% endfor %}</table></section>
{% endfor %}</html>
""")
_Parts = list[tuple[str, bool]]  # pieces of text, and whether the other side has them too


class Row(NamedTuple):
    """One segment of a trace, on both sides."""

    line: str
    expected: _Parts
    predicted: _Parts
    same: bool


class Sample(NamedTuple):
    """One program with its rows."""

    prediction: Prediction
    rows: list[Row]
    right: bool


def compare(prediction: Prediction) -> Sample:
    """The two traces aligned as the metric aligns them: by place."""
    ours, theirs = segments(prediction.prediction), segments(prediction.reference)
    rows = []
    for i in range(max(len(ours), len(theirs))):
        own = ours[i] if i < len(ours) else ""
        other = theirs[i] if i < len(theirs) else ""
        key = line_key(other or own) if "<state>" in (other or own) else ""
        number = key.removeprefix("<line>").strip().strip("<>")
        expected, predicted = _parts(other, own), _parts(own, other)
        same = all(s for _, s in (*expected, *predicted)) and line_key(own) == line_key(other)
        rows.append(Row("prints" if "<output>" in other else number, expected, predicted, same))
    return Sample(prediction, rows, bool(prediction.counts.exact))


def _parts(span: str, other: str) -> _Parts:
    """A segment as a person reads it, each name and value marked by whether the other side agrees."""
    if "<state>" not in span:
        text = span.removeprefix("<output>").strip()
        return [(text, span.strip() == other.strip())] if text else []
    table, known = state(span), state(other)
    parts: _Parts = []
    if other and line_key(span) != line_key(other):
        parts.append((f"{line_key(span)}  ".replace("<line> ", "line "), False))
    for name, value in table.items():
        parts.append((f"{name} = {value}", known.get(name) == value))
        parts.append(("   ", True))
    return parts[:-1] if table else [("nothing", not known and "<state>" in other)]


def choose(predictions: list[Prediction], number: int) -> list[Sample]:
    """As many wrong traces as right ones where there are, in the order of the test."""
    samples = [compare(p) for p in predictions]
    wrong = [s for s in samples if not s.right]
    right = [s for s in samples if s.right]
    half = min(len(right), max(number - len(wrong), number // 2))
    chosen = [*right[:half], *wrong[: number - half]]
    return sorted(chosen, key=samples.index)


def show(sample: Sample, console: Console) -> None:
    """Prints one program and its trace."""
    console.print(f"\n[bold]{sample.prediction.source_set}[/] {sample.prediction.id}", end="  ")
    console.print("[green]right[/]" if sample.right else "[red]wrong[/]")
    for i, line in enumerate(sample.prediction.code.splitlines()):
        console.print(f"[dim]{i:3d}[/]  ", Text(line), sep="")
    table = Table("line", "expected", "predicted")
    for row in sample.rows:
        cells = [
            Text.assemble(*((text, "" if same else "bold red") for text, same in parts))
            for parts in (row.expected, row.predicted)
        ]
        table.add_row(row.line, *cells)
    console.print(table)


def write_page(path: Path, found: dict[str, list[Prediction]], number: int) -> None:
    """The HTML page: `number` programs of each set."""
    from markupsafe import Markup, escape

    samples = [s for some in found.values() for s in choose(some, number)]
    totals = [(n, sum(p.counts.exact for p in some), len(some)) for n, some in found.items()]
    path.write_text(
        _PAGE.render(
            title=f"Traces of {path.parent.parent.name}",
            samples=samples,
            totals=totals,
            mark=lambda text: Markup("<mark>") + escape(text) + Markup("</mark>"),
        )
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.code_execution.show", description=__doc__
    )
    parser.add_argument("run", help="folder of a finished run of task=code_execution")
    parser.add_argument("--set", choices=SETS, help="of one set alone")
    parser.add_argument("--number", type=int, default=3, help="programs of each set to print")
    parser.add_argument("--page", type=int, default=20, help="programs of each set on the page")
    options = parser.parse_args(arguments)
    folder = Path(options.run) / "predictions"
    names = [n for n in SETS if options.set in (None, n) and (folder / f"{n}.jsonl").is_file()]
    if not names:
        print(
            f"error: {folder}: holds no predictions; give the folder of a finished run of "
            "task=code_execution",
            file=sys.stderr,
        )
        return 2
    found = {name: read_predictions(folder / f"{name}.jsonl") for name in names}
    console = Console()
    for some in found.values():
        for sample in choose(some, options.number):
            show(sample, console)
    page = folder / "samples.html"
    write_page(page, found, options.page)
    console.print(f"\npage: {page}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
