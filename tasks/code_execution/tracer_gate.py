"""Which programs are worth running: a cheap look at the compiled code, before it runs.

This keeps out what could not give a good trace (input, files, addresses, hash values, the clock). It
is no protection: that is the sandbox's.
"""

import ast
import re
from collections.abc import Iterator
from types import CodeType

MODULES = frozenset(
    {"math", "itertools", "collections", "heapq", "bisect", "functools", "string", "re", "operator"}
    | {"fractions", "decimal"}
)
FORBIDDEN = frozenset(
    {"exec", "eval", "open", "input", "globals", "locals", "vars", "breakpoint", "exit"}
    | {"quit", "help", "id", "hash", "memoryview", "copyright", "credits", "license", "sys", "os"}
)
_DUNDERS = """
    name doc module qualname annotations classcell classdict static_attributes firstlineno
    type_params build_class conditional_annotations annotate annotate_func
    init str repr eq ne lt le gt ge hash bool len iter next reversed contains getitem setitem delitem
    call enter exit add radd iadd sub rsub isub mul rmul imul truediv rtruediv floordiv rfloordiv mod
    rmod pow rpow neg pos abs and or xor invert lshift rshift int float index round divmod matmul
"""
DUNDERS = frozenset(f"__{name}__" for name in _DUNDERS.split())
MAX_SOURCE = 20_000  # characters
_HUGE = re.compile(r"\d{16}")


class Refused(Exception):
    """A program that is not run; its text is the reason, one of a few, to be counted."""


def check_text(code: str) -> None:
    """Raises Refused."""
    if len(code) > MAX_SOURCE:
        raise Refused("the program is too long")
    if "\0" in code:
        raise Refused("it is no text")
    if _HUGE.search(code):
        raise Refused("it holds a huge number")


def check(code: CodeType) -> None:
    """Raises Refused for a program that names what a trace cannot have."""
    for part in _parts(code):
        if part.co_flags & 0x380:  # coroutine, iterable coroutine, async generator
            raise Refused("it uses async")
        for name in part.co_names:
            if name in FORBIDDEN:
                raise Refused(f"it uses {name}")
            if "__" in name and name not in DUNDERS:
                raise Refused("it uses a name with two underscores")


def check_imports(tree: ast.Module) -> frozenset[str]:
    """The modules that a program imports. Raises Refused for one outside MODULES."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if any(alias.name == "*" for alias in node.names):
                raise Refused("it imports *")
            found.add(node.module if node.module and not node.level else ".")
    if not found <= MODULES:
        raise Refused("it imports another module")
    return frozenset(found)


def _parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _parts(value)
