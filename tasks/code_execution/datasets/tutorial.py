"""Tutorial: short programs with loops, branches, functions and prints, and their constants replaced.

A source is a lesson written by hand (`lessons`) or a program put together from blocks; each gives many
programs that differ in their constants alone, the one augmentation of this set in the paper.
"""

import ast
import random

from tasks.code_execution.datasets.lessons import lessons
from tasks.code_execution.mutation import sites

_NUMBERS = ["total", "count", "value", "n", "x", "y", "result", "width"]
_ITEMS = ["i", "k", "v", "item", "number"]
_WORDS = ["word", "name", "text", "line"]
_LISTS = ["values", "numbers", "items", "data"]
_VOCABULARY = ["cat", "window", "apple", "spam", "eggs", "python", "tree", "blue", "one", "seven"]


class _Writer:
    """Puts a program together, and knows what its variables are."""

    def __init__(self, draw: random.Random):
        self.draw = draw
        self.lines: list[str] = []
        self.ints: list[str] = []
        self.lists: list[str] = []
        self.words: list[str] = []

    def add(self, *lines: str) -> None:
        self.lines += lines

    def fresh(self, names: list[str]) -> str:
        used = {*self.ints, *self.lists, *self.words}
        return self.draw.choice([name for name in names if name not in used] or names)

    def number(self, most: int = 20) -> int:
        return self.draw.randint(0, most)

    def new_int(self, most: int = 20) -> str:
        name = self.fresh(_NUMBERS)
        self.add(f"{name} = {self.number(most)}")
        self.ints.append(name)
        return name

    def new_list(self) -> str:
        name = self.fresh(_LISTS)
        self.add(f"{name} = {[self.number() for _ in range(self.draw.randint(2, 5))]}")
        self.lists.append(name)
        return name

    def new_word(self) -> str:
        name = self.fresh(_WORDS)
        self.add(f"{name} = {self.draw.choice(_VOCABULARY)!r}")
        self.words.append(name)
        return name

    def some(self, known: list[str], kind: str) -> str:
        if known and self.draw.random() < 0.6:
            return self.draw.choice(known)
        return {"int": self.new_int, "list": self.new_list, "word": self.new_word}[kind]()

    def int(self) -> str:
        return self.some(self.ints, "int")

    def list(self) -> str:
        return self.some(self.lists, "list")

    def word(self) -> str:
        return self.some(self.words, "word")

    def condition(self, name: str) -> str:
        least = self.number(12)
        return self.draw.choice(
            [
                f"{name} > {least}",
                f"{name} < {least}",
                f"{name} % {self.draw.randint(2, 4)} == 0",
                f"{name} == {least}",
                f"{name} >= {least} and {name} != {least + 2}",
                f"not {name} > {least}",
            ]
        )

    def update(self, name: str, other: str) -> str:
        return self.draw.choice(
            [
                f"{name} += {other}",
                f"{name} -= {other}",
                f"{name} = {name} * 2 - {other}",
                f"{name} += {other} * {self.draw.randint(2, 5)}",
                f"{name} = {other} % {self.draw.randint(2, 5)} + {name}",
                f"{name} = max({name}, {other})",
            ]
        )


def _arithmetic(w: _Writer) -> None:
    a, b = w.int(), w.int()
    new = w.fresh(_NUMBERS)
    w.add(
        w.draw.choice(
            [f"{new} = {a} + {b} * 2", f"{new} = {a} - {b}", f"{new} = {a} // 3 + {b} % 4"]
        )
    )
    w.ints.append(new)
    w.add(w.draw.choice([f"print({new})", f"print({a}, {new})", f"print({new} > {a})"]))


def _branch(w: _Writer) -> None:
    a = w.int()
    b = w.int()
    w.add(f"if {w.condition(a)}:", f"    {w.update(b, a)}")
    if w.draw.random() < 0.5:
        w.add(f"elif {w.condition(b)}:", f"    {w.update(a, b)}")
    w.add("else:", f"    print({a})", f"print({b})")


def _for_range(w: _Writer) -> None:
    a = w.int()
    i = w.fresh(_ITEMS)
    w.add(f"for {i} in range({w.draw.randint(2, 5)}):", f"    {w.update(a, i)}")
    w.add(
        *w.draw.choice(
            [[f"    print({i}, {a})"], [], [f"    if {w.condition(a)}:", "        break"]]
        )
    )
    w.add(f"print({a})")


def _for_list(w: _Writer) -> None:
    values, total = w.list(), w.int()
    v = w.fresh(_ITEMS)
    w.add(f"for {v} in {values}:", f"    if {w.condition(v)}:", f"        {w.update(total, v)}")
    if w.draw.random() < 0.5:
        w.add(
            "    else:", f"        {w.draw.choice([f'print({v})', 'continue', w.update(total, v)])}"
        )
    w.add(f"print({total})")


