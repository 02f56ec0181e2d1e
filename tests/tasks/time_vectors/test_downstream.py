"""The scores of labelled tasks, and what their templates must be. Their sweeps are in test_sweep.py."""

import pytest

from tasks.errors import UserError
from tasks.time_vectors.base import previous
from tasks.time_vectors.metrics import macro_f1, rouge_l
from tasks.time_vectors.template import answer_column


def test_macro_f1_counts_a_malformed_answer_as_a_class_of_its_own():
    gold = ["a", "a", "b", "b"]
    assert macro_f1(gold, gold) == 1
    assert macro_f1(gold, ["a", "a", "a", "b"]) == pytest.approx((0.8 + 2 / 3) / 2)
    # b's one miss is a third class, with nothing right: accuracy 0.75, but macro-F1 0.556.
    assert macro_f1(gold, ["a", "a", "b", "bb"]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    with pytest.raises(ValueError, match="4 labels for 1 predictions"):
        macro_f1(gold, ["a"])


def test_rouge_l_is_the_longest_common_subsequence_of_stems():
    assert rouge_l(["the cat sat"], ["the cat sat"]) == pytest.approx(1)
    # The common subsequence is "the cat sits on": 4 of 6 words there, 4 of 5 here.
    score = rouge_l(["the cat sits on the mat"], ["the cats sit on it"])
    assert score == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5))
    assert rouge_l(["a b", "c"], ["a b", "d"]) == pytest.approx(0.5)


def test_a_template_ends_with_what_is_to_be_predicted():
    assert answer_column("{text} => {section}") == "section"
    for template in ("{section}: {text}", "no field"):
        with pytest.raises(UserError, match="must end with the field"):
            answer_column(template)


def test_online_names_say_what_a_period_is_tuned_from():
    assert [previous(p) for p in ("o1", "o2", "o10")] == ["base", "o1", "o9"]
    assert [previous(p) for p in ("p1", "p2", "s3", "all", "2012", "october")] == ["base"] * 6
