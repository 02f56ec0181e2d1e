"""Search by code and by what it prints: the paper's score, and the controls that keep it honest."""

import numpy as np
import pytest
import torch

from tasks.code_execution.search import mean_average_precision


def unit(*angles: float) -> np.ndarray:
    """Unit vectors of the plane, at these degrees."""
    radians = np.radians(angles)
    return np.stack((np.cos(radians), np.sin(radians)), axis=1)


def test_without_traces_it_is_the_order_of_the_cosines():
    # From 0: 10 (other), 30 (same) -> 1/2. From 30: 10 (other) at 20, 0 (same) at 30 -> 1/2.
    # From 10 nothing is relevant, so it is no query.
    vectors = unit(0, 10, 30)
    assert mean_average_precision(vectors, [[], [], []], [1, 2, 1]) == 0.5
    assert mean_average_precision(vectors, [["a"], ["b"], ["a"]], [1, 2, 1], trace_weight=0) == 0.5


def test_equal_outputs_lift_a_candidate():
    """cos 20 - cos 30 = 0.074 and cos 10 - cos 30 = 0.119 are less than 0.2 (1 - Jaro)."""
    vectors, problems = unit(0, 10, 30), [1, 2, 1]
    assert mean_average_precision(vectors, [["7"], ["x"], ["7"]], problems) == 1.0
    # Half as much is not enough from 0, but is from 30.
    half = mean_average_precision(vectors, [["7"], ["x"], ["7"]], problems, trace_weight=0.1)
    assert half == 0.75


def test_jaro_is_of_the_joined_outputs():
    # Jaro("1 2", "1 3") = (2/3 + 2/3 + 1) / 3 = 7/9, so 0.2 * (1 - 7/9) = 0.044 < 0.074, 0.119.
    vectors, problems = unit(0, 10, 30), [1, 2, 1]
    assert mean_average_precision(vectors, [["1", "2"], ["1", "3"], ["1", "2"]], problems) == 0.5


def test_a_program_without_outputs_keeps_its_cosine():
    # 30 prints nothing, so from 0 the other's output wins what its cosine had already.
    vectors, problems = unit(0, 10, 30), [1, 2, 1]
    assert mean_average_precision(vectors, [["7"], ["7"], []], problems) == 0.5


def test_average_precision_counts_every_relevant_one():
    # From 0: same 10, other 20, same 40 -> (1/1 + 2/3) / 2 = 5/6. From 10: same 0 and other 20 tie at
    # 10 degrees, so move 20 to 21: 0, 21, 40 -> 5/6. From 40: 21, 10, 0 -> (1/2 + 2/3) / 2 = 7/12.
    found = mean_average_precision(unit(0, 10, 21, 40), [[]] * 4, ["p", "p", "q", "p"])
    assert found == pytest.approx((5 / 6 + 5 / 6 + 7 / 12) / 3, abs=1e-12)


def test_tensors_are_read_too():
    vectors = torch.tensor(unit(0, 10, 30), dtype=torch.float32)
    assert mean_average_precision(vectors, [["7"], ["x"], ["7"]], torch.tensor([1, 2, 1])) == 1.0


def test_rows_at_a_time_change_nothing(monkeypatch):
    """Ten thousand programs do not fit at once: parts must give the same score."""
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(40, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    outputs = [[str(n)] if n else [] for n in draw.integers(0, 9, 40)]
    problems = draw.integers(0, 5, 40)
    whole = mean_average_precision(vectors, outputs, problems)
    monkeypatch.setattr("tasks.code_execution.search._PAIRS_AT_ONCE", 100)
    assert mean_average_precision(vectors, outputs, problems) == pytest.approx(whole, abs=1e-12)
    assert 0 < whole < 1


def test_what_does_not_fit_is_refused_by_name():
    with pytest.raises(ValueError, match="outputs: 1 of them for 2"):
        mean_average_precision(unit(0, 1), [[]], [1, 1])
    with pytest.raises(ValueError, match="problem_ids: no two items"):
        mean_average_precision(unit(0, 1), [[], []], [1, 2])
