"""Sampling from exact sets, and generation against the naive loop that re-reads everything."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.zoo import schemes
from tests.zoo.schemes import PRESETS, N, tokens
from zoo import generate as program
from zoo.generate import generate, sample
from zoo.load import Run

# ---- sampling -----------------------------------------------------------------------------------


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The weights that the draw is made from, call by call."""
    seen: list[Tensor] = []
    draw = torch.multinomial

    def watched(weights_BV: Tensor, *given, **options) -> Tensor:
        seen.append(weights_BV.clone())
        return draw(weights_BV, *given, **options)

    monkeypatch.setattr(torch, "multinomial", watched)
    return seen


def logits_of(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).log()


def allowed(row: Tensor) -> set[int]:
    return set(row.nonzero().flatten().tolist())


def chosen(probabilities: list[float], top_k: int | None, top_p: float | None) -> set[int]:
    """The tokens that may be drawn: the k likeliest, of these the fewest that reach p."""
    order = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])
    order = order[: top_k or len(order)]
    if top_p is None:
        return set(order)
    total = sum(probabilities[i] for i in order)
    kept, reached = set(), 0.0
    for i in order:
        kept.add(i)
        reached += probabilities[i] / total
        if reached >= top_p:
            break
    return kept


ROWS = (
    (0.05, 0.4, 0.13, 0.2, 0.02, 0.197, 0.003),
    (0.01, 0.022, 0.9, 0.03, 0.015, 0.018, 0.005),
)


@pytest.mark.parametrize("top_k", [None, 1, 2, 3, 6, 7, 50])
@pytest.mark.parametrize("top_p", [None, 0.01, 0.39, 0.41, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_exact_set(
    weights: list[Tensor], top_k: int | None, top_p: float | None, temperature: float
) -> None:
    """One token too many and unlikely text gets in; one too few and text repeats."""
    sample(logits_of(*ROWS), top_k=top_k, top_p=top_p, temperature=temperature)
    for row, found in zip(ROWS, weights[0]):
        powers = [p ** (1 / temperature) for p in row]
        sharp = [p / sum(powers) for p in powers]
        assert allowed(found) == chosen(sharp, top_k, top_p)
        # What is kept keeps its proportions.
        total = sum(sharp[i] for i in allowed(found))
        for i in allowed(found):
            assert float(found[i] / found.sum()) == pytest.approx(sharp[i] / total, rel=1e-4)


def test_temperature_zero_takes_the_likeliest() -> None:
    """Greedy decoding, whatever else is asked for."""
    logits = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    for options in ({}, {"top_k": 3}, {"top_p": 0.5}):
        assert torch.equal(sample(logits, temperature=0, **options), logits.argmax(-1))


def test_a_low_temperature_is_greedy_and_a_high_one_uniform(weights: list[Tensor]) -> None:
    """The two ends of the temperature, without an overflow."""
    logits = torch.tensor([[1.0, 3.0, 2.0, -4.0]])
    assert int(sample(logits, temperature=1e-6)) == 1
    sample(logits, temperature=1e6)
    assert (weights[-1] - 0.25).abs().max() <= 1e-5
    assert weights[0].isfinite().all()


def test_top_k_keeps_k_among_equals(weights: list[Tensor]) -> None:
    """Equal logits are common in bf16: k tokens are kept, not all that tie with the k-th."""
    logits = torch.tensor([[2.0, 5.0, 5.0, 5.0, 1.0]])
    for k in (1, 2, 3):
        sample(logits, top_k=k)
        assert len(allowed(weights[-1][0])) == k


def test_impossible_tokens_are_never_drawn(weights: list[Tensor]) -> None:
    """A logit of -inf (a forbidden token) stays forbidden under every option."""
    logits = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]])
    for options in ({}, {"top_k": 3}, {"top_p": 1.0}, {"top_p": 0.9999, "top_k": 4}):
        sample(logits, **options)
        assert allowed(weights[-1][0]) == {0, 2}


def test_the_seed_repeats_the_draw() -> None:
    """A sample is reproduced from its seed, and the global generator is left alone."""
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))

    def draws(seed: int) -> Tensor:
        own = torch.Generator().manual_seed(seed)
        return torch.stack([sample(logits, generator=own) for _ in range(3)])

    state = torch.get_rng_state()
    assert torch.equal(draws(1), draws(1))
    assert not torch.equal(draws(1), draws(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_half_precision_logits() -> None:
    """Logits of a bf16 model are sampled in float32: the tail does not vanish."""
    logits = torch.zeros(1, 1000, dtype=torch.bfloat16)
    own = torch.Generator().manual_seed(0)
    drawn = {int(sample(logits, generator=own, top_p=0.999)) for _ in range(50)}
    assert len(drawn) > 25


@pytest.mark.parametrize(
    "options, name",
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_k": -3}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": math.nan}, "top_p"),
    ],
)
def test_bad_options_are_named(options: dict, name: str) -> None:
    """A slip on the command line gets a line that names it."""
    with pytest.raises(ValueError, match=rf"^{name}:"):
        sample(torch.zeros(1, 4), **options)


# ---- generation ---------------------------------------------------------------------------------


def greedy(model, prompt: Tensor, count: int, **options) -> Tensor:
    return torch.stack(
        list(generate(model, prompt, max_new_tokens=count, temperature=0, **options)), dim=1
    )


