"""Programs to be mutated: where they come from, and the form that all of them are brought into.

    (nothing given)       the problems that come with the project
    FILE.jsonl[.gz]       MBPP (code, test_list) or HumanEval (prompt, canonical_solution, test, entry_point)
    FOLDER, FILE.py       scripts; what NAME.py reads stands in NAME.in beside it

A function and one of its assertions give a closed program that prints the function's value. Whatever
cannot be used is counted by its reason, never an error.
"""

import ast
import gzip
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.code_execution.datasets.inputs import CannotSubstitute, substitute
from tasks.code_execution.datasets.problems import problems
from tasks.code_execution.formats import MAX_LINES
from tasks.code_execution.trace import Refusal, read_program
from tasks.code_execution.tracer_gate import MAX_SOURCE
from tasks.errors import UserError

_MAX_TESTS = 3  # programs made of one function, each with another of its assertions


@dataclass(frozen=True)
class Source:
    """A closed program.

    problem: sources of one problem are kept in one split.
    original: the program as it was found, before its input was put in.
    """

    id: str
    problem: str
    code: str
    original: str


class Unusable(Exception):
    """Why a program cannot be a source."""


def collect(paths: Sequence[str]) -> tuple[list[Source], dict[str, int]]:
    """Sources of all paths in a fixed order, and the number left out by reason.

    Raises UserError for a path that is not there, or gives nothing.
    """
    sources: dict[str, Source] = {}
    left_out: Counter[str] = Counter()
    for path in paths or [""]:
        before = len(sources)
        for found in _read(path):
            if isinstance(found, Source):
                sources.setdefault(found.code, found)
            else:
                left_out[found] += 1
        if len(sources) == before:
            reasons = "; ".join(f"{n}: {reason}" for reason, n in left_out.most_common(3))
            raise UserError(
                f"data: no program in {path or 'the project'} can be used"
                + (f" ({reasons})" if reasons else "; give a folder of .py files or a .jsonl file")
            )
    return list(sources.values()), dict(sorted(left_out.items()))


def normalise(code: str) -> str:
    """One statement a line, no comments, docstrings or annotations. Raises Unusable."""
    if len(code) > MAX_SOURCE:
        raise Unusable("the program is too long")
    try:
        tree = _Plain().visit(ast.parse(code))
        text = ast.unparse(ast.fix_missing_locations(tree))
    except (SyntaxError, ValueError):
        raise Unusable("it does not parse") from None
    except (RecursionError, MemoryError):
        raise Unusable("it is nested too deep") from None
    if text.count("\n") >= MAX_LINES:
        raise Unusable("it has too many lines")
    if not text:
        raise Unusable("it has no statements")
    return text


class _Plain(ast.NodeTransformer):
    """Takes away what does not run."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.body(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self.body(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self.body(node, empty=True)

    def body(self, node: Any, empty: bool = False) -> ast.AST:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        if not node.body and not empty:
            node.body = [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return ast.copy_location(ast.Pass(), node)
        return ast.copy_location(ast.Assign([node.target], self.visit(node.value)), node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "typing" else node


def _read(path: str) -> Iterator[Source | str]:
    """Sources, and reasons for what is none."""
    if not path:
        yield from _problems()
        return
    found = Path(path).expanduser()
    if found.is_dir():
        scripts = sorted(p for p in found.rglob("*.py") if p.is_file())
        for script in scripts:
            yield _script(script, script.relative_to(found))
    elif found.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _tasks(found)
    elif found.is_file():
        yield _script(found, Path(found.name))
    else:
        raise UserError(f"data: {path}: no such file or folder")


def _problems() -> Iterator[Source | str]:
    for problem in problems():
        for number, solution in enumerate(problem.solutions):
            yield _source(f"{problem.name}/{number}", problem.name, solution, problem.stdin)


def _script(path: Path, name: Path) -> Source | str:
    code = read_program(path)
    if isinstance(code, Refusal):
        return code.reason
    beside = path.with_suffix(".in")
    stdin = beside.read_text(errors="replace").strip("\n") if beside.is_file() else ""
    problem = str(name.parent) if len(name.parts) > 1 else name.stem
    return _source(str(name), problem, code, stdin)


def _source(name: str, problem: str, code: str, stdin: str = "") -> Source | str:
    try:
        original = normalise(code)
        return Source(name, problem, normalise(substitute(original, stdin)), original)
    except (Unusable, CannotSubstitute) as reason:
        return str(reason)


def _tasks(path: Path) -> Iterator[Source | str]:
    if not path.is_file():
        raise UserError(f"data: {path}: no such file or folder")
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                task = json.loads(line)
                name, code, tests = _function(task)
            except (ValueError, KeyError, TypeError, SyntaxError, RecursionError):
                raise UserError(
                    f"data: {path}, line {number}: neither an MBPP task (task_id, code, test_list) "
                    "nor a HumanEval one (task_id, prompt, canonical_solution, test, entry_point)"
                ) from None
            if not tests:
                yield "it has no assertion that calls the function"
            for i, test in enumerate(tests[:_MAX_TESTS]):
                yield _source(f"{name}/{i}", name, f"{code}\nprint({test})\n")


def _function(task: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Name, code, and the calls that its assertions make."""
    if "test_list" in task:
        code = task["code"].replace("\r\n", "\n")
        tests = "\n".join([task.get("test_setup_code") or "", *task["test_list"]])
        return f"mbpp/{task['task_id']}", code, _calls(tests, None, None)
    code = task["prompt"] + task["canonical_solution"]
    return task["task_id"], code, _calls(task["test"], "candidate", task["entry_point"])


def _calls(tests: str, name: str | None, instead: str | None) -> list[str]:
    """The left sides of `assert f(...) == ...`, with the function's name put in place of another."""
    found = []
    for node in ast.walk(ast.parse(tests.replace("\r\n", "\n"))):
        match node:
            case ast.Assert(ast.Compare(ast.Call(ast.Name() as function) as call, [ast.Eq()])):
                if name is None or function.id == name:
                    function.id = instead or function.id
                    found.append(ast.unparse(call))
    return found
