"""T5 on labelled text: tuned by `train.py`, judged by the published scores, a matrix of periods."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from period_runs import sweep
from tokenizers import Tokenizer, models, pre_tokenizers

from tasks.errors import UserError
from tasks.time_vectors.analyse import main
from tasks.time_vectors.data import DatedFiles
from tasks.time_vectors.labelled import Judge
from tasks.time_vectors.study import find_studies
from tasks.time_vectors.t5 import T5
from zoo.load import build

WORDS = [f"w{i:02d}" for i in range(70)]
MARKS, LABELS, YEARS = ["red", "blue"], ["left", "right"], {"2010": "ten", "2011": "eleven"}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> dict[str, Path]:
    """Random T5s of both versions with a tokenizer of words, saved as the Hub has them."""
    names = ["<pad>", "</s>", "<unk>", *MARKS, *LABELS, *YEARS.values(), "in", *WORDS]
    words = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    found = {}
    for version, kind in (("1.0", "relu"), ("1.1", "gated-gelu")):
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=len(names), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4,
            feed_forward_proj=kind, tie_word_embeddings=version == "1.0",
            decoder_start_token_id=0, dropout_rate=0.0,
        )  # fmt: skip
        found[version] = tmp_path_factory.mktemp("t5")
        transformers.T5ForConditionalGeneration(config).save_pretrained(found[version])
        tokenizer.save_pretrained(found[version])
    return found


@pytest.fixture
def dated(tmp_path) -> Path:
    """What a mark stands for changes with the year, and so does what a summary says."""
    draw, rows = random.Random(0), []
    for number in range(260):
        year = draw.choice(list(YEARS))
        mark, said = draw.randrange(2), draw.choice(WORDS)
        text = f"{MARKS[mark]} {said} {draw.choice(WORDS)} {draw.choice(WORDS)}"
        label = LABELS[mark if year == "2010" else 1 - mark]
        rows.append({"date": f"{year}-05", "text": text, "label": label,
                     "summary": f"in {YEARS[year]} {WORDS[number % 70]}"})  # fmt: skip
    path = tmp_path / "dated.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def small(t5: Path, dated: Path, template: str, column: str) -> tuple[str, ...]:
    return (
        "experiment=time_vectors_t5",
        f"t5={t5}",
        f"data.path={dated}",
        f"data.template='{template}'",
        f"data.meta_columns=[{column}]",
        "data.test_fraction=0.2",
        "data.batch_size=16",
        "data.answer_length=8",
        "model.context_length=12",
        "rates.period=2e-2",
        "trainer=cpu",
        "size=small",
        "model.dropout=0",
        "callbacks.loss_plot=null",
    )


def test_a_t5_from_a_folder_gives_the_matrix_of_macro_f1(tmp_path, pretrained, dated):
    """Rows are trained, columns evaluated: each year's model reads its own labels right and the other
    year's wrong, by the likelihood of the labels and by what is written alike."""
    folder = tmp_path / "runs" / "sweeps" / "t5"
    overrides = small(pretrained["1.0"], dated, "text: {text}{label}", "label")
    sweep(tmp_path, folder, ["base"], *overrides, "max_steps=1")
    sweep(tmp_path, folder, ["p1", "p2"], *overrides, "max_steps=45", "optim.lr=2e-2")
    assert main([str(folder), "--quick"]) == 0
    found = json.loads((folder / "time_vectors.json").read_text())["seeds"][0]
    likeliest, written = found["task"]
    assert [m["metric"] for m in found["task"]] == ["macro_f1", "macro_f1 written"]
    for scores in (likeliest["scores"], written["scores"]):
        assert min(scores[0][0], scores[1][1]) > 95 and max(scores[0][1], scores[1][0]) < 5
    assert max(written["base"]) < 50, "what is not tuned writes no label"
    page = (folder / "time_vectors.md").read_text()
    assert "Macro-F1 of the likeliest label x 100" in page
    assert "cannot be said" in page, "two periods are too few for a correlation off the diagonal"

    # The base is the pretrained model, and the score is that of the model asked by transformers alone.
    (study,) = find_studies(folder)
    assert T5(vocab_size=9, name=str(pretrained["1.0"])).t5.training, "dropout is on in tuning"
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(pretrained["1.0"])
    ours = dict(study.model.t5.named_parameters())
    study.set({})
    for name, value in theirs.named_parameters():
        assert torch.equal(value, ours[name]), name
    study.set({"2011": 1.0})
    theirs.load_state_dict(study.model.t5.state_dict())
    judge = Judge(study)
    tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained["1.0"])
    texts = [text for text, _ in judge.examples("2010", "test")][:9]
    assert texts[0].startswith("text: ")
    for text, label, written_label in zip(texts, judge.classify(texts), judge.write(texts)):
        read = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        answer = theirs.generate(read, max_new_tokens=8, do_sample=False)[0]
        assert tokenizer.decode(answer, skip_special_tokens=True) == written_label
        losses = {}
        for name in LABELS:
            ids = torch.tensor([[*tokenizer(name)["input_ids"], tokenizer.eos_token_id]])
            losses[name] = float(theirs(input_ids=read, labels=ids).loss.detach()) * ids.shape[1]
        assert min(losses, key=losses.__getitem__) == label


