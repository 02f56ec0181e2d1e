"""The eight percentages, each worked out by hand: a user who quotes one quotes the paper's own measure."""

import pytest

from tasks.code_execution.metrics import Counts, count, evaluate, outputs, segments, total

# a = 1        (a : 1)
# b = a + 1    (a : 1, b : 2)
# print(b)     (prints 2)
# c = [a, b]   (three names)
GOLD = (
    "<line> <0> <state> a : 1 </state> "
    "<line> <1> <state> a : 1 <dictsep> b : 2 </state> "
    "<output> 2 <line> <2> <state> a : 1 <dictsep> b : 2 </state> "
    "<line> <3> <state> a : 1 <dictsep> b : 2 <dictsep> c : [ 1 , 2 ] </state>"
)
ALL_RIGHT = dict.fromkeys(
    (
        "output_accuracy",
        "trace_accuracy",
        "line_precision",
        "line_recall",
        "line_f1",
        "identifier_precision",
        "identifier_recall",
        "identifier_f1",
    ),
    100.0,
)


def test_a_right_trace_scores_a_hundred_everywhere():
    assert evaluate([GOLD], [GOLD]) == ALL_RIGHT
    assert evaluate([f"  {GOLD}\n"], [GOLD], strict=False) == ALL_RIGHT


def test_one_wrong_value_costs_its_line_and_its_name():
    wrong = GOLD.replace("c : [ 1 , 2 ]", "c : [ 1 , 3 ]")
    # 5 segments, 4 right; 1 + 2 + 2 + 3 = 8 names, 7 right.
    assert evaluate([wrong], [GOLD]) == ALL_RIGHT | {
        "trace_accuracy": 0.0,
        "line_precision": 80.0,
        "line_recall": 80.0,
        "line_f1": 80.0,
        "identifier_precision": 87.5,
        "identifier_recall": 87.5,
        "identifier_f1": 87.5,
    }


def test_an_inserted_line_makes_all_after_it_wrong():
    """Segments are aligned by place alone: a prediction that repeats a line is not forgiven."""
    repeated = "<line> <0> <state> a : 1 </state> " + GOLD
    # 6 predicted against 5: the first is right. Then <0> against <1>, <1> against the output, the
    # output against <2>, <2> against <3>: no line number agrees. 9 names predicted, 8 expected, 1 right.
    found = evaluate([repeated], [GOLD])
    assert found["output_accuracy"] == 100.0 and found["trace_accuracy"] == 0.0
    assert (found["line_precision"], found["line_recall"]) == (16.67, 20.0)
    assert found["line_f1"] == 18.18  # 2 / (5 + 6)
    assert (found["identifier_precision"], found["identifier_recall"]) == (11.11, 12.5)
    assert found["identifier_f1"] == 11.76  # 2 / (8 + 9)


def test_an_unfinished_end_is_left_out_on_both_sides():
    cut = GOLD[: GOLD.rindex("</state>")]
    assert len(segments(GOLD)) == 5 and len(segments(cut)) == 4
    assert evaluate([cut], [cut])["trace_accuracy"] == 100.0
    found = evaluate([cut], [GOLD])
    # 4 of 4 predicted, 4 of 5 expected; 5 names of 5, and of 8.
    assert (found["line_precision"], found["line_recall"]) == (100.0, 80.0)
    assert (found["identifier_precision"], found["identifier_recall"]) == (100.0, 62.5)
    assert found["trace_accuracy"] == 0.0


def test_an_output_after_the_last_line_never_counts():
    assert outputs("<line> <0> <state> </state> <output> 7") == []
    assert outputs("<output> 7 <line> <0> <state> </state>") == ["7"]
    silent = "<line> <0> <state> a : 1 </state>"
    with pytest.raises(ZeroDivisionError):  # nothing in the references prints
        evaluate([silent + " <output> 7"], [silent + " <output> 7"])


def test_output_accuracy_is_over_the_references_that_print():
    silent = "<line> <0> <state> a : 1 </state>"
    prints = "<output> hi <line> <0> <state> b : 1 </state>"
    other = "<output> ho <line> <0> <state> b : 1 </state>"
    assert evaluate([silent, prints, other], [silent, prints, prints])["output_accuracy"] == 50.0
    # A prediction that prints where the reference is silent loses its trace, not its output.
    found = evaluate([prints, prints], [silent, prints])
    assert (found["output_accuracy"], found["trace_accuracy"]) == (100.0, 50.0)


