"""Mutants of a program: every place where an operator applies, and programs changed at drawn places."""

import ast
import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from tasks.code_execution.mutation.operators import OPERATORS, PAPER, Change, Put


class Mutant(NamedTuple):
    """A changed program, as `ast.unparse` writes it."""

    operator: str
    code: str


class Site(NamedTuple):
    """An operator and one change that it can make."""

    operator: str
    change: Change


def sites(tree: ast.Module, operators: Sequence[str] = PAPER) -> list[Site]:
    """Every change that can be made to a tree, in the order of the source."""
    found: list[Site] = []
    for node, put in _nodes(tree):
        for name in operators:
            found += [Site(name, change) for change in OPERATORS[name](node, put)]
    return found


def mutants(
    code: str, draw: random.Random, *, operators: Sequence[str] = PAPER, number: int | None = None
) -> Iterator[Mutant]:
    """Programs that differ from `code` by one change each, at different places.

    number: as many as that, drawn: first the operator, so that a rare one is not lost among the
    constants, then the place; None: each place once, in order. Texts may be equal, to each other or
    to `code`, where a change is without effect.
    """
    names = [site.operator for site in sites(ast.parse(code), operators)]
    places = list(range(len(names))) if number is None else _drawn(names, draw, number)
    for place in places:
        tree = ast.parse(code)
        sites(tree, operators)[place].change(draw)
        yield Mutant(names[place], ast.unparse(ast.fix_missing_locations(tree)))


def _drawn(names: list[str], draw: random.Random, number: int) -> list[int]:
    """Places to change; those of constants may come again, with another value."""
    by_operator: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        by_operator.setdefault(name, []).append(place)
    for places in by_operator.values():
        draw.shuffle(places)
    found: list[int] = []
    while by_operator and len(found) < number:
        name = draw.choice(sorted(by_operator))
        places = by_operator[name]
        if name == "CRP":
            found.append(draw.choice(places))
            continue
        found.append(places.pop())
        if not places:
            del by_operator[name]
    return found


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, Put]]:
    """Nodes with the way to replace them, outer before inner; no docstrings, no parts of f-strings."""
    waiting: list[tuple[ast.AST, Put]] = [(tree, _no_place)]
    while waiting:
        node, put = waiting.pop()
        yield node, put
        if isinstance(node, ast.JoinedStr | ast.MatchValue) or _is_docstring(node):
            continue
        children: list[tuple[ast.AST, Put]] = []
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.AST):
                children.append((value, partial(setattr, node, field)))
            elif isinstance(value, list):
                items = ((i, item) for i, item in enumerate(value) if isinstance(item, ast.AST))
                children += [(item, partial(value.__setitem__, i)) for i, item in items]
        waiting += reversed(children)


def _no_place(node: ast.AST) -> None:
    raise AssertionError("the module itself cannot be replaced")


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
