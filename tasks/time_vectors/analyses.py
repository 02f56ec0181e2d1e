"""What is measured on one study (one seed of a sweep). Every function returns plain numbers.

grid            perplexity of each model on each period, of the base and of the all-period model
interpolation   base + alpha tau_first + (1 - alpha) tau_last on every period       (their Fig. 5)
soups           base + sum w_i tau_i, uniform and greedy (chosen on validation), beside the model that
                was trained on everything at as many tokens                          (Table 6)
swaps           a period's model with one kind of parameter taken from another period's
extrapolation   base + tau_k + s (tau_k - tau_j) for a period after k, s chosen on validation,
                beside its controls: scaling alone, and random directions of the same length
calendar        January's and December's models of a year, interpolated, on its months (their Fig. 6)
floor           cosines of models tuned on text of all periods, dates shuffled: what two models have in
                common that no period gave them
overlap         shared words of training and test text: the baseline of no model at all
"""

import re
from collections import Counter
from typing import Any

import numpy as np
import torch

from tasks.time_vectors.analysis import spearman
from tasks.time_vectors.study import ALL, Study

ALPHAS = np.round(np.linspace(0, 1, 11), 2)
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)


def grid(study: Study) -> dict[str, Any]:
    """Perplexities: `scores` (periods, periods), `base` and, where there is one, `all` (periods,)."""
    found: dict[str, Any] = {
        "base": np.exp(study.losses({})),
        "scores": np.exp([study.losses({label: 1.0}) for label in study.labels]),
    }
    if ALL in study.runs:
        found["all"] = np.exp(study.losses({ALL: 1.0}))
    return found


def interpolation(study: Study) -> dict[str, Any]:
    """Losses (alphas, periods) between the first and the last period's models; alpha weighs the first.

    end_error: the largest difference of alpha = 0 and 1 from those models themselves, in nats.
    """
    first, last = study.labels[0], study.labels[-1]
    losses = []
    for alpha in ALPHAS:
        # As a form of two vectors at both ends too, so that the ends are a test of the arithmetic.
        losses.append(study.losses({first: float(alpha), last: float(1 - alpha)}))
    ends = study.losses({last: 1.0}), study.losses({first: 1.0})
    error = max(np.abs(losses[0] - ends[0]).max(), np.abs(losses[-1] - ends[1]).max())
    return {"alphas": ALPHAS, "losses": np.array(losses), "end_error": float(error)}


def soups(study: Study, *, rounds: int = 14) -> dict[str, Any]:
    """Mean test losses over the periods of single models, soups, and training on everything.

    Greedy: periods in the order of their pooled validation loss are offered again and again, and one is
    kept where the pooled validation loss gets no worse; its weight is how often it was kept.
    """

    def weights(picked: list[str]) -> dict[str, float]:
        return {label: n / len(picked) for label, n in Counter(picked).items()}

    def pooled(picked: list[str]) -> float:
        return float(study.losses(weights(picked), "val").mean())

    ranked = sorted(study.labels, key=lambda label: pooled([label]))
    picked, best = ranked[:1], pooled(ranked[:1])
    for turn in range(1, rounds):
        tried = [*picked, ranked[turn % len(ranked)]]
        if (value := pooled(tried)) <= best:
            picked, best = tried, value
    singles = [float(study.losses({label: 1.0}).mean()) for label in study.labels]
    found = {
        "base": float(study.losses({}).mean()),
        "mean of single periods": float(np.mean(singles)),
        "best single period": min(singles),
        "uniform soup": float(study.losses(weights(study.labels)).mean()),
        "greedy soup": float(study.losses(weights(picked)).mean()),
        "each on its own period": float(
            np.mean([study.losses({x: 1.0})[i] for i, x in enumerate(study.labels)])
        ),
    }
    if ALL in study.runs:
        found["trained on all periods"] = float(study.losses({ALL: 1.0}).mean())
    return {"losses": found, "greedy weights": weights(picked)}


def swaps(study: Study) -> dict[str, Any]:
    """The last period's model with one kind of parameter of the first's, on both periods' tests.

    share: of the way from the last model's loss to the first's on the first period.
    """
    first, last = study.labels[0], study.labels[-1]
    ends = {label: study.losses({label: 1.0}) for label in (first, last)}
    way = ends[last][0] - ends[first][0]
    found = {}
    for group, places in study.groups().items():
        study.set({last: 1.0})
        for place in places:
            study.flat[place] = study.base[place] + study.vector(first)[place]
        there, here = study.loss(first), study.loss(last)
        found[group] = {
            "first": there,
            "last": here,
            "share": float((ends[last][0] - there) / way),
            "parameters": sum(p.stop - p.start for p in places),
        }
    return found