def test_outputs_end_at_the_tracers_own_event():
    trace = "<output> 1 2 _____event line 3 <output>  <output> 4\n5 <line> <0> <state> </state>"
    assert outputs(trace) == ["1 2", "4\n5"]


def test_names_are_compared_in_any_order_and_the_last_of_two_counts():
    reference = "<line> <0> <state> a : 1 <dictsep> d : { k : 2 } </state>"
    swapped = "<line> <0> <state> d : { k : 2 } <dictsep> a : 9 <dictsep> a : 1 </state>"
    assert count(swapped, reference) == Counts(
        samples=1, exact=1, lines=1, predicted_lines=1, reference_lines=1,
        identifiers=2, predicted_identifiers=2, reference_identifiers=2,
    )  # fmt: skip
    nested = reference.replace("k : 2", "k : 3")  # only the first colon parts name and value
    assert count(nested, reference).identifiers == 1


def test_junk_around_a_line_is_not_forgiven():
    line = "<line> <0> <state> a : 1 </state>"
    assert count("well " + line, line).lines == 0  # the junk is the first segment
    after = count(line + " well", line)  # the tag stays in the value
    assert (after.lines, after.identifiers, after.predicted_identifiers) == (0, 0, 1)


def test_a_line_without_a_state_adds_no_name_but_for_the_scripts_accident():
    two = "<line> <0> <state> a : 1 </state>"
    bare = "<line> <0> :<line> <1> <state> a : 1 </state>"
    assert count(bare, two, strict=True).predicted_identifiers == 2
    assert count(bare, two, strict=False).predicted_identifiers == 1


def test_the_character_after_an_output_tag_is_lost_in_strict_mode_alone():
    trace = "<output>42 <line> <0> <state> </state>"
    assert outputs(trace, strict=True) == ["2"]
    assert outputs(trace, strict=False) == ["42"]


def test_nothing_right_raises_or_is_zero():
    wrong = "<line> <9> <state> a : 2 </state>"
    with pytest.raises(ZeroDivisionError):
        evaluate([wrong], [GOLD])
    assert evaluate([wrong], [GOLD], strict=False) == dict.fromkeys(ALL_RIGHT, 0.0)
    with pytest.raises(ZeroDivisionError):
        evaluate([], [])
    assert set(evaluate([], [], strict=False).values()) == {0.0}


def test_a_single_line_is_one_table():
    gold = "<state> a : 1 <dictsep> b : hi <dictsep> d : { k : 1 } </state>"
    found = evaluate([gold, gold.replace("hi", "ho")], [gold, gold], single_line=True)
    assert found == {
        "trace_accuracy": 50.0,
        "identifier_precision": 83.33,
        "identifier_recall": 83.33,
        "identifier_f1": 83.33,
    }
    # What follows a second colon is never read.
    assert evaluate([gold.replace("k : 1", "k : 2")], [gold], single_line=True) == dict.fromkeys(
        found, 100.0
    )
    # A line's number sticks to the first name, and to that alone.
    glued = evaluate(["<line> <0> " + gold], [gold], single_line=True)
    assert (glued["trace_accuracy"], glued["identifier_f1"]) == (0.0, 66.67)


def test_single_line_without_a_name_is_zero_only_where_asked():
    with pytest.raises(ZeroDivisionError):
        evaluate([""], ["<state> a : 1 </state>"], single_line=True)
    found = evaluate([""], ["<state> a : 1 </state>"], single_line=True, strict=False)
    assert set(found.values()) == {0.0}


def test_sums_run_over_the_corpus_not_over_samples():
    """Micro averages: a long trace weighs as much as its lines."""
    short = "<line> <0> <state> a : 1 </state>"
    found = evaluate([GOLD, "<line> <0> <state> a : 2 </state>"], [GOLD, short])
    assert found["line_recall"] == 83.33  # 5 of 6, not the mean of 100 and 0
    parts = [count(GOLD, GOLD), count(short, GOLD)]
    assert total(parts) == parts[0] + parts[1] and total([]) == Counts()


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 of them for 1 references"):
        evaluate([GOLD, GOLD], [GOLD])
