"""Choosing among generated programs by what they are predicted to print (Liu et al. 2023, section 5.2).

Candidates for a problem are ordered by how alike their predicted outputs are to the expected ones

    score = 1 - Levenshtein(predicted, expected) / max(length)      outputs joined by spaces

and pass@1 is whether the first one is right. Between equals the choice is free, so pass@1 is the share
of the right ones among the best: no luck, no seed. The paper sampled its candidates from Codex and
published neither prompts nor code; ours are the mutants of a known solution (`candidates`), the
solution among them, and right is what truly prints what the solution prints. An ideal tracer therefore
chooses a right one always, and a random order as often as they occur: the two controls.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from tasks.code_execution.mutation import PAPER, mutants


@dataclass(frozen=True)
class Choice:
    """The candidates of one problem: what each truly prints (None: it does not end well), and what is
    expected."""

    programs: list[str]
    truth: list[list[str] | None]
    expected: list[str]

    @property
    def right(self) -> list[bool]:
        """Which candidates are right."""
        return [printed == self.expected for printed in self.truth]


def candidates(solution: str, draw: random.Random, *, number: int) -> list[str]:
    """The solution and at most `number` - 1 different mutants of it, in a drawn order."""
    operators = [name for name in PAPER if name != "CRP"]  # the input must stay what it is
    found = dict.fromkeys(m.code for m in mutants(solution, draw, operators=operators))
    found.pop(solution, None)
    some = list(found)
    draw.shuffle(some)
    chosen = [solution, *some[: number - 1]]
    draw.shuffle(chosen)
    return chosen


def similarity(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """1 for equal outputs, 0 for those that have nothing in common."""
    return Levenshtein.normalized_similarity(" ".join(predicted), " ".join(expected))


def pass_at_1(scores: Sequence[float], right: Sequence[bool]) -> float:
    """The share of right ones among those with the best score. Raises ValueError for no candidates."""
    if not scores or len(scores) != len(right):
        raise ValueError(f"scores: {len(scores)} of them for {len(right)} candidates")
    best = max(scores)
    ties = [good for score, good in zip(scores, right) if score == best]
    return sum(ties) / len(ties)


def judge(choice: Choice, predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """pass@1 of one problem: `predicted` outputs, a `random` order, the true `tracer`."""
    right = choice.right
    said = [similarity(outputs, choice.expected) for outputs in predicted]
    true = [-1.0 if t is None else similarity(t, choice.expected) for t in choice.truth]
    return {
        "predicted": pass_at_1(said, right),
        "random": sum(right) / len(right),
        "tracer": pass_at_1(true, right),
    }
