"""The tracer: what a line is, what its state is, and that both are the same everywhere."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.code_execution.datasets import singleline, tutorial
from tasks.code_execution.formats import Step, decode_trace, encode_trace
from tasks.code_execution.sandbox import Result
from tasks.code_execution.trace import Refusal, Tracer, answer
from tasks.code_execution.tracer import record
from tasks.code_execution.tracer_gate import Refused

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone")


def lines(code: str) -> list[int]:
    return [step[0] for step in record(code)]


def state(code: str) -> dict[str, str]:
    return record(code)[-1][1]


def test_a_line_is_reported_when_it_completes_with_the_state_after_it():
    steps = record("x = 1\nfor i in range(2):\n    x += i\nprint(x)\n")
    assert [s[0] for s in steps] == [0, 1, 2, 1, 2, 1, 3]
    assert steps[2] == (2, {"x": "1", "i": "0"}, "")
    assert steps[-1] == (3, {"x": "2", "i": "1"}, "2")


def test_lines_of_a_call_come_before_the_line_that_calls():
    steps = record("def f(n):\n    m = n * 2\n    return m\nx = f(3)\n")
    assert [(s[0], s[1]) for s in steps] == [
        (0, {}),
        (1, {"n": "3", "m": "6"}),
        (2, {"n": "3", "m": "6"}),
        (3, {"x": "6"}),
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1\nif x > 2:\n    y = 1\nelif x > 0:\n    y = 2\nelse:\n    y = 3\n", [0, 1, 3, 4]),
        ("n = 2\nwhile n:\n    n -= 1\nelse:\n    m = 0\n", [0, 1, 2, 1, 2, 1, 4]),
        ("while True:\n    break\n", [0, 1]),
        ("for i in []:\n    pass\nx = 1\n", [0, 2]),
        ("for i in [1, 2]:\n    if i == 1:\n        continue\n    x = i\n", [0, 1, 2, 0, 1, 3, 0]),
        ("x = [\n    1,\n    2,\n]\ny = 1\n", [0, 4]),
        ("x = 1; y = 2\nz = 3\n", [0, 1]),
        ("class A:\n    k = 1\n    def f(self):\n        return 1\nx = A().f()\n", [0, 3, 4]),
        ("s = sum(i for i in range(3))\nt = [j for j in range(2)]\n", [0, 1]),
        ("f = lambda x: x\ny = f(2)\n", [0, 1]),
        ("'''doc'''\nx = 1\n", [1]),
        ("match 3:\n    case 1:\n        x = 1\n    case y:\n        x = y\n", [0, 3, 4]),
        (
            "def g():\n    yield 1\n    yield 2\nfor v in g():\n    w = v\n",
            [0, 3, 4, 1, 3, 4, 2, 3],
        ),
        ("try:\n    x = int('a')\nexcept ValueError:\n    x = 0\nelse:\n    x = 1\n", [0, 1, 2, 3]),
        (
            "def f(x):\n    return 1 // x\ndef g():\n    return f(0)\ntry:\n    g()\nexcept (\n"
            "    ZeroDivisionError\n):\n    y = 1\nfinally:\n    z = 2\n",
            [0, 2, 4, 1, 3, 5, 6, 9, 11],
        ),
        (
            "def f():\n    try:\n        return 1\n    finally:\n        x = 2\ny = f()\n",
            [0, 1, 2, 4, 5],
        ),
    ],
)
def test_which_lines_run(code, expected):
    assert lines(code) == expected


def test_an_interpreter_says_the_same_where_its_own_events_are_clear():
    """Against sys.settrace, on programs without the constructs whose events depend on the version."""
    draw = random.Random(7)
    compared = 0
    while compared < 60:
        code = tutorial.composed(draw)
        if "while" in code and "True" in code:
            continue
        try:
            ours = record(code)
        except Refused:
            continue
        assert [s[:2] for s in by_settrace(code)] == [(s[0], s[1]) for s in ours], code
        compared += 1


def by_settrace(code: str) -> list[tuple[int, dict[str, str]]]:
    """A plain tracer: a line is complete at the next event of its frame."""
    from tasks.code_execution.tracer_render import table

    steps: list[tuple[int, dict[str, str]]] = []
    pending: dict[object, int] = {}

    def report(frame):
        if frame in pending:
            shown = {k: v for k, v in frame.f_locals.items() if k[:2] != "__"}
            steps.append((pending.pop(frame), table(shown.items())))

    def trace(frame, event, argument):
        if frame.f_code.co_filename != "<other>" or frame.f_code.co_name in (
            "<lambda>",
            "<listcomp>",
        ):
            return None
        if event in ("line", "return"):
            report(frame)
        if event == "line":
            pending[frame] = frame.f_lineno - 1
        return trace

    names = {"__name__": "__main__", "print": lambda *a: None}
    compiled = compile(code, "<other>", "exec")
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        exec(compiled, names)
    finally:
        sys.settrace(before)
    return [(line, {k: v for k, v in shown.items() if k != "print"}) for line, shown in steps]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("3", "3"),
        ("-2.5", "-2.5"),
        ("'a b'", "a b"),
        ("[1, 'a', [2]]", "[ 1 , a , [ 2 ] ]"),
        ("(1,)", "( 1 , )"),
        ("()", "( )"),
        ("{'k': 1, 2: [3]}", "{ k : 1 , 2 : [ 3 ] }"),
        ("{30, 4}", "{ 4 , 30 }"),
        ("set()", "set ( )"),
        ("[len, 1]", "[ <function> , 1 ]"),
        ("range(1, 9, 2)", "range ( 1 , 9 , 2 )"),
        ("None", "None"),
        ("True", "True"),
        ("2 ** 200", str(2**200)),
        ("b'a'", "b'a'"),
    ],
)
def test_values(value, text):
    assert state(f"x = {value}") == {"x": text}


def test_what_looks_the_same_as_before_is_told_apart():
    """Tables are kept as changes: 1, True and 1.0 are equal, and a list is one while it changes."""
    code = "x = 1\ny = [1]\nx = True\ny[0] = 1.0\nx = 1.0\ny[0] = True\ny.append(y[0])\nz = y\nz[0] = 2"
    assert [step[1] for step in record(code)] == [
        {"x": "1"},
        {"x": "1", "y": "[ 1 ]"},
        {"x": "True", "y": "[ 1 ]"},
        {"x": "True", "y": "[ 1.0 ]"},
        {"x": "1.0", "y": "[ 1.0 ]"},
        {"x": "1.0", "y": "[ True ]"},
        {"x": "1.0", "y": "[ True , True ]"},
        {"x": "1.0", "y": "[ True , True ]", "z": "[ True , True ]"},
        {"x": "1.0", "y": "[ 2 , True ]", "z": "[ 2 , True ]"},
    ]


def test_names_that_come_and_go_stand_in_the_order_in_which_they_were_bound():
    code = "x = 1\ny = 2\ndel x; x = 3\ndef y(): pass\ny = 4\ndel x\ny = 5"
    assert [list(step[1].items()) for step in record(code)] == [
        [("x", "1")],
        [("x", "1"), ("y", "2")],
        [("y", "2"), ("x", "3")],
        [("x", "3")],
        [("y", "4"), ("x", "3")],
        [("y", "4")],
        [("y", "5")],
    ]


def test_functions_modules_and_iterators_are_left_out_of_tables():
    code = "import math\ndef f(): pass\nclass A: pass\ng = iter([1])\nh = len\ni = 1\n"
    assert state(code) == {"i": "1"}


def test_classes_of_the_program_are_shown_by_their_attributes_not_by_their_code():
    code = """
