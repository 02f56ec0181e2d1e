"""One page with every figure of a sweep of period models, and the same numbers as Markdown."""

import base64
import html
from pathlib import Path
from typing import Any

from tasks.time_vectors.pictures import overview, pictures
from tasks.time_vectors.tables import tables

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Time vectors</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;margin:.6rem 0}}td,th{{padding:.2rem .7rem;border-bottom:1px solid #ddd;
text-align:right}}td:first-child,th:first-child{{text-align:left}}figure{{display:inline-block;margin:.5rem;
vertical-align:top;max-width:100%}}img{{max-width:100%}}figcaption{{color:#555;font-size:.9em;max-width:44em}}
</style><h1>Time vectors</h1>{body}</html>
"""


def write_report(folder: Path, claims: list[dict[str, Any]], seeds: list[dict[str, Any]]) -> Path:
    """Writes time_vectors.md, .png and .html; returns the latter."""
    every = tables(claims, seeds)
    lines = ["# Time vectors", ""]
    body = []
    for title, rows in every:
        lines += [f"## {title}", "", *_markdown(rows), ""]
        body.append(f"<h2>{html.escape(title)}</h2>{_table(rows)}")
    body.insert(1, "".join(_figure(caption, png) for caption, png in pictures(seeds)))
    (folder / "time_vectors.png").write_bytes(overview(seeds))
    (folder / "time_vectors.md").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "time_vectors.html"
    path.write_text(PAGE.format(body="".join(body)), encoding="utf-8")
    return path


def _markdown(rows: list[list[str]]) -> list[str]:
    head, *others = rows
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(map(str, row))} |" for row in (head, rule, *others)]


def _table(rows: list[list[str]]) -> str:
    head, *others = [[html.escape(str(cell)) for cell in row] for row in rows]
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in others)
    return f"<table><tr>{cells}</tr>{lines}</table>"


def _figure(caption: str, png: bytes) -> str:
    content = base64.b64encode(png).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{content}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
