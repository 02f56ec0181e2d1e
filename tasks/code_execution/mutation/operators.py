"""The operators: each looks at a node and offers the changes that it could make there.

A change is a function that alters the tree in place. Where an operator has several at one node
(`*` -> `/`, `//`, `**`), each is a site of its own, except for constants, whose new value is drawn.
"""

import ast
import random
import string
from collections.abc import Callable, Iterator

Change = Callable[[random.Random], None]
Put = Callable[[ast.AST], None]  # replaces the node in its parent
Operator = Callable[[ast.AST, Put], Iterator[Change]]

_ARITHMETIC: dict[type, list[type]] = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div, ast.FloorDiv, ast.Pow],
    ast.Div: [ast.Mult, ast.FloorDiv],
    ast.FloorDiv: [ast.Div, ast.Mult],
    ast.Mod: [ast.Mult],
    ast.Pow: [ast.Mult],
}
_SIGNS: dict[type, list[type]] = {ast.USub: [ast.UAdd], ast.UAdd: [ast.USub]}
_BITS: dict[type, list[type]] = {
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
    ast.BitXor: [ast.BitAnd],
    ast.LShift: [ast.RShift],
    ast.RShift: [ast.LShift],
}
_RELATIONS: dict[type, list[type]] = {
    ast.Lt: [ast.Gt, ast.LtE],
    ast.Gt: [ast.Lt, ast.GtE],
    ast.LtE: [ast.GtE, ast.Lt],
    ast.GtE: [ast.LtE, ast.Gt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
}


def _set(node: ast.AST, field: str, kind: type) -> Change:
    return lambda draw: setattr(node, field, kind())


def constant_replacement(node: ast.AST, put: Put) -> Iterator[Change]:
    """A number for one nearby or of the same size, a string for one of the same length."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float, str):
        yield lambda draw: setattr(node, "value", another(node.value, draw))  # type: ignore[arg-type]


def another(value: int | float | str, draw: random.Random) -> int | float | str:
    """A value of the same type, never the same unless there is no other."""
    if isinstance(value, str):
        return _another_text(value, draw)
    largest = max(9, 2 * abs(value))
    if isinstance(value, float):
        new: int | float = round(draw.uniform(0, largest), 2)
    elif draw.random() < 0.5:
        new = max(0, value + draw.choice((-3, -2, -1, 1, 2, 3)))
    else:
        new = draw.randint(0, int(largest))
    return new if new != value else value + 1


def _another_text(value: str, draw: random.Random) -> str:
    """Letter for letter, digit for digit; what else there is (blanks, braces, signs) stays."""
    text = "".join(_another_character(c, draw) for c in value)
    if text == value and value.isalnum():
        text = value[:-1] + draw.choice([c for c in string.ascii_lowercase if c != value[-1]])
    return text


def _another_character(character: str, draw: random.Random) -> str:
    for kind in (string.ascii_lowercase, string.ascii_uppercase, string.digits):
        if character in kind:
            return draw.choice(kind)
    return character


def arithmetic_deletion(node: ast.AST, put: Put) -> Iterator[Change]:
    """-x, +x -> x."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        yield lambda draw: put(node.operand)


def arithmetic_replacement(node: ast.AST, put: Put) -> Iterator[Change]:
    """Not inside an augmented assignment, which is ASR's."""
    if isinstance(node, ast.BinOp):
        for kind in _ARITHMETIC.get(type(node.op), ()):
            yield _set(node, "op", kind)
    elif isinstance(node, ast.UnaryOp):
        for kind in _SIGNS.get(type(node.op), ()):
            yield _set(node, "op", kind)


def assignment_replacement(node: ast.AST, put: Put) -> Iterator[Change]:
    """+= -> -=, and so on."""
    if isinstance(node, ast.AugAssign):
        for kind in _ARITHMETIC.get(type(node.op), ()):
            yield _set(node, "op", kind)


def break_continue(node: ast.AST, put: Put) -> Iterator[Change]:
    """break <-> continue."""
    if isinstance(node, ast.Break):
        yield lambda draw: put(ast.Continue())
    elif isinstance(node, ast.Continue):
        yield lambda draw: put(ast.Break())


def condition_deletion(node: ast.AST, put: Put) -> Iterator[Change]:
    """not x -> x; x not in y -> x in y."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield lambda draw: put(node.operand)
    yield from _memberships(node, ast.NotIn, ast.In)


def condition_insertion(node: ast.AST, put: Put) -> Iterator[Change]:
    """if x -> if not x, likewise while; x in y -> x not in y."""
    if isinstance(node, ast.If | ast.While):
        yield lambda draw: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    yield from _memberships(node, ast.In, ast.NotIn)


def _memberships(node: ast.AST, old: type, new: type) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            if isinstance(op, old):
                yield _at(node.ops, i, new)


def _at(ops: list[ast.cmpop], i: int, kind: type) -> Change:
    return lambda draw: ops.__setitem__(i, kind())


def logical_connector(node: ast.AST, put: Put) -> Iterator[Change]:
    """and <-> or."""
    if isinstance(node, ast.BoolOp):
        yield _set(node, "op", ast.Or if isinstance(node.op, ast.And) else ast.And)


def logical_deletion(node: ast.AST, put: Put) -> Iterator[Change]:
    """~x -> x."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        yield lambda draw: put(node.operand)


def logical_replacement(node: ast.AST, put: Put) -> Iterator[Change]:
    """& <-> |, ^ -> &, << <-> >>, in augmented assignments too."""
    if isinstance(node, ast.BinOp | ast.AugAssign):
        for kind in _BITS.get(type(node.op), ()):
            yield _set(node, "op", kind)


def relational_replacement(node: ast.AST, put: Put) -> Iterator[Change]:
    """< -> >, <= and so on; == <-> !=."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for kind in _RELATIONS.get(type(op), ()):
                yield _at(node.ops, i, kind)


def slice_removal(node: ast.AST, put: Put) -> Iterator[Change]:
    """One of lower, upper and step of a slice."""
    if isinstance(node, ast.Slice):
        for part in ("lower", "upper", "step"):
            if getattr(node, part) is not None:
                yield _cleared(node, part)


def _cleared(node: ast.AST, field: str) -> Change:
    return lambda draw: setattr(node, field, None)


def one_iteration(node: ast.AST, put: Put) -> Iterator[Change]:
    """A loop whose body ends with break."""
    if isinstance(node, ast.For | ast.While):
        yield lambda draw: node.body.append(ast.Break())


def reverse_iteration(node: ast.AST, put: Put) -> Iterator[Change]:
    """for i in reversed(x)."""
    if isinstance(node, ast.For):
        name = ast.Name("reversed", ast.Load())
        yield lambda draw: setattr(node, "iter", ast.Call(name, [node.iter], []))


def zero_iteration(node: ast.AST, put: Put) -> Iterator[Change]:
    """A loop whose body is break."""
    if isinstance(node, ast.For | ast.While):
        yield lambda draw: setattr(node, "body", [ast.Break()])


OPERATORS: dict[str, Operator] = {
    "CRP": constant_replacement,
    "AOD": arithmetic_deletion,
    "AOR": arithmetic_replacement,
    "ASR": assignment_replacement,
    "BCR": break_continue,
    "COD": condition_deletion,
    "COI": condition_insertion,
    "LCR": logical_connector,
    "LOD": logical_deletion,
    "LOR": logical_replacement,
    "ROR": relational_replacement,
    "SIR": slice_removal,
    "OIL": one_iteration,
    "RIL": reverse_iteration,
    "ZIL": zero_iteration,
}
PAPER = tuple(name for name in OPERATORS if name != "COI")
