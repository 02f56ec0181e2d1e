"""The tables of a sweep's report, means over the seeds with 95% intervals."""

from typing import Any

import numpy as np

from zoo.report.stats import mean_interval

METRICS = {
    "macro_f1": "Macro-F1 of the likeliest label",
    "macro_f1 written": "Macro-F1 of the label as written",
    "rouge_l": "ROUGE-L",
}


def verdict(claim: dict[str, Any]) -> str:
    """held: the whole 95% interval over the seeds lies on the claimed side; held on average: the mean
    does; else did not hold. Not to be said where a seed has no number, as with too few periods."""
    if not np.isfinite(claim["values"]).all():
        return "cannot be said"
    estimate = mean_interval(claim["values"])
    margin = (estimate.mean - claim["limit"]) * (1 if claim["above"] else -1)
    if margin < 0:
        return "did not hold"
    return "held" if estimate.half is not None and estimate.half <= margin else "held on average"


def estimate(values: list[float], digits: int = 3) -> str:
    """Mean and 95% interval as text; a dash where a seed has no number."""
    if not np.isfinite(values).all():
        return "–"
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
    found += [_matrix(number, seeds) for number in range(len(seeds[0].get("task", [])))]
    for name, table in (
        ("analogy", analogy_table),
        ("online", _online),
        ("floor", _floor),
        ("calendar", _calendar),
    ):
        if name in seeds[0]:
            found.append(table(seeds))
    if "soups" in seeds[0]:
        title = "Soups: test loss, mean of all periods"
        found += [_compared(title, seeds, "soups", "losses"), _swaps(seeds)]
    if "extrapolation" in seeds[0]:
        found.append(_extrapolation(seeds))
    if "routing" in seeds[0]:
        found.append(
            _compared("Routing per token: test loss, mean of all periods", seeds, "routing")
        )
    if "probe" in seeds[0]:  # of decoders
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


def _matrix(number: int, seeds: list[dict[str, Any]]) -> tuple[str, list]:
    each = [s["task"][number] for s in seeds]
    rows = [["", "value"]]
    for key, text in (
        ("base", "the base model, mean of all periods"),
        ("own period", "each model on its own period"),
        ("other periods", "each on the others"),
        ("temporal degradation", "points lost a period of distance"),
        ("with diagonal", "correlation of its misalignment with the cosines"),
        ("without", "the same off the diagonal"),
    ):
        rows.append([text, estimate([float(np.mean(e[key])) for e in each], 2)])
    return (
        f"{METRICS[each[0]['metric']]} x 100, {min(each[0]['documents'])} test documents a period",
        rows,
    )


def analogy_table(seeds: list[dict[str, Any]]) -> tuple[str, list]:
    """A row a target period, a column a kind of model."""
    each = [s["analogy"] for s in seeds]
    kinds = analogy_kinds(each[0])
    rows = [["on", *kinds]]
    for target in analogy_targets(each[0]):
        cells = [
            estimate([100 * e[target][kind] for e in each], 1) if kind in each[0][target] else ""
            for kind in kinds
        ]
        rows.append([target, *cells])
    source, metric = each[0]["source"], METRICS[each[0]["metric"]]
    return f"Analogy: the task of {source} on later periods, {metric} x 100", rows


def analogy_targets(found: dict[str, Any]) -> list[str]:
    """The periods that the task was taken to."""
    return [key for key, row in found.items() if isinstance(row, dict)]


def analogy_kinds(found: dict[str, Any]) -> list[str]:
    """What was scored on them, in order."""
    rows = [found[target] for target in analogy_targets(found)]
    kinds = [k for row in rows for k, value in row.items() if isinstance(value, float)]
    return list(dict.fromkeys(kinds))


def _online(seeds: list[dict[str, Any]]) -> tuple[str, list]:
    first = seeds[0]["online"]["labels"][0]
    head = ["loss (nats)", "the period just read", "the next one", f"{first} at the end",
            "all at the end"]  # fmt: skip
    rows = [head]
    for name in seeds[0]["online"]["compared"]:
        each = [s["online"]["compared"][name] for s in seeds]
        rows.append(
            [
                name,
                *(
                    estimate([e[key] for e in each]) if key in each[0] else ""
                    for key in ("own", "next", "first", "all")
                ),
            ]
        )
    return "One model through all periods in turn", rows


def _floor(seeds: list[dict[str, Any]]) -> tuple[str, list]:
    rows = [["cosine of", "value"]]
    for key, text in (
        ("neighbours", "periods next to each other"),
        ("periods", "periods, mean of all pairs"),
        ("farthest", "the first and the last"),
        ("shuffled", "models of shuffled dates (control)"),
    ):
        rows.append([text, estimate([s["floor"][key] for s in seeds])])
    return "What vectors have in common that no period gave them", rows


def _calendar(seeds: list[dict[str, Any]]) -> tuple[str, list]:
    rows = [["year", "months after January against its best weight, Spearman",
             "gain of February to November over both ends, nats"]]  # fmt: skip
    for year in seeds[0]["calendar"]:
        each = [s["calendar"][year] for s in seeds]
        rows.append([year, *(estimate([e[k] for e in each]) for k in ("spearman", "gain"))])
    return "Between January and December; weights chosen on validation", rows
