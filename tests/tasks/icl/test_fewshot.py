"""Few-shot classification: the prompts are those that were asked for, the scores those of the model."""

import json
from pathlib import Path

import pytest
import torch

from tasks.data.tokenizers import Bytes
from tasks.errors import UserError
from tasks.icl.fewshot import FewShot, answer_scores, draw, encode_example, fitting
from tasks.icl.sets import SETS, Example, Template, load_set
from tests.zoo import schemes

ROWS = [
    {"text": f"film {i} is {'bad' if i % 2 else 'good'} .", "label": 1 - i % 2}
    for i in range(12)
]  # fmt: skip


def write(folder: Path, name: str, rows: list[dict], split: str = "train") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name / f"{split}.jsonl").write_text(lines)
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    named = [{**row, "label_text": ["negative", "positive"][row["label"]]} for row in ROWS]
    write(tmp_path, "sst2", named)
    return write(tmp_path, "sst2", named[:5], "test")


def model(name: str = "rope", **options):
    options = {"vocab_size": 256, "context_length": 128, "max_length": 4000} | options
    return schemes.model(name, **options)


def by_hand(decoder, prompt: list[int], answer: list[int]) -> float:
    """Mean log-probability of an answer, read alone from the start."""
    with torch.no_grad():
        log = decoder(torch.tensor([prompt + answer]))[0].double().log_softmax(-1)
    steps = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return sum(log[t, token].item() for t, token in zip(steps, answer)) / len(answer)


@pytest.mark.parametrize("name", ["rope", "learned", "alibi"])
@pytest.mark.parametrize("prefix", [[], [255, 9, 8, 7, 250, 3]], ids=["alone", "prefix"])
def test_scores_are_those_of_reading_each_alone(name, prefix):
    """Batches of unequal rows, a shared prefix, answers of one token and of several."""
    decoder = model(name)
    questions = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12]]
    answers = [[[20], [21]], [[20, 21, 22], [23]], [[30], [31], [32]], [[7, 7], [9, 8, 7, 6]]]
    for size in (16384, 1):
        found = answer_scores(decoder, questions, answers, prefix=prefix, tokens_per_batch=size)
        for question, options, scores in zip(questions, answers, found):
            expected = [by_hand(decoder, prefix + question, option) for option in options]
            assert scores.tolist() == pytest.approx(expected, abs=1e-4)


def test_an_empty_question_is_scored_from_the_prefix():
    decoder, prefix = model(), [255, 1, 2]
    (scores,) = answer_scores(decoder, [[]], [[[5], [6, 7]]], prefix=prefix)
    expected = [by_hand(decoder, prefix, option) for option in ([5], [6, 7])]
    assert scores.tolist() == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="question 0"):
        answer_scores(decoder, [[]], [[[5]]])


def test_prompts_are_put_together_as_published(reviews):
    """bos, then question answer separator for each demonstration, then the question."""
    tokenizer = Bytes()
    labelled = load_set("sst2", folder=reviews)
    shot = FewShot(labelled, tokenizer, context_length=1000, shots=2, seed=3)
    first, second = (labelled.train[i] for i in draw(12, 2, 3))
    words = ("Negative", "Positive")
    text = "".join(
        f"Sentence: {e.fields['text']} Label: {words[e.label]}\n" for e in (first, second)
    )
    assert shot.prefix[0] == tokenizer.eos and bytes(shot.prefix[1:]).decode() == text
    assert bytes(shot.queries[0].question).decode() == "Sentence: film 0 is good . Label:"
    assert [bytes(a).decode() for a in shot.queries[0].answers] == [" Negative", " Positive"]
    ended = load_set("sst2", folder=reviews, separator=None)
    shot = FewShot(ended, tokenizer, context_length=1000, shots=2, seed=3)
    assert shot.prefix.count(tokenizer.eos) == 3 and shot.prefix[-1] == tokenizer.eos


def test_only_demonstrations_that_fit_are_used(reviews):
    """As published: the prompt with the longest query stays shorter than the context."""
    assert fitting([[0] * 4] * 5, start=1, longest_query=3, context_length=13) == 2
    assert fitting([[0] * 4] * 5, start=1, longest_query=3, context_length=12) == 1
    shot = FewShot(load_set("sst2", folder=reviews), Bytes(), context_length=128, shots=12)
    assert 0 < shot.shots < 12
    longest = max(query.longest for query in shot.queries)
    assert len(shot.prefix) + longest < 128
    assert len(shot.prefix) + longest + len(shot.prefix) // shot.shots >= 127


def test_demonstrations_are_a_function_of_the_seed():
    assert draw(100, 8, 0) == draw(100, 8, 0) != draw(100, 8, 1)
    assert draw(100, 16, 0)[:8] == draw(100, 8, 0), "more shots keep the first ones"
    assert sorted(draw(5, 9, 0)) == [0, 1, 2, 3, 4]


