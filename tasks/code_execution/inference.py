"""Traces out of a model: greedy or by beam search, with a cache, many programs at a time.

Prompts of several lengths share a batch: shorter ones are filled up at their start, which no text sees
and no position counts. A program whose trace is complete leaves its batch.

Beam search is the published one (Liu et al. 2023): scores are sums
of log probabilities, without a penalty of length; a hypothesis that ends takes a place among the `beams`
of its step and none afterwards; a program is done when its best hypothesis has ended and at least
`beams` have. One beam is greedy decoding.

Shapes: B programs, K beams, R rows (programs, or programs x beams), S prompt tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.attention.masks import Mask, full, prefix
from tasks.code_execution.grammar import Grammar
from zoo.cache import Cache
from zoo.decoder import Decoder


@dataclass(frozen=True)
class Decoding:
    """How traces are written.

    beams: 1 is greedy. max_length: tokens of a trace at most; None: what the context leaves.
    batch_size: rows of a batch. grammar: allow only what a trace may go on with.
    bidirectional: the prompt is seen in both directions; else under the model's own mask.
    """

    beams: int = 1
    max_length: int | None = None
    batch_size: int = 64
    bidirectional: bool = True

    def __post_init__(self) -> None:
        for name in ("beams", "max_length", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")


@torch.no_grad()
def generate(
    model: Decoder,
    prompts: list[list[int]],
    *,
    begin: list[int],
    end: int,
    decoding: Decoding,
    grammar: Grammar | None = None,
    pad: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> list[list[int]]:
    """The tokens that follow each prompt and `begin`, without `end`, in the order of the prompts.

    A row stops at `end`, or where it fills the model's training length. advance: called with how many
    programs are done. The model should be in eval mode.
    """
    found: list[list[int]] = [[] for _ in prompts]
    programs = max(1, decoding.batch_size // decoding.beams)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(by_length), programs):
        numbers = by_length[first : first + programs]
        batch = _Batch(model, [prompts[i] for i in numbers], begin, pad, decoding, grammar)
        search = _greedy if decoding.beams == 1 else _beams
        for row, tokens in search(batch, end):
            found[numbers[row]] = tokens
            advance(1)
    return found


class _Batch:
    """Rows that are decoded together: the model's cache, and what each row may still write."""

    def __init__(
        self,
        model: Decoder,
        prompts: list[list[int]],
        begin: list[int],
        pad: int,
        decoding: Decoding,
        grammar: Grammar | None,
    ):
        self.model, self.decoding, self.grammar = model, decoding, grammar
        self.device = model.embedding.weight.device
        width = max(map(len, prompts))
        rows = [[pad] * (width - len(p)) + p + begin for p in prompts]
        self.tokens_RS = torch.tensor(rows, device=self.device)
        self.padding_R = torch.tensor([width - len(p) for p in prompts], device=self.device)
        self.mask: Mask | None = None
        if decoding.bidirectional:
            self.mask = prefix(torch.tensor(width, device=self.device))
        self.cache: Cache = model.new_cache()
        # Tokens that the model reads of a row are at most its training length.
        longest = min(model.context_length, model.max_length or model.context_length)
        room = [longest - len(p) - len(begin) + 1 for p in prompts]
        limit = decoding.max_length
        room = [r if limit is None else min(r, limit) for r in room]
        self.room_R = torch.tensor(room, device=self.device)
        if grammar is not None:
            self.states_R = grammar.start(len(prompts), self.device)
            self.absent_RV = grammar.absent_lines(prompts, self.device)

    def read(self, tokens_RT: Tensor) -> Tensor:
        """Log probabilities of what comes next, (R, V), -inf for what the grammar forbids."""
        padding = self.padding_R if bool(self.padding_R.any()) else None
        hidden = self.model.hidden(tokens_RT, mask=self.mask, cache=self.cache, padding_B=padding)
        if self.mask is not None:  # one token sees all that was read, which needs no interval
            self.mask = full()
        scores_RV = self.model.head(hidden[:, -1]).float()
        if self.grammar is not None:
            scores_RV = self.grammar.restrict(scores_RV, self.states_R, self.absent_RV)
        return scores_RV.log_softmax(-1)

    def write(self, tokens_R: Tensor) -> None:
        """Goes on with a token a row."""
        self.room_R = self.room_R - 1
        if self.grammar is not None:
            self.states_R = self.grammar.follow(self.states_R, tokens_R)

    def keep(self, rows_R: Tensor) -> None:
        """Row r goes on as row rows_R[r] was; rows that are not named are dropped."""
        if len(rows_R) == len(self.padding_R) and bool((rows_R[1:] > rows_R[:-1]).all()):
            return
        self.cache.reorder(rows_R)
        self.padding_R, self.room_R = self.padding_R[rows_R], self.room_R[rows_R]
        if self.grammar is not None:
            self.states_R, self.absent_RV = self.states_R[rows_R], self.absent_RV[rows_R]


