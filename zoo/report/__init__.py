"""Runs side by side: reads the folders that any task leaves and writes comparison.csv, .md and .html.

    python -m zoo.report SWEEP_FOLDER… [--baseline gpt2] [--output FOLDER]

Runs that differ only in their seed are one variant: a row with mean ± 95% t-interval over seeds. A run
that failed, was killed or is still going is shown as such and never counted.

    runs.py      a run's folder, as found          metrics.py   what a metric's name says
    variants.py  grouping, labels                  stats.py     intervals and differences
    table.py     the comparison                    curves.py    lines for the figures
    text.py      CSV and Markdown                  page.py      the HTML page, with assets/
    digits.py    numbers as text                   plots.py     the runs' own pictures
"""

from zoo.report.build import compare

__all__ = ["compare"]