def extrapolation(study: Study, *, seed: int = 0) -> dict[str, Any]:
    """From periods up to k to the one after the next, which none of the models has seen.

    s is chosen on the target's validation text and reported on its test text, where s = 0 is the latest
    model itself. Controls: tau_k alone made longer, and three random directions as long as
    tau_k - tau_j, with s chosen the same way.
    """
    n = len(study.labels)
    target, k, j = study.labels[-1], study.labels[n - 3], study.labels[0]
    late, early = study.vector(k), study.vector(j)
    step = late - early
    draw = torch.Generator().manual_seed(seed)
    directions = {"time": [step], "scale": [late]}
    directions["random"] = []
    for _ in range(3):
        noise = torch.randn(len(step), generator=draw)
        directions["random"].append(noise * (step.norm() / noise.norm()))
    found: dict[str, Any] = {"target": target, "latest": k, "earliest": j}
    for name, group in directions.items():
        outcomes = [_best_strength(study, late, direction, target) for direction in group]
        found[name] = {
            "strength": float(np.mean([s for s, _ in outcomes])),
            "loss": float(np.mean([loss for _, loss in outcomes])),
        }
    study.set({k: 1.0})
    found["loss of the latest"] = study.loss(target)
    study.set({target: 1.0})
    found["loss of the target's own"] = study.loss(target)
    return found


def _best_strength(
    study: Study, late: torch.Tensor, direction: torch.Tensor, target: str
) -> tuple[float, float]:
    tried = []
    for strength in STRENGTHS:
        study.flat.copy_(study.base + late).add_(direction, alpha=strength)
        tried.append(study.loss(target, "val"))
    strength = STRENGTHS[int(np.argmin(tried))]
    study.flat.copy_(study.base + late).add_(direction, alpha=strength)
    return strength, study.loss(target)


def calendar(study: Study) -> dict[str, Any]:
    """For each year with all its months: base + alpha tau_January + (1 - alpha) tau_December.

    losses: (alphas, months). best: each month's weight of January. gain: of an intermediate month over
    the better of the two, in nats, mean of the ten; both weights are chosen on validation text.
    """
    found = {}
    for january in study.labels:
        year = january[:4]
        months = [f"{year}-{month:02d}" for month in range(1, 13)]
        if january != months[0] or not set(months) <= set(study.labels):
            continue
        losses = {}
        for split in ("test", "val"):
            rows = []
            for alpha in ALPHAS:
                study.set({months[0]: float(alpha), months[-1]: float(1 - alpha)})
                rows.append([study.loss(month, split) for month in months])
            losses[split] = np.array(rows)
        chosen = losses["val"].argmin(0)
        test = losses["test"]
        gains = np.minimum(test[0], test[-1]) - test[chosen, np.arange(12)]
        best = ALPHAS[chosen]
        found[year] = {
            "alphas": ALPHAS,
            "losses": test,
            "best": best,
            "spearman": spearman(best, np.arange(12)),
            "gain": float(gains[1:-1].mean()),
        }
    return found


def floor(study: Study) -> dict[str, Any]:
    """cosines: of the shuffled models. shuffled, neighbours, farthest: means off the diagonal, of
    periods next to each other, and of the first with the last; also of the lengths."""
    cosines, control = study.cosines(), study.cosines(of=study.shuffled)
    norms = {
        name: float(np.mean([float(study.vector(label).norm()) for label in labels]))
        for name, labels in (("shuffled", study.shuffled), ("periods", study.labels))
    }
    return {
        "cosines": control,
        "shuffled": float(control[np.triu_indices(len(control), 1)].mean()),
        "periods": float(cosines[np.triu_indices(len(cosines), 1)].mean()),
        "neighbours": float(np.diag(cosines, 1).mean()),
        "farthest": float(cosines[0, -1]),
        "norms": norms,
    }


def overlap(study: Study, *, top: int = 10_000) -> np.ndarray:
    """Share of the most frequent words of each period's training text among those of each test text.

    (periods, periods), rows trained, columns evaluated.
    """

    def words(split: str) -> list[set[str]]:
        found = []
        for label in study.labels:
            counts: Counter[str] = Counter()
            for document in study.data.documents_of(label, split):
                counts.update(re.findall(r"\S+", document.text))
            found.append({word for word, _ in counts.most_common(top)})
        return found

    train, test = words("train"), words("test")
    return np.array([[len(a & b) / max(1, min(len(a), len(b))) for b in test] for a in train])
