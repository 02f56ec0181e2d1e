"""One run's findings as numbers for results.json, curves for series.json, and a table on screen."""

import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.icl.analysis import Findings

LABELS = {"": "trained", "untrained": "untrained", "untrained_same_lr": "untrained, same rate"}
ROWS = {
    "acc@zsl": "accuracy without demonstrations (%)",
    "acc@icl": "accuracy in context",
    "acc@ft": "accuracy fine-tuned",
    "acc@icl_of_zsl_wrong": "in context, of what was wrong without",
    "rec2ftp": "Rec2FTP (%)",
    "rec2ftp_count": "  of so many queries",
    "sim_aou": "SimAOU, normalised as published",
    "sim_aou@raw": "  not normalised",
    "sim_aou@other": "  other demonstrations",
    "sim_aou@raw_other": "  not normalised, other demonstrations",
    "sim_aou@random": "  random update",
    "sim_aou@random_uniform": "  random update, uniform as published",
    "sim_am@before": "SimAM before fine-tuning",
    "sim_am": "SimAM after",
    "sim_am@delta": "SimAM of the changes",
    "kendall": "Kendall's tau",
    "kendall@random": "  random ranks",
    "finetuning_lr": "learning rate of fine-tuning",
    "shots": "demonstrations",
}


SIDE = {"rec2ftp_hits", "rec2ftp_count", "unmoved", "finetuning_lr", "shots", "queries"}


def numbers_of(findings: Mapping[str, Findings]) -> dict[str, float]:
    """`test/quantity[@condition]`, the network behind it: @untrained, or +untrained after a condition.

    What only says how it was measured (counts, the rate) is under `icl/`.
    """
    return {
        f"{'icl' if name in SIDE else 'test'}/{_with(name, net)}": float(value)
        for net, found in findings.items()
        for name, value in found.numbers().items()
    }


def _with(name: str, net: str) -> str:
    return name if not net else f"{name}{'+' if '@' in name else '@'}{net}"


def series_of(findings: Mapping[str, Findings]) -> dict[str, dict[str, Any]]:
    """Curves by layer, counted from 1."""
    return {
        f"{_with(name, net)} by layer": {
            "x": list(range(1, len(curve) + 1)),
            "y": [None if math.isnan(value) else value for value in curve],
            "xlabel": "layer",
            "ylabel": name.partition("@")[0],
        }
        for net, found in findings.items()
        for name, curve in found.curves().items()
    }


def show(findings: Mapping[str, Findings]) -> None:
    """Prints every measure, a column a network."""
    table = Table(title="in-context learning against fine-tuning", title_justify="left")
    table.add_column("")
    for net in findings:
        table.add_column(LABELS.get(net, net), justify="right")
    numbers = [found.numbers() for found in findings.values()]
    for name, label in ((n, x) for n, x in ROWS.items() if n in numbers[0]):
        table.add_row(label, *(_text(name, column[name]) for column in numbers))
    Console().print(table)


def _text(name: str, value: float) -> str:
    if math.isnan(value):
        return "undefined"
    digits = {
        "acc": ".1f",
        "rec2ftp": ".1f",
        "rec2ftp_count": ".0f",
        "finetuning_lr": "g",
        "shots": "g",
    }
    return format(value, digits.get(name.partition("@")[0], ".3f"))
