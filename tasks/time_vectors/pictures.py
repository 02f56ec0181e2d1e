"""The figures of a sweep's report, from its numbers: means over the seeds."""

from typing import Any

import numpy as np

from tasks.time_vectors import figures
from tasks.time_vectors.tables import METRICS, analogy_kinds, analogy_targets
from zoo.report.stats import mean_interval


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
    drawn = seeds[0]["map"]
    for name, points in drawn["planes"].items():
        caption = f"The vectors of the first seed in the plane ({name} of unit vectors)."
        found.append((caption, figures.path(points, drawn["groups"], title=name)))
    for name, draw in (
        ("task", _task),
        ("analogy", lambda seeds: [analogy_picture(seeds)]),
        ("online", _online),
        ("floor", _floor),
        ("calendar", _calendar),
        ("extrapolation", _extrapolation),
    ):
        if name in seeds[0]:
            found += draw(seeds)
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


def overview(seeds: list[dict[str, Any]]) -> bytes:
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


def _task(seeds: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    found = []
    for number, one in enumerate(seeds[0]["task"]):
        scores = np.mean([s["task"][number]["scores"] for s in seeds], 0)
        name = METRICS[one["metric"]]
        picture = figures.heat_map(
            scores, seeds[0]["labels"], title=f"{name} x 100", diverging=False
        )
        found.append((f"{name} of each model on each period.", picture))
    return found


def analogy_picture(seeds: list[dict[str, Any]]) -> tuple[str, bytes]:
    """(caption, PNG): a line a kind of model, over the periods that the task was taken to."""
    each = [s["analogy"] for s in seeds]
    targets = analogy_targets(each[0])
    lines = {
        kind: np.array([100 * np.mean([e[t].get(kind, np.nan) for e in each]) for t in targets])
        for kind in analogy_kinds(each[0])
    }
    name = METRICS[each[0]["metric"]]
    picture = figures.curves(
        np.arange(len(targets)),
        lines,
        title="task analogy",
        xlabel="evaluated on",
        ylabel=f"{name} x 100",
        ticks=targets,
    )
    caption = (
        f"The task's model of {each[0]['source']} on later periods: as it is, and with the language "
        "models' vectors; coefficients are chosen on half of the documents, scored on the others."
    )
    return caption, picture


def _online(seeds: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    each = [s["online"] for s in seeds]
    labels = each[0]["labels"]
    losses = np.mean([e["losses"] for e in each], 0)
    cosines = np.mean([e["cosines"] for e in each], 0)
    return [
        (
            "One model through all periods in turn: its loss on each (columns) after each (rows).",
            figures.heat_map(
                losses, labels, title="online: loss (nats)", diverging=False, digits=2
            ),
        ),
        (
            "Cosines of its vector after each period with the vectors of the periods' own models.",
            figures.curves(
                np.arange(len(labels)),
                {label: cosines[:, i] for i, label in enumerate(labels)},
                title="online: where it points",
                xlabel="tuned up to",
                ylabel="cosine with the period's vector",
                ticks=labels,
            ),
        ),
    ]


def _floor(seeds: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    labels = seeds[0]["labels"]
    cosines = np.mean([s["cosines"]["all"] for s in seeds], 0)
    control = float(np.mean([s["floor"]["shuffled"] for s in seeds]))
    lags = np.abs(np.subtract.outer(np.arange(len(labels)), np.arange(len(labels))))
    distances = np.arange(1, len(labels))
    means = np.array([cosines[lags == lag].mean() for lag in distances])
    picture = figures.curves(
        distances,
        {"periods": means, "dates shuffled (control)": np.full(len(means), control)},
        title="cosine by distance",
        xlabel="periods between them",
        ylabel="cosine",
    )
    return [("Cosines by distance, beside those of models of shuffled dates.", picture)]


def _calendar(seeds: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    years = list(seeds[0]["calendar"])
    every = [s["calendar"][year] for s in seeds for year in years]
    losses = np.mean([e["losses"] for e in every], 0)
    best = np.mean([e["best"] for e in every], 0)
    months = [f"{month:02d}" for month in range(1, 13)]
    picture = figures.curves(
        every[0]["alphas"],
        {month: np.exp(losses[:, i]) for i, month in enumerate(months)},
        title=f"between January and December, mean of {', '.join(years)}",
        xlabel="alpha, weight of January",
        ylabel="perplexity",
        marks=dict(zip(months, best)),
    )
    caption = (
        "base + alpha · vector of January + (1 - alpha) · vector of December, on each month of the "
        "year; a dot at the mean of the alphas chosen on validation."
    )
    return [(caption, picture)]


def _extrapolation(seeds: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    each = [s["extrapolation"] for s in seeds]
    one = each[0]
    values = {f"the model of {one['latest']}": [e["loss of the latest"] for e in each]}
    for name, text in (
        ("random", "a random direction (control)"),
        ("scale", "its own vector again (control)"),
        ("time", f"{one['latest']} minus {one['earliest']}"),
    ):
        values[f"plus {text}"] = [e[name]["loss"] for e in each]
    values["the target's own model"] = [e["loss of the target's own"] for e in each]
    picture = figures.bars(
        {name: _mean_half(v) for name, v in values.items()},
        title=f"towards {one['target']}, which none has seen",
        xlabel="test loss (nats)",
    )
    return [("Moving on in time; the strength is chosen on validation.", picture)]
