"""What period x period matrices say: rows are the periods trained on, columns those evaluated on.

    misalignment   D[i, j] = 100 (S[i, j] / mean_i S[i, j] - 1)     per cent, of each column's own mean
    correlation    Pearson of D with the cosines of the time vectors, over all cells or off the diagonal
    degradation    mean over t of |slope of  -sign(t' - t) (S[t', t] - S[t, t])  over t'|
                   (Luu et al. 2022), S a score of which more is better
    seasonality    residuals of a line of D on the lag |i - j|, off the diagonal: those at whole years
                   against all others

Nylund et al. 2023, arXiv 2312.13401. Cells that are not finite (missing periods) never count. The cells
of a matrix are not independent, so the p-value of a correlation comes from permuting the periods.
"""

from dataclasses import dataclass

import numpy as np

Matrix = np.ndarray


def misalignment(scores: Matrix) -> Matrix:
    """Per cent above or below the mean of the evaluated period (the column), NaN where missing."""
    scores = _matrix("scores", scores)
    present = np.isfinite(scores)
    total = np.where(present, scores, 0.0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * (np.where(present, scores, np.nan) / (total / present.sum(0)) - 1)


def misalignment_correlation(
    scores: Matrix, cosines: Matrix, include_diagonal: bool = True
) -> float:
    """Pearson correlation of misalignment with the cosines of the time vectors.

    scores: perplexity or any other score (n, n), rows trained, columns evaluated. cosines: (n, n).
    include_diagonal: as published (r = -0.667 on WMT's months); a cosine of 1 with the best score of
    every column is little surprise, so look at both. NaN where fewer than 3 cells are left.
    """
    deviation, cosines = misalignment(scores), _matrix("cosines", cosines)
    if deviation.shape != cosines.shape:
        raise ValueError(f"cosines: has shape {cosines.shape}, scores {deviation.shape}")
    return pearson(*_cells(deviation, cosines, include_diagonal=include_diagonal))


def correlation_p_value(
    scores: Matrix,
    cosines: Matrix,
    include_diagonal: bool = True,
    *,
    permutations: int = 2000,
    seed: int = 0,
) -> float:
    """How often the periods of one matrix, relabelled at random (rows and columns alike), correlate
    with the other as strongly as they do: Mantel's test, two-sided, never 0; NaN where they have none."""
    if permutations < 1:
        raise ValueError(f"permutations: must be at least 1, got {permutations}")
    deviation, cosines = misalignment(scores), _matrix("cosines", cosines)
    present = np.isfinite(deviation) & np.isfinite(cosines)
    kept = present.any(0) & present.any(1)  # a period that is missing is not moved about
    deviation, cosines = deviation[np.ix_(kept, kept)], cosines[np.ix_(kept, kept)]
    draw = np.random.default_rng(seed)
    observed = abs(pearson(*_cells(deviation, cosines, include_diagonal=include_diagonal)))
    if np.isnan(observed):
        return float("nan")
    as_strong = 0
    for _ in range(permutations):
        order = draw.permutation(len(deviation))
        shuffled = cosines[np.ix_(order, order)]
        found = pearson(*_cells(deviation, shuffled, include_diagonal=include_diagonal))
        as_strong += abs(found) >= observed - 1e-12
    return (1 + as_strong) / (1 + permutations)


def _cells(*matrices: Matrix, include_diagonal: bool) -> list[np.ndarray]:
    """The same cells of each matrix, those that are finite in all."""
    chosen = np.isfinite(np.stack(matrices)).all(0)
    if not include_diagonal:
        chosen &= ~np.eye(len(chosen), dtype=bool)
    return [matrix[chosen] for matrix in matrices]


def _matrix(name: str, values: Matrix) -> Matrix:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1]:
        raise ValueError(f"{name}: must be a square matrix, has shape {values.shape}")
    return values


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of two samples; NaN for fewer than 3 values or a constant."""
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norms = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norms) if norms > 0 else float("nan")


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Correlation of ranks, ties sharing their mean rank."""
    return pearson(_ranks(np.asarray(x)), _ranks(np.asarray(y)))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[which]


