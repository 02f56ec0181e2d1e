"""Choosing among programs by what they print: the scores are exact, ties are no luck."""

import random

import pytest

from tasks.code_execution.constructs import constructs
from tasks.code_execution.downstream import make_choices, printed
from tasks.code_execution.rerank import Choice, candidates, judge, pass_at_1, similarity
from tasks.code_execution.scores import Prediction, score, score_constructs
from tasks.code_execution.show import choose, compare
from tasks.code_execution.trace import Refusal, Tracer

SOLUTION = "x = 7\ny = 2\nif x > y:\n    print(x - y)\nelse:\n    print(x + y)"


def test_the_first_of_equals_is_not_a_matter_of_luck():
    assert pass_at_1([0.5, 1.0, 1.0, 0.2], [True, True, False, True]) == 0.5
    with pytest.raises(ValueError, match="0 of them for 0 candidates"):
        pass_at_1([], [])


def test_similarity_is_one_minus_the_share_of_edits():
    assert similarity(["12", "3"], ["12", "3"]) == 1
    assert similarity(["12"], ["13"]) == 0.5
    assert similarity([], ["13"]) == 0


def test_controls_bound_the_choice():
    choice = Choice(["a", "b", "c", "d"], [["5"], ["9"], None, ["5"]], ["5"])
    found = judge(choice, [["9"], ["5"], ["5"], ["4"]])
    assert found == {"predicted": 0.0, "random": 0.5, "tracer": 1.0}
    assert judge(choice, [["5"], ["6"], [], ["5"]])["predicted"] == 1.0


def test_candidates_are_the_solution_and_different_mutants():
    found = candidates(SOLUTION, random.Random(0), number=4)
    assert len(found) == len(set(found)) == 4 and SOLUTION in found
    assert found == candidates(SOLUTION, random.Random(0), number=4)
    assert all(code.startswith("x = 7\ny = 2") for code in found)  # its input stays


def test_candidates_are_judged_by_running_them():
    with Tracer() as tracer:
        choices = make_choices([SOLUTION, "x = 1"], tracer, number=30)
    assert len(choices) == 1  # the other prints nothing
    right = dict(zip(choices[0].programs, choices[0].right))
    assert right[SOLUTION] and not right[SOLUTION.replace("x - y", "x + y", 1)]
    assert choices[0].expected == ["5"]
    assert printed(Refusal("it runs too long")) is None


def test_constructs_are_those_of_the_program():
    assert constructs(SOLUTION) == ["branches", "arithmetic"]
    found = constructs("d = {'a': 1}\nfor k in d:\n    d[k] += 1\ndef f(x):\n    return [x]")
    assert found == ["loops", "strings", "lists", "dictionaries", "arithmetic", "functions"]
    assert constructs("if :") == []


def predictions():
    gold = "<line> <0> <state> a : 1 </state> <output> 1 <line> <1> <state> a : 1 </state>"
    return [
        Prediction("0", "tutorial", "a = 1\nprint(a)", gold, gold),
        Prediction("1", "tutorial", "a = 1\nprint(a + 0)", gold, gold.replace("a : 1", "a : 2")),
    ]


def test_scores_are_given_by_construct():
    some = predictions()
    assert score(some)["trace_accuracy"] == 50 and score(some)["output_accuracy"] == 100
    found = score_constructs(some)
    assert set(found) == {"arithmetic"} and found["arithmetic"][1]["trace_accuracy"] == 0


def test_the_viewer_marks_what_differs_and_nothing_else():
    right, wrong = (compare(p) for p in predictions())
    assert right.right and all(row.same for row in right.rows)
    assert [row.same for row in wrong.rows] == [False, True, False]
    assert wrong.rows[0].line == "0" and wrong.rows[0].predicted == [("a = 2", False)]
    assert wrong.rows[1].line == "prints" and wrong.rows[1].expected == [("1", True)]
    assert [s.right for s in choose(predictions() * 5, 4)].count(False) == 2
