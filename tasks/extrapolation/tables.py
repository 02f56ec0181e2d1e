"""A sweep's tables in Markdown: perplexity by length, Table 1 and Table 3 of the paper, as measured."""

from tasks.extrapolation.findings import FLAT
from tasks.extrapolation.invariance import INVARIANT
from tasks.extrapolation.sweep import Scheme, Sweep
from zoo.report.stats import Estimate


def perplexity_table(sweep: Sweep) -> list[str]:
    """Mean and 95% interval over seeds, a row a scheme; with BCA below it where that differs."""
    rows = ["## Perplexity by length", "", _head("scheme", *map(str, sweep.lengths))]
    for scheme in sweep.schemes.values():
        rows.append(_row(scheme.name, *(_cell(scheme, f"test/ppl@{n}") for n in sweep.lengths)))
        if scheme.estimate(f"test/ppl@{sweep.lengths[-1]}+bca"):
            cells = [
                _cell(scheme, f"test/ppl@{n}+bca") if n > sweep.N else "" for n in sweep.lengths
            ]
            rows.append(_row(f"{scheme.name} + BCA", *cells))
    return [*rows, ""]


def properties_table(sweep: Sweep) -> list[str]:
    """Translation invariant / extrapolates (Table 1), by measurement in every run of a scheme."""
    rows = [
        "## Translation invariant, extrapolates",
        "",
        f"Invariant: no log-probability changes by {INVARIANT:g} nats when a text is shifted by padding. "
        f"Extrapolates: no perplexity beyond {sweep.N} is more than {FLAT:g} of that at {sweep.N}. "
        "Each in every seed; the figures are those of the worst.",
        "",
        _head("scheme", "invariant", "change (nats)", "extrapolates", "ratio", "with BCA", "ratio"),
    ]
    for scheme in sweep.schemes.values():
        cells = []
        for metric, limit in (
            ("test/translation_change", INVARIANT),
            ("test/ppl_ratio", FLAT),
            ("test/ppl_ratio@bca", FLAT),
        ):
            values = scheme.values(metric).values()
            worst = max(values, default=None)
            cells.append("—" if worst is None else "yes" if worst <= limit else "no")
            cells.append("—" if worst is None else f"{worst:.3g}")
        rows.append(_row(scheme.name, *cells))
    return [*rows, ""]


def resolution_table(sweep: Sweep) -> list[str]:
    """Attention resolution (Table 3) in units of 1e-4, heads pooled, mean of layers."""
    at = [str(sweep.N), str(2 * sweep.N), f"{2 * sweep.N}+bca"]
    rows = ["## Attention resolution (1e-4)", "", _head("scheme", *at)]
    for scheme in sweep.schemes.values():
        cells = [_cell(scheme, f"test/resolution@{a}", 1e4, 0) for a in at]
        rows.append(_row(scheme.name, *cells))
    return [*rows, ""]


def _cell(scheme: Scheme, metric: str, scale: float = 1.0, digits: int = 2) -> str:
    estimate: Estimate | None = scheme.estimate(metric)
    if estimate is None:
        return "—"
    half = "" if estimate.half is None else f" ± {estimate.half * scale:.{digits}f}"
    return f"{estimate.mean * scale:.{digits}f}{half}"


def _head(first: str, *others: str) -> str:
    return _row(first, *others) + "\n" + _row("---", *("---:" for _ in others))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