@pytest.mark.slow
def test_a_gated_t5_gives_the_matrix_of_rouge_l(train, tmp_path, pretrained, dated):
    """More than 50 different answers are summaries: a year's model says that year's words."""
    folder = tmp_path / "runs" / "sweeps" / "t5"
    template = "summarize: {text}{summary}"
    overrides = small(pretrained["1.1"], dated, template, "summary")
    periods = ("data.period=base,p1,p2", "max_steps=60", f"hydra.sweep.dir={folder}")
    done = train("-m", *overrides, *periods, data=False)
    assert done.code == 0, done.err
    (found,) = json.loads((folder / "time_vectors.json").read_text())["seeds"][0]["task"]
    assert found["metric"] == "rouge_l"
    page = (folder / "time_vectors.html").read_text()
    assert "Soups" in page, "the whole report, of a T5 as well"
    scores = np.array(found["scores"])
    # Two of three words are the year's; one of them, "in", is every year's.
    assert np.diag(scores).min() > 60 and max(scores[0, 1], scores[1, 0]) < 50


def data(path: Path, **settings) -> DatedFiles:
    tokenizer = build({"_target_": "tasks.data.tokenizers.Bytes"})
    given = {
        "path": str(path),
        "meta_columns": ["label"],
        "period": "p1",
        "template": "say: {text} = {label}",
        "examples": True,
        "tokenizer": tokenizer,
        "context_length": 12,
        "answer_length": 4,
        "batch_size": 4,
        "cache_dir": path.parent / "cache",
        "test_fraction": 0.2,
    }
    return DatedFiles(**given | settings)


def test_examples_are_whole_documents_each_once_an_epoch(dated):
    """A label that is cut off, shifted, or of another document would train another task."""
    source = data(dated)
    source.prepare()
    dataset = source.of_period("2010", "test")
    documents = source.documents_of("2010", "test")
    batch = dataset.batch([1, 0, -1])
    assert len(dataset) == len(documents) and batch["sources_BT"].shape[1] == 12
    for row, document in enumerate((documents[1], documents[0])):
        read = batch["sources_BT"][row].tolist()
        said = [int(i) for i in batch["targets_BT"][row] if i != -100]
        # The prompt is cut at its end, the answer too; both have their end mark where there is room.
        assert bytes(read[:-1]) == f"say: {document.text}".encode()[:11] and read[-1] == 0xFF
        assert bytes(said) == document.meta["label"].encode()[:4]
    assert batch["targets_BT"][2].eq(-100).all() and int(batch["bytes"]) == 8
    whole = data(dated, context_length=64, answer_length=9).of_period("2010", "test")
    batch = whole.batch(np.arange(len(documents)))
    assert batch["sources_BT"].shape == (len(documents), whole.widths[0])
    prompt = bytes(int(i) for i in batch["sources_BT"][0] if i >= 0)
    assert prompt == f"say: {documents[0].text} = ".encode() + b"\xff"
    assert bytes(int(i) for i in batch["targets_BT"][0] if i != -100)[-1:] == b"\xff"

    source = data(dated, context_length=64)
    train, count = source.dataset("train"), len(source.dataset("train"))
    stream, seen = iter(source.train_dataloader()), []
    while len(seen) < 2 * count:
        seen += map(tuple, next(stream)["sources_BT"].tolist())
    everything = sorted(map(tuple, train.batch(range(count))["sources_BT"].tolist()))
    assert sorted(seen[:count]) == sorted(seen[count : 2 * count]) == everything
    sizes = {p: source.of_period(p, "train").size for p in source.periods}
    assert max(sizes.values()) <= source.equal_tokens < max(sizes.values()) + 64


def test_what_examples_cannot_be_is_said_in_a_line(train, tmp_path, dated):
    with pytest.raises(ValueError, match="examples: needs a template"):
        data(dated, template=None)
    with pytest.raises(UserError, match="must end with the field to be predicted"):
        data(dated, template="{label}: {text}").prepare()
    with pytest.raises(UserError, match="fewer than one batch"):
        data(dated, batch_size=400).prepare()
    arguments = ("task=time_vectors", "data=dated", f"data.path={dated}", "data.period=base",
                 "data.examples=true", "data.meta_columns=[label]", "max_steps=1",
                 "data.template='{text}{label}'", "model.context_length=16")  # fmt: skip
    done = train(*arguments, data=False)
    assert done.code == 2 and "only T5 reads them" in done.err
