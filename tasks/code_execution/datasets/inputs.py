"""Input substitution: what a program reads becomes a literal, so that it is closed and deterministic.

    n, m = map(int, input().split())       with the line "3 4"       n, m = [3, 4]
    word = list(input())                   with the line "ab"        word = ['a', 'b']

(The published example does so; its rules are not published.) The whole expression around `input()`
is replaced, as far as it only splits and converts. Programs that read within a loop or a function are
not admitted: their literals would differ from one time to the next.
"""

import ast
from typing import Any


class CannotSubstitute(Exception):
    """Why a program's input cannot be put into it."""


def substitute(code: str, stdin: str) -> str:
    """The program with its test input in place. Raises CannotSubstitute, or SyntaxError."""
    tree = ast.parse(code)
    if not any(_is_read(node) for node in ast.walk(tree)):
        return code
    return ast.unparse(ast.fix_missing_locations(_Reader(stdin.split("\n")).visit(tree)))


def _is_read(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "input"
    )


class _Reader(ast.NodeTransformer):
    """Visits expressions in the order in which they run."""

    def __init__(self, lines: list[str]):
        self.lines = lines
        self.repeated = 0

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Call | ast.ListComp | ast.GeneratorExp):
            found = self.value(node)
            if found is not _UNKNOWN:
                return ast.copy_location(_literal(found), node)
        return super().visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        node.value = self.visit(node.value)
        node.targets = [self.visit(target) for target in node.targets]
        return node

    def visit_For(self, node: ast.For) -> ast.AST:
        node.iter = self.visit(node.iter)
        return self.again(node, [*node.body, *node.orelse])

    def visit_While(self, node: ast.While) -> ast.AST:
        return self.again(node, [node.test, *node.body, *node.orelse])

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self.again(node, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return self.again(node, [node.body])

    def again(self, node: ast.AST, parts: list[Any]) -> ast.AST:
        """What runs more than once, or at another time: it may not read."""
        if any(_is_read(inner) for part in parts for inner in ast.walk(part)):
            raise CannotSubstitute("it reads in a loop or a function")
        return node

    def value(self, node: ast.AST) -> Any:
        """What an expression of nothing but reading, splitting and converting gives."""
        if _is_read(node):
            if not self.lines:
                raise CannotSubstitute("it reads more lines than there are")
            return self.lines.pop(0)
        match node:
            case ast.Call(ast.Attribute(inner, name), []) if name in _METHODS:
                found = self.value(inner)
                return getattr(found, name)() if isinstance(found, str) else _UNKNOWN
            case ast.Call(ast.Attribute(inner, "split"), [ast.Constant(str() as mark)]) if mark:
                found = self.value(inner)
                return found.split(mark) if isinstance(found, str) else _UNKNOWN
            case ast.Call(ast.Name("map"), [ast.Name(name), inner]) if name in _CONVERSIONS:
                return _each(name, self.value(inner))
            case ast.ListComp(
                ast.Call(ast.Name(name), [ast.Name(a)]),
                [ast.comprehension(ast.Name(b), inner, [], 0)],
            ) if name in _CONVERSIONS and a == b:
                return _each(name, self.value(inner))
            case ast.Call(ast.Name(name), [inner], []) if name in _CONVERSIONS:
                found = self.value(inner)
                return found if found is _UNKNOWN else _converted(name, found)
        return _UNKNOWN


_UNKNOWN = object()
_METHODS = ("split", "strip", "rstrip", "lstrip", "upper", "lower")
_CONVERSIONS: dict[str, Any] = {"int": int, "float": float, "str": str, "list": list, "tuple": tuple, "set": set, "sorted": sorted, "len": len}  # fmt: skip


def _each(name: str, found: Any) -> Any:
    if found is _UNKNOWN:
        return _UNKNOWN
    return [_converted(name, item) for item in found]


def _converted(name: str, value: Any) -> Any:
    try:
        return _CONVERSIONS[name](value)
    except (ValueError, TypeError):
        raise CannotSubstitute("its input does not convert") from None


def _literal(value: Any) -> ast.expr:
    return ast.parse(repr(value), mode="eval").body