def _collect(w: _Writer) -> None:
    values = w.list()
    found, v = w.fresh(["found", "kept", "squares"]), w.fresh(_ITEMS)
    w.add(f"{found} = []", f"for {v} in {values}:")
    item = w.draw.choice([v, f"{v} * {v}", f"{v} + {w.number()}", f"{v} // 2"])
    if w.draw.random() < 0.5:
        w.add(f"    if {w.condition(v)}:", f"        {found}.append({item})")
    else:
        w.add(f"    {found}.append({item})")
    w.lists.append(found)
    w.add(w.draw.choice([f"print({found})", f"print(len({found}))", f"print({found}[::-1])"]))


def _while(w: _Writer) -> None:
    n = w.new_int(12)
    step = w.draw.randint(2, 4)
    total = w.int() if w.draw.random() < 0.5 else n
    w.add(f"while {n} > {w.draw.randint(0, 3)}:")
    if total != n:
        w.add(f"    {w.update(total, n)}")
    w.add(w.draw.choice([f"    {n} -= {step}", f"    {n} //= {step}"]))
    w.add(*w.draw.choice([[f"    print({n})"], [f"print({total})"]]))


def _letters(w: _Writer) -> None:
    word = w.word()
    c = w.fresh(["c", "letter", "ch"])
    if w.draw.random() < 0.5:
        result = w.fresh(["result", "out"])
        join = w.draw.choice([f"{result} + {c}", f"{c} + {result}", f"{result} + {c}.upper()"])
        w.add(f"{result} = ''", f"for {c} in {word}:", f"    {result} = {join}", f"print({result})")
        w.words.append(result)
    else:
        count = w.fresh(["count", "vowels"])
        w.add(
            f"{count} = 0",
            f"for {c} in {word}:",
            f"    if {c} in 'aeiou':",
            f"        {count} += 1",
        )
        w.add(f"print({count})")
        w.ints.append(count)


def _function(w: _Writer) -> None:
    f, a, b = w.draw.choice(["area", "mix", "step", "change"]), "a", "b"
    w.add(f"def {f}({a}, {b}={w.number(9)}):")
    if w.draw.random() < 0.6:
        w.add(f"    if {w.condition(a)}:", f"        return {w.draw.choice(['a', 'a - b', 'b'])}")
    w.add(
        f"    {w.update(a, b)}", f"    return {w.draw.choice(['a', 'a + b', '(a, b)', '[a, b]'])}"
    )
    w.add(w.draw.choice([f"print({f}({w.number()}))", f"print({f}({w.number()}, {w.number()}))"]))


def _list_work(w: _Writer) -> None:
    values = w.list()
    place = w.draw.randint(0, 1)
    w.add(
        w.draw.choice(
            [
                f"{values}.append({w.number()})",
                f"{values}[{place}] = {w.number()}",
                f"{values}.sort()",
                f"{values}.insert({place}, {w.number()})",
                f"{values} = {values} + [{w.number()}]",
                f"{values}.reverse()",
            ]
        )
    )
    w.add(w.draw.choice([f"print({values})", f"print({values}[{place}], sum({values}))"]))


def _counts(w: _Writer) -> None:
    word = w.word()
    counts, c = w.fresh(["counts", "seen"]), w.fresh(["c", "letter"])
    w.add(
        f"{counts} = {{}}", f"for {c} in {word}:", f"    {counts}[{c}] = {counts}.get({c}, 0) + 1"
    )
    w.add(w.draw.choice([f"print({counts})", f"print(len({counts}))"]))


_BLOCKS = [_arithmetic, _branch, _for_range, _for_list, _collect, _while, _letters, _function]
_BLOCKS += [_list_work, _counts]


def composed(draw: random.Random) -> str:
    """A program of one to three blocks that share variables."""
    writer = _Writer(draw)
    for block in draw.sample(_BLOCKS, draw.choice((1, 1, 2, 2, 3))):
        block(writer)
    return "\n".join(writer.lines) + "\n"


def source(draw: random.Random, lesson_share: float) -> str:
    """A program to be varied: one of the lessons, or composed."""
    return draw.choice(_LESSONS) if draw.random() < lesson_share else composed(draw)


_LESSONS = lessons()
_NUMBERS_OF_LESSONS = {code: number for number, code in enumerate(_LESSONS)}


def name_of(code: str) -> str | None:
    """The name of a lesson, None for a composed program."""
    number = _NUMBERS_OF_LESSONS.get(code)
    return None if number is None else f"lesson/{number}"


def variant(code: str, draw: random.Random) -> str:
    """The program with at least one of its constants replaced."""
    tree = ast.parse(code)
    places = sites(tree, ["CRP"])
    if places:
        for site in draw.sample(places, draw.randint(1, len(places))):
            site.change(draw)
    return ast.unparse(tree)
