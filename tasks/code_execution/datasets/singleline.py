"""SingleLine: one to three variables, then one line that does something with them.

    a = [4, 17, 2]
    k = 9
    a.append(k // 2)

The paper's set is Greenlee's python-state-changes; this grammar makes programs of its kind. A template
names its variables by type: `{i}` and `{j}` are integers, `{x}` a float, `{s}` and `{t}` strings, `{l}`
and `{m}` lists of integers, `{d}` a dict from letters to integers; `{n}` is a name, new or of any
variable; `{c}` a number from 0 to 9, `{C}` one from 2 to 99, `{p}` a place in the list or string of the
line, `{k}` a key of the dict, `{w}` a letter of the string or a new one.
"""

import random
import string

MAX_NUMBER = 99
TEMPLATES = [
    # integers
    *(
        "{n} = {i} + {j}",
        "{n} = {i} - {j}",
        "{n} = {i} * {j}",
        "{n} = {i} + {C}",
        "{n} = {C} - {i}",
    ),
    *("{n} = {i} * {c} + {j}", "{n} = ({i} - {c}) * {j}", "{n} = {i} // {C}", "{n} = {i} % {C}"),
    *(
        "{i} += {j}",
        "{i} -= {C}",
        "{i} *= {c}",
        "{i} //= {C}",
        "{i} %= {C}",
        "{i} += 1",
        "{i} -= 1",
    ),
    *(
        "{n} = -{i}",
        "{n} = abs({i} - {C})",
        "{n} = {i} ** 2",
        "{n} = max({i}, {j})",
        "{n} = min({i}, {C})",
    ),
    *("{n} = {i} > {j}", "{n} = {i} == {C}", "{n} = {c} < {i} < {C}", "{n} = {i} % 2 == 0"),
    *(
        "{n} = {i} if {i} > {C} else {j}",
        "{i}, {j} = {j}, {i}",
        "{n} = divmod({i}, {C})",
        "{n} = {i}",
    ),
    *(
        "{n} = str({i})",
        "{n} = [{i}, {c}]",
        "{n} = ({i}, {j})",
        "{n} = {i} & {j}",
        "{n} = {i} | {c}",
    ),
    *(
        "{n} = {i} ^ {j}",
        "{n} = {i} << {c} % 4",
        "{n} = {i} >> 1",
        "{n} = not {i}",
        "{n} = list(range({i} % 7))",
    ),
    *("{n} = {i} / 2", "{n} = float({i})", "{n} = bin({i})", "{n} = {i} > {c} and {i} < {C}"),
    *("{n} = {{'a': {i}, 'b': {c}}}", "{n} = f'{{{i}}} of {C}'", "{n} = [{i}] * {c}", "del {i}"),
    # floats
    *("{n} = {x} + {c}", "{n} = {x} * 2", "{n} = int({x})", "{n} = round({x})", "{n} = {x} > {c}"),
    *("{x} -= {c}", "{n} = {x} // 1", "{n} = -{x}"),
    # lists
    *(
        "{l}.append({c})",
        "{l}.append({i})",
        "{l}.insert({p}, {C})",
        "{n} = {l}.pop()",
        "{n} = {l}.pop({p})",
    ),
    *(
        "{l}.reverse()",
        "{l}.sort()",
        "{l}.extend({m})",
        "{l}.extend([{c}, {C}])",
        "{n} = {l} + [{C}]",
    ),
    *(
        "{n} = {l} + {m}",
        "{n} = {l} * 2",
        "{n} = len({l})",
        "{n} = sum({l})",
        "{n} = max({l})",
        "{n} = min({l})",
    ),
    *(
        "{n} = sorted({l})",
        "{n} = {l}[{p}]",
        "{l}[{p}] = {C}",
        "{l}[{p}] += {c}",
        "{n} = {l}[::-1]",
    ),
    *(
        "{n} = {l}[{p}:]",
        "{n} = {l}[:{p}]",
        "{n} = {l}[-1]",
        "{n} = {l}[0] + {l}[-1]",
        "{n} = {C} in {l}",
    ),
    *(
        "{n} = {l}.count({c})",
        "{n} = {l}.index({l}[{p}])",
        "del {l}[{p}]",
        "{n} = tuple({l})",
        "{n} = {l}.copy()",
    ),
    *(
        "{n} = [v * 2 for v in {l}]",
        "{n} = [v for v in {l} if v > {C}]",
        "{n} = [v + {i} for v in {l}]",
    ),
    *(
        "{n} = sorted({l}, reverse=True)",
        "{n} = set({l})",
        "{n} = {l} == {m}",
        "{n} = list(map(str, {l}))",
    ),
    *(
        "{l} += [{i}]",
        "{l}.clear()",
        "{n} = {l}[1:-1]",
        "{n} = {l}[::2]",
        "{n} = list(zip({l}, {m}))",
    ),
    *(
        "{n} = list(enumerate({l}))",
        "{n} = any(v > {C} for v in {l})",
        "{n} = {l}[{p}] * {i}",
        "{n} = {l}",
    ),
    # strings
    *("{n} = {s} + {t}", "{n} = {s} * 2", "{n} = len({s})", "{n} = {s}.upper()", "{n} = {s}[::-1]"),
    *(
        "{n} = {s}[{p}]",
        "{n} = {s}[{p}:]",
        "{n} = {s}[:{p}]",
        "{n} = {s}.replace('{w}', '{c}')",
        "{n} = list({s})",
    ),
    *(
        "{n} = {s}.find('{w}')",
        "{n} = {s}.count('{w}')",
        "{n} = '{w}' in {s}",
        "{n} = {s}.startswith('{w}')",
    ),
    *(
        "{n} = {s}.capitalize()",
        "{n} = ord({s}[{p}])",
        "{n} = '-'.join({s})",
        "{n} = {s} < {t}",
        "{n} = {s} == {t}",
    ),
    *(
        "{s} += '{w}'",
        "{n} = {s}.split('{w}')",
        "{n} = sorted({s})",
        "{n} = {s} + str({i})",
        "{n} = {s} * {c}",
    ),
    *(
        "{n} = f'{{{s}}}{{{i}}}'",
        "{n} = {s}.isdigit()",
        "{n} = {s}.center(9, '*')",
        "{n} = {s}.title()",
    ),
    # dicts
    *(
        "{d}['{k}'] = {C}",
        "{d}['{w}'] = {i}",
        "{n} = {d}['{k}']",
        "{d}['{k}'] += {c}",
        "{n} = {d}.get('{w}', {c})",
    ),
    *(
        "{n} = len({d})",
        "{n} = list({d})",
        "{n} = sum({d}.values())",
        "{n} = {d}.pop('{k}')",
        "{n} = '{w}' in {d}",
    ),
    *(
        "del {d}['{k}']",
        "{n} = sorted({d}.values())",
        "{d}.update({w}={c})",
        "{n} = list({d}.items())",
    ),
    *(
        "{n} = {{v: k for k, v in {d}.items()}}",
        "{n} = max({d}.values())",
        "{n} = {{**{d}, '{w}': {C}}}",
    ),
]
_TYPES = {"i": "int", "j": "int", "x": "float", "s": "str", "t": "str", "l": "list", "m": "list", "d": "dict"}  # fmt: skip
_WEIGHTS = {"int": 8, "list": 5, "str": 4, "dict": 3, "float": 1}
_FIELDS = string.Formatter()


