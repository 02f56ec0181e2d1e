"""Values as a trace shows them, without running any code of the program that is traced.

    3   2.5   True   None   ab        a string has no quotes
    [ 1 , ab ]   ( 1 , )   { k : 1 }   { 1 , 2 }   set ( )   range ( 0 , 3 )   deque ( [ 1 ] )
    Point ( x : 1 , y : 2 )           an instance of a class of the program: its attributes
    <function>                        a function or class inside a container

Only exact built-in types are looked into, never a subclass, so that no `__repr__`, `__hash__`,
`__len__` or `__iter__` of the program runs. Sets are sorted by the text of their items: their own
order depends on the hash seed.
"""

import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

PROGRAM = "__main__"  # `__module__` of the classes that a program makes
MAX_DEPTH = 6
MAX_ITEMS = 200
MAX_TEXT = 1000  # characters of a value
MAX_BITS = (
    256  # of an integer; str() of a huge one takes quadratic time, and raises above 4300 digits
)
_SHORT = 1_000_000


class CannotShow(Exception):
    """A value that has no place in a trace; its text is the reason, one of a few, to be counted."""


class Opaque(Exception):
    """A value that is left out of a table of names: a function, class, module, iterator, exception."""


def show(value: Any, depth: int = 0) -> str:
    """The text of a value. Raises Opaque for what tables leave out, CannotShow for what they refuse."""
    writer = _WRITERS.get(type(value))
    if writer is None:
        return _other(value, depth)
    return writer(value, depth)


def table(pairs: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Name -> text, without what is opaque. Raises CannotShow."""
    shown = {}
    for name, value in pairs:
        kind = type(value)
        if kind is int and -_SHORT < value < _SHORT:
            shown[name] = str(value)
            continue
        writer = _WRITERS.get(kind)
        if writer is not None:
            shown[name] = writer(value, 0)
            continue
        try:
            shown[name] = _other(value, 0)
        except Opaque:
            continue
    return shown


def _int(value: int, depth: int) -> str:
    if -_SHORT < value < _SHORT or value.bit_length() <= MAX_BITS:
        return str(value)
    raise CannotShow("a number is too long")


def _text(value: str, depth: int) -> str:
    if len(value) > MAX_TEXT:
        raise CannotShow("a value is too long")
    return value


def _plain(value: Any, depth: int) -> str:
    return str(value)


def _bytes(value: bytes | bytearray, depth: int) -> str:
    if len(value) > MAX_TEXT:
        raise CannotShow("a value is too long")
    return repr(bytes(value))


def _items(values: Iterable[Any], depth: int) -> str:
    return " , ".join(_inside(values, depth))


def _inside(values: Iterable[Any], depth: int) -> list[str]:
    """Texts of what a container holds. The containers are exact built-ins: len() and iter() are C."""
    if depth >= MAX_DEPTH:
        raise CannotShow("a value is nested too deep")
    if len(values) > MAX_ITEMS:  # type: ignore[arg-type]
        raise CannotShow("a value is too long")
    texts = []
    for value in values:
        kind = type(value)
        if kind is int and -_SHORT < value < _SHORT:
            texts.append(str(value))
        else:
            writer = _WRITERS.get(kind)
            texts.append(_item(value, depth + 1) if writer is None else writer(value, depth + 1))
    if sum(map(len, texts)) > MAX_TEXT:
        raise CannotShow("a value is too long")
    return texts


def _item(value: Any, depth: int) -> str:
    try:
        return show(value, depth)
    except Opaque:
        if type(value) in _FUNCTIONS:
            return "<function>"
        raise CannotShow("a container holds what cannot be shown") from None


def _list(value: list[Any] | deque[Any], depth: int) -> str:
    text = _items(value, depth)
    return f"[ {text} ]" if value else "[ ]"


def _tuple(value: tuple[Any, ...], depth: int) -> str:
    if len(value) == 1:
        return (
            f"( {_item(value[0], depth + 1)} , )" if depth < MAX_DEPTH else _inside(value, depth)[0]
        )
    text = _items(value, depth)
    return f"( {text} )" if value else "( )"


def _pairs(value: dict[Any, Any], depth: int) -> str:
    keys = _inside(value, depth)
    values = _inside(dict.values(value), depth)
    pairs = " , ".join(f"{k} : {v}" for k, v in zip(keys, values))
    return f"{{ {pairs} }}" if pairs else "{ }"


def _set(value: set[Any], depth: int) -> str:
    texts = sorted(_inside(value, depth), key=lambda text: (len(text), text))
    return f"{{ {' , '.join(texts)} }}" if texts else "set ( )"


def _frozenset(value: frozenset[Any], depth: int) -> str:
    return f"frozenset ( {_set(set(value), depth)} )" if value else "frozenset ( )"


def _range(value: range, depth: int) -> str:
    parts = [value.start, value.stop] + ([value.step] if value.step != 1 else [])
    return f"range ( {' , '.join(_int(part, depth) for part in parts)} )"


def _deque(value: deque[Any], depth: int) -> str:
    return f"deque ( {_list(value, depth)} )"


def _fraction(value: Fraction, depth: int) -> str:
    return f"{_int(value.numerator, depth)}/{_int(value.denominator, depth)}"


_WRITERS: dict[type, Callable[[Any, int], str]] = {
    int: _int,
    str: _text,
    bool: _plain,
    float: _plain,
    complex: _plain,
    Decimal: _plain,
    type(None): _plain,
    bytes: _bytes,
    bytearray: _bytes,
    list: _list,
    tuple: _tuple,
    dict: _pairs,
    defaultdict: _pairs,
    OrderedDict: _pairs,
    Counter: _pairs,
    set: _set,
    frozenset: _frozenset,
    range: _range,
    deque: _deque,
    Fraction: _fraction,
}
FIXED = frozenset({int, str, bool, float, type(None), bytes})  # a value keeps its text
_FUNCTIONS = {
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    type,
}
_MODULE = type.__dict__["__module__"]  # descriptors that no class of the program can replace
_DICT = type.__dict__["__dict__"]
_MRO = type.__dict__["__mro__"]


def _other(value: Any, depth: int) -> str:
    """An instance of a class of the program by its attributes; all else is opaque."""
    kind = type(value)
    if not _of_program(kind):
        raise Opaque
    bases = _MRO.__get__(kind)[:-1]
    if not all(_of_program(base) for base in bases):
        if issubclass(kind, BaseException):
            raise Opaque
        raise CannotShow("an instance of a class that extends a built-in")
    pairs = _attributes(value, bases)
    texts = _inside(list(pairs.values()), depth)
    shown = " , ".join(f"{name} : {text}" for name, text in zip(pairs, texts))
    return f"{kind.__name__} ( {shown} )" if shown else f"{kind.__name__} ( )"


def _of_program(kind: type) -> bool:
    module = _MODULE.__get__(kind)
    return type(module) is str and module == PROGRAM and type(kind) is type


def _attributes(value: Any, bases: tuple[type, ...]) -> dict[str, Any]:
    for base in bases:
        own = _DICT.__get__(base).get("__dict__")
        if type(own) is types.GetSetDescriptorType:
            pairs = own.__get__(value)
            if type(pairs) is dict and all(type(name) is str for name in pairs):
                return pairs
    raise CannotShow("an instance without a table of attributes")
