"""A shard: candidates drawn, traced and sieved; a pure function of its specification.

    drawn -> traced in the sandbox, many in one process -> traced again where it could differ
          -> sieved: refused, without effect, too long, seen before -> records

Programs of one batch share an interpreter; one in fifty is traced again in a process of its own, and
each that holds a set under another hash seed. Where the two traces differ, the program is refused.
"""

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.code_execution.datasets import singleline, tutorial
from tasks.code_execution.datasets.difficulty import score
from tasks.code_execution.datasets.sources import Source, normalise
from tasks.code_execution.formats import Step, segments, trace_tokens
from tasks.code_execution.lexer import tokenize
from tasks.code_execution.mutation import PAPER, mutants
from tasks.code_execution.trace import Refusal, Tracer

CANDIDATES = 512
BATCH = 32
_ALONE = 50  # one in so many is traced again in a process of its own
_SETS_INSIDE = re.compile(r"\bset\b|frozenset|\{[^{}:]+\}|\.(?:keys|items)\(\) *[-&|^]")
OPERATORS = ("CRP", *(name for name in PAPER if name != "CRP"))


@dataclass(frozen=True)
class Shard:
    """What a shard depends on.

    variants: programs of one source.
    max_trace_tokens: words of a trace; longer ones are left out, never cut.
    lesson_share: of the sources of Tutorial.
    """

    source_set: str
    number: int
    seed: int
    variants: int
    max_trace_tokens: int
    lesson_share: float = 0.3


@dataclass(frozen=True)
class Candidate:
    """A program that has not run yet."""

    source: str
    problem: str
    operator: str
    code: str
    original: str


def build(
    shard: Shard, sources: Sequence[Source], tracer: Tracer, other: Tracer
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Records and counts of what was refused, by reason.

    sources: of the set codenet.
    other: a tracer whose interpreter has another hash seed.
    """
    candidates = list(_candidates(shard, sources))
    found = _traced([c.code for c in candidates], tracer)
    _trace_again(found, [c.code for c in candidates], tracer, other)
    counts: Counter[str] = Counter(candidates=len(candidates))
    records: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for number, (candidate, steps) in enumerate(zip(candidates, found)):
        record = _record(shard, number, candidate, steps, seen)
        if isinstance(record, Refusal):
            counts[record.reason] += 1
        else:
            records.append(record)
    return records, dict(counts)


def _candidates(shard: Shard, sources: Sequence[Source]) -> Iterator[Candidate]:
    draw = random.Random(f"{shard.seed}/{shard.source_set}/{shard.number}")
    if shard.source_set == "singleline":
        for i in range(CANDIDATES):
            name = f"singleline/{shard.number}/{i}"
            code = singleline.program(draw)
            yield Candidate(name, name, "", code.rstrip(), "")
        return
    each = max(1, CANDIDATES // shard.variants)
    ordered = _by_turns(sources)
    for i in range(each):
        if shard.source_set == "tutorial":
            yield from _lesson(shard, i, draw)
        else:
            place = shard.number * each + i
            yield from _mutated(shard, ordered[place % len(ordered)], place // len(ordered))


def _by_turns(sources: Sequence[Source]) -> list[Source]:
    """The first of each problem, then the second of each: a small set, too, has many problems."""
    turns: dict[str, int] = {}
    keyed = []
    for source in sources:
        turns[source.problem] = turn = turns.get(source.problem, -1) + 1
        keyed.append((turn, source))
    return [source for _, source in sorted(keyed, key=lambda pair: pair[0])]


def _lesson(shard: Shard, number: int, draw: random.Random) -> Iterator[Candidate]:
    code = tutorial.source(draw, shard.lesson_share)
    # a lesson is one source wherever it comes up, so that all its variants are in one split
    name = tutorial.name_of(code) or f"tutorial/{shard.number}/{number}"
    code = normalise(code)
    yield Candidate(name, name, "", code, code)
    for _ in range(shard.variants - 1):
        yield Candidate(name, name, "CRP", tutorial.variant(code, draw), code)


def _mutated(shard: Shard, source: Source, turn: int) -> Iterator[Candidate]:
    """The program itself, then mutants: of it, or of it with a constant replaced."""
    draw = random.Random(f"{shard.seed}/codenet/{source.id}/{turn}")
    yield Candidate(source.id, source.problem, "", source.code, source.original)
    for mutant in mutants(source.code, draw, operators=OPERATORS, number=shard.variants - 1):
        operator, code = mutant
        if draw.random() < 0.5:
            for second in mutants(code, draw, operators=["CRP"], number=1):
                operator, code = f"{operator}+CRP", second.code
        yield Candidate(source.id, source.problem, operator, code, source.original)


def _traced(codes: Sequence[str], tracer: Tracer) -> list[list[Step] | Refusal]:
    found: list[list[Step] | Refusal] = []
    for start in range(0, len(codes), BATCH):
        found += tracer.trace_all(codes[start : start + BATCH])
    return found


def _trace_again(
    found: list[list[Step] | Refusal], codes: Sequence[str], tracer: Tracer, other: Tracer
) -> None:
    good = [i for i, steps in enumerate(found) if not isinstance(steps, Refusal)]
    sets = [i for i in good if _SETS_INSIDE.search(codes[i])]
    second = dict(zip(sets, _traced([codes[i] for i in sets], other)))
    second |= {i: tracer.trace(codes[i]) for i in good[::_ALONE] if i not in second}
    for i, steps in second.items():
        if steps != found[i]:
            found[i] = Refusal("another trace the second time")


def _record(
    shard: Shard,
    number: int,
    candidate: Candidate,
    steps: list[Step] | Refusal,
    seen: set[tuple[str, str]],
) -> dict[str, Any] | Refusal:
    if isinstance(steps, Refusal):
        return steps
    shown = [Step(None, steps[-1].state)] if shard.source_set == "singleline" else steps
    trace = segments(shown)
    words = trace_tokens(trace)
    if len(words) > shard.max_trace_tokens:
        return Refusal("its trace has too many tokens")
    for key in ((candidate.source, " ".join(trace)), ("", candidate.code)):
        if key in seen:
            return Refusal("its trace or text is that of another program of its source")
    seen |= {(candidate.source, " ".join(trace)), ("", candidate.code)}
    tokens = tokenize(candidate.code)
    return {
        "id": f"{shard.source_set}-{shard.number:05d}-{number:03d}",
        "source_set": shard.source_set,
        "source_id": candidate.source,
        "problem_id": candidate.problem,
        "operator": candidate.operator,
        "code": candidate.code,
        "original_code": candidate.original or candidate.code,
        "code_tokens": tokens,
        "trace": trace,
        "trace_tokens": words,
        "steps": len(steps),
        "difficulty": score(tokens, shown),
        "hard": False,
    }
