"""Small programs made on the spot and traced here: this generator's own code is safe to run."""

import json
import random
from pathlib import Path

from tasks.code_execution.formats import SETS, segments, trace_tokens
from tasks.code_execution.formats import Step as Line
from tasks.code_execution.lexer import tokenize
from tasks.code_execution.tracer import record as run

NAMES = ("a", "b", "n", "s", "total", "items")


def single_line(draw: random.Random) -> str:
    a, b = draw.sample(NAMES[:4], 2)
    x, y = draw.randint(0, 99), draw.randint(1, 9)
    last = draw.choice(
        [f"{a} = {b} + {y}", f"{a} += {b}", f"{b} = {a} * {y}", f"{a}, {b} = {b}, {a}"]
    )
    return f"{a} = {x}; {b} = {y}; {last}"


def loop(draw: random.Random) -> str:
    name, n = draw.choice(("total", "n", "s")), draw.randint(1, 4)
    step = draw.choice([f"{name} += i", f"{name} = {name} * 2", f"{name} -= {draw.randint(1, 9)}"])
    return f"{name} = {draw.randint(0, 20)}\nfor i in range({n}):\n    {step}\nprint({name})\n"


def branch(draw: random.Random) -> str:
    x, y = draw.randint(0, 30), draw.randint(0, 30)
    text = draw.choice(("ab", "left", "x1"))
    return (
        f"items = [{x}, {y}]\ns = '{text}'\nif items[0] > items[1]:\n    s = s + 'z'\n"
        f"else:\n    items.append({draw.randint(0, 9)})\nprint(s, len(items))\n"
    )


MAKERS = dict(zip(SETS, (single_line, loop, branch)))


def made(name: str, number: int, seed: str) -> dict:
    """One record of a set, as formats.COLUMNS has it."""
    code = MAKERS[name](random.Random(f"{name} {seed} {number}"))
    steps = [Line(*step) for step in run(code)]
    if name == SETS[0]:
        steps = [steps[-1]._replace(line=None, output="")]
    trace = segments(steps)
    return {
        "id": f"{name}-{seed}-{number}",
        "source_set": name,
        "source_id": f"{name}-{seed}-{number}",
        "problem_id": f"{number % 5}",
        "operator": "",
        "code": code,
        "original_code": code,
        "code_tokens": tokenize(code),
        "trace": trace,
        "trace_tokens": trace_tokens(trace),
        "steps": len(steps),
        "difficulty": 0.5,
        "hard": number % 3 == 0,
    }


def write(folder: Path, **sizes: int) -> Path:
    """SET/SPLIT.jsonl of all sets; sizes: records by split."""
    for name in SETS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, size in sizes.items():
            lines = [json.dumps(made(name, i, split)) + "\n" for i in range(size)]
            (folder / name / f"{split}.jsonl").write_text("".join(lines))
    return folder
