"""The numbers of the paper, on matrices made so that the answer is known."""

import numpy as np
import pytest

from tasks.time_vectors.analysis import (
    best_alphas,
    by_lag,
    correlation_p_value,
    degradation_slope,
    misalignment,
    misalignment_correlation,
    pearson,
    seasonality,
    spearman,
    temporal_degradation,
)

# T5-small on PoliAff, macro-F1 x 100, and the cosines of its time vectors (Nylund et al. 2023).
POLIAFF = np.array(
    [
        [87.48, 74.93, 63.36, 58.50, 52.17, 46.20],
        [80.06, 84.35, 71.31, 62.72, 54.24, 50.53],
        [67.27, 70.81, 80.77, 71.46, 60.33, 57.95],
        [57.33, 59.84, 74.15, 79.07, 70.26, 63.65],
        [48.34, 55.50, 65.40, 71.71, 78.65, 72.01],
        [39.26, 47.05, 59.10, 64.63, 72.23, 77.10],
    ]
)
UPPER = [133, 119, 114, 108, 109, 136, 130, 110, 114, 150, 127, 130, 144, 145, 153]


def poliaff_cosines() -> np.ndarray:
    cosines = np.zeros((6, 6))
    cosines[np.triu_indices(6, 1)] = np.array(UPPER) / 1000
    return cosines + cosines.T + np.eye(6)


def lags(n: int) -> np.ndarray:
    return np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)


def test_published_correlation_and_degradation_of_a_classifier():
    assert misalignment_correlation(POLIAFF, poliaff_cosines()) == pytest.approx(0.6539, abs=1e-3)
    without = misalignment_correlation(POLIAFF, poliaff_cosines(), include_diagonal=False)
    assert without == pytest.approx(0.782, abs=5e-3)
    mean, each = temporal_degradation(POLIAFF)
    assert mean == pytest.approx(8.00, abs=0.005)
    assert each == pytest.approx([9.89, 9.46, 7.90, 7.25, 7.08, 6.42], abs=0.005)


def test_each_evaluated_period_is_compared_with_its_own_mean():
    """A hard test text must not look like a bad model: columns may be scaled as they like."""
    scores = np.random.default_rng(0).uniform(1, 2, (5, 5))
    harder = scores * np.array([1, 10, 100, 0.1, 3])
    assert misalignment(harder) == pytest.approx(misalignment(scores))
    assert misalignment(scores).mean(0) == pytest.approx(np.zeros(5))
    assert misalignment(scores)[1, 2] == pytest.approx(
        100 * (scores[1, 2] / scores[:, 2].mean() - 1)
    )
    assert not np.allclose(misalignment(scores.T).T, misalignment(scores)), "rows are not columns"


def test_missing_periods_do_not_count():
    draw = np.random.default_rng(1)
    scores = draw.uniform(30, 50, (9, 9))
    cosines = (lambda m: (m + m.T) / 2)(draw.uniform(0.6, 0.8, (9, 9)))
    np.fill_diagonal(cosines, 1)
    kept = [0, 1, 2, 4, 5, 6, 8]
    holes, placeholders = scores.copy(), cosines.copy()
    for gone in (3, 7):
        holes[gone] = holes[:, gone] = np.nan
        placeholders[gone] = placeholders[:, gone] = 1.0
    small = np.ix_(kept, kept)
    for diagonal in (True, False):
        whole = misalignment_correlation(holes, placeholders, include_diagonal=diagonal)
        alone = misalignment_correlation(scores[small], cosines[small], include_diagonal=diagonal)
        assert whole == pytest.approx(alone, abs=1e-12)


def test_a_perfect_relation_is_minus_one_and_order_is_by_row_and_column():
    deviation = lags(6) - lags(6).mean(0)
    scores = 20 * (1 + deviation / 100)
    cosines = -misalignment(scores)
    assert misalignment_correlation(scores, cosines) == pytest.approx(-1)
    assert misalignment_correlation(scores, cosines, include_diagonal=False) == pytest.approx(-1)
    with pytest.raises(ValueError, match="cosines: has shape"):
        misalignment_correlation(scores, np.eye(5))
    with pytest.raises(ValueError, match="scores: must be a square matrix"):
        misalignment_correlation(scores[:3], cosines)


def test_p_value_tells_a_relation_from_chance():
    draw = np.random.default_rng(2)
    near = np.exp(-lags(9) / 3) + draw.normal(0, 0.01, (9, 9))
    scores = 20 + lags(9) + draw.normal(0, 0.1, (9, 9))
    noise = draw.normal(size=(9, 9))
    options = {"include_diagonal": False, "permutations": 300}
    assert correlation_p_value(scores, near, **options) < 0.02
    assert correlation_p_value(scores, noise + noise.T, **options) > 0.05
    assert correlation_p_value(scores, near, **options) == correlation_p_value(
        scores, near, **options
    ), "the same seed, the same answer"
    assert np.isnan(correlation_p_value(scores[:2, :2], near[:2, :2], **options)), "nothing to tell"


def test_seasons_are_found_where_they_are_and_only_there():
    draw = np.random.default_rng(3)
    flat = 100 + draw.normal(0, 0.05, (36, 36))
    yearly = flat - 3.0 * (lags(36) % 12 == 0)
    without, found = seasonality(flat), seasonality(yearly)
    assert abs(without.same) < 0.05 and found.same < -2 and found.t < -20
    assert found.other > 0 and found.cells == 2 * (24 + 12)
    with pytest.raises(ValueError, match="too few periods"):
        seasonality(flat[:6, :6])
    quarters = 100 + draw.normal(0, 0.05, (12, 12)) - 2.0 * (lags(12) % 4 == 0)
    assert seasonality(quarters, year=4).same < -1


def test_degradation_has_the_slope_it_was_given():
    scores = 10 * (1 + 0.02 * lags(7))
    away = ~np.eye(7, dtype=bool)
    fit = np.polyfit(lags(7)[away], misalignment(scores)[away], 1)
    assert degradation_slope(scores) == pytest.approx(fit[0])
    assert degradation_slope(10 * (1.2 - 0.02 * lags(7))) < 0
    assert by_lag(scores)[3] == pytest.approx(10.6)
    years = np.array([2005.0, 2008.0, 2011.0])
    assert temporal_degradation(10 * lags(3), years, higher_is_better=False)[0] == pytest.approx(
        10 / 3, rel=1e-9
    )


def test_ranks_share_ties_and_constants_have_no_correlation():
    assert spearman([1, 2, 2, 3], [10, 20, 20, 90]) == pytest.approx(1)
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)
    assert np.isnan(pearson(np.ones(4), np.arange(4.0))) and np.isnan(pearson(*np.ones((2, 2))))


def test_best_alpha_of_each_column():
    scores = np.array([[3.0, 1.0], [2.0, np.nan], [4.0, 5.0]])
    assert best_alphas(np.array([0.0, 0.5, 1.0]), scores).tolist() == [0.5, 0.0]
