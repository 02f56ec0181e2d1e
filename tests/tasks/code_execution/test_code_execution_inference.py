"""Traces as a model writes them: the cache, the batches and the beams change nothing they should not."""

import itertools

import pytest
import torch

from kernels.attention.masks import prefix
from tasks.code_execution.formats import SPECIAL_TOKENS
from tasks.code_execution.grammar import Grammar
from tasks.code_execution.inference import Decoding, generate
from tasks.code_execution.metrics import segments
from tasks.code_execution.tokens import Words
from zoo.bench import preset
from zoo.load import build

V, END = 7, 2


def model_of(name: str, *, vocab_size: int = V, context_length: int = 24, **shape):
    torch.manual_seed(1)
    node = preset(name, vocab_size) | {
        "context_length": context_length, "num_layers": 2, "width": 16, "num_heads": 2,
    } | shape  # fmt: skip
    model = build(node).double().eval()
    for parameter in model.parameters():  # far from uniform, so that there is a choice to make
        parameter.data *= 3
    return model


@torch.no_grad()
def next_logits(model, prompt, written, *, bidirectional=True):
    """Without cache, batch or padding: the specification."""
    mask = prefix(len(prompt)) if bidirectional else None
    return model(torch.tensor([[*prompt, 3, *written]]), mask=mask)[0, -1]


def greedy(model, prompt, limit=None, *, bidirectional=True):
    room = model.context_length - len(prompt)
    written = []
    while len(written) < (room if limit is None else min(limit, room)):
        token = int(next_logits(model, prompt, written, bidirectional=bidirectional).argmax())
        if token == END:
            break
        written.append(token)
    return written


PROMPTS = [[4, 5, 1], [6], [1, 1, 4, 5, 6, 0, 4, 4], [5, 4], [0, 6, 5, 4, 1, 1], [4] * 23, [6] * 24]


