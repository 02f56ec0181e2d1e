"""How hard a program is to predict, measured on its run.

    score = computed characters + changed names + copied words / 4

Computed characters are those of words in the trace that the source does not hold: a model that copies
cannot get them right (True, False and None count as one: there is little to choose from). Within a set the score becomes a rank between 0 and 1; the hard subset of
SingleLine is its upper third, as large a share as the published one (3 of 9 million).
"""

from collections.abc import Sequence

from tasks.code_execution.formats import Step

HARD = 2 / 3
_FEW = {"True", "False", "None"}


def score(code_tokens: Sequence[str], steps: Sequence[Step]) -> float:
    """Of one program; comparable within a set."""
    known = {token.strip("'\"") for token in code_tokens}
    computed = changed = copied = 0
    before: dict[str, str] = {}
    for step in steps:
        for name, text in step.state.items():
            if before.get(name) == text:
                continue
            changed += 1
            for word in text.split():
                if word in known:
                    copied += 1
                else:
                    computed += 1 if word in _FEW else len(word)
        before = step.state
    return computed + changed + copied / 4


def ranks(scores: Sequence[float]) -> list[float]:
    """For each score the share of all that is below it, plus half of those that are equal."""
    ordered = sorted(scores)
    first: dict[float, int] = {}
    count: dict[float, int] = {}
    for place, value in enumerate(ordered):
        first.setdefault(value, place)
        count[value] = count.get(value, 0) + 1
    return [(first[s] + count[s] / 2) / len(ordered) for s in scores]