def _greedy(batch: _Batch, end: int) -> Iterable[tuple[int, list[int]]]:
    """(number, tokens) of each program as it is done."""
    alive = torch.arange(len(batch.tokens_RS), device=batch.device)
    tokens: list[list[int]] = [[] for _ in alive]
    pending = batch.tokens_RS
    over = batch.room_R <= 0
    yield from ((int(i), []) for i in alive[over])
    batch_rows = (~over).nonzero()[:, 0]
    alive, pending = alive[batch_rows], pending[batch_rows]
    batch.keep(batch_rows)
    while len(alive):
        next_R = batch.read(pending).argmax(-1)
        batch.write(next_R)
        ended = next_R == end
        for i, token, stop in zip(alive.tolist(), next_R.tolist(), ended.tolist()):
            if not stop:
                tokens[i].append(token)
        done = ended | (batch.room_R <= 0)
        if done.any():
            yield from ((i, tokens[i]) for i in alive[done].tolist())
            rows = (~done).nonzero()[:, 0]
            batch.keep(rows)
            alive, next_R = alive[rows], next_R[rows]
        pending = next_R[:, None]


@dataclass
class _Program:
    """The hypotheses of one program: those alive by row, and those that have ended."""

    number: int
    tokens: list[list[int]]
    ended: list[tuple[float, list[int]]]
    led: bool = False  # the best hypothesis of some step has ended


def _beams(batch: _Batch, end: int) -> Iterable[tuple[int, list[int]]]:
    """(number, tokens) of the best hypothesis of each program as it is done."""
    K = batch.decoding.beams
    # The first step has one row a program: its best K tokens are the first beams.
    room = (batch.room_R > 0).tolist()
    yield from ((i, []) for i, some in enumerate(room) if not some)
    rows = torch.tensor([i for i, some in enumerate(room) if some], device=batch.device).long()
    pending = batch.tokens_RS[rows]
    batch.keep(rows)
    programs = [_Program(int(i), [[]], []) for i in rows]
    scores_BK = torch.zeros(len(programs), 1, device=batch.device)
    while programs:
        width = scores_BK.shape[1]
        total_BKV = scores_BK[..., None] + batch.read(pending).unflatten(0, (-1, width))
        V = total_BKV.shape[2]
        scores_BK, best_BK = total_BKV.flatten(1).topk(min(K, width * V))
        tokens_BK, parents_BK = best_BK % V, best_BK // V
        base = torch.arange(len(programs), device=batch.device)[:, None] * width
        batch.keep((base + parents_BK).flatten())
        batch.write(tokens_BK.flatten())
        full = (batch.room_R <= 0).view(len(programs), -1)[:, 0]
        ended_BK = (tokens_BK == end) & scores_BK.isfinite()
        kept = []
        for b, program in enumerate(programs):
            parents, tokens = parents_BK[b].tolist(), tokens_BK[b].tolist()
            before = program.tokens
            program.tokens = [[*before[p], t] for p, t in zip(parents, tokens)]
            for k in ended_BK[b].nonzero()[:, 0].tolist():
                program.ended.append((float(scores_BK[b, k]), program.tokens[k][:-1]))
            program.led |= bool(ended_BK[b, 0])
            over = program.led and len(program.ended) >= K
            dead = bool((ended_BK[b] | ~scores_BK[b].isfinite()).all())
            if over or dead or bool(full[b]):
                yield program.number, _best(program, scores_BK[b], ended_BK[b])
            else:
                kept.append(b)
        scores_BK = scores_BK.masked_fill(ended_BK, -torch.inf)
        if len(kept) < len(programs):
            index = torch.tensor(kept, device=batch.device).long()
            rows = (index[:, None] * scores_BK.shape[1]) + torch.arange(
                scores_BK.shape[1], device=batch.device
            )
            batch.keep(rows.flatten())
            scores_BK, tokens_BK = scores_BK[index], tokens_BK[index]
            programs = [programs[b] for b in kept]
        pending = tokens_BK.reshape(-1, 1)


def _best(program: _Program, scores_K: Tensor, ended_K: Tensor) -> list[int]:
    """The best that has ended; where none has, the best of those alive."""
    if program.ended:
        return max(program.ended, key=lambda hypothesis: hypothesis[0])[1]
    return program.tokens[int(scores_K.masked_fill(ended_K, -torch.inf).argmax())]
