"""A program that reports itself: every statement is followed by a call of the tracer.

    x = f(y)            x = f(y); LINE(0)
    for i in x:         for i in x: LINE(1); ...
                        else: LINE(1)            the test that ends the loop
    return g(x)         return RETURN(g(x), 2, names, LOCALS())

An interpreter's own line events differ from version to version (comprehensions, `while True`, `with`,
`try`, statements of several lines) and an exception inside the callback switches them off for good.
Calls written into the syntax tree are the same everywhere and cannot be switched off. What is
reported:

- a statement when it has completed, a `break`, `continue` or `pass` when it is reached;
- the header of an `if`, `elif`, `while`, `for`, `with`, `match` when it has been evaluated, a loop's
  once more at its end, `case`, `try` and `except` when their body is entered;
- a line that raises, and those that it called, when the exception is caught;
- statements that share a physical line once, the last of them; a statement of several lines at its
  first;
- nothing for `else:`, `finally:`, `global`, docstrings, the bodies of classes, lambdas and
  comprehensions.

The calls go to names that no program can write, since they hold a space.
"""

import ast
from collections.abc import Sequence
from typing import Any, NamedTuple

LINE, RETURN, CAUGHT, LOCALS = " line", " return", " caught", " locals"
HOOKS = frozenset({LINE, RETURN, CAUGHT, LOCALS})
_NAMED = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)
_JUMPS = (ast.Break, ast.Continue, ast.Raise)
_DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
_SILENT = (ast.Global, ast.Nonlocal)
_SCOPES = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
_OWN_NAMES = (*_SCOPES, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BRANCHES = (ast.If, ast.While, ast.For)
_TRIES = (ast.Try, ast.TryStar)
_PLAIN = frozenset({ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Import, ast.ImportFrom})
_NOWHERE: dict[str, Any] = {"lineno": 1, "col_offset": 0, "end_lineno": 1, "end_col_offset": 0}
_LINE, _RETURN, _CAUGHT, _LOCALS = (
    ast.Name(name, ast.Load(), **_NOWHERE) for name in (LINE, RETURN, CAUGHT, LOCALS)
)
_LOCALS_NOW = ast.Call(_LOCALS, [], [], **_NOWHERE)
Body = list[ast.stmt]


class Instrumented(NamedTuple):
    """A tree with calls of the tracer in it, and the names of its functions by their first lines."""

    tree: ast.Module
    names: dict[int, tuple[str, ...]]


def instrument(tree: ast.Module) -> Instrumented:
    """Writes calls of the tracer into a tree, in place."""
    names: dict[int, tuple[str, ...]] = {}
    _Scope(None, names).body(tree.body)
    return Instrumented(tree, names)


def statement_lines(tree: ast.Module) -> dict[int, int]:
    """Physical line -> first line of the innermost statement that it belongs to, both from 0."""
    lines: dict[int, int] = {}
    for node in ast.walk(tree):  # breadth first: inner statements overwrite outer ones
        if isinstance(node, ast.stmt | ast.ExceptHandler):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines[line - 1] = node.lineno - 1
    return lines


class _Scope:
    """The module, or one function: what a report of its lines must carry."""

    def __init__(self, names: tuple[str, ...] | None, known: dict[int, tuple[str, ...]]):
        self.names = names
        self.known = known
        self.extra: list[ast.expr] = []  # of every report; nodes may stand in a tree many times
        if names is not None:
            order: Any = names  # a tuple may be a constant of compiled code
            self.extra = [ast.Constant(order, **_NOWHERE), _LOCALS_NOW]

    def function(self, node: ast.FunctionDef) -> None:
        first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        self.known[first] = names = _names(node)
        _Scope(names, self.known).body(node.body)

    def body(self, body: Body, header: ast.AST | None = None) -> None:
        """Instruments a list of statements; `header` is reported when it is entered."""
        done: Body = []
        if header is not None and body[0].lineno != header.lineno:  # type: ignore[attr-defined]
            done.append(self.report(header))
        for i, node in enumerate(body):
            following = body[i + 1] if i + 1 < len(body) else None
            shared = following is not None and following.lineno == node.lineno
            done += self.statement(node, shared)
        body[:] = done

    def statement(self, node: ast.stmt, shared: bool) -> Body:
        """What stands in its place; `shared`: the next statement reports this line."""
        if type(node) in _PLAIN:
            return [node] if shared else [node, self.report(node)]
        if isinstance(node, _SILENT) or _is_constant(node):
            return [node]
        if isinstance(node, _BRANCHES):
            self.body(node.body, node)
            if node.orelse:
                self.body(node.orelse)
            node.orelse.insert(0, self.report(node))
        elif isinstance(node, ast.With):
            self.body(node.body, node)
        elif isinstance(node, ast.Match):
            for case in node.cases:
                self.body(case.body, case.pattern)
            return self.match(node)
        elif isinstance(node, _TRIES):
            self.attempt(node)
        elif isinstance(node, ast.Return):
            return [self.returning(node)]
        elif shared and not isinstance(node, _DEFINITIONS):
            return [node]
        elif isinstance(node, _JUMPS):
            return [node] if isinstance(node, ast.Raise) else [self.report(node), node]
        else:
            if isinstance(node, ast.FunctionDef):
                self.function(node)
            elif isinstance(node, ast.ClassDef):
                for method in _outer_functions(node.body):
                    self.function(method)
            return [node, self.report(node)]
        return [node]

    def match(self, node: ast.Match) -> Body:
        """The subject is evaluated into a name of ours, and reported before the cases are tried."""
        name = ast.Name(" subject", ast.Store(), **_place(node))
        subject = ast.Assign([name], node.subject, **_place(node))
        node.subject = ast.Name(" subject", ast.Load(), **_place(node))
        return [subject, self.report(node), node]

    def attempt(self, node: ast.Try | ast.TryStar) -> None:
        self.body(node.body, node)
        for handler in node.handlers:
            self.body(handler.body, handler)
            where = _place(handler)
            call = ast.Call(_CAUGHT, [], [], **where)
            handler.body.insert(0, ast.Expr(call, **where))
        if node.orelse:
            self.body(node.orelse)
        if node.finalbody:
            self.body(node.finalbody)

    def report(self, node: ast.AST) -> ast.stmt:
        """LINE(line) in the module, LINE(line, names, LOCALS()) in a function."""
        line: int = node.lineno  # type: ignore[attr-defined]
        if self.extra:
            return _report(line, self.extra)
        if line not in _REPORTS:
            _REPORTS[line] = _report(line, [])
        return _REPORTS[line]

    def returning(self, node: ast.Return) -> ast.stmt:
        where = _place(node)
        value = node.value or ast.Constant(None, **where)
        line = ast.Constant(where["lineno"] - 1, **where)
        call = ast.Call(_RETURN, [value, line, *self.extra], [], **where)
        return ast.Return(call, **where)


def _report(line: int, extra: list[ast.expr]) -> ast.stmt:
    where = {"lineno": line, "col_offset": 0, "end_lineno": line, "end_col_offset": 0}
    number = ast.Constant(line - 1, **_NOWHERE)
    return ast.Expr(ast.Call(_LINE, [number, *extra], [], **where), **where)


_REPORTS: dict[int, ast.stmt] = {}  # of a module's lines, which say nothing else: made once for all


def _outer_functions(body: Sequence[ast.AST]) -> list[ast.FunctionDef]:
    """The functions of a class's body, which itself is not reported."""
    found = []
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found.append(node)
        elif not isinstance(node, ast.expr):
            found += _outer_functions(list(ast.iter_child_nodes(node)))
    return found


def _names(function: ast.FunctionDef) -> tuple[str, ...]:
    """Parameters, then names bound in the body, in the order of the source.

    `locals()` would say it too, but in an order that depends on the version.
    """
    given = function.args
    parameters = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    names = dict.fromkeys(a.arg for a in parameters if a is not None)
    outside: set[str] = set()
    for node in function.body:
        _bound(node, names, outside)
    return tuple(name for name in names if name not in outside)


def _bound(node: ast.AST, names: dict[str, None], outside: set[str]) -> None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        names.setdefault(node.id)
    elif isinstance(node, _NAMED) and node.name:
        names.setdefault(node.name)
    elif isinstance(node, ast.MatchMapping) and node.rest:
        names.setdefault(node.rest)
    elif isinstance(node, ast.Nonlocal):
        names.update(dict.fromkeys(node.names))
    elif isinstance(node, ast.Global):
        outside.update(node.names)
    if isinstance(node, _OWN_NAMES):
        return  # their names are their own
    for child in ast.iter_child_nodes(node):
        _bound(child, names, outside)


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _place(node: ast.AST) -> dict[str, Any]:
    line: int = node.lineno  # type: ignore[attr-defined]
    return {"lineno": line, "col_offset": 0, "end_lineno": line, "end_col_offset": 0}
