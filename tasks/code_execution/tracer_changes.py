"""A trace as what each line changed: how the tracer keeps one, and how it leaves the sandbox.

    [line, MODULE, {name: text, ...}, output]     names that are new or have another text
    [line, ANEW, {name: text, ...}, output]       the module's whole table
    [line, FUNCTION, {name: text, ...}, output]   the whole table of a function

Most lines change one name of many: a table of a few of them is quicker to write, to check and to read
than all. `Names` finds them without looking twice at what cannot have changed; `steps` has the tables
back, each in the order in which the names were first bound.
"""

from collections.abc import Iterable
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
        # Beside each name its value, where that has the same text as long as it is the same object: an
        # exact built-in type that nothing can change. Held, so that no other object takes its address.
        self.fixed: list[Any] = []

    def changes(self) -> tuple[int, dict[str, str]]:
        """MODULE or ANEW, and the table. Raises CannotShow."""
        namespace, fixed, texts = self.namespace, self.fixed, self.texts
        names = list(namespace)
        if names != self.names:
            return self.anew(names)
        found: dict[str, str] = {}
        for at, value in enumerate(namespace.values()):
            if value is fixed[at]:
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
            fixed[at] = value if type(value) in FIXED else _NOTHING
            if text != old:
                self.size += len(text) - len(old)
                texts[name] = found[name] = text
        return MODULE, found

    def anew(self, names: list[str]) -> tuple[int, dict[str, str]]:
        """After a name has come or gone."""
        values = self.namespace.values()
        texts = table([p for p in zip(names, values) if p[0][:2] != "__" and p[0][0] != " "])
        self.fixed = [value if type(value) in FIXED else _NOTHING for value in values]
        old, self.names, self.texts = self.texts, names, texts
        self.size = sum(map(len, texts.values())) + max(len(texts) - 1, 0)
        if list(texts)[: len(old)] != list(old):
            return ANEW, dict(texts)
        return MODULE, {name: text for name, text in texts.items() if old.get(name) != text}


def steps(changes: Iterable[Change]) -> list[tuple[int, dict[str, str], str]]:
    """The whole table of every line, a dict of its own for each."""
    found = []
    module: dict[str, str] = {}
    for line, kind, names, output in changes:
        if kind == FUNCTION:
            found.append((line, names, output))
            continue
        module = {**module, **names} if kind == MODULE else names
        found.append((line, dict(module), output))
    return found
