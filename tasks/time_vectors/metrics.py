"""The published scores of classification and summarisation.

macro-F1   mean over classes of 2 TP / (2 TP + FP + FN); the classes are those of gold and prediction
           together, so that an answer that is no class counts against it
ROUGE-L    F of the longest common subsequence of words, stemmed (Lin 2004), mean over texts
"""

from collections.abc import Sequence


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
    # Its scorer would import absl, whose log handler closes stderr when logging is set up again.
    from rouge_score.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(use_stemmer=True).tokenize
    scores = []
    for g, p in zip(gold, predicted):
        ours, theirs = words(p), words(g)
        common = _common(ours, theirs)
        scores.append(2 * common / (len(ours) + len(theirs)) if common else 0.0)
    return sum(scores) / len(scores)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    lengths = [0] * (len(b) + 1)
    for x in a:
        before = 0  # of the row above, one to the left
        for j, y in enumerate(b, start=1):
            above = lengths[j]
            lengths[j] = before + 1 if x == y else max(above, lengths[j - 1])
            before = above
    return lengths[-1]
