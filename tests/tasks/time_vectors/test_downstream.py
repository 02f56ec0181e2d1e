"""Labelled tasks, the analogy between periods, and tuning one period after the other."""

import json

import pytest
import torch
import yaml

from tasks.errors import UserError
from tasks.time_vectors.base import previous
from tasks.time_vectors.downstream import Classifier, answer_column, main, prompt
from tasks.time_vectors.metrics import macro_f1, rouge_l
from tasks.time_vectors.study import find_studies
from zoo.load import load_run

SMALL = (
    "task=time_vectors",
    "data=dated_synthetic",
    "data.corpus.first_year=2010",
    "data.corpus.last_year=2011",
    "data.corpus.documents_per_month=20",
    "data.corpus.topics=4",
    "data.max_eval_tokens=300",
    "data.batch_size=8",
    "model.context_length=48",
    "model.width=32",
    "optim.lr=3e-3",
    "callbacks.loss_plot=null",
    "max_steps=4",
)


def test_macro_f1_counts_a_malformed_answer_as_a_class_of_its_own():
    gold = ["a", "a", "b", "b"]
    assert macro_f1(gold, gold) == 1
    assert macro_f1(gold, ["a", "a", "a", "b"]) == pytest.approx((0.8 + 2 / 3) / 2)
    # b's one miss is a third class, with nothing right: accuracy 0.75, but macro-F1 0.556.
    assert macro_f1(gold, ["a", "a", "b", "bb"]) == pytest.approx((1 + 2 / 3 + 0) / 3)
    with pytest.raises(ValueError, match="4 labels for 1 predictions"):
        macro_f1(gold, ["a"])


def test_rouge_l_is_the_longest_common_subsequence_of_stems():
    assert rouge_l(["the cat sat"], ["the cat sat"]) == pytest.approx(1)
    # The common subsequence is "the cat sits on": 4 of 6 words there, 4 of 5 here.
    score = rouge_l(["the cat sits on the mat"], ["the cats sit on it"])
    assert score == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5))
    assert rouge_l(["a b", "c"], ["a b", "d"]) == pytest.approx(0.5)


def test_a_template_ends_with_what_is_to_be_predicted():
    assert answer_column("{text} => {section}") == "section"
    for template in ("{section}: {text}", "no field"):
        with pytest.raises(UserError, match="must end with the field"):
            answer_column(template)


@pytest.fixture
def sweeps(train, tmp_path):
    """Language models of both years, and a classifier of the first year tuned from their base."""
    lm, task = tmp_path / "runs" / "sweeps" / "lm", tmp_path / "runs" / "sweeps" / "task"
    done = train("-m", *SMALL, f"hydra.sweep.dir={lm}", "data.period=base,p1,p2", data=False)
    assert done.code == 0, done.err
    template = "data.template='{text} => {section}'"
    tuning = (f"hydra.sweep.dir={task}", f"task.base={lm}", template, "data.period=p1,p2")
    steps = [s.replace("max_steps=4", "max_steps=60") for s in SMALL]
    done = train("-m", *steps, *tuning, data=False)
    assert done.code == 0, done.err
    return lm, task


def test_a_task_moves_to_another_period_by_analogy(sweeps, capfd):
    lm, task = sweeps
    assert main([str(lm), str(task)]) == 0
    said = capfd.readouterr().out
    assert "macro_f1" in said and "2011" in said and "analogy" in said
    found = json.loads((task / "analogy.json").read_text())["seeds"][0]
    row = found["2011"]
    kinds = ("as it is", "scaled alone", "random direction", "analogy", "tuned on the target")
    assert all(0 <= row[kind] <= 1 for kind in kinds) and len(row["coefficients"]) == 3

    (study,) = find_studies(task, base=lm)
    judge = Classifier(study)
    assert judge.labels == ["home", "sport", "trade", "world"]
    examples = judge.examples("2010", "test")
    assert {answer for _, answer in examples} <= set(judge.labels)
    assert all(text.endswith(" => ") for text, _ in examples)
    # What the labels' likelihoods say is what the model says when asked one by one.
    study.set({"2010": 1.0})
    text = examples[0][0]
    before = len(study.data.tokenizer.encode(text))
    scores = {}
    for label in judge.labels:
        ids = torch.as_tensor(study.data.tokenizer.encode(text + label)).long()[-49:]
        answer = len(study.data.tokenizer.encode(text + label)) - before
        logs = torch.log_softmax(study.model(ids[None, :-1]), -1)[0].detach()
        scores[label] = float(logs[range(len(ids) - 1), ids[1:]][-answer:].sum())
    assert judge._classify([text]) == [max(scores, key=scores.__getitem__)]

    judge.labels = None  # many different answers: they are written, not chosen
    assert 0 <= judge.score(examples[:2]) <= 1
    document = study.data.documents_of("2010", "test")[0]
    with pytest.raises(UserError, match="has no colour"):
        prompt("{text} {colour}", document)

    # No text that the language models are tested on was the task's to train on.
    (other,) = find_studies(lm)
    for period in ("2010", "2011"):
        tested = {d.text for d in other.data.documents_of(period, "test")}
        assert tested == {d.text for d in study.data.documents_of(period, "test")}
        assert not tested & {d.text for d in study.data.documents_of(period, "train")}
    assert other.data.tokenizer.fingerprint == study.data.tokenizer.fingerprint


@pytest.mark.slow
def test_online_tuning_goes_on_from_the_period_before(train, tmp_path):
    folder = tmp_path / "runs" / "sweeps" / "online"
    arguments = (f"hydra.sweep.dir={folder}", "task.online=true", "data.period=base,p1,p2")
    steps = [s.replace("max_steps=4", "max_steps=1").replace("lr=3e-3", "lr=1e-9") for s in SMALL]
    done = train("-m", *steps, *arguments, data=False)
    assert done.code == 0, done.err
    runs = {
        yaml.safe_load((p / "config.yaml").read_text())["data"]["period"]: load_run(p).model
        for p in folder.iterdir()
        if p.is_dir()
    }
    weights = {name: model.state_dict()["embedding.weight"] for name, model in runs.items()}
    near = {"atol": 5e-9, "rtol": 0}
    assert torch.allclose(weights["p1"], weights["base"], **near)
    assert torch.allclose(weights["p2"], weights["p1"], **near)
    assert not torch.equal(weights["p2"], weights["base"])
    assert [previous(p) for p in ("p1", "p2", "p10")] == ["base", "p1", "p9"]
    with pytest.raises(ValueError, match=r"online: needs data\.period=p1"):
        previous("2012")
