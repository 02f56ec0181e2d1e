"""Encoders of transformers, ready-made training rows, and what a stage's name depends on."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.data.tokenizers import Bytes
from tasks.errors import UserError
from tasks.picl.contrastive import contrastive_loss
from tasks.picl.describe import describe
from tasks.picl.encoders import by_length, hub_encoder, zoo_encoder
from tasks.picl.retriever import Contrastive
from tasks.picl.triples import TripleFile
from zoo.encoder import Encoder
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import GELU
from zoo.norms import LayerNorm
from zoo.positions.none import NoPosition

TEXTS = ["a b c", "b", "c c a b a a b", "the b of a"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer, saved as transformers saves it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "the", "of"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "first", "pooler"])
def test_an_encoder_of_transformers_pools_as_it_says(bert: Path, pooling: str) -> None:
    """And a text's vector does not depend on what it shares a batch with."""
    encoder = hub_encoder(name=str(bert), pooling=pooling, max_tokens=8)(Bytes()).eval()
    found = encoder.embed(TEXTS)
    for text, vector in zip(TEXTS, found):
        np.testing.assert_allclose(encoder.embed([text])[0], vector, atol=1e-6)
    ids = torch.tensor([encoder.tokens(TEXTS[:1])[0].tolist()])
    assert ids.shape[1] == 5
    with torch.no_grad():
        out = encoder.net(input_ids=ids)
    wanted = {
        "mean": out.last_hidden_state.mean(1),
        "first": out.last_hidden_state[:, 0],
        "pooler": out.pooler_output,
    }[pooling]
    np.testing.assert_allclose(found[0], wanted[0].numpy(), atol=1e-6)


def test_an_encoder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded as an encoder"):
        hub_encoder(name=str(tmp_path / "none"))(Bytes())


def test_batches_of_similar_length_hold_every_text_once() -> None:
    lengths = [3, 9, 1, 5, 9, 2]
    batches = [*by_length(lengths, 12)]
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= 12 for b in batches)


def triples(folder: Path, rows: int = 6) -> Path:
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for i in range(rows):
            label = f"set{i % 2}-template"
            row = {
                "query": f"q{i}", "pos_context": f"p{i}", "label": label,
                "easy_neg_contexts": [f"e{i}"], "easy_neg_labels": [f"set{1 - i % 2}-template"],
                "hard_neg_contexts": [f"h{i}{j}" for j in range(4)], "hard_neg_labels": ["x"] * 4,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


def test_ready_made_rows_give_the_released_batches(tmp_path: Path) -> None:
    """64 queries have 384 candidates there; here 4 have 24. Easy negatives of another query's task are
    its positives, a hard negative is nobody's."""
    options = dict(seed=0, easy_negatives=1, hard_negatives=4, positives="template")
    batch = TripleFile(path=triples(tmp_path)).batch(0, batch_size=4, hard_scope="batch", **options)
    assert len(batch.candidates) == 4 * 6 and bool(batch.visible.all())
    kinds = [
        int(text[1]) % 2 if text[0] != "e" else 1 - int(text[1]) % 2 for text in batch.candidates
    ]
    for i, query in enumerate(batch.queries):
        for j, text in enumerate(batch.candidates):
            wanted = text[0] != "h" and kinds[j] == int(query[1]) % 2
            assert bool(batch.positive[i, j]) == wanted
        assert batch.candidates[batch.own[i]] == "p" + query[1:]
    seen = {
        query
        for index in range(3)
        for query in TripleFile(path=tmp_path / "rows.jsonl")
        .batch(index, batch_size=2, hard_scope="own", **options)
        .queries
    }
    assert seen == {f"q{i}" for i in range(6)}, "an epoch reads every row once"


def test_rows_that_are_missing_or_wrong_are_one_line(tmp_path: Path) -> None:
    options = dict(seed=0, easy_negatives=1, hard_negatives=4, hard_scope="own", positives="task")
    with pytest.raises(UserError, match="does not exist"):
        TripleFile(path=tmp_path / "none").batch(0, batch_size=1, **options)
    (tmp_path / "bad").write_text('{"query": "a"}\n')
    with pytest.raises(UserError, match="bad:1: is no row"):
        TripleFile(path=tmp_path / "bad").batch(0, batch_size=1, **options)


def contrastive(folder: Path, **settings) -> Contrastive:
    net = functools.partial(
        Encoder,
        context_length=8,
        num_layers=1,
        width=8,
        num_heads=2,
        position=NoPosition,
        mixer=SoftmaxAttention,
        mlp=GELU,
        norm=LayerNorm,
    )
    given = {"examples": TripleFile(path=triples(folder)), "encoder": zoo_encoder(net=net)}
    return Contrastive(**{**given, "batch_size": 4, "steps": 2, "lr": 1e-2, **settings})


def test_training_lowers_the_loss_and_is_kept(tmp_path: Path) -> None:
    plain, trained = (contrastive(tmp_path, steps=n) for n in (0, 30))
    before, _ = plain.prepare(Bytes(), tmp_path)
    after, name = trained.prepare(Bytes(), tmp_path)
    batch = trained.examples.batch(99, **trained.sampling)
    with torch.no_grad():
        losses = [
            float(contrastive_loss(e(batch.queries), e(batch.candidates), batch.positive))
            for e in (before, after)
        ]
    assert losses[1] < losses[0] - 0.1
    again, same = contrastive(tmp_path, steps=30).prepare(Bytes(), tmp_path)
    assert same == name and again.fingerprint() == after.fingerprint()
    assert before.fingerprint() != after.fingerprint()


def test_what_changes_a_retriever_changes_its_name(tmp_path: Path) -> None:
    """Else a sweep over a setting would find the first one's weights each time."""
    base = contrastive(tmp_path).key(Bytes())
    for setting in (
        {"lr": 2e-2}, {"steps": 3}, {"temperature": 0.5}, {"cosine": True}, {"hard_scope": "own"},
        {"hard_negatives": 1}, {"positives": "template"}, {"seed": 1}, {"decay_steps": 9},
    ):  # fmt: skip
        assert contrastive(tmp_path, **setting).key(Bytes()) != base, setting
    assert contrastive(tmp_path).key(Bytes()) == base
    net = functools.partial(Encoder, width=8)
    assert describe(net) != describe(functools.partial(Encoder, width=9))
    assert describe(net) == {"call": "zoo.encoder.Encoder", "width": 8}
