"""What a metric's name says: `split/quantity[@condition]`, its column, and which way is better."""

import math
import re
from dataclasses import dataclass

SPLITS = ("test", "val", "train")
LEADING = ("bits_per_byte", "loss", "ppl", "perplexity", "accuracy")

# Whole words of the quantity. A word of the first group decides even beside one of the second:
# `recall_error` is an error. `per_s` makes any quantity a rate.
LOWER_WORDS = frozenset(
    [
        "loss",
        "nll",
        "ppl",
        "perplexity",
        "error",
        "errors",
        "err",
        "wer",
        "cer",
        "mae",
        "mse",
        "rmse",
        "regret",
        "ece",
        "brier",
        "gap",
        "drift",
        "change",
        "violation",
        "divergence",
        "kl",
        "seconds",
        "time",
        "latency",
        "memory",
        "gib",
        "mib",
    ]
)
HIGHER_WORDS = frozenset(
    [
        "accuracy",
        "acc",
        "f1",
        "em",
        "exact",
        "match",
        "precision",
        "recall",
        "mrr",
        "map",
        "ndcg",
        "bleu",
        "codebleu",
        "rouge",
        "chrf",
        "auc",
        "auroc",
        "r2",
        "score",
        "win",
        "pass",
        "hit",
        "hits",
        "throughput",
        "mfu",
        "utilisation",
        "utilization",
        "resolution",
        "monotone",
        "similarity",
        "speedup",
        "gain",
        "correlation",
        "coverage",
        "likelihood",
    ]
)
LOWER_NAMES = frozenset({"bits_per_byte", "bits_per_token", "bpb", "bpc", "bpt"})


@dataclass(frozen=True)
class Metric:
    """A metric's name in its parts; `direction` is -1 (lower is better), +1 (higher) or 0 (no rule)."""

    name: str
    split: str
    quantity: str
    condition: str
    direction: int

    @property
    def family(self) -> str:
        """The name without its condition: what spans the columns of one quantity."""
        return self.name.partition("@")[0]

    @property
    def arrow(self) -> str:
        """A sign for the heading."""
        return {-1: "↓", 0: "", 1: "↑"}[self.direction]

    @property
    def per_token(self) -> bool:
        """Whether the unit is the token, so that values of two tokenizers do not compare."""
        words = _words(self.quantity)
        return bool(words & {"loss", "nll", "ppl", "perplexity"}) or "per_token" in self.quantity


def parse(name: str) -> Metric:
    """Read a metric's name; any string is one."""
    family, _, condition = name.partition("@")
    split, slash, quantity = family.partition("/")
    if not slash:
        split, quantity = "", family
    return Metric(name, split, quantity, condition, _direction(split, quantity))


def ordered(names: list[str]) -> list[Metric]:
    """Columns from left to right: test before val before train before the rest, well-known
    quantities first, a quantity's conditions together and by number."""
    metrics = [parse(name) for name in dict.fromkeys(names)]
    families = {metric.family: place for place, metric in reversed(list(enumerate(metrics)))}

    def key(metric: Metric):
        split = SPLITS.index(metric.split) if metric.split in SPLITS else len(SPLITS)
        lead = LEADING.index(metric.quantity) if metric.quantity in LEADING else len(LEADING)
        return split, lead, families[metric.family], condition_key(metric.condition)

    return sorted(metrics, key=key)


def condition_key(condition: str):
    """Order of conditions: none, then by text after the number (`512`, `1024`, `512+bca`)."""
    number, rest = split_condition(condition)
    return condition != "", rest, number if number is not None else math.inf, condition


def split_condition(condition: str) -> tuple[float | None, str]:
    """`"512+bca"` → (512.0, "+bca"); no leading number → (None, condition)."""
    found = re.match(r"\d+(?:\.\d+)?", condition)
    if not found:
        return None, condition
    return float(found.group()), condition[found.end() :]


def _direction(split: str, quantity: str) -> int:
    if split == "baseline":
        return 0  # a yardstick of the data, not of the model
    words = _words(quantity)
    if quantity.lower().endswith(("per_s", "per_second")):
        return 1
    if quantity.lower() in LOWER_NAMES or words & LOWER_WORDS:
        return -1
    return 1 if words & HIGHER_WORDS else 0


def _words(quantity: str) -> frozenset[str]:
    return frozenset(re.split(r"[^a-z0-9]+", quantity.lower()))
