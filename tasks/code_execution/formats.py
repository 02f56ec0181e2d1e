"""The text of programs and traces, as CodeExecutor reads and writes them (Liu et al. 2023, arXiv 2305.05383).

A program, `code_tokens` joined by single spaces behind the token of its set (DOMAINS):

    <tutorial> <0> for i in range ( 2 ) : <1> <indent> print ( i ) <2> <dedent> s = 'ab'

`<i>` opens physical line i, counted from 0; `<indent>` and `<dedent>` follow it where a block opens
or closes. A trace, one string a segment in `trace`, joined by single spaces:

    <output> 0 <line> <1> <state> i : 0 </state> ... <line> <2> <state> i : 1 <dictsep> s : ab </state>

A segment is a line that has run and the whole table of visible names after it; what the line printed
stands before it (the published metric drops an `<output>` that ends a trace). A record of the set
SingleLine holds the final table alone: `<state> ... </state>`.

Conventions where the paper is silent, ours and frozen: a line is reported when it completes, so the
caller's line follows the callee's; strings have no quotes, containers have spaces inside brackets and
around commas; outer white space of an output is cut; in names, values and outputs a backslash, a
newline, a tab and a carriage return are written as two characters, so that a trace is one line of text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

SETS = ("singleline", "tutorial", "codenet")
DOMAINS = {name: f"<{name}>" for name in SETS}
MAX_LINES = 200  # <0> .. <199>
SPECIAL_TOKENS = (
    *("<line>", "<state>", "</state>", "<dictsep>", "<output>", "<function>"),
    *DOMAINS.values(),
    *("<indent>", "<dedent>"),
    *(f"<{i}>" for i in range(MAX_LINES)),
)

COLUMNS: dict[str, str | list[str]] = {
    "id": "string",  # of the record, the same in every build from the same recipe
    "source_set": "string",  # one of SETS
    "source_id": "string",  # the program that it was made from; all of one source are in one split
    "problem_id": "string",  # what the source solves; the source itself where nothing is known
    "operator": "string",  # the mutation operator that made it; "" for the program as it was found
    "code": "string",
    "original_code": "string",  # the source before inputs and constants were substituted
    "code_tokens": ["string"],
    "trace": ["string"],  # segments
    "trace_tokens": ["string"],
    "steps": "int32",  # executed lines
    "difficulty": "float32",  # 0 .. 1 within its set, see tasks.code_execution.datasets.difficulty
    "hard": "bool",  # of the hard subset of SingleLine
}

_TAGS = re.compile(r"</?(?:line|state|dictsep|output|mask0|indent|dedent|s|singleline|tutorial|codenet|\d+)>")  # fmt: skip
_SEGMENT = re.compile(
    r"<output> (?P<output>.*?)(?= <line> | <state> |$)"
    r"|(?:<line> <(?P<line>\d+)> )?<state> (?P<state>.*?)</state>"
)
_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_UNESCAPES = {text: char for char, text in _ESCAPES.items()}


class Step(NamedTuple):
    """One executed line.

    line: physical line of the source, from 0; None in SingleLine, whose trace is one table.
    state: name -> text of its value, after the line.
    output: what it printed, outer white space cut; "" for nothing.
    """

    line: int | None
    state: dict[str, str]
    output: str = ""


def segments(steps: Iterable[Step]) -> list[str]:
    """The entries of a record's `trace`. Raises ValueError for text that could not be read back."""
    found = []
    for step in steps:
        if step.output:
            if step.output != step.output.strip():
                raise ValueError(f"an output has outer white space: {step.output!r}")
            found.append(f"<output> {_escaped(step.output)}")
        where = "" if step.line is None else f"<line> <{step.line}> "
        found.append(f"{where}<state> {_table(step.state)}</state>")
    return found


def encode_trace(steps: Iterable[Step]) -> str:
    """The text of a trace. Raises ValueError for text that could not be read back (has_tags)."""
    return " ".join(segments(steps))


def decode_trace(text: str) -> list[Step]:
    """The steps of a trace's text, the inverse of `encode_trace`.

    Raises ValueError where the text is no whole trace; see tasks.code_execution.metrics for reading
    what a model wrote.
    """
    steps: list[Step] = []
    output, at = "", 0
    while at < len(text):
        match = _SEGMENT.match(text, at)
        if match is None or (match["output"] is not None and output):
            raise ValueError(f"not a trace: {text[at : at + 40]!r} at character {at}")
        if match["output"] is not None:
            output = _unescaped(match["output"])
        else:
            line = None if match["line"] is None else int(match["line"])
            steps.append(Step(line, _pairs(match["state"]), output))
            output = ""
        at = match.end() + 1  # the space between segments
    if output:
        raise ValueError("not a trace: it ends with an output that belongs to no line")
    return steps


def has_tags(text: str) -> bool:
    """Whether text holds one of the format's own tags, and so cannot be part of a value or output."""
    return "<" in text and _TAGS.search(text) is not None


def trace_text(record: Mapping[str, Sequence[str]]) -> str:
    """The trace of a record, in one piece."""
    return " ".join(record["trace"])


def source_text(record: Mapping[str, str | Sequence[str]]) -> str:
    """The model's source: the token of the set, then the code's tokens."""
    domain = DOMAINS[str(record["source_set"])]
    return " ".join([domain, *record["code_tokens"]])


def trace_tokens(trace: Sequence[str]) -> list[str]:
    """The words of a trace."""
    return " ".join(trace).split()


def _table(state: Mapping[str, str]) -> str:
    pairs = []
    for name, value in state.items():
        if not name.isidentifier():
            raise ValueError(f"not a name: {name!r}")
        pairs.append(f"{name} : {_escaped(value)}")
    return " <dictsep> ".join(pairs) + " " if pairs else ""


def _pairs(text: str) -> dict[str, str]:
    pairs = {}
    for pair in text[:-1].split(" <dictsep> ") if text else []:
        name, colon, value = pair.partition(" : ")
        if not colon:
            raise ValueError(f"not a trace: no value in {pair!r}")
        pairs[name] = _unescaped(value)
    return pairs


def _escaped(text: str) -> str:
    if has_tags(text):
        raise ValueError(f"text with a tag of the format in it: {text!r}")
    return re.sub(r"[\\\n\t\r]", lambda m: _ESCAPES[m[0]], text)


def _unescaped(text: str) -> str:
    if has_tags(text):
        raise ValueError(f"not a trace: a tag inside {text!r}")
    return re.sub(r"\\[\\ntr]", lambda m: _UNESCAPES[m[0]], text)
