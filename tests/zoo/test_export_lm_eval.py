"""lm-eval judges a run and its export alike, on tasks from local files, without a network."""

import json
import math
import random

import pytest
import torch

from zoo import evaluate, export
from zoo.load import load_run

pytest.importorskip("lm_eval", reason="lm-eval is in the extra `eval`")

CHOICE = """
task: zoo_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: "{{{{choices}}}}"
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
TEXT = """
task: zoo_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""
WRITE = """
task: zoo_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{written}}}}"
generation_kwargs: {{until: ["\\n\\n\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def tasks(tmp_path):
    """A folder with three tasks: choices, whole texts, and what is written next."""
    draw = random.Random(0)
    letters = "abcdefgh "
    rows = []
    for _ in range(8):
        question, *choices = ("".join(draw.choices(letters, k=9)) for _ in range(4))
        text = "".join(draw.choices(letters, k=150))
        rows.append(
            {"question": question, "choices": choices, "answer": 1, "text": text, "written": ""}
        )
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in (("choice", CHOICE), ("text", TEXT), ("write", WRITE)):
        (folder / f"{name}.yaml").write_text(task.format(data=data))
    return folder, rows


def test_a_run_and_its_export_agree_and_both_are_right(train, tasks, tmp_path):
    folder, rows = tasks
    run = train("model=xpos", "max_steps=2").folder
    names = ["zoo_choice", "zoo_text", "zoo_write"]
    measured = evaluate.evaluate(run, names, include_path=folder)
    assert json.loads((run / "lm_eval.json").read_text()) == measured

    from lm_eval.models.huggingface import HFLM

    export.export(run, tmp_path / "exported")
    exported = HFLM(
        pretrained=str(tmp_path / "exported"), trust_remote_code=True, batch_size=8, device="cpu"
    )
    theirs = evaluate.measure(exported, names, include_path=folder)
    assert theirs.keys() == measured.keys()
    for task in names:
        assert theirs[task] == pytest.approx(measured[task], rel=1e-6), task

    by_hand = [best_choice(run, row) == row["answer"] for row in rows]
    assert measured["zoo_choice"]["acc"] == pytest.approx(sum(by_hand) / len(rows))
    assert 0 < measured["zoo_text"]["bits_per_byte"] < 16


@torch.no_grad()
def best_choice(run, row) -> int:
    """The choice that the model finds most likely after the question."""
    loaded = load_run(run)
    scores = []
    for choice in row["choices"]:
        # The harness moves spaces at the question's end to the choice: bytes are the same.
        asked, said = (loaded.tokenizer.encode(t).tolist() for t in (row["question"], choice))
        if row["question"].endswith(" "):
            kept = len(row["question"].rstrip())
            asked, said = asked[:kept], asked[kept:] + said
        logits = loaded.model(torch.tensor([asked + said]))[0].log_softmax(-1)
        place = torch.arange(len(asked) - 1, len(asked) + len(said) - 1)
        scores.append(float(logits[place, torch.tensor(said)].sum()))
    assert all(map(math.isfinite, scores))
    return max(range(len(scores)), key=scores.__getitem__)


def test_command_prints_the_numbers(train, tasks, capfd):
    folder, _ = tasks
    run = train("model=gpt2", "max_steps=2").folder
    given = [str(run), "--include-path", str(folder), "--limit", "2", "--tasks", "zoo_choice"]
    assert evaluate.main(given) == 0
    assert "zoo_choice" in capfd.readouterr().out
    assert evaluate.main([str(folder), "--tasks", "zoo_choice"]) == 2
    assert "config.yaml" in capfd.readouterr().err


@pytest.mark.slow
def test_an_unknown_task_is_named(train, tasks, capfd):
    """The harness's own tasks, thousands of files, are looked through first."""
    folder, _ = tasks
    run = train("model=gpt2", "max_steps=2").folder
    assert evaluate.main([str(run), "--include-path", str(folder), "--tasks", "zoo_nothing"]) == 2
    lines = [x for x in capfd.readouterr().err.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1 and "zoo_nothing" in lines[0]
