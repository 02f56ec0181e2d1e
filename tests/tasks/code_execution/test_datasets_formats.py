"""The text formats: a trace that cannot be read back would train a model on noise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.code_execution.formats import (
    SPECIAL_TOKENS,
    Step,
    decode_trace,
    encode_trace,
    has_tags,
    segments,
    source_text,
)
from tasks.code_execution.lexer import tokenize

TEXTS = st.text().filter(lambda text: not has_tags(text))
NAMES = st.from_regex(r"[A-Za-z_]\w{0,5}", fullmatch=True).filter(str.isidentifier)
STEPS = st.lists(
    st.builds(
        Step,
        line=st.none() | st.integers(0, 199),
        state=st.dictionaries(NAMES, TEXTS, max_size=3),
        output=TEXTS.map(str.strip),
    ),
    max_size=5,
)


@given(STEPS)
def test_every_trace_reads_back_as_it_was(steps):
    text = encode_trace(steps)
    assert decode_trace(text) == steps
    assert "\n" not in text


def test_text_is_the_published_layout():
    steps = [Step(0, {}), Step(1, {"x": "[ 1 , 2 ]", "s": "ab"}, "hi\nthere")]
    assert segments(steps) == [
        "<line> <0> <state> </state>",
        "<output> hi\\nthere",
        "<line> <1> <state> x : [ 1 , 2 ] <dictsep> s : ab </state>",
    ]
    assert segments([Step(None, {"x": "1"})]) == ["<state> x : 1 </state>"]
    assert len(SPECIAL_TOKENS) == len(set(SPECIAL_TOKENS)) == 211


@pytest.mark.parametrize("text", ["</state>", "a <dictsep> b", "<12>", "<output>"])
def test_text_that_would_forge_a_trace_is_refused(text):
    with pytest.raises(ValueError, match="tag"):
        encode_trace([Step(0, {"x": text})])
    with pytest.raises(ValueError, match="tag"):
        encode_trace([Step(0, {}, text)])


@pytest.mark.parametrize(
    "text", ["<line> <0> <state> x : 1", "x", "<output> a", "<output> a <output> b <line> <0> <state> </state>"]
)  # fmt: skip
def test_text_that_is_no_trace_is_refused(text):
    with pytest.raises(ValueError, match="not a trace"):
        decode_trace(text)


def test_source_has_a_marker_a_line_and_its_blocks():
    code = "for i in range(2):\n    if i != 1:\n        print(f'{i} a', 1.5e-3)\n\n# no\nx **= -2\n"
    tokens = "<0> for i in range ( 2 ) : <1> <indent> if i != 1 : <2> <indent> print ("
    expected = [*tokens.split(), "f'{i} a'", ",", "1.5e-3", ")"]
    expected += ["<5>", "<dedent>", "<dedent>", "x", "**=", "-", "2"]
    assert tokenize(code) == expected
    record = {"source_set": "tutorial", "code_tokens": ["<0>", "x"]}
    assert source_text(record) == "<tutorial> <0> x"


def test_lines_inside_brackets_open_no_block():
    assert "<indent>" not in tokenize("x = [1,\n     2]\ny = 3 + \\\n    4\n")
    assert tokenize("s = '''a\n b'''\nt = 1")[-4:] == ["<2>", "t", "=", "1"]
