"""The yardsticks against counting by hand: a model is called good or bad by them."""

import lzma
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from tasks.data import baselines as module
from tasks.data.baselines import count_models, xz_bits_per_byte
from tasks.data.bpe import BPE
from tests.tasks.data.made_up import text_data, texts
from tests.tasks.data.test_data_packing import NoEnd


def by_hand(data) -> tuple[float, float]:
    """Unigram and bigram bits of the test targets, over dictionaries, with the best α and β of val."""
    train = data.tokens("train").tolist()
    V = data.tokenizer.vocab_size
    singles, doubles = Counter(train[:-1]), Counter(pairwise(train))
    total = sum(singles.values())

    def unigram(token, alpha):
        return (singles[token] + alpha) / (total + alpha * V)

    def bigram(before, token, alpha, beta):
        prior = unigram(token, alpha)
        return (doubles[before, token] + beta * prior) / (singles[before] + beta)

    def bits(split, p):
        dataset = data.dataset(split)
        tokens = dataset.tokens.tolist()
        return -sum(
            math.log2(p(tokens[i - 1], tokens[i]))
            for places in dataset.targets()
            for i in places.tolist()
        )

    alpha = min(module._ALPHAS, key=lambda a: bits("val", lambda _, t: unigram(t, a)))
    beta = min(module._BETAS, key=lambda b: bits("val", lambda s, t: bigram(s, t, alpha, b)))
    for before in [*range(0, V, 37)]:
        assert sum(bigram(before, t, alpha, beta) for t in range(V)) == pytest.approx(1, abs=1e-12)
    return (
        bits("test", lambda _, t: unigram(t, alpha)),
        bits("test", lambda s, t: bigram(s, t, alpha, beta)),
    )


@pytest.mark.parametrize("dense", [True, False], ids=["table", "sorted pairs"])
@pytest.mark.parametrize("tokenizer", [BPE(vocab_size=320), NoEnd()], ids=["bpe", "no eos"])
def test_counts_by_hand(tmp_path, monkeypatch, tokenizer, dense):
    monkeypatch.setattr(module, "_CHUNK", 1000)  # several chunks, with pairs across their borders
    if not dense:
        monkeypatch.setattr(module, "_DENSE", 0)
    data = text_data(tmp_path, tokenizer=tokenizer, max_eval_tokens=900)
    found = count_models(data.dataset("train"), data.dataset("val"), data.dataset("test"))
    assert found == pytest.approx(by_hand(data), rel=1e-10)


def test_reported_figures(tmp_path):
    data = text_data(tmp_path)
    found = data.baselines()
    test = data.dataset("test")
    size = test.num_bytes()
    unigram, bigram = by_hand(data)
    assert found == {
        "baseline/uniform_bits_per_byte": pytest.approx(8 * test.num_targets() / size, rel=1e-12),
        "baseline/unigram_bits_per_byte": pytest.approx(unigram / size, rel=1e-10),
        "baseline/bigram_bits_per_byte": pytest.approx(bigram / size, rel=1e-10),
        "baseline/xz_bits_per_byte": found["baseline/xz_bits_per_byte"],
    }
    figures = list(found.values())[:3]
    assert figures == sorted(figures, reverse=True), "each sees more of the text's structure"


def test_xz_needs_what_xz_needs():
    given = texts(300)
    data = b"\xff".join(text.encode() for text in given)
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert lzma.decompress(packed) == data
    size = sum(len(text.encode()) for text in given)
    assert xz_bits_per_byte(given) == 8 * len(packed) / size


def test_xz_stops_at_a_bounded_amount(monkeypatch):
    """A gigabyte of test text would take a quarter of an hour."""
    monkeypatch.setattr(module, "_XZ_BYTES", 1000)
    drawn = []
    xz_bits_per_byte(drawn.append(text) or text for text in texts(100))
    assert 2 <= len(drawn) < 20


def test_xz_does_not_depend_on_the_tokenizer(tmp_path):
    name = "baseline/xz_bits_per_byte"
    first = text_data(tmp_path).baselines()[name]
    assert first == text_data(tmp_path, tokenizer=BPE(vocab_size=300)).baselines()[name]


def test_nothing_is_chosen_on_the_test_split(tmp_path, monkeypatch):
    """Without a validation split there is nothing to choose on, and α = β = 1 it is."""
    data = text_data(tmp_path, val_fraction=0.0)
    train, test = data.dataset("train"), data.dataset("test")
    free = count_models(train, None, test)
    monkeypatch.setattr(module, "_ALPHAS", (1.0,))
    monkeypatch.setattr(module, "_BETAS", (1.0,))
    assert count_models(train, train, test) == free


def test_computed_once(tmp_path, monkeypatch):
    first = text_data(tmp_path).baselines()
    monkeypatch.setattr(module, "count_models", lambda *_: pytest.fail("computed again"))
    assert text_data(tmp_path).baselines() == first


def test_large_training_text_is_sampled_evenly(tmp_path, monkeypatch):
    """Seconds, not minutes, on a large corpus; and not of its beginning alone."""
    data = text_data(tmp_path, texts(400))
    monkeypatch.setattr(module, "_CHUNK", 500)
    everything = module._count(data.dataset("train"), np.arange(3))[0]
    monkeypatch.setattr(module, "_FIT_TOKENS", 20_000)
    some = module._count(data.dataset("train"), np.arange(3))[0]
    assert 19_000 < some.sum() <= 20_000 < everything.sum() / 2
    assert np.abs(some / some.sum() - everything / everything.sum()).max() < 0.01
