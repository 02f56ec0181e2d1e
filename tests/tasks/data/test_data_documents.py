"""Each text once, in one split, and in the same one however the corpus is arranged."""

import random
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.corpora import Corpus, Document
from tasks.data.documents import SPLITS, SeenHashes, content_hash, prepare_documents
from tasks.errors import UserError
from tests.tasks.data.made_up import Made, text_data, texts

FRACTIONS = {"val_fraction": 0.1, "test_fraction": 0.1}


def split_texts(cache, given, **fractions) -> dict[str, list[str]]:
    documents = prepare_documents(Made(given), cache)
    rows = documents.split(**(fractions or FRACTIONS))
    return {split: list(documents.texts(rows[split])) for split in SPLITS}


def test_splits_are_disjoint_and_together_all(tmp_path):
    given = texts(500)
    parts = split_texts(tmp_path, given)
    assert sorted(chain(*parts.values())) == sorted(given)
    # 500 draws at 0.1: mean 50, standard deviation 6.7
    assert 25 < len(parts["val"]) < 75 and 25 < len(parts["test"]) < 75


def test_order_of_the_corpus_does_not_matter(tmp_path):
    """Otherwise listing a folder in another order would leak test text into training."""
    given = texts(300)
    shuffled = given.copy()
    random.Random(1).shuffle(shuffled)
    first, second = split_texts(tmp_path, given), split_texts(tmp_path, shuffled)
    for split in SPLITS:
        assert set(first[split]) == set(second[split])
    assert first["test"] == second["test"], "val and test are in the order of their hashes"


def test_more_text_moves_nothing(tmp_path):
    """Otherwise a model tested after the corpus grew would be tested on what it had learnt."""
    small, large = (
        split_texts(tmp_path, texts(300)),
        split_texts(tmp_path, texts(300) + texts(300, seed=1)),
    )
    for split in SPLITS:
        assert set(small[split]) <= set(large[split])


def test_fractions_do_not_move_each_other(tmp_path):
    few = split_texts(tmp_path, texts(300), val_fraction=0.1, test_fraction=0.2)
    many = split_texts(tmp_path, texts(300), val_fraction=0.3, test_fraction=0.2)
    assert few["test"] == many["test"] and set(few["val"]) < set(many["val"])


def test_copies_are_left_out(tmp_path):
    """Otherwise a copy could be in training and its original in test."""
    given = texts(50)
    respaced = [text.replace(" ", "\n  ") for text in given]
    documents = prepare_documents(Made([*given, *respaced, *given]), tmp_path)
    assert list(documents.texts(np.arange(len(documents)))) == given
    assert content_hash(b"a b") == content_hash(b"a\r\n\tb") != content_hash(b"a c")


def test_empty_documents_are_left_out(tmp_path):
    documents = prepare_documents(Made(["", "a", " \n\t", "b"]), tmp_path)
    assert [d.text for d in documents.read(np.arange(2))] == ["a", "b"] and len(documents) == 2
    with pytest.raises(UserError, match="every document of it is empty"):
        prepare_documents(Made(["", " "]), tmp_path)


@pytest.mark.parametrize("number", [3, 4, 10])
def test_tiny_corpus_still_has_all_splits(tmp_path, number):
    parts = split_texts(tmp_path, texts(number))
    assert all(parts.values())
    assert parts == split_texts(tmp_path, texts(number))


def test_too_few_documents(tmp_path):
    with pytest.raises(UserError, match=r"2 document\(s\).*3 splits.*data\.val_fraction=0"):
        split_texts(tmp_path, texts(2))
    alone = split_texts(tmp_path, texts(1), val_fraction=0, test_fraction=0)
    assert alone == {"train": texts(1), "val": [], "test": []}
    with pytest.raises(UserError, match=r"left to train on.*data\.val_fraction"):
        split_texts(tmp_path, texts(4), val_fraction=0.49, test_fraction=0.5)


def test_names_and_notes_survive(tmp_path):
    """Other tasks read dates and labels from `meta`."""
    data = text_data(tmp_path)
    found = {d.id: d for split in SPLITS for d in data.documents(split)}
    assert len(found) == 60
    for i, text in enumerate(texts(60)):
        assert found[f"made:{i}"] == Document(text, f"made:{i}", {"number": i})


def test_broken_characters_do_not_stop_the_build(tmp_path):
    documents = prepare_documents(Made(["half a character: \ud83d", "b"]), tmp_path)
    assert list(documents.texts(np.arange(1))) == ["half a character: ?"]


def test_read_once(tmp_path):
    """The cache is what makes the second start fast."""
    corpus = Made(texts(10))
    for _ in range(3):
        prepare_documents(corpus, tmp_path)
    assert corpus.read == 1
    prepare_documents(Made(texts(11)), tmp_path)


def test_any_rows_in_any_order(tmp_path):
    """Several batches on disk: rows must come back as asked for, not as stored."""

    class Large(Corpus):
        def documents(self):
            for i in range(40):
                yield Document(f"{i} " + "x" * 400_000, str(i))

        def fingerprint(self, cache_dir):
            return {"corpus": "large"}

    documents = prepare_documents(Large(), tmp_path)
    rows = np.array([39, 0, 12, 12, 13, 1])
    assert [d.id for d in documents.read(rows)] == [str(r) for r in rows]
    assert documents.sizes[3] == len("3 ") + 400_000
    assert documents.sample(np.arange(40), 1_000_001).size == 2
    assert documents.sample(np.arange(40), 1).size == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=60), max_size=20))
def test_seen_hashes_is_a_set(batches):
    """A duplicate let through leaks between splits; a document taken for one is lost."""
    seen, plain = SeenHashes(), set()
    for batch in batches:
        expected = []
        for value in batch:
            expected.append(value not in plain)
            plain.add(value)
        assert seen.add(np.array(batch, dtype=np.uint64)).tolist() == expected
