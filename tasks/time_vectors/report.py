"""One page with every figure of a sweep of period models, and the same numbers as Markdown."""

import base64
import html
from pathlib import Path
from typing import Any

import numpy as np

from tasks.time_vectors import figures
from zoo.report.stats import mean_interval

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>Time vectors</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;margin:.6rem 0}}td,th{{padding:.2rem .7rem;border-bottom:1px solid #ddd;
text-align:right}}td:first-child,th:first-child{{text-align:left}}figure{{display:inline-block;margin:.5rem;
vertical-align:top;max-width:100%}}img{{max-width:100%}}figcaption{{color:#555;font-size:.9em;max-width:44em}}
</style><h1>Time vectors</h1>{body}</html>
"""


def verdict(claim: dict[str, Any]) -> str:
    """held: the whole 95% interval over the seeds lies on the claimed side; held on average: the mean
    does; else did not hold."""
    estimate = mean_interval(claim["values"])
    margin = (estimate.mean - claim["limit"]) * (1 if claim["above"] else -1)
    if margin < 0 or not np.isfinite(margin):
        return "did not hold"
    return "held" if estimate.half is not None and estimate.half <= margin else "held on average"


def estimate(values: list[float], digits: int = 3) -> str:
    """Mean and 95% interval as text."""
    found = mean_interval(values)
    if abs(found.mean) < 1e-4 and found.mean:
        return f"{max(values, key=abs):.1e}"
    half = "" if found.half is None else f" ± {found.half:.{digits}f}"
    return f"{found.mean:.{digits}f}{half}"


def tables(claims: list[dict[str, Any]], seeds: list[dict[str, Any]]) -> list[tuple[str, list]]:
    """(title, rows) of every table; the first row is the head."""
    n = len(seeds)
    found: list[tuple[str, list]] = [
        (
            f"Claims ({n} seed{'s' * (n > 1)}, {len(seeds[0]['labels'])} periods of "
            f"{seeds[0]['tokens_per_period']:,} tokens)",
            [
                ["claim", "measured", "claimed", "verdict"],
                *(
                    [
                        c["text"],
                        estimate(c["values"]),
                        f"{'above' if c['above'] else 'at most'} {c['limit']:g}",
                        verdict(c),
                    ]
                    for c in claims
                ),
            ],
        )
    ]
    rows = [
        ["of misalignment with", "with the diagonal", "without", "p (permuted periods), largest"]
    ]
    for name in seeds[0]["correlation"]:
        each = [s["correlation"][name] for s in seeds]
        rows.append(
            [
                name,
                *(estimate([e[k] for e in each]) for k in ("with diagonal", "without")),
                f"{max(e['p without'] for e in each):.4f}",
            ]
        )
    found.append(("Correlations", rows))
    if "seasonality" in seeds[0]:
        rows = [["quantity", "value"]]
        for key, text in (
            ("trend", "trend, % a period"),
            ("same", "residual at whole years, %"),
            ("other", "residual elsewhere, %"),
            ("t", "Welch's t (cells are not independent)"),
            ("d", "Cohen's d"),
        ):
            rows.append([text, estimate([s["seasonality"][key] for s in seeds])])
        found.append(("Season", rows))
    if "soups" in seeds[0]:
        title = "Soups: test loss, mean of all periods"
        found += [_compared(title, seeds, "soups", "losses"), _swaps(seeds)]
    if "extrapolation" in seeds[0]:
        found.append(_extrapolation(seeds))
    if "routing" in seeds[0]:
        found.append(
            _compared("Routing per token: test loss, mean of all periods", seeds, "routing")
        )
        found.append(_compared("Reading the period off the activations", seeds, "probe"))
    return found


def _compared(title: str, seeds: list[dict[str, Any]], *keys: str) -> tuple[str, list]:
    each = []
    for seed in seeds:
        for key in keys:
            seed = seed[key]
        each.append(seed)
    rows = [[name, estimate([e[name] for e in each], 4)] for name in each[0]]
    return title, [["", "value"], *rows]


def _swaps(seeds: list[dict[str, Any]]) -> tuple[str, list]:
    first, last = seeds[0]["labels"][0], seeds[0]["labels"][-1]
    rows = [["taken from the other", f"loss on {first}", f"loss on {last}", "share of the way"]]
    for group in seeds[0]["swaps"]:
        each = [s["swaps"][group] for s in seeds]
        rows.append([group, *(estimate([e[k] for e in each]) for k in ("first", "last", "share"))])
    return f"The model of {last} with one kind of parameter of {first}'s", rows


def _extrapolation(seeds: list[dict[str, Any]]) -> tuple[str, list]:
    one = seeds[0]["extrapolation"]
    each = [s["extrapolation"] for s in seeds]
    rows = [
        [
            f"direction added to the model of {one['latest']}",
            "strength",
            f"loss on {one['target']}",
        ],
        ["none", "", estimate([e["loss of the latest"] for e in each], 4)],
    ]
    for name, text in (
        ("time", f"{one['latest']} minus {one['earliest']}"),
        ("scale", "its own vector again (control)"),
        ("random", "random, as long (control)"),
    ):
        strength = estimate([e[name]["strength"] for e in each], 2)
        rows.append([text, strength, estimate([e[name]["loss"] for e in each], 4)])
    rows.append(
        ["the target's own model", "", estimate([e["loss of the target's own"] for e in each], 4)]
    )
    return (
        f"Towards a period that none has seen, {one['target']}; strength chosen on validation",
        rows,
    )


def pictures(seeds: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """(caption, PNG) of every figure, means over the seeds."""
    labels = seeds[0]["labels"]
    deviation = np.mean([s["misalignment"] for s in seeds], 0)
    cosines = np.mean([s["cosines"]["all"] for s in seeds], 0)
    words = np.mean([s["overlap"] for s in seeds], 0)
    same = np.eye(len(labels), dtype=bool)
    found = [
        (
            "Perplexity of each model on each period, per cent above or below the mean of the column.",
            figures.heat_map(deviation, labels, title="misalignment (%)", diverging=True),
        ),
        (
            "Cosines between the time vectors, all weights.",
            figures.heat_map(cosines, labels, title="cosine", diverging=False, digits=2),
        ),
        (
            "The two beside each other, a dot a cell.",
            figures.cloud(
                cosines[~np.isnan(cosines)],
                deviation[~np.isnan(cosines)],
                same[~np.isnan(cosines)],
                title="similar weights, similar text",
                xlabel="cosine",
                ylabel="misalignment (%)",
            ),
        ),
        (
            "Share of the frequent words of a period's training text among those of a test text.",
            figures.heat_map(words, labels, title="vocabulary overlap", diverging=False, digits=2),
        ),
    ]
    lags = np.abs(np.subtract.outer(np.arange(len(labels)), np.arange(len(labels))))
    means = np.array([deviation[lags == lag].mean() for lag in range(len(labels))])
    found.append(
        (
            "Misalignment by distance in periods.",
            figures.curves(
                np.arange(len(labels)),
                {"mean": means},
                title="degradation with distance",
                xlabel="periods between training and evaluation",
                ylabel="misalignment (%)",
            ),
        )
    )
    one = seeds[0]["interpolation"]
    losses = np.mean([s["interpolation"]["losses"] for s in seeds], 0)
    best = np.mean([s["interpolation"]["best"] for s in seeds], 0)
    if len(labels) <= 14:
        found.append(
            (
                f"base + alpha · vector of {labels[0]} + (1 - alpha) · vector of {labels[-1]}, on each "
                "period; a dot at the mean best alpha.",
                figures.curves(
                    one["alphas"],
                    {label: np.exp(losses[:, i]) for i, label in enumerate(labels)},
                    title="interpolation",
                    xlabel=f"alpha, weight of {labels[0]}",
                    ylabel="perplexity",
                    marks=dict(zip(labels, best)),
                ),
            )
        )
    for name, points in seeds[0]["plane"].items():
        caption = f"The time vectors of the first seed in the plane ({name} of unit vectors)."
        found.append((caption, figures.path(points, labels, title=name)))
    groups = [g for g in seeds[0]["cosines"] if g != "all"]
    for group in groups:
        matrix = np.mean([s["cosines"][group] for s in seeds], 0)
        picture = figures.heat_map(
            matrix, labels, title=f"cosine, {group}", diverging=False, digits=2
        )
        found.append((f"Cosines of the {group} parameters alone.", picture))
    if "soups" not in seeds[0]:
        return found
    soups = {
        name: _mean_half([s["soups"]["losses"][name] for s in seeds])
        for name in seeds[0]["soups"]["losses"]
    }
    picture = figures.bars(soups, title="soups", xlabel="test loss, mean of all periods (nats)")
    return [*found, ("Soups beside single models and training on everything.", picture)]


def _overview(seeds: list[dict[str, Any]]) -> bytes:
    labels = seeds[0]["labels"]
    losses = np.mean([s["interpolation"]["losses"] for s in seeds], 0)
    best = np.mean([s["interpolation"]["best"] for s in seeds], 0)
    return figures.overview(
        np.mean([s["misalignment"] for s in seeds], 0),
        np.mean([s["cosines"]["all"] for s in seeds], 0),
        labels,
        seeds[0]["interpolation"]["alphas"],
        {label: np.exp(losses[:, i]) for i, label in enumerate(labels)},
        dict(zip(labels, best)),
    )


def _mean_half(values: list[float]) -> tuple[float, float]:
    found = mean_interval(values)
    return found.mean, found.half or 0.0


def write_report(folder: Path, claims: list[dict[str, Any]], seeds: list[dict[str, Any]]) -> Path:
    """Writes time_vectors.md, .png and .html; returns the latter."""
    every = tables(claims, seeds)
    lines = ["# Time vectors", ""]
    body = []
    for title, rows in every:
        lines += [f"## {title}", "", *_markdown(rows), ""]
        body.append(f"<h2>{html.escape(title)}</h2>{_table(rows)}")
    body.insert(1, "".join(_figure(caption, png) for caption, png in pictures(seeds)))
    (folder / "time_vectors.png").write_bytes(_overview(seeds))
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
