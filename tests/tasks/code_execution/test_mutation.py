"""Mutation: each operator does what its name says, at one place, and never to a docstring."""

import ast
import random

import pytest

from tasks.code_execution.mutation import OPERATORS, PAPER, mutants
from tasks.code_execution.mutation.operators import another

CASES = {
    "AOD": ("x = -a", {"x = a"}),
    "AOR": ("x = a * b", {"x = a / b", "x = a // b", "x = a ** b"}),
    "ASR": ("x //= b", {"x /= b", "x *= b"}),
    "BCR": ("for i in a:\n    break", {"for i in a:\n    continue"}),
    "COD": ("x = not a or b not in c", {"x = a or b not in c", "x = not a or b in c"}),
    "COI": ("if a in b:\n    c", {"if not a in b:\n    c", "if a not in b:\n    c"}),
    "LCR": ("x = a and b", {"x = a or b"}),
    "LOD": ("x = ~a", {"x = a"}),
    "LOR": ("x = a ^ b\ny <<= 2", {"x = a & b\ny <<= 2", "x = a ^ b\ny >>= 2"}),
    "ROR": ("x = a < b == c", {"x = a > b == c", "x = a <= b == c", "x = a < b != c"}),
    "SIR": ("x = a[b:c:d]", {"x = a[:c:d]", "x = a[b::d]", "x = a[b:c]"}),
    "OIL": ("while a:\n    b", {"while a:\n    b\n    break"}),
    "RIL": ("for i in a:\n    b", {"for i in reversed(a):\n    b"}),
    "ZIL": ("for i in a:\n    b", {"for i in a:\n    break"}),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name):
    code, expected = CASES[name]
    found = list(mutants(code, random.Random(0), operators=[name]))
    assert {m.code for m in found} == expected
    assert {m.operator for m in found} == {name}


def test_the_table_is_the_paper_s():
    assert len(PAPER) == 14 and set(OPERATORS) == {*PAPER, "COI"} == {*CASES, "CRP"}


def test_arithmetic_inside_an_augmented_assignment_is_asr_s_alone():
    assert not list(mutants("x += 1", random.Random(0), operators=["AOR"]))
    assert not list(mutants("x = a + b", random.Random(0), operators=["ASR"]))


def test_constants_keep_their_type_and_strings_their_length():
    draw = random.Random(0)
    for value in (0, 7, 1234, 2.5, "word", "a b, 3", "Z"):
        news = {another(value, draw) for _ in range(50)}
        assert len(news) > 5
        assert value not in news
        assert {type(new) for new in news} == {type(value)}
        if isinstance(value, str):
            assert {len(new) for new in news} == {len(value)}


def test_docstrings_f_strings_and_booleans_stay():
    code = 'def f():\n    """one"""\n    return True, None, f"two {x}"'
    assert not list(mutants(code, random.Random(0), operators=["CRP"]))


def test_a_mutant_differs_at_one_place_and_parses():
    code = "def f(a, b=3):\n    for i in range(a):\n        if i % 2 == 0 and not a > b:\n            a -= i\n    return a\nprint(f(9), 'ab'[1:])"
    code = ast.unparse(ast.parse(code))
    found = list(mutants(code, random.Random(0)))
    assert len(found) > 15
    for mutant in found:
        ast.parse(mutant.code)
        assert mutant.code != code
        lines = zip(code.split("\n"), mutant.code.split("\n"))
        assert sum(a != b for a, b in lines) <= 1 or mutant.operator in ("OIL", "ZIL")


def test_drawn_mutants_depend_on_the_seed_alone_and_rare_operators_come():
    code = "\n".join(f"x{i} = {i}" for i in range(40)) + "\ny = x1 < x2"
    first = list(mutants(code, random.Random(5), number=30))
    assert first == list(mutants(code, random.Random(5), number=30))
    assert first != list(mutants(code, random.Random(6), number=30))
    assert len(first) == 30
    assert sum(m.operator == "ROR" for m in first) == 2
