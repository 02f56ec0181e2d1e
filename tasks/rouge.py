"""ROUGE-L by rouge-score: how much of two texts is one subsequence of words, stemmed (Lin 2004)."""

import sys
from functools import cache
from typing import Any


def rouge_l(reference: str, text: str) -> float:
    """The F-measure, in [0, 1]."""
    return float(_scorer().score(reference, text)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from absl import logging
    from rouge_score.rouge_scorer import RougeScorer

    # rouge-score brings absl, whose log handler keeps the stderr that it found, and closes it as soon as
    # logging is set up again, as Hydra does for every run; the process's own it leaves open.
    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(["rougeL"], use_stemmer=True)
