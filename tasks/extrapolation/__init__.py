"""Length extrapolation (Sun et al. 2022, LeX, arXiv 2212.10554): train at N, judge from N/4 to 16N.

    spans.py        which held-out tokens are read, the same ones at every length
    perplexity.py   loss by length, mask and position
    metric.py       attention resolution of a curve (Eq 3)       scores.py  the curves of a model
    invariance.py   what shifting a text by padding changes (Eq 2)
    speed.py        tokens per second and memory of scoring and generating
    task.py         the task that measures all of it and writes results, series and plots
    orderings.py    `python -m tasks.extrapolation.orderings SWEEP`: do the paper's orderings hold?

.. include:: README.md
"""

from tasks.extrapolation.metric import monotone_fraction, resolution

__all__ = ["monotone_fraction", "resolution"]
