"""Text out of a trained run: `python -m zoo.generate RUN_FOLDER --prompt "def "`.

Decoding keeps a key-value cache, bounded where the model's mask is (sliding window, LeX). A model
with a table of positions (GPT-2) re-reads the second half of its window whenever the table is full.
"""

import argparse
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.decoder import Decoder
from zoo.load import load_run


def sample(
    logits_BV: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token a row, (B,). temperature 0 takes the most likely one.

    top_k keeps the k most likely tokens; top_p the fewest whose probabilities reach p
    (Holtzman et al. 2019), at least one. Both act after the temperature.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature: must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k: must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p: must be in (0, 1], got {top_p}")
    if temperature == 0:
        return logits_BV.argmax(-1)
    logits_BV = logits_BV.float() / temperature
    if top_k is not None and top_k < logits_BV.shape[-1]:
        best = logits_BV.topk(top_k)
        logits_BV = torch.full_like(logits_BV, -torch.inf).scatter(-1, best.indices, best.values)
    if top_p is not None:
        ordered, token_BV = logits_BV.softmax(-1).sort(descending=True)
        beyond = ordered.cumsum(-1) - ordered >= top_p
        logits_BV = logits_BV.masked_fill(
            torch.zeros_like(beyond).scatter(-1, token_BV, beyond), -torch.inf
        )
    return torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)[:, 0]


@torch.no_grad()
def generate(
    model: Decoder,
    prompt_BT: Tensor,
    *,
    max_new_tokens: int,
    chunk: int = 512,
    **sampling,
) -> Iterator[Tensor]:
    """Yields one token a row at a time, (B,), at most `max_new_tokens` of them.

    The prompt, at least one token, is read `chunk` tokens at a time. Sampling as in `sample`.
    """
    if prompt_BT.shape[1] < 1:
        raise ValueError("prompt: is empty; give at least one token")
    limit = model.max_length
    history = prompt_BT if limit is None else prompt_BT[:, -limit:]
    cache, pending = model.new_cache(), history
    for _ in range(max_new_tokens):
        if limit is not None and cache.length + pending.shape[1] > limit:
            pending = history[:, -max(1, limit // 2) :]
            cache = model.new_cache()
        for part in pending.split(chunk, dim=1):
            hidden_BTC = model.hidden(part, cache=cache)
        token_B = sample(model.head(hidden_BTC[:, -1]), **sampling)
        yield token_B
        pending = token_B[:, None]
        if limit is not None:
            history = torch.cat((history, pending), dim=1)[:, -limit:]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m zoo.generate", description=__doc__)
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("--prompt", default="\n", help="text to continue")
    parser.add_argument("--tokens", type=int, default=400, help="how many tokens to write")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-k", type=int, default=None)
    parser.add_argument("--top-p", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default="best", help="best, last, or a path")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        run = load_run(options.run, checkpoint=options.checkpoint, device=options.device)
        # eos stands before each document: what a text begins with, and ends at.
        eos = getattr(run.tokenizer, "eos", None)
        start = [] if eos is None else [eos]
        prompt = torch.tensor([start + [int(t) for t in run.tokenizer.encode(options.prompt)]])
        if not prompt.numel():
            raise ValueError("--prompt: is empty; give at least one character")
        generator = torch.Generator(options.device).manual_seed(options.seed)
        print(options.prompt, end="", flush=True)
        tokens: list[int] = []
        shown = ""
        for token_B in generate(
            run.model,  # type: ignore[arg-type]
            prompt.to(options.device),
            max_new_tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            generator=generator,
        ):
            if int(token_B) == eos:
                break
            tokens.append(int(token_B))
            shown, tokens = _show(run.tokenizer, tokens, shown)
        print()
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _show(tokenizer, tokens: list[int], shown: str) -> tuple[str, list[int]]:
    """Prints what the tokens since the last whole character add; returns what is still open."""
    text = tokenizer.decode(tokens)
    if text.endswith("\ufffd") and len(tokens) < 8:
        return shown, tokens  # in the middle of a character
    print(text[len(shown) :], end="", flush=True)
    # A few tokens of context stay, since some tokenizers write a space between words only.
    kept = tokens[-1:]
    return tokenizer.decode(kept), kept


if __name__ == "__main__":
    sys.exit(main())