class Point:
    def __init__(self, x):
        self.x = x
    def __repr__(self):
        return 'forged'
    def __eq__(self, other):
        return True
    def __hash__(self):
        return 0
p = Point([1])
"""
    assert state(code) == {"p": "Point ( x : [ 1 ] )"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def(", "it does not parse"),
        ("x = 1 / 0", "it ends with ZeroDivisionError"),
        ("import os", "it imports another module"),
        ("open('x')", "it uses open"),
        ("x = input()", "it uses input"),
        ("x = ().__class__", "it uses a name with two underscores"),
        ("x = id(1)", "it uses id"),
        ("while True:\n    pass", "it runs too many lines"),
        ("while True:\n    try:\n        x = 1\n    except BaseException:\n        x = 2", "it runs too many lines"),
        ("def f(n):\n    return f(n + 1)\nf(0)", "it ends with RecursionError"),
        ("x = 2 ** 300", "a number is too long"),
        ("x = 'a' * 2000", "a value is too long"),
        ("x = []\nx.append(x)", "a value is nested too deep"),
        ("x = '<line> <3>'", "a tag of the trace in its text"),
        ("print('</state>')", "a tag of the trace in its text"),
        ("class A: pass\nprint(A())", "an address in its text"),
        ("class A(list): pass\nx = A()", "an instance of a class that extends a built-in"),
        ("for i in range(99):\n    print('x' * 100)", "it prints too much"),
        ("async def f(): pass", "it uses async"),
        ("x = 99999999999999999999", "it holds a huge number"),
        ("", "it has no statements"),
        ("x = '" + "a" * 30_000 + "'", "the program is too long"),
        ("x = " + "(" * 300 + ")" * 300, "it does not parse"),
    ],
)  # fmt: skip
def test_what_is_not_admitted_is_refused_with_its_reason(code, reason):
    with pytest.raises(Refused, match=reason):
        record(code)


def test_a_thousand_programs_trace_alike_twice_and_read_back():
    draw = random.Random(0)
    codes = [singleline.program(draw) for _ in range(600)]
    codes += [tutorial.variant(tutorial.source(draw, 0.3), draw) for _ in range(400)]
    batches = [codes[i : i + 100] for i in range(0, len(codes), 100)]
    with Tracer() as first, Tracer(hash_seed=1) as second:
        once = [steps for batch in batches for steps in first.trace_all(batch)]
        twice = [steps for batch in batches for steps in second.trace_all(batch)]
    assert once == twice
    good = [steps for steps in once if not isinstance(steps, Refusal)]
    assert len(good) > 900
    for steps in good:
        assert decode_trace(encode_trace(steps)) == steps


PROGRAM = """
def f(n):
    total = 0
    for i in range(n):
        total += i
    return [total for _ in range(2)]
