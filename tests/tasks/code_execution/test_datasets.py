"""The data sets: what is asked comes, whatever lies in the folder and however often work is cut off."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.code_execution.datasets import Programs, load, read_released
from tasks.code_execution.datasets.difficulty import ranks, score
from tasks.code_execution.datasets.inputs import CannotSubstitute, substitute
from tasks.code_execution.datasets.lessons import lessons
from tasks.code_execution.datasets.problems import problems
from tasks.code_execution.datasets.sources import collect
from tasks.code_execution.datasets.splits import split_all, split_of
from tasks.code_execution.formats import COLUMNS, Step, decode_trace, trace_text
from tasks.code_execution.trace import Refusal, Tracer
from tasks.errors import UserError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone")
SIZES = {"singleline": 500, "tutorial": 300, "codenet": 250}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(cache) -> Programs:
    programs = Programs(**SIZES, workers=2, cache_dir=cache)
    programs.build()
    return programs


def content(folder: Path) -> dict[str, str]:
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".json")]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def everything(programs: Programs, name: str) -> list[dict]:
    return [r for split in ("train", "val", "test") for r in programs.read(name, split)]


# ---- what is built


@pytest.mark.parametrize("name", SIZES)
def test_as_many_programs_as_asked_each_once(built, name):
    records = everything(built, name)
    assert len(records) == SIZES[name]
    assert len({r["code"] for r in records}) == len({r["id"] for r in records}) == SIZES[name]
    assert set(records[0]) == set(COLUMNS)
    assert {r["source_set"] for r in records} == {name}


@pytest.mark.parametrize("name", SIZES)
def test_every_trace_is_that_of_its_program(built, name):
    """Traced once more, alone, in another interpreter: a wrong label would be learnt as truth."""
    records = random.Random(0).sample(everything(built, name), 12)
    with Tracer() as tracer:
        for record in records:
            steps = tracer.trace(record["code"])
            assert not isinstance(steps, Refusal)
            expected = [Step(None, steps[-1].state)] if name == "singleline" else steps
            assert decode_trace(trace_text(record)) == expected
            assert record["trace_tokens"] == trace_text(record).split()
            assert record["code_tokens"][0] == "<0>"


@pytest.mark.parametrize("name", SIZES)
def test_no_source_is_in_two_splits(built, name):
    """Mutants of a training program in the test set would be an examination with the answers."""
    of = {s: {r["problem_id"] for r in built.read(name, s)} for s in ("train", "val", "test")}
    assert all(of.values())
    assert (
        not of["train"] & of["test"] and not of["train"] & of["val"] and not of["val"] & of["test"]
    )


def test_variants_of_one_source_have_different_traces(built):
    for name in ("tutorial", "codenet"):
        pairs = Counter((r["source_id"], trace_text(r)) for r in everything(built, name))
        assert max(pairs.values()) == 1


def test_hard_programs_are_a_third_of_singleline_and_longer_to_write(built):
    records = everything(built, "singleline")
    hard = [r for r in records if r["hard"]]
    assert 0.28 < len(hard) / len(records) < 0.38
    easy = [r for r in records if r["difficulty"] < 1 / 3]

    def length(some: list[dict]) -> float:
        return sum(len(r["trace_tokens"]) for r in some) / len(some)

    assert length(hard) > 1.3 * length(easy)
    assert not any(r["hard"] for r in everything(built, "tutorial"))


def test_manifest_counts_everything(built):
    manifest = built.manifest()
    for name, size in SIZES.items():
        about = manifest["sets"][name]
        assert about["made"] == about["wanted"] == sum(about["splits"].values()) == size
        assert sum(about["operators"].values()) == size
        assert about["candidates"] >= size + sum(about["refused"].values()) - 512 * about["shards"]
    assert len([o for o in manifest["sets"]["codenet"]["operators"] if "+" not in o]) >= 8
    assert {"rlimits", "identity"} <= set(manifest["sandbox"]["active"])
    assert manifest["sandbox"]["python"].count(".") == 2


def test_datasets_library_reads_a_split(built):
    found = load("codenet", "test", folder=built.build())
    assert len(found) == built.manifest()["sets"]["codenet"]["splits"]["test"]
    assert found[0] == next(built.read("codenet", "test"))
    with pytest.raises(UserError, match="no data set of this name"):
        load("codenets", "test", folder=built.build())


# ---- however it is built


def test_a_build_that_is_killed_again_and_again_ends_in_the_same_data(built, tmp_path):
    """Whatever the number of workers, and without doing finished work again."""
    code = (
        "from tasks.code_execution.datasets import Programs\n"
        f"Programs(**{SIZES}, workers=1, cache_dir={str(tmp_path)!r}).build()"
    )
    for wanted in (1, 2):  # whole shards that are there when the kill comes
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while process.poll() is None and len(whole(tmp_path / "programs_shards")) < wanted:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {path: os.stat(path).st_mtime_ns for path in whole(tmp_path / "programs_shards")}
    assert before
    again = Programs(**SIZES, workers=1, cache_dir=tmp_path)
    assert content(again.build()) == content(built.build())
    assert {path: os.stat(path).st_mtime_ns for path in before} == before, "work was done again"


def whole(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if p.is_dir() and not p.name.endswith(".partial")]


def test_a_larger_set_holds_the_smaller_one_and_another_seed_another(built, cache):
    larger = Programs(singleline=700, tutorial=0, codenet=0, workers=1, cache_dir=cache)
    codes = [r["code"] for r in everything(larger, "singleline")]
    assert {r["code"] for r in everything(built, "singleline")} < set(codes)
    other = Programs(singleline=100, tutorial=0, codenet=0, seed=1, workers=1, cache_dir=cache)
    assert not {r["code"] for r in everything(other, "singleline")} & set(codes)
    assert list(larger.read("tutorial", "train")) == []


# ---- what lies in the folder


@pytest.fixture
def scripts(tmp_path) -> Path:
    folder = tmp_path / "scripts"
    (folder / "sum").mkdir(parents=True)
    (folder / "sum" / "a.py").write_text("n = int(input())\nprint(sum(range(n)))\n")
    (folder / "sum" / "a.in").write_text("4\n")
    (folder / "good.py").write_text("x = [3, 1]\nfor v in x:\n    print(v + 1)\n")
    (folder / "words.py").write_text("w = 'abc'\nprint(w[::-1], len(w))\n")
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "binary.py").write_bytes(bytes(range(256)))
    (folder / "endless.py").write_text("while True:\n    pass\n")
    (folder / "endless_in_c.py").write_text("import itertools\nx = sum(itertools.count())\n")
    (folder / "reads.py").write_text("for i in range(2):\n    x = input()\n")
    (folder / "harmful.py").write_text("import os\nos.remove('x')\n")
    with (folder / "literal.py").open("wb") as file:  # 1 GB, sparse
        file.write(b"x = '")
        file.truncate(10**9)
    return folder


def test_what_cannot_be_used_is_counted_and_skipped(scripts, tmp_path):
    sources, left_out = collect([str(scripts)])
    assert left_out == {
        "it does not parse": 1,
        "it is no text": 1,
        "it reads in a loop or a function": 1,
        "the program is too long": 1,
    }
    assert {s.id for s in sources} >= {"good.py", "words.py", "sum/a.py", "endless.py"}
    assert next(s.code for s in sources if s.id == "sum/a.py").startswith("n = 4\n")
    programs = Programs(
        singleline=0, tutorial=0, codenet=20, paths=[str(scripts)], variants=4, workers=1,
        cache_dir=tmp_path / "cache",
    )  # fmt: skip
    manifest = programs.manifest()
    assert manifest["sources"]["used"] == 3
    assert manifest["sources"]["left_out"] == left_out | {
        "it runs too many lines": 1,
        "it takes too much time": 1,
        "it imports another module": 1,
    }
    assert manifest["sets"]["codenet"]["made"] == 20
    used = {r["source_id"] for r in everything(programs, "codenet")}
    assert used == {"good.py", "words.py", "sum/a.py"}


def test_a_path_without_programs_is_one_clear_line(tmp_path):
    for path, line in (
        (tmp_path / "none", "no such file or folder"),
        (tmp_path, "no program in"),
    ):
        with pytest.raises(UserError, match=line):
            collect([str(path)])
    (tmp_path / "loop.py").write_text("while True:\n    pass\n")
    alone = Programs(singleline=0, tutorial=0, paths=[str(tmp_path)], cache_dir=tmp_path / "c")
    with pytest.raises(UserError, match="none of the 1 programs has a trace"):
        alone.build()
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="line 1: neither an MBPP task"):
        collect([str(tmp_path / "x.jsonl")])


def test_tasks_of_mbpp_and_humaneval_become_closed_programs(tmp_path):
    mbpp = {
        "task_id": 2,
        "code": "def twice(x: int):\r\n    # a comment\r\n    return x * 2",
        "test_list": ["assert twice(3) == 6", "assert twice('a') == 'aa'"],
    }
    humaneval = {
        "task_id": "HumanEval/0",
        "prompt": 'from typing import List\n\n\ndef half(x: List[int]) -> int:\n    """Half."""\n',
        "canonical_solution": "    return x[0] // 2\n",
        "test": "def check(candidate):\n    assert candidate([8]) == 4\n",
        "entry_point": "half",
    }
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(mbpp) + "\n" + json.dumps(humaneval) + "\n")
    sources, _ = collect([str(path)])
    assert [s.code for s in sources] == [
        "def twice(x):\n    return x * 2\nprint(twice(3))",
        "def twice(x):\n    return x * 2\nprint(twice('a'))",
        "def half(x):\n    return x[0] // 2\nprint(half([8]))",
    ]
    assert [s.problem for s in sources] == ["mbpp/2", "mbpp/2", "HumanEval/0"]


@pytest.mark.parametrize(
    ("code", "stdin", "expected"),
    [
        ("a = list(input())", "ab", "a = ['a', 'b']"),
        ("a, b = map(int, input().split())", "3 4", "a, b = [3, 4]"),
        ("a = [int(w) for w in input().split()]", "1 2", "a = [1, 2]"),
        ("n = int(input())\nw = input().strip()", "5\n hi ", "n = 5\nw = 'hi'"),
        ("for c in input():\n    print(c)", "ab", "for c in 'ab':\n    print(c)"),
        ("print(input()[::-1])", "ab", "print('ab'[::-1])"),
        ("a = input().split(',')", "1,2", "a = ['1', '2']"),
        ("x = 1", "", "x = 1"),
    ],
)
def test_input_becomes_a_literal(code, stdin, expected):
    assert substitute(code, stdin) == expected


@pytest.mark.parametrize(
    "code",
    ["while True:\n    x = input()", "def f():\n    return input()", "int(input())\nint(input())"],
)
def test_input_that_cannot_be_one_literal_is_refused(code):
    with pytest.raises(CannotSubstitute):
        substitute(code, "1")


def test_the_project_s_own_programs_all_run():
    """One that raises would silently be missing from every build."""
    sources, left_out = collect([])
    assert not left_out
    assert len(sources) == sum(len(problem.solutions) for problem in problems())
    with Tracer() as tracer:
        codes = [source.code for source in sources] + lessons()
        found = [
            steps for i in range(0, len(codes), 50) for steps in tracer.trace_all(codes[i : i + 50])
        ]
        assert not [steps for steps in found if isinstance(steps, Refusal)]
        outputs: dict[str, set[str]] = {}
        for source, steps in zip(sources, found):
            printed = "".join(step.output for step in steps)
            outputs.setdefault(source.problem, set()).add(printed)
    assert {name: found for name, found in outputs.items() if len(found) > 1} == {}


# ---- parts


def test_released_test_files_are_read_as_they_are(built, tmp_path):
    record = {
        "id": 7,
        "code": "x = 1",
        "code_tokens": ["<0>", "x", "=", "1"],
        "trace": ["<line> <0> <state> x : 1 </state>"],
        "trace_tokens": ["<line>", "<0>", "<state>", "x", ":", "1", "</state>"],
    }
    path = tmp_path / "codenetmut_test.json"
    path.write_text(json.dumps(record) + "\n" + json.dumps({**record, "code_tokens": []}) + "\n")
    found = list(read_released(path, source_set="codenet"))
    assert len(found) == 2
    assert {key: found[0][key] for key in record} == record
    assert found[0]["source_set"] == "codenet" and set(COLUMNS) <= set(found[0])
    programs = Programs(
        **SIZES, workers=2, cache_dir=built.cache_dir, released={"codenet": str(path)}
    )
    assert list(programs.read("codenet", "test")) == found
    assert programs.fingerprint() != built.fingerprint()
    path.write_text("no json\n")
    with pytest.raises(UserError, match="line 1: not a record"):
        list(read_released(path, source_set="codenet"))


def test_splits_are_drawn_by_name():
    names = [f"p{i}" for i in range(2000)]
    drawn = Counter(split_of(name, seed=0, val=0.1, test=0.2) for name in names)
    assert abs(drawn["test"] - 400) < 60 and abs(drawn["val"] - 200) < 45
    few = split_all(names[:10], seed=0, val=0.1, test=0.2)
    assert Counter(few.values()) == {"train": 7, "test": 2, "val": 1}
    assert split_all(reversed(names[:10]), seed=0, val=0.1, test=0.2) == few
    assert set(split_all(["a", "b"], seed=0, val=0.1, test=0.2).values()) == {"train"}


def test_difficulty_is_what_cannot_be_copied():
    tokens = ["<0>", "x", "=", "12", "<1>", "y", "=", "x"]
    copy = score(tokens, [Step(None, {"x": "12", "y": "12"})])
    computed = score(tokens, [Step(None, {"x": "12", "y": "144"})])
    assert computed > copy
    assert ranks([5.0, 1.0, 5.0, 9.0]) == [0.5, 0.125, 0.5, 0.875]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("singleline", -1),
        ("variants", 0),
        ("workers", 0),
        ("val_fraction", 0.7),
        ("max_trace_tokens", 0),
    ],
)
def test_settings_are_checked_by_name(tmp_path, setting, value):
    with pytest.raises(ValueError, match=setting):
        Programs(cache_dir=tmp_path, **{setting: value})


def test_the_page_s_snippet_runs(built):
    """As printed, but for its sizes and its cache."""
    page = (ROOT / "tasks" / "code_execution" / "README.md").read_text()
    code = re.search(r"```python\n(from tasks.code_execution.datasets.*?)```", page, re.S)[1]
    sizes = ", ".join(f"{name}={size}" for name, size in SIZES.items())
    printed = "singleline=1_000, tutorial=1_000, codenet=500"
    assert printed in code and 'cache_dir="cache"' in code
    code = code.replace(printed, sizes).replace('"cache"', repr(str(built.cache_dir)))
    scope: dict = {}
    exec(code, scope)
    assert (
        len(scope["tests"]) > 0
        and scope["counts"] == built.manifest()["sets"]["codenet"]["refused"]
    )
