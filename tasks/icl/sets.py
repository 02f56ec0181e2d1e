"""Sentence classification and multiple choice as prompts: which sets, their templates and answers.

    load_set("sst2")                                   from the Hub
    load_set("sst2", folder="my/folder")               my/folder/sst2/{train,test}.jsonl
    load_set("mine", folder="my/folder", prompt="{text} Topic:")    any set of that schema

Local files hold one JSON object a line with `label_text` (or `label`, a number in the order of the
answers) and the fields that the prompt names, as SetFit's copies on the Hub do. Prompts and answers are
those of Dai et al. 2022 (arXiv 2212.10559, released templates 0); of TREC, CR, MPQA, RTE they are ours.
An answer is what follows the question, its leading space included. Text stays on one line.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.data.open import open_text, reading
from tasks.errors import UserError


@dataclass(frozen=True)
class Example:
    """Fields that a prompt may name, the number of the right answer, and answers of its own, if any."""

    fields: Mapping[str, str]
    label: int
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Template:
    """prompt: with {field} in it. answers: in the order of the labels, without their leading space.

    separator: stands after each demonstration; None is the tokenizer's end-of-document token.
    """

    prompt: str
    answers: tuple[str, ...]
    separator: str | None = "\n"

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError(f"prompt: {self.prompt!r} names no field; write one as {{text}}")

    @property
    def names(self) -> list[str]:
        """The fields of the prompt."""
        return re.findall(r"{(\w+)}", self.prompt)

    def question(self, example: Example) -> str:
        """The prompt with the example's fields in it, each on one line."""
        return self.prompt.format(**{k: one_line(v) for k, v in example.fields.items()})

    def answers_of(self, example: Example) -> list[str]:
        """The candidate answers of an example, ready to follow its question."""
        return [f" {one_line(answer)}" for answer in example.choices or self.answers]


@dataclass(frozen=True)
class LabelledSet:
    """A set with its template: demonstrations are drawn from `train`, queries are `test`."""

    name: str
    template: Template
    train: Sequence[Example]
    test: Sequence[Example]

    def queries(self, limit: int | None = None, *, seed: int = 1) -> list[Example]:
        """At most `limit` of the test examples, a random but fixed sample."""
        if limit is None or limit >= len(self.test):
            return list(self.test)
        import numpy as np

        chosen = np.random.default_rng(seed).permutation(len(self.test))[:limit]
        return [self.test[i] for i in sorted(chosen)]

    def without_content(self) -> Example:
        """An example whose fields are all "N/A"."""
        return Example(dict.fromkeys(self.template.names, "N/A"), 0)


@dataclass(frozen=True)
class Source:
    """Where a set is on the Hub, and how it is asked.

    labels: answer -> other names of the same label in the data; the answer itself always counts.
    columns: prompt field -> column. choices: columns of each item's own answers.
    """

    hub: str
    prompt: str
    labels: Mapping[str, tuple[str, ...]]
    config: str | None = None
    revision: str | None = None
    train: str = "train"
    test: str = "validation"
    label: str = "label"
    columns: Mapping[str, str] | None = None
    choices: tuple[str, ...] = ()


POLARITY = {"Negative": ("neg", "0"), "Positive": ("pos", "1")}
ENTAILED = {"True": ("entailment",), "False": ("not_entailment",)}
SETS: dict[str, Source] = {
    "sst2": Source("nyu-mll/glue", "Sentence: {text} Label:", POLARITY, config="sst2",
                   columns={"text": "sentence"}),
    "sst5": Source("SetFit/sst5", "Sentence: {text} Label:",
                   {"terrible": ("very negative",), "bad": ("negative",), "neutral": (),
                    "good": ("positive",), "great": ("very positive",)}, label="label_text"),
    "mr": Source("cornell-movie-review-data/rotten_tomatoes", "Review: {text} Sentiment:", POLARITY),
    "subj": Source("SetFit/subj", "Input: {text} Type:", {"objective": (), "subjective": ()},
                   test="test", label="label_text"),
    "agnews": Source("fancyzhx/ag_news",
                     "Classify the news articles into the categories of World, Sports, Business, and "
                     "Technology. Article: {text} Answer:",
                     {"World": (), "Sports": (), "Business": (), "Technology": ("sci/tech",)},
                     test="test"),
    "cb": Source("aps/super_glue",
                 "{premise} Question: {hypothesis}. True, False, or Neither? Answer:",
                 {"True": ("entailment",), "False": ("contradiction",), "Neither": ("neutral",)},
                 config="cb"),
    "rte": Source("nyu-mll/glue", "{premise} Question: {hypothesis} True or False? Answer:", ENTAILED,
                  config="rte", columns={"premise": "sentence1", "hypothesis": "sentence2"}),
    "trec": Source("SetFit/TREC-QC", "Question: {text} Type:",
                   {"Abbreviation": ("abbr",), "Entity": ("enty",), "Description": ("desc",),
                    "Human": ("hum",), "Location": ("loc",), "Number": ("num", "numeric")},
                   test="test", label="label_coarse_original"),
    "cr": Source("SetFit/CR", "Review: {text} Sentiment:", POLARITY, test="test", label="label_text"),
    "mpqa": Source("SetFit/mpqa", "Phrase: {text} Sentiment:", POLARITY, test="test",
                   label="label_text"),
    "imdb": Source("stanfordnlp/imdb",
                   "Review: {text} Is the review positive or negative?", POLARITY, test="test"),
    "arc_easy": Source("allenai/ai2_arc", "{question}", {}, config="ARC-Easy", label="answerKey",
                       choices=("choices",)),
    "piqa": Source("ybisk/piqa", "{goal}", {}, revision="refs/convert/parquet",
                   choices=("sol1", "sol2")),
}  # fmt: skip


