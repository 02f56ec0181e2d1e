"""The published scores of classification and summarisation.

macro-F1   mean over classes of 2 TP / (2 TP + FP + FN); the classes are those of gold and prediction
           together, so that an answer that is no class counts against it
ROUGE-L    F of the longest common subsequence of words, stemmed (Lin 2004), mean over texts
"""

from collections.abc import Sequence

from tasks import rouge


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """In [0, 1]. Raises ValueError where there is nothing to score."""
    if len(gold) != len(predicted) or not gold:
        raise ValueError(f"gold: {len(gold)} labels for {len(predicted)} predictions")
    scores = []
    for label in sorted({*gold, *predicted}):
        hits = sum(g == p == label for g, p in zip(gold, predicted))
        wrong = sum((g == label) != (p == label) for g, p in zip(gold, predicted))
        scores.append(2 * hits / (2 * hits + wrong))
    return sum(scores) / len(scores)


def rouge_l(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """In [0, 1]. Raises ValueError where there is nothing to score."""
    if len(gold) != len(predicted) or not gold:
        raise ValueError(f"gold: {len(gold)} texts for {len(predicted)} predictions")
    return sum(map(rouge.rouge_l, gold, predicted)) / len(gold)
