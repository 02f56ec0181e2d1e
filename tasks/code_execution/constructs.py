"""What a program is made of, so that a score can be given for programs with loops, with strings, ..."""

import ast
from collections.abc import Callable

_LOOPS = (ast.For, ast.While, ast.comprehension)
_LISTS = (ast.List, ast.ListComp, ast.Tuple, ast.Set, ast.SetComp)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)

CONSTRUCTS: dict[str, Callable[[ast.AST], bool]] = {
    "loops": lambda node: isinstance(node, _LOOPS),
    "branches": lambda node: isinstance(node, ast.If | ast.IfExp),
    "strings": lambda node: (
        isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    ),
    "lists": lambda node: isinstance(node, _LISTS),
    "dictionaries": lambda node: isinstance(node, ast.Dict | ast.DictComp),
    "arithmetic": lambda node: (
        isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, _ARITHMETIC)
    ),
    "functions": lambda node: isinstance(node, ast.FunctionDef | ast.Lambda),
}


def constructs(code: str) -> list[str]:
    """The names of CONSTRUCTS that occur in a program; [] for one that does not parse."""
    try:
        nodes = [*ast.walk(ast.parse(code))]
    except (SyntaxError, ValueError, RecursionError):
        return []
    return [name for name, holds in CONSTRUCTS.items() if any(map(holds, nodes))]