def load_set(
    name: str,
    *,
    folder: str | Path | None = None,
    prompt: str | None = None,
    answers: Mapping[str, str] | None = None,
    separator: str | None = "\n",
) -> LabelledSet:
    """A set by name, from `folder`/`name`/*.jsonl where a folder is given, else from the Hub.

    prompt, answers (label in the data -> answer), separator: in place of the set's own.
    Raises UserError in one line for an unknown name, a missing file, column or label.
    """
    source = SETS.get(name)
    if source is None and folder is None:
        raise UserError(
            f"set: {name!r} is not known ({', '.join(SETS)}); for your own give a folder"
        )
    if folder is not None:
        train, test = (_local(Path(folder) / name, split) for split in ("train", "test"))
    else:
        assert source is not None
        train, test = (_hub(name, source, split) for split in (source.train, source.test))
    if source is None:
        source = Source("", prompt or "{text} Label:", _labels_of(train))
    if answers is not None:
        source = replace(source, labels={answer: (label,) for label, answer in answers.items()})
    template = Template(prompt or source.prompt, tuple(source.labels), separator)
    column = "label_text" if folder is not None else source.label
    found = {
        split: [_example(row, template, source, column, f"{name}/{split}:{i + 1}")
                for i, row in enumerate(rows)]
        for split, rows in (("train", train), ("test", test))
    }  # fmt: skip
    return LabelledSet(name, template, found["train"], found["test"])


def _example(
    row: Mapping[str, Any], template: Template, source: Source, column: str, where: str
) -> Example:
    columns = dict(source.columns or {})
    fields = {}
    for field in template.names:
        value = row.get(field, row.get(columns.get(field, field)))
        if value is None:
            raise UserError(f"{where}: has no field {field!r}, which the prompt names")
        fields[field] = str(value)
    if source.choices:
        return Example(fields, *_choices(row, source))
    label = row.get(column, row.get("label"))
    for number, (answer, others) in enumerate(source.labels.items()):
        if str(label).lower() in {answer.lower(), *(other.lower() for other in others)}:
            return Example(fields, number)
    if isinstance(label, int) and 0 <= label < len(source.labels):
        return Example(fields, label)
    raise UserError(f"{where}: label {label!r} is none of {', '.join(source.labels)}")


def _choices(row: Mapping[str, Any], source: Source) -> tuple[int, tuple[str, ...]]:
    """The right answer's number and an item's own answers."""
    label = row[source.label]
    if len(source.choices) > 1:
        return int(label), tuple(str(row[c]) for c in source.choices)
    offered = row[source.choices[0]]
    return list(offered["label"]).index(label), tuple(offered["text"])


def _labels_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Every label of the data as its own answer, in the order of the label numbers where there are."""
    names = {str(row.get("label_text", row.get("label"))): row.get("label", 0) for row in rows}
    return {name: () for name in sorted(names, key=lambda name: (names[name], name))}


def _local(folder: Path, split: str) -> list[dict[str, Any]]:
    path = folder / f"{split}.jsonl"
    if split == "test" and not path.is_file():
        path = folder / "dev.jsonl"
    if not path.is_file():
        raise UserError(
            f"{folder}: holds no {split}.jsonl; give the folder above it with data.folder"
        )
    rows = []
    with reading(path), open_text(path, "utf-8") as parts:
        for number, line in enumerate(_lines(parts), 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{path}:{number}: is not a JSON object ({error})") from error
    if not rows:
        raise UserError(f"{path}: is empty")
    return rows


def _lines(parts: Iterator[str]) -> Iterator[str]:
    rest = ""
    for part in parts:
        *whole, rest = (rest + part).split("\n")
        yield from (line for line in whole if line.strip())
    if rest.strip():
        yield rest


def _hub(name: str, source: Source, split: str) -> list[dict[str, Any]]:
    """All rows of a split, class numbers spelt out."""
    import datasets

    from tasks.data.hub_access import hub_commit, offline

    commit = hub_commit("data.name", source.hub, "dataset", source.revision)
    try:
        with offline(commit is None):
            rows = datasets.load_dataset(
                source.hub, source.config, split=split, revision=commit or source.revision
            )
    except Exception as error:  # a dozen kinds; what they say is what helps
        raise UserError(
            f"{name}: {source.hub} cannot be loaded ({one_line(str(error))[:200]}); check the network, "
            "or give data.folder with the set as JSON lines"
        ) from error
    feature = rows.features.get(source.label)
    if isinstance(feature, datasets.ClassLabel):
        named = feature.names
        return [{**row, source.label: named[row[source.label]]} for row in rows]
    return list(rows)


def one_line(text: str) -> str:
    """Runs of white space made one space."""
    return " ".join(text.split())