def test_evaluation_counts_what_the_scores_say(reviews):
    """Accuracy is that of the argmax; calibrated, of what a question without content leaves."""
    labelled = load_set("sst2", folder=reviews)
    decoder = model(seed=1)
    shot = FewShot(labelled, Bytes(), context_length=600, shots=4, seed=0)
    report = shot.evaluate(decoder)
    expected = []
    for query in shot.queries:
        scores = [by_hand(decoder, shot.prefix + query.question, a) for a in query.answers]
        expected.append(scores.index(max(scores)))
    assert report.predicted == expected and report.gold == [1, 0, 1, 0, 1]
    right = sum(a == b for a, b in zip(expected, report.gold))
    assert report.accuracy == pytest.approx(20 * right) and report.shots == 4
    calibrated = FewShot(labelled, Bytes(), context_length=600, shots=4, seed=0, calibrate=True)
    empty = encode_example(Bytes(), labelled.template, labelled.without_content())
    assert bytes(empty.question).decode() == "Sentence: N/A Label:"
    prior = [by_hand(decoder, shot.prefix + empty.question, a) for a in empty.answers]
    for query, chosen in zip(shot.queries, calibrated.evaluate(decoder).predicted):
        scores = [
            by_hand(decoder, shot.prefix + query.question, a) - p
            for a, p in zip(query.answers, prior)
        ]
        assert chosen == scores.index(max(scores))


def test_answers_of_each_item(tmp_path):
    """Multiple choice: every item brings its own answers, of any length."""
    template = Template("{question}", ())
    example = Example({"question": "Where  is\nit?"}, 1, ("here", "over there"))
    encoded = encode_example(Bytes(), template, example)
    assert bytes(encoded.question).decode() == "Where is it?"
    assert bytes(encoded.answer).decode() == " over there"


def test_a_set_of_ones_own(tmp_path):
    """Any folder of the schema: its labels are its answers, unless others are given."""
    rows = [{"text": "a b", "label": 1, "label_text": "warm"}, {"text": "c", "label": 0, "label_text": "cold"}]  # fmt: skip
    write(tmp_path, "weather", rows)
    write(tmp_path, "weather", rows[:1], "dev")
    own = load_set("weather", folder=tmp_path, prompt="{text} ->")
    assert own.template.answers == ("cold", "warm") and own.train[0].label == 1
    assert len(own.test) == 1, "dev stands in where there is no test split"
    renamed = load_set("weather", folder=tmp_path, answers={"cold": "Low", "warm": "High"})
    assert renamed.template.answers_of(renamed.train[0]) == [" Low", " High"]
    assert renamed.train[0].label == 1


def test_labels_keep_the_published_order(tmp_path):
    """Numbers differ between copies of a set; names do not."""
    write(tmp_path, "sst5", [{"text": "x", "label": 4, "label_text": "very negative"}] * 2)
    write(tmp_path, "sst5", [{"text": "x", "label": 0, "label_text": "positive"}], "test")
    found = load_set("sst5", folder=tmp_path)
    assert found.template.answers == ("terrible", "bad", "neutral", "good", "great")
    assert (found.train[0].label, found.test[0].label) == (0, 3)


@pytest.mark.parametrize("name", SETS)
def test_every_prompt_is_usable(name):
    source = SETS[name]
    template = Template(source.prompt, tuple(source.labels))
    text = template.question(Example(dict.fromkeys(template.names, "x"), 0))
    assert "{" not in text and (source.labels or source.choices)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"words": "x", "label": 0}], r"sst2/train:1: has no field 'text'"),
        ([{"text": "x", "label": 7}], r"sst2/train:1: label 7 is none of Negative, Positive"),
        ([], r"train.jsonl: is empty"),
    ],
)
def test_bad_sets_are_refused_in_one_line(tmp_path, rows, says):
    write(tmp_path, "sst2", rows)
    write(tmp_path, "sst2", ROWS, "test")
    with pytest.raises(UserError, match=says):
        load_set("sst2", folder=tmp_path)


def test_a_set_that_is_nowhere_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'nosuch' is not known"):
        load_set("nosuch")
    with pytest.raises(UserError, match=r"holds no train.jsonl; give the folder above it"):
        load_set("sst2", folder=tmp_path)
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2" / "train.jsonl").write_text("{oops\n")
    (tmp_path / "sst2" / "test.jsonl").write_text("{oops\n")
    with pytest.raises(UserError, match=r"train.jsonl:1: is not a JSON object"):
        load_set("sst2", folder=tmp_path)
    with pytest.raises(ValueError, match="names no field"):
        Template("what?", ("a",))
