"""What a trained model is measured by: losses by position, scores by distance, shifts, speed."""

import math
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from kernels.attention.masks import blockwise_causal, causal, sliding_window
from tasks.data.sources import FileData
from tasks.data.tokenizers import Bytes
from tasks.extrapolation.invariance import INVARIANT, translation_change
from tasks.extrapolation.perplexity import Losses, measure
from tasks.extrapolation.scores import expected_scores
from tasks.extrapolation.spans import Spans, read_spans
from tasks.extrapolation.speed import measure_speed
from zoo.bench import preset
from zoo.load import build

N = 16
MASKS = {"": causal(), "+bca": blockwise_causal(N // 2), "+window": sliding_window(N)}


def model_of(name: str, **position):
    torch.manual_seed(0)
    shape = {"context_length": N, "num_layers": 2, "width": 32, "num_heads": 2}
    node = preset(name, 64) | shape
    node["position"] = node["position"] | position
    model = build(node, key="model").eval()
    for parameter in model.parameters():  # a fresh T5 table is zero, and so would hide a shift
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def spans() -> Spans:
    tokens = torch.randint(64, (5, 4 * N + 1), generator=torch.Generator().manual_seed(1))
    return Spans(tokens, torch.ones(5, 4 * N, dtype=torch.int64))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> FileData:
    """120 files of 4 to 1,200 bytes, each word of which tells its document and its place there."""
    folder = tmp_path_factory.mktemp("files")
    draw = np.random.default_rng(0)
    for i in range(120):
        words = int(draw.integers(1, 150))
        (folder / f"{i:03d}.txt").write_text("".join(f"{i:03d}-{j:03d} " for j in range(words)))
    made = FileData(
        path=str(folder),
        tokenizer=Bytes(),
        context_length=N,
        batch_size=2,
        cache_dir=folder / "cache",
        test_fraction=0.5,
        max_eval_tokens=50,
    )
    made.prepare()
    return made


# ---- which tokens


def found_at(row: torch.Tensor) -> tuple[set[str], int]:
    """The documents whose words a span holds, and where in its document it begins (-1: at its eos)."""
    text = bytes(row.tolist()).decode("latin-1")
    words = [*re.finditer(r"(\d{3})-(\d{3}) ", text)]
    return {word[1] for word in words}, int(words[0][2]) * 8 - words[0].start()


def test_spans_lie_inside_one_document_and_do_not_overlap(data):
    """A segment that ran on into another document would be charged for the change of subject."""
    spans = read_spans(data.dataset("test"), longest=100)
    found = [found_at(row) for row in spans.tokens]
    assert all(len(owners) == 1 for owners, _ in found)
    predicted = [(*who, place) for who, at in found for place in range(at + 1, at + 101)]
    assert len(predicted) == len(set(predicted)), "no token is predicted twice"
    assert len(set(map(str, found))) > 60 and len({str(who) for who, _ in found}) > 20
    assert int(spans.bytes.sum()) == 100 * len(spans), "no eos among the targets: all are text"


def test_one_span_of_every_document_before_a_second_of_any(data):
    """Few tokens must still come from many documents: that is what `max_eval_tokens` cuts."""
    every = read_spans(data.dataset("test"), longest=100)
    few = read_spans(data.dataset("test"), longest=100, max_tokens=1000)
    assert len(few) == 10 and torch.equal(few.tokens, every.tokens[:10])
    assert len({str(found_at(row)[0]) for row in few.tokens}) == 10
    places = [found_at(row)[1] for row in few.tokens]
    assert len(set(places)) > 5, "from anywhere in the documents"


def test_the_papers_spans_are_beginnings(data):
    first = read_spans(data.dataset("test"), longest=100, per_document=1)
    found = [found_at(row) for row in first.tokens]
    assert {place for _, place in found} == {-1}
    assert len({str(who) for who, _ in found}) == len(found) > 20


def test_documents_too_short_are_one_clear_line(data):
    with pytest.raises(ValueError, match=r"lengths: no document .* 5,001 tokens .* task\.lengths"):
        read_spans(data.dataset("test"), longest=5000)


def test_shares_of_all_ranks_are_the_whole(spans):
    for world in (2, 3, 7):
        parts = [spans.share(rank, world) for rank in range(world)]
        assert len({len(part) for part in parts}) == 1, "every rank takes as many steps"
        counted = torch.cat([part.tokens[part.tokens[:, 0] >= 0] for part in parts])
        assert sorted(counted.tolist()) == sorted(spans.tokens.tolist())
        assert sum(int(part.bytes.sum()) for part in parts) == int(spans.bytes.sum())


# ---- losses


def test_losses_are_those_of_segments_read_alone(spans):
    """The definition: cut, read each from empty context, average over the same targets."""
    model = model_of("xpos")
    found = measure(model, spans, lengths=[4, N, 4 * N], masks=MASKS, tokens_per_batch=3 * N)
    assert set(found) == {(length, m) for length in (4, N, 4 * N) for m in MASKS}
    for (length, name), losses in found.items():
        by_position = torch.zeros(length, dtype=torch.float64)
        for row in spans.tokens:
            for start in range(0, 4 * N, length):
                piece = row[start : start + length + 1]
                with torch.no_grad():
                    logits = model(piece[None, :-1], mask=MASKS[name])[0]
                by_position += cross_entropy(logits, piece[1:], reduction="none").double()
        torch.testing.assert_close(losses.nats, by_position, rtol=1e-4, atol=1e-4)
        assert int(losses.count.sum()) == 5 * 4 * N, "the same targets at every length"
        late = by_position[-8:].sum() / losses.count[-8:].sum()
        assert losses.perplexity(last=8) == pytest.approx(math.exp(late), rel=1e-4)
    for length in (4, N):
        assert found[length, ""] is found[length, "+bca"], "one and the same mask up to N"
    assert found[4 * N, ""].loss() != found[4 * N, "+bca"].loss()


def test_full_causal_means_full_causal_for_a_model_with_a_mask_of_its_own(spans):
    blockwise = model_of("xpos")
    assert blockwise.mask.block == N // 2
    found = measure(blockwise, spans, lengths=[4 * N], masks={"": causal()}, tokens_per_batch=10**6)
    blockwise.mask = causal()
    with torch.no_grad():
        mean, _ = blockwise.loss(spans.tokens[:, :-1], spans.tokens[:, 1:])
    assert found[4 * N, ""].loss() == pytest.approx(float(mean), rel=1e-5)


def test_a_table_of_positions_has_no_value_beyond_its_end(spans):
    lengths = [N, 2 * N, 4 * N]
    short = measure(model_of("gpt2"), spans, lengths=lengths, masks=MASKS, tokens_per_batch=256)
    assert {length for length, _ in short} == {N}
    long = model_of("gpt2", max_length=2 * N)
    assert {
        n for n, _ in measure(long, spans, lengths=lengths, masks=MASKS, tokens_per_batch=256)
    } == {
        N,
        2 * N,
    }


def test_bits_and_positions():
    losses = Losses(torch.tensor([2.0, 4, 6, 6, 6, 6, 6, 12]), torch.full((8,), 2.0), bytes=32)
    assert losses.bits_per_byte == pytest.approx(48 / 32 / math.log(2))
    x, y = losses.by_position()
    assert x[0] == 1.0 and y[0] == pytest.approx(math.e), "the first position stands alone"
    assert x == sorted(x) and x[-1] < 8 and len(x) == len(y) <= 7


# ---- scores


@pytest.mark.parametrize("name", ["alibi", "xpos", "kerple"])
def test_expected_scores_are_means_over_texts_and_allowed_pairs(name, spans):
    """Against plain loops over texts, layers, queries and keys."""
    model = model_of(name)
    tokens, T = spans.tokens[:3, : 2 * N], 2 * N
    for mask, last in ((causal(), T), (blockwise_causal(N // 2), N), (sliding_window(N), N)):
        found = expected_scores(model, tokens, mask=mask, elements_per_batch=2 * T * T)
        visible = mask.dense(T)
        x = model.position.embed(model.embedding(tokens))
        with torch.no_grad():
            for layer, (block, position) in enumerate(model.layers()):
                scores = block.mixer.scores(block.mixer_norm(x), position, causal()).double()
                assert found[layer].shape == (2, last), "no distance beyond what the mask allows"
                for r in range(last):
                    pairs = [scores[:, :, i, i - r] for i in range(r, T) if visible[i, i - r]]
                    mean = torch.stack(pairs).mean((0, 1))
                    torch.testing.assert_close(found[layer][:, r], mean, rtol=1e-5, atol=1e-5)
                x = block(x, position, mask)
    assert not any(module._forward_pre_hooks for module in model.modules())


# ---- translation


@pytest.mark.parametrize("name", ["nope", "alibi", "rope", "t5", "kerple", "sandwich", "xpos"])
def test_relative_schemes_do_not_mind_a_shift(name, spans):
    assert translation_change(model_of(name), spans.tokens[:, :N]) < INVARIANT


@pytest.mark.parametrize("name", ["gpt2", "sinusoidal", "fire"])
def test_schemes_that_count_from_the_start_do(name, spans):
    """FIRE too: it divides by the query's own position once that is beyond its threshold."""
    assert translation_change(model_of(name), spans.tokens[:, :N]) > 10 * INVARIANT


# ---- speed


def test_speed_is_measured_mask_by_mask_and_leaves_the_model_as_it_was(spans):
    model = model_of("xpos")
    own = model.mask
    masks = {"": causal(), "+bca": blockwise_causal(N // 2)}
    found = measure_speed(
        model, spans.tokens[0], lengths=[N, 4 * N], masks=masks, new_tokens=2, rounds=1
    )
    for what in ("score_tokens_per_s", "generate_tokens_per_s", "cache_memory_mb"):
        for at in (f"{N}", f"{4 * N}", f"{N}+bca", f"{4 * N}+bca"):
            assert found[f"test/{what}@{at}"] > 0
    per_token = 2 * 2 * 32 * 4 / 2**20  # layers, keys and values, width, bytes
    assert found[f"test/cache_memory_mb@{4 * N}"] == pytest.approx(4 * N * per_token)
    assert found[f"test/cache_memory_mb@{4 * N}+bca"] <= N * per_token, "bounded by the window"
    assert model.mask is own


def test_generation_is_not_timed_where_the_table_ends(spans):
    model = model_of("gpt2")
    found = measure_speed(
        model, spans.tokens[0], lengths=[N // 2, N], masks={"": causal()}, new_tokens=4, rounds=1
    )
    assert f"test/generate_tokens_per_s@{N // 2}" in found
    assert (
        f"test/score_tokens_per_s@{N}" in found and f"test/generate_tokens_per_s@{N}" not in found
    )
