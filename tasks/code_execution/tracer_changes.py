"""A trace as what each line changed: how the tracer keeps one, and how it leaves the sandbox.

    [line, MODULE, {name: text, ...}, output]     names that are new or have another text
    [line, ANEW, {name: text, ...}, output]       the module's whole table
    [line, FUNCTION, {name: text, ...}, output]   the whole table of a function

Most lines change one name of many: a table of a few of them is quicker to write, to check and to read
than all. `Names` finds them without looking twice at what cannot have changed; `steps` has the tables
back, each in the order in which the names were first bound.
"""

from collections.abc import Iterable
from operator import is_
from typing import Any

from tasks.code_execution.tracer_render import FIXED, Opaque, show, table

MODULE, ANEW, FUNCTION = range(3)
Change = tuple[int, int, dict[str, str], str]
_NOTHING = object()


class Names:
    """The module's table of names, as it was when a line was last reported.

    size: characters of the texts, with one between any two.
    """

    def __init__(self, namespace: dict[str, Any]):
        self.namespace = namespace
        self.names: list[str] = []
        self.texts: dict[str, str] = {}
        self.size = 0
        self.held: list[Any] = []  # beside each name what its text was made of, see _held

    def changes(self) -> tuple[int, dict[str, str]]:
        """MODULE or ANEW, and the table. Raises CannotShow."""
        held, texts = self.held, self.texts
        names = list(self.namespace)
        if names != self.names:
            return self.anew(names)
        found: dict[str, str] = {}
        for at, value in enumerate(self.namespace.values()):
            before = held[at]
            if value is before:
                continue
            if type(value) is list is type(before) and _same(value, before):
                continue
            name = names[at]
            if name[:2] == "__" or name[0] == " ":
                continue
            try:
                text = show(value)
            except Opaque:
                if name in texts:
                    return self.anew(names)
                continue
            old = texts.get(name)
            if old is None:
                return self.anew(names)
            held[at] = _held(value)
            if text != old:
                self.size += len(text) - len(old)
                texts[name] = found[name] = text
        return MODULE, found

    def anew(self, names: list[str]) -> tuple[int, dict[str, str]]:
        """After a name has come or gone."""
        values = self.namespace.values()
        texts = table([p for p in zip(names, values) if p[0][:2] != "__" and p[0][0] != " "])
        self.held = [_held(value) for value in values]
        old, self.names, self.texts = self.texts, names, texts
        self.size = sum(map(len, texts.values())) + max(len(texts) - 1, 0)
        if list(texts)[: len(old)] != list(old):
            return ANEW, dict(texts)
        return MODULE, {name: text for name, text in texts.items() if old.get(name) != text}


def _held(value: Any) -> Any:
    """What shows later that a value still has its text; to hold it keeps its address from others.

    A value of an exact built-in type that nothing can change is itself enough, and a copy is for a
    list of such. Anything else has to be written out again.
    """
    kind = type(value)
    if kind in FIXED:
        return value
    if kind is list and FIXED.issuperset(map(type, value)):
        return value.copy()
    return _NOTHING


def _same(value: list[Any], before: list[Any]) -> bool:
    """By identity alone, since `==` could be the program's, and 1 equals True."""
    return len(value) == len(before) and all(map(is_, value, before))


def steps(changes: Iterable[Change]) -> list[tuple[int, dict[str, str], str]]:
    """The whole table of every line, a dict of its own for each.

    Raises ValueError, TypeError or AttributeError for what is no list of changes.
    """
    found = []
    module: dict[str, str] = {}
    for line, kind, names, output in changes:
        if kind == MODULE:
            names = module = module | names
        elif kind == ANEW:
            module = names
        found.append((line, names, output))
    return found