def by_lag(matrix: Matrix) -> dict[int, float]:
    """Mean of a matrix by |lag| in periods, over the cells that are finite."""
    matrix = _matrix("matrix", matrix)
    lags = _lags(len(matrix))
    found = {}
    for lag in range(len(matrix)):
        cells = matrix[(lags == lag) & np.isfinite(matrix)]
        if len(cells):
            found[lag] = float(cells.mean())
    return found


def _lags(n: int) -> Matrix:
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n)))


def line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept by least squares; NaN for fewer than two different x."""
    spread = x - x.mean() if len(x) else x
    if len(x) < 2 or not spread.any():
        return float("nan"), float("nan")
    slope = float(spread @ y / (spread @ spread))
    return slope, float(y.mean() - slope * x.mean())


def degradation_slope(scores: Matrix, *, include_diagonal: bool = False) -> float:
    """Misalignment gained per period of distance: the slope of D over |i - j|, in per cent.

    Above 0 where a score of which less is better (perplexity) gets worse with distance.
    """
    deviation = misalignment(scores)
    lags = _lags(len(deviation)).astype(np.float64)
    return line(*_cells(lags, deviation, include_diagonal=include_diagonal))[0]


def temporal_degradation(
    scores: Matrix, times: np.ndarray | None = None, *, higher_is_better: bool = True
) -> tuple[float, np.ndarray]:
    """Points lost per unit of time (Luu et al. 2022): the mean over evaluated periods, and each.

    times: of the periods, in any unit; None counts periods.
    """
    scores = _matrix("scores", scores) * (1 if higher_is_better else -1)
    n = len(scores)
    times = np.arange(n, dtype=np.float64) if times is None else np.asarray(times, np.float64)
    slopes = np.full(n, np.nan)
    for t in range(n):
        lost = -(scores[:, t] - scores[t, t]) * np.sign(times - times[t])
        present = np.isfinite(lost)
        slopes[t] = abs(line(times[present], lost[present])[0])
    present = np.isfinite(slopes)
    return (float(slopes[present].mean()) if present.any() else float("nan")), slopes


@dataclass(frozen=True)
class Seasonality:
    """Off the diagonal: the trend of misalignment with the lag, and what is left at whole years.

    trend: per cent a period. same, other: mean residual at lags that are multiples of the year, and
    at all others. t, d: Welch's t and Cohen's d of the two.
    """

    trend: float
    same: float
    other: float
    cells: int
    t: float
    d: float


def seasonality(scores: Matrix, *, year: int = 12) -> Seasonality:
    """Whether models of the same season of other years do better than the lag alone says.

    scores: of which less is better; year: periods in a year. `same` below 0 is a season. The t is
    descriptive: the cells are not independent.
    """
    if year < 2:
        raise ValueError(f"year: must be at least 2 periods, got {year}")
    deviation = misalignment(scores)
    lags, values = _cells(
        _lags(len(deviation)).astype(np.float64), deviation, include_diagonal=False
    )
    slope, start = line(lags, values)
    residuals = values - (start + slope * lags)
    yearly = lags % year == 0
    same, other = residuals[yearly], residuals[~yearly]
    if len(same) < 2 or len(other) < 2:
        raise ValueError(f"scores: too few periods to see a year of {year} twice")
    variances = same.var(ddof=1), other.var(ddof=1)
    gap = same.mean() - other.mean()
    return Seasonality(
        trend=slope,
        same=float(same.mean()),
        other=float(other.mean()),
        cells=len(same),
        t=float(gap / np.sqrt(variances[0] / len(same) + variances[1] / len(other))),
        d=float(gap / np.sqrt((variances[0] + variances[1]) / 2)),
    )


def best_alphas(alphas: np.ndarray, scores: Matrix) -> np.ndarray:
    """For each column of scores (alphas, periods), the alpha with the lowest score."""
    return np.asarray(alphas)[np.nanargmin(scores, axis=0)]