def program(draw: random.Random) -> str:
    """One program. A few of them raise, as when a variable is deleted that another line needs."""
    template, needed = draw.choice(_ready)
    kinds = list(needed.values())
    while len(kinds) < 3 and (not kinds or draw.random() < 0.5):
        kinds.append(draw.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0])
    names = draw.sample(string.ascii_lowercase, len(kinds) + 1)
    values = [_value(kind, draw) for kind in kinds]
    given = dict(zip(names, values))
    fields: dict[str, object] = dict(zip(needed, names))
    fields |= _others(fields, given, names[-1], draw)
    order = draw.sample(list(given), len(given))
    lines = [f"{name} = {given[name]!r}" for name in order]
    return "\n".join([*lines, template.format(**fields)]) + "\n"


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in _FIELDS.parse(template) if name]


def _plan(template: str) -> tuple[str, dict[str, str]]:
    """A template with the types of the variables that it needs."""
    return template, {field: _TYPES[field] for field in _fields(template) if field in _TYPES}


_ready = [_plan(template) for template in TEMPLATES]


def _value(kind: str, draw: random.Random) -> object:
    match kind:
        case "int":
            return draw.randint(0, MAX_NUMBER)
        case "float":
            return draw.randint(1, MAX_NUMBER) + draw.choice((0.25, 0.5, 0.75))
        case "list":
            return [draw.randint(0, MAX_NUMBER) for _ in range(draw.randint(2, 5))]
        case "str":
            return "".join(draw.choices(string.ascii_lowercase, k=draw.randint(2, 6)))
        case _:
            keys = draw.sample(string.ascii_lowercase, draw.randint(1, 3))
            return {key: draw.randint(0, MAX_NUMBER) for key in keys}


def _others(
    fields: dict[str, object], given: dict[str, object], new: str, draw: random.Random
) -> dict[str, object]:
    """What a template holds beside its variables."""

    def value_of(field: str) -> object:
        return given.get(str(fields.get(field)), "")

    text, table = value_of("s"), value_of("d")
    sequence = value_of("l") or text
    known = [*(text if isinstance(text, str) else ""), *(table if isinstance(table, dict) else "")]
    return {
        "n": new if draw.random() < 0.8 else draw.choice(list(given)),
        "c": draw.randint(0, 9),
        "C": draw.randint(2, MAX_NUMBER),
        "p": draw.randrange(len(sequence)) if isinstance(sequence, list | str) and sequence else 0,
        "k": draw.choice(list(table)) if isinstance(table, dict) and table else "",
        "w": draw.choice(known if known and draw.random() < 0.7 else string.ascii_lowercase),
    }