@torch.no_grad()
def naive(model, prompt: Tensor, count: int) -> Tensor:
    """Re-reads all of it for every token; half of the window again whenever a table is full."""
    limit = model.max_length
    text = prompt
    window = prompt if limit is None else prompt[:, -limit:]
    for _ in range(count):
        if limit is not None and window.shape[1] > limit:
            window = text[:, -max(1, limit // 2) :]
        token = model(window)[:, -1].argmax(-1, keepdim=True)
        text, window = torch.cat((text, token), 1), torch.cat((window, token), 1)
    return text[:, prompt.shape[1] :]


@pytest.mark.parametrize("length", [1, 7, 30])
@pytest.mark.parametrize("name", PRESETS)
def test_generation_is_the_naive_loop(name: str, length: int) -> None:
    """What the cache generates is what the model would say, token for token, past its window too."""
    model = schemes.model(name).double()
    prompt = tokens(2, length)
    expected = naive(model, prompt, 45)
    assert torch.equal(greedy(model, prompt, 45), expected)
    assert torch.equal(greedy(model, prompt, 45, chunk=4), expected)


@pytest.mark.parametrize("length", [1, N - 1, N, N + 9])
@pytest.mark.parametrize("limit", [N, N + 1])
def test_a_full_table_rereads_half_its_window(limit: int, length: int) -> None:
    """GPT-2 goes on beyond its table, prompts longer than the table included."""
    model = schemes.model("gpt2", max_length=limit).double()
    prompt = tokens(2, length)
    expected = naive(model, prompt, 3 * N)
    assert torch.equal(greedy(model, prompt, 3 * N), expected)
    assert torch.equal(greedy(model, prompt, 3 * N, chunk=3), expected)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_tables_of_a_few_rows(limit: int) -> None:
    """The smallest tables still generate, and re-read no more than half of themselves."""
    model = schemes.model("gpt2", max_length=limit, context_length=1).double()
    assert torch.equal(greedy(model, tokens(1, 4), 12), naive(model, tokens(1, 4), 12))


def test_generation_reads_each_token_once() -> None:
    """The price of a token does not grow: one token a step goes through the model."""
    model = schemes.model("xpos")
    read = []
    model.embedding.register_forward_hook(lambda m, given, out: read.append(given[0].shape[1]))
    list(generate(model, tokens(1, 20), max_new_tokens=6, chunk=8, temperature=0))
    assert read == [8, 8, 4, 1, 1, 1, 1, 1]


def test_generation_is_seeded() -> None:
    """`--seed` repeats a text."""
    model = schemes.model("rope")

    def text(seed: int) -> list[int]:
        own = torch.Generator().manual_seed(seed)
        found = generate(model, tokens(1, 4), max_new_tokens=30, generator=own, top_k=9)
        return [int(token) for token in found]

    assert text(0) == text(0)
    assert text(0) != text(1)


def test_how_many_tokens() -> None:
    """None asked for, none given; otherwise exactly as many, one row each."""
    model = schemes.model("rope")
    assert list(generate(model, tokens(3, 4), max_new_tokens=0)) == []
    found = list(generate(model, tokens(3, 4), max_new_tokens=5))
    assert [token.shape for token in found] == [(3,)] * 5


def test_gradients_are_as_they_were_between_tokens() -> None:
    """A caller who trains between tokens must not find autograd switched off."""
    model = schemes.model("rope")
    for _ in generate(model, tokens(1, 4), max_new_tokens=2):
        assert torch.is_grad_enabled()
    assert torch.is_grad_enabled()


def test_an_empty_prompt_is_refused() -> None:
    """Nothing to continue: say so."""
    with pytest.raises(ValueError, match=r"^prompt"):
        list(generate(schemes.model("rope"), torch.zeros(1, 0).long(), max_new_tokens=2))


# ---- the command line ---------------------------------------------------------------------------


class Bytes:
    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose model has 256 bytes to choose from."""
    model = schemes.model("xpos", vocab_size=256)
    monkeypatch.setattr(
        program, "load_run", lambda folder, **given: Run(Path(folder), {}, model, Bytes())
    )


def test_text_comes_out_whole(run, monkeypatch, capsys) -> None:
    """Characters of several bytes are printed once and unbroken."""
    text = "naïve – 日本語 😀😀é\n\tend"
    script = [torch.tensor([b]) for b in text.encode()]
    monkeypatch.setattr(program, "generate", lambda *given, **options: iter(script))
    assert program.main(["somewhere", "--prompt", "Ça: "]) == 0
    assert capsys.readouterr().out == "Ça: " + text + "\n"


def test_the_command_repeats_itself(run, capsys) -> None:
    """Same seed, same text; another seed, another one."""
    shown = []
    for seed in ("0", "0", "1"):
        command = ["somewhere", "--prompt", "def ", "--tokens", "40", "--seed", seed]
        assert program.main(command) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] != shown[2]
    assert shown[0].startswith("def ")


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--top-p", "2"], "top_p"),
        (["--top-k", "0"], "top_k"),
        (["--temperature", "-1"], "temperature"),
        (["--prompt", ""], "--prompt"),
    ],
)
def test_slips_on_the_command_line(run, capsys, arguments: list[str], word: str) -> None:
    """One line on stderr and a status, no traceback."""
    assert program.main(["somewhere", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ") and word in lines[0]


def test_a_folder_that_is_no_run(tmp_path: Path, capsys) -> None:
    """The wrong folder: said in one line."""
    assert program.main([str(tmp_path)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and str(tmp_path) in lines[0]
