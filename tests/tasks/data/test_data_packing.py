"""Windows against a loop over the documents: every token predicted once, every byte counted once."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.data.loaders import EvaluationBatches
from tasks.data.packing import IGNORED
from tasks.data.tokenizers import Bytes, Tokenizer
from tests.tasks.data.made_up import text_data, texts


class NoEnd(Bytes):
    """Bytes without an end of document."""

    eos = None  # type: ignore[assignment]

    def token_bytes(self):
        return np.ones(256, dtype=np.uint8)

    @property
    def fingerprint(self):
        return {"tokenizer": "no end"}


class Spans(NoEnd):
    """The same, but only the text says how many bytes a token covers: all of it lies on the first."""

    def token_bytes(self):
        return None

    def encode_spans(self, texts):
        found = []
        for ids in self.encode_batch(texts):
            spans = np.zeros(len(ids), dtype=np.uint32)
            spans[0] = len(ids)
            found.append((ids, spans))
        return found

    @property
    def fingerprint(self):
        return {"tokenizer": "spans"}


def plainly(data, split: str, cross: bool) -> list[tuple[int, int, int, bool]]:
    """(token, document, bytes, predicted) of a split, from its documents, one at a time."""
    tokenizer, rows = data.tokenizer, []
    for d, document in enumerate(data.documents(split)):
        if tokenizer.eos is not None:
            rows.append((tokenizer.eos, d, 0, True))
        for i, byte in enumerate(document.text.encode()):
            rows.append((byte, d, 1, cross or tokenizer.eos is not None or i > 0))
    rows[0] = (*rows[0][:3], False)
    return rows


@pytest.mark.parametrize("cross", [False, True], ids=["kept apart", "crossed"])
@pytest.mark.parametrize("tokenizer", [Bytes(), NoEnd()], ids=["eos", "no eos"])
@pytest.mark.parametrize("context_length", [1, 7, 32, 256, 10_000])
def test_evaluation_against_a_loop(tmp_path, tokenizer: Tokenizer, cross, context_length):
    """The numbers in results.json rest on this."""
    data = text_data(
        tmp_path,
        texts(60 if context_length < 10_000 else 200),
        tokenizer=tokenizer,
        context_length=context_length,
        batch_size=1,
        cross_documents=cross,
    )
    rows = plainly(data, "val", cross)
    seen: list[tuple[int, int, int | None]] = []
    total = 0
    for batch in EvaluationBatches(data.dataset("val"), batch_size=3):
        shape = (3, context_length)
        assert batch["tokens_BT"].shape == batch["targets_BT"].shape == shape
        documents = batch.get("documents_BT", torch.zeros(shape, dtype=torch.int32))
        assert documents.dtype == torch.int32 and batch["tokens_BT"].dtype == torch.int64
        for tokens, targets, places in zip(batch["tokens_BT"], batch["targets_BT"], documents):
            seen += zip(tokens.tolist(), targets.tolist(), places.tolist())
        total += int(batch["bytes"])
        if cross:
            assert "documents_BT" not in batch
    assert [token for token, _, _ in seen[: len(rows) - 1]] == [token for token, *_ in rows[:-1]]
    expected = [token if predicted else IGNORED for token, _, _, predicted in rows[1:]]
    assert [target for _, target, _ in seen[: len(rows) - 1]] == expected
    assert all(target == IGNORED for _, target, _ in seen[len(rows) - 1 :])
    counted = sum(size for _, _, size, predicted in rows if predicted)
    assert total == counted == data.dataset("val").num_bytes()
    places = np.concatenate(list(data.dataset("val").targets()))
    assert places.tolist() == [i for i, r in enumerate(rows) if r[3]]
    assert data.dataset("val").num_targets() == len(places)


@pytest.mark.parametrize("tokenizer", [Bytes(), NoEnd()], ids=["eos", "no eos"])
def test_windows_anywhere_against_a_loop(tmp_path, tokenizer):
    """What training reads: tokens, targets and the boundaries that attention must not cross."""
    data = text_data(tmp_path, tokenizer=tokenizer, context_length=97)
    dataset, rows = data.dataset("train"), plainly(data, "train", False)
    tokens = [row[0] for row in rows]
    marked = 0
    for start in range(0, len(rows) - 98, 13):
        batch = dataset.at(np.array([start, 0]))
        inside = rows[start : start + 97]
        assert batch["tokens_BT"][0].tolist() == tokens[start : start + 97]
        targets = [r[0] if r[3] else IGNORED for r in rows[start + 1 : start + 98]]
        assert batch["targets_BT"][0].tolist() == targets
        documents = [r[1] for r in inside]
        first = [r[1] for r in rows[:97]]
        assert ("documents_BT" in batch) == (len(set(documents)) > 1 or len(set(first)) > 1)
        if "documents_BT" in batch:
            marked += 1
            assert batch["documents_BT"].tolist() == [documents, first]
        assert batch["tokens_BT"].is_contiguous() and batch["targets_BT"].is_contiguous()
    assert marked > 10


def test_every_byte_of_the_split_is_counted(tmp_path):
    """With an end of document, no text is left out: bits per byte is of the whole split."""
    data = text_data(tmp_path)
    for split in ("train", "val", "test"):
        size = sum(len(d.text.encode()) for d in data.documents(split))
        assert data.dataset(split).num_bytes() == size
        assert len(data.tokens(split)) == size + len(list(data.documents(split)))


def test_tokens_are_the_text(tmp_path):
    data = text_data(tmp_path)
    joined = "".join(d.text for d in data.documents("test"))
    assert data.tokenizer.decode(data.tokens("test")) == joined
    assert data.tokens("test").dtype == np.uint8 and not data.tokens("test").flags.writeable


def test_byte_counts_that_only_the_text_knows(tmp_path):
    """Tokenizers without a fixed number of bytes a token: the stored spans are what counts."""
    data = text_data(tmp_path, tokenizer=Spans(), cross_documents=True, context_length=50)
    first = len(next(iter(data.documents("val"))).text.encode())
    size = sum(len(d.text.encode()) for d in data.documents("val"))
    assert data.dataset("val").num_bytes() == size - first
    assert sum(int(b["bytes"]) for b in data.val_dataloader()) == size - first
    apart = text_data(tmp_path, tokenizer=Spans(), context_length=50)
    assert apart.dataset("val").num_bytes() == 0, "all bytes lie on the targets that are left out"


def test_max_tokens(tmp_path):
    """A cap on evaluation reads the same sample for model and yardsticks."""
    data = text_data(tmp_path, max_eval_tokens=500)
    counted = sum(int((b["targets_BT"] != IGNORED).sum()) for b in data.test_dataloader())
    assert counted == 500 == data.dataset("test").num_targets()
    total = sum(int(b["bytes"]) for b in data.test_dataloader())
    ends = sum(int((b["targets_BT"] == 0xFF).sum()) for b in data.test_dataloader())
    assert total == data.dataset("test").num_bytes() == 500 - ends
    assert len(data.tokens("train")) > 501
    whole = text_data(tmp_path, max_eval_tokens=10**9)
    assert len(whole.tokens("test")) > 501


def test_sent_to_a_worker(tmp_path):
    """Spawned workers get the dataset by pickle; a copy of the corpus in each would fill memory."""
    dataset = text_data(tmp_path, max_eval_tokens=700).dataset("val")
    sent = pickle.dumps(dataset)
    assert len(sent) < 1000
    copy = pickle.loads(sent)
    assert torch.equal(copy[3]["tokens_BT"], dataset[3]["tokens_BT"])
    assert len(copy) == len(dataset) and copy.max_tokens == 700


def test_the_cache_is_arrow(tmp_path):
    """Anybody's tools can open it."""
    import datasets

    data = text_data(tmp_path)
    table = datasets.Dataset.from_file(str(Path(data.dataset("test").path)))
    first = next(iter(data.documents("test"))).text
    assert table[0]["tokens"] == [0xFF, *first.encode()]


def test_many_short_documents_in_a_window(tmp_path):
    given = [f"{i:03}" for i in range(300)]
    data = text_data(tmp_path, given, context_length=64, tokenizer=NoEnd())
    batch = data.dataset("train").at(np.array([0, 1]))
    assert batch["documents_BT"][0].tolist() == [i // 3 for i in range(64)]
    assert batch["documents_BT"][1].tolist() == [(i + 1) // 3 for i in range(64)]
    ignored = (batch["targets_BT"] == IGNORED).nonzero().tolist()
    assert [t for b, t in ignored if b == 0] == list(range(2, 64, 3))