class A:
    def __init__(self):
        self.v = {'a': {1, 2}}
x = f(3)
a = A()
while True:
    try:
        y = x[5]
    except IndexError as e:
        break
with_comprehension = {k: v for k, v in zip('ab', x)}
print(with_comprehension)
"""


def test_every_python_here_gives_the_same_trace():
    """Tables and lines may not depend on the version: comprehensions, locals, `while True`."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tasks.code_execution.tracer import record\n"
        "import json; print(json.dumps(record(sys.stdin.read())))"
    )
    expected = json.loads(json.dumps(record(PROGRAM)))
    for python in pythons():
        done = subprocess.run(
            [python, "-B", "-c", code], input=PROGRAM, capture_output=True, text=True
        )
        assert json.loads(done.stdout or "null") == expected, f"{python}: {done.stderr}"


def pythons() -> list[str]:
    """This interpreter and the others that are installed beside it or on the usual paths."""
    here = Path(sys.base_prefix)
    beside = here.parent.glob("3.1[123].*/bin/python3.1[123]")
    usual = (Path(f"/usr/{p}/python3.{n}") for p in ("bin", "local/bin") for n in (11, 12, 13))
    return [sys.executable, *(str(p) for p in (*beside, *usual) if p.is_file())]


def command(path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tasks.code_execution.trace", str(path), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_command_prints_json_lines_of_the_file_s_own_lines(tmp_path):
    path = tmp_path / "p.py"
    path.write_text("# a comment\n\nx = [1,\n     2]\n\nprint(len(x))\nprint('a\\nb')\n")
    done = command(path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"line": 2, "state": {"x": "[ 1 , 2 ]"}, "output": ""},
        {"line": 5, "state": {"x": "[ 1 , 2 ]"}, "output": "2"},
        {"line": 6, "state": {"x": "[ 1 , 2 ]"}, "output": "a\nb"},
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"x = (", "it does not parse"),
        (b"\xff\xfe\x00\x01", "it is no text"),
        (b"x = 10 ** 10 ** 9", "it takes too much time"),
        (b"import os\nos.remove('x')", "it imports another module"),
    ],
)
def test_command_says_why_there_is_no_trace(tmp_path, content, reason):
    path = tmp_path / "p.py"
    path.write_bytes(content)
    done = command(path, "--cpu-seconds", "0.2")
    assert done.returncode == 1
    assert done.stdout == ""
    assert reason in done.stderr and len(done.stderr.splitlines()) == 1


def test_command_on_a_missing_file(tmp_path):
    done = command(tmp_path / "no.py")
    assert done.returncode == 2 and "no.py" in done.stderr


@pytest.mark.parametrize("forged", [b"1", b"[1]", b"[[0, 0, 1, 2]]", b"{", b"[" * 10**5, b"\xff"])
def test_a_result_that_is_no_trace_is_refused(forged):
    """A program that found its secret can write anything; the build goes on."""
    assert answer(Result(forged, None)) == Refusal("it forges its result")


def test_steps_are_those_of_the_formats():
    with Tracer() as tracer:
        assert tracer.trace("x = 1") == [Step(0, {"x": "1"}, "")]
        assert tracer.trace("x = [0] * 10 ** 10") == Refusal("it ends with MemoryError")
