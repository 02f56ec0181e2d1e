"""How far a predicted trace is right: eight percentages (Liu et al. 2023, arXiv 2305.05383, section 4).

A trace text is cut into segments at every `<line>` and `<output>`; the last one counts only where it
holds `</state>`, so an unfinished line, and an output after the last line, never do. Segments are
compared in order, one by one, with no alignment: an inserted line makes all that follow wrong.

    output accuracy   printed texts equal, in order; over the references that print
    trace accuracy    all segments equal, and as many of them
    line P, R, F1     segments equal: over those predicted, over those of the reference, harmonic mean
    identifier ...    names with the right value in segments of the right line: likewise

An output is equal where its text is; an executed line where its number and its table of names and
values are, in any order. All sums run over the corpus (micro averages).

strict=True agrees with the published script to the last digit, its accidents included:

    a denominator of zero raises ZeroDivisionError
    the character after `<output>` is skipped whatever it is
    a segment without `<state>` counts one name where its last character is a colon

strict=False returns 0 for an empty denominator and does without the other two.

`single_line` is the script's other form, for a program of one line whose trace is one state: no
segments, and of each `name : value : more` only the first two fields are read. It has no outputs and
no lines, so it gives four of the eight.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

_CUT = re.compile(r"(?=<line>|<output>)")
_EVENT = "_____event"  # the authors' tracer wrote its own events between what a program printed


@dataclass(frozen=True)
class Counts:
    """What one sample, or a corpus, adds to the sums that the percentages are made of."""

    samples: int = 0
    exact: int = 0  # traces that are right as a whole
    printing: int = 0  # references that print
    printed: int = 0  # of these, predicted rightly
    lines: int = 0  # segments that are right
    predicted_lines: int = 0
    reference_lines: int = 0
    identifiers: int = 0  # names whose value is right
    predicted_identifiers: int = 0
    reference_identifiers: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other))))


def evaluate(
    predictions: Sequence[str],
    references: Sequence[str],
    *,
    single_line: bool = False,
    strict: bool = True,
) -> dict[str, float]:
    """Percentages, rounded to two decimals: output_accuracy, trace_accuracy, line_precision,
    line_recall, line_f1, identifier_precision, identifier_recall, identifier_f1.

    With single_line, trace_accuracy and the identifiers' three. Raises ValueError where the two
    lists differ in length, and if strict ZeroDivisionError where a denominator is zero.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"predictions: {len(predictions)} of them for {len(references)} references; "
            "give one for each"
        )
    pairs = zip(predictions, references)
    counted = (count(p, r, single_line=single_line, strict=strict) for p, r in pairs)
    return percentages(total(counted), single_line=single_line, strict=strict)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    return Counts(*map(sum, zip(*map(astuple, counts))))


def percentages(counts: Counts, *, single_line: bool = False, strict: bool = True) -> dict:
    """The percentages of a corpus's sums; see `evaluate`."""
    c = counts
    found = {} if single_line else {"output_accuracy": _share(c.printed, c.printing, strict)}
    found["trace_accuracy"] = _share(c.exact, c.samples, strict)
    if not single_line:
        found |= _f1("line", c.lines, c.predicted_lines, c.reference_lines, strict)
    found |= _f1(
        "identifier", c.identifiers, c.predicted_identifiers, c.reference_identifiers, strict
    )
    return {name: round(100 * value, 2) for name, value in found.items()}


def count(
    prediction: str, reference: str, *, single_line: bool = False, strict: bool = True
) -> Counts:
    """What one sample adds."""
    if single_line:
        return _count_single_line(prediction, reference)
    predicted, expected = segments(prediction), segments(reference)
    lines = identifiers = 0
    for ours, theirs in zip(predicted, expected):
        same, names = _compare(ours, theirs)
        lines += same
        identifiers += names
    prints = outputs(reference, strict=strict)
    return Counts(
        samples=1,
        exact=int(lines == len(predicted) == len(expected)),
        printing=int(bool(prints)),
        printed=int(bool(prints) and outputs(prediction, strict=strict) == prints),
        lines=lines,
        predicted_lines=len(predicted),
        reference_lines=len(expected),
        identifiers=identifiers,
        predicted_identifiers=sum(_num_identifiers(s, strict) for s in predicted),
        reference_identifiers=sum(_num_identifiers(s, strict) for s in expected),
    )


def segments(trace: str) -> list[str]:
    """The spans of a trace between its tags, as they stand; what precedes the first tag is one."""
    spans = [span for span in _CUT.split(trace.strip()) if span]
    if spans and "</state>" not in spans[-1]:
        spans.pop()
    return spans


def outputs(trace: str, *, strict: bool = True) -> list[str]:
    """The printed texts, in order; an empty one is none."""
    found = []
    for span in segments(trace):
        if span.startswith("<output>"):
            text = span[len("<output>") + strict :].strip()
            found.append(text.partition(_EVENT)[0].strip())
    return [text for text in found if text]


def line_key(span: str) -> str:
    """What stands before the state: `<line> <3>`."""
    return span.partition("<state>")[0].strip()


def state(span: str) -> dict[str, str]:
    """The names and values of an executed line; {} where the span has no state."""
    _, tag, rest = span.partition("<state>")
    return _table(rest.strip().removesuffix("</state>")) if tag else {}


def _table(text: str) -> dict[str, str]:
    pieces = (piece.partition(":") for piece in text.split("<dictsep>"))
    return {name.strip(): value.strip() for name, colon, value in pieces if colon}


def _compare(ours: str, theirs: str) -> tuple[bool, int]:
    """Whether two segments are equal, and how many of their names have equal values."""
    if any("<output>" in span or "<state>" not in span for span in (ours, theirs)):
        return ours == theirs, 0
    if line_key(ours) != line_key(theirs):
        return False, 0
    predicted, expected = state(ours), state(theirs)
    return predicted == expected, len(predicted.items() & expected.items())


def _num_identifiers(span: str, strict: bool) -> int:
    if "<state>" in span:
        return len(state(span))
    return int(strict and span.endswith(":"))


def _count_single_line(prediction: str, reference: str) -> Counts:
    predicted, expected = _single_state(prediction), _single_state(reference)
    return Counts(
        samples=1,
        exact=int(predicted == expected),
        identifiers=len(predicted.items() & expected.items()),
        predicted_identifiers=len(predicted),
        reference_identifiers=len(expected),
    )


def _single_state(trace: str) -> dict[str, str]:
    text = trace.strip().removeprefix("<state>").removesuffix("</state>")
    pieces = (piece.split(":") for piece in text.split("<dictsep>") if ":" in piece)
    return {fields[0].strip(): fields[1].strip() for fields in pieces}


def _share(part: float, whole: float, strict: bool) -> float:
    return part / whole if whole or strict else 0.0


def _f1(name: str, right: int, predicted: int, expected: int, strict: bool) -> dict[str, float]:
    precision, recall = _share(right, predicted, strict), _share(right, expected, strict)
    f1 = _share(2 * precision * recall, precision + recall, strict)
    return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}