@pytest.mark.parametrize("name", ["gpt2", "xpos", "alibi", "t5", "sinusoidal"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_batches_with_a_cache_write_what_one_program_alone_would(name, bidirectional):
    model = model_of(name)
    found = generate(
        model,
        PROMPTS,
        begin=[3],
        end=END,
        decoding=Decoding(batch_size=4, bidirectional=bidirectional),
    )
    assert found == [greedy(model, p, bidirectional=bidirectional) for p in PROMPTS]
    assert len({len(tokens) for tokens in found}) > 2  # they ended at different times


def test_a_trace_ends_at_its_limit():
    model = model_of("gpt2")
    found = generate(
        model, PROMPTS, begin=[3], end=END, decoding=Decoding(max_length=2, batch_size=3)
    )
    assert found == [greedy(model, p, 2) for p in PROMPTS]


def test_one_beam_is_greedy_and_progress_is_told():
    model, done = model_of("rope"), []
    found = generate(
        model, PROMPTS, begin=[3], end=END, decoding=Decoding(beams=1), advance=done.append
    )
    assert found == [greedy(model, p) for p in PROMPTS] and sum(done) == len(PROMPTS)


def logprob(model, prompt, tokens):
    total = 0.0
    for i, token in enumerate(tokens):
        total += float(next_logits(model, prompt, tokens[:i]).log_softmax(-1)[token])
    return total


def test_beams_that_hold_everything_find_the_likeliest_trace():
    """With as many beams as there are traces, beam search is exhaustive."""
    model = model_of("rope", vocab_size=4, context_length=8)
    for prompt in ([1, 0], [3, 3, 1]):
        limit = 3
        everything = [
            [*body, END]
            for n in range(limit)
            for body in itertools.product([t for t in range(4) if t != END], repeat=n)
        ]
        best = max(everything, key=lambda tokens: logprob(model, prompt, tokens))
        found = generate(
            model, [prompt], begin=[3], end=END,
            decoding=Decoding(beams=64, batch_size=64, max_length=limit),
        )  # fmt: skip
        assert found == [best[:-1]]


def slow_beams(model, prompt, beams):
    """The published search, one hypothesis at a time."""
    alive, ended, led = [(0.0, [])], [], False
    for _ in range(model.context_length - len(prompt)):
        grown = [
            (score + float(lp), [*tokens, t])
            for score, tokens in alive
            for t, lp in enumerate(next_logits(model, prompt, tokens).log_softmax(-1))
        ]
        best = sorted(grown, key=lambda h: -h[0])[:beams]
        led |= best[0][1][-1] == END
        ended += [(s, t[:-1]) for s, t in best if t[-1] == END]
        alive = [(s, t) for s, t in best if t[-1] != END]
        if (led and len(ended) >= beams) or not alive:
            break
    return max(ended)[1] if ended else alive[0][1]


@pytest.mark.parametrize("beams", [2, 3, 10])
def test_beam_search_is_the_published_one(beams):
    model = model_of("gpt2", context_length=14)
    prompts = [p for p in PROMPTS if len(p) < 9]
    found = generate(
        model, prompts, begin=[3], end=END, decoding=Decoding(beams=beams, batch_size=3 * beams)
    )
    assert found == [slow_beams(model, p, beams) for p in prompts]


@pytest.fixture(scope="module")
def words():
    return Words().train(["<tutorial> <0> total = 1 <1> print ( total )"])


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("single_line", [False, True])
def test_constrained_traces_are_traces(words, beams, single_line):
    """An untrained model writes noise; with the grammar every whole trace it writes can be read."""
    model = model_of("rope", vocab_size=words.vocab_size, context_length=90)
    model.head.weight.data[words.id("</s>")] *= 2
    prompts = [words.encode(f"<tutorial> <0> a = {i} <2> b").tolist() for i in range(6)]
    written = generate(
        model, prompts, begin=[words.id("<mask0>")], end=words.id("</s>"),
        decoding=Decoding(beams=beams), grammar=Grammar(words, single_line=single_line),
    )  # fmt: skip
    for ids in written:
        text = words.decode(ids)
        assert text.startswith("<state>" if single_line else ("<line>", "<output>"))
        spans = segments(text)
        lines = [s for s in spans if "<line>" in s]
        assert all(s.startswith(("<line> <0> <state>", "<line> <2> <state>")) for s in lines)
        assert all(s.strip().endswith("</state>") for s in lines)


def test_the_grammar_allows_every_true_trace(words):
    """It must forbid no trace that the tracer writes."""
    trace = (
        "<output> 1 : 2 <line> <0> <state> a : { k : 1 } <dictsep> s :  <dictsep> total : x </state> "
        "<line> <1> <state> </state>"
    ).replace(":  <", ": <")
    for text, single in (("<state> a : [ 1 , 2 ] </state>", True), (trace, False)):
        grammar = Grammar(words, single_line=single)
        state = grammar.start(1, torch.device("cpu"))
        absent = grammar.absent_lines([words.encode("<0> x <1> y").tolist()], torch.device("cpu"))
        for token in [*words.encode(text), words.id("</s>")]:
            scores = torch.zeros(1, words.vocab_size)
            assert torch.isfinite(grammar.restrict(scores, state, absent)[0, int(token)]), (
                words.decode([token])
            )
            state = grammar.follow(state, torch.tensor([int(token)]))


def test_lines_that_the_program_lacks_are_forbidden(words):
    grammar = Grammar(words)
    state = grammar.follow(grammar.start(1, "cpu"), torch.tensor([words.id("<line>")]))
    absent = grammar.absent_lines([[words.id("<3>"), words.id("<7>")]], "cpu")
    allowed = grammar.restrict(torch.zeros(1, words.vocab_size), state, absent)[0].isfinite()
    assert {words.decode([i]) for i in allowed.nonzero()[:, 0].tolist()} == {"<3>", "<7>"}
    assert len(SPECIAL_TOKENS) == 211


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beams: must be at least 1"):
        Decoding(beams=0)
