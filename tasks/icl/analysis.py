"""One network, some episodes: accuracy and every similarity, by layer (arXiv 2212.10559 §4).

For each episode: read the queries without demonstrations (ZSL) and behind them (ICL), then train on
the demonstrations (finetune.py), read them again without (FT) and put the weights back. Sums are kept,
not tensors: memory is that of one batch.

Controls within a network: random updates (normal, and uniform as published), random ranks, and
`other`: ICL behind the demonstrations of the next episode, if there is one, whose update has the same
form and says something else. Controls between networks are the task's (task.py).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tasks.icl import metrics
from tasks.icl.episodes import Episode
from tasks.icl.fewshot import Encoded, Ids, answer_scores
from tasks.icl.finetune import LossOn, finetune, only
from tasks.icl.record import padded, recording
from zoo.decoder import Decoder

Position = Literal["prompt_last", "label0"]


@dataclass(frozen=True)
class Reading:
    """How prompts are read.

    at: the token whose attention is compared, the prompt's last, or as released the first candidate
        answer put behind it.
    ranked_queries: Kendall's tau is taken on so many queries of an episode (the paper: 100).
    """

    at: Position = "prompt_last"
    loss_on: LossOn = "all"
    tokens_per_batch: int = 16384
    ranked_queries: int = 100
    seed: int = 0


@dataclass
class Layers:
    """Means over queries, layer by layer."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, values_NL: Tensor) -> None:
        """Adds queries; NaN are left out and not counted."""
        known = ~values_NL.isnan()
        self.sums[name] = self.sums.get(name, 0) + values_NL.nan_to_num().sum(0)
        self.counts[name] = self.counts.get(name, 0) + known.sum(0)

    def mean(self, name: str) -> Tensor:
        """(L,), NaN where nothing was counted."""
        return self.sums[name] / self.counts[name]


@dataclass
class Findings:
    """What was found of one network."""

    lr: float
    gold: list[int] = field(default_factory=list)
    predicted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    layers: Layers = field(default_factory=Layers)
    unmoved: int = 0  # (query, layer) pairs that fine-tuning left exactly as they were
    shots: list[int] = field(default_factory=list)

    def curves(self) -> dict[str, list[float]]:
        """Every similarity, layer by layer."""
        return {name: self.layers.mean(name).tolist() for name in self.layers.sums}

    def numbers(self) -> dict[str, float]:
        """Every measure as one number: accuracies in percent, similarities averaged over layers."""
        found: dict[str, float] = {}
        for setting, predicted in self.predicted.items():
            found[f"acc@{setting}"] = metrics.accuracy(gold=self.gold, predicted=predicted)
        wrong = [i for i, (g, z) in enumerate(zip(self.gold, self.predicted["zsl"])) if g != z]
        missed = {k: [p[i] for i in wrong] for k, p in self.predicted.items()}
        found["acc@icl_of_zsl_wrong"] = metrics.accuracy(
            gold=[self.gold[i] for i in wrong], predicted=missed["icl"]
        )
        settings = {k: self.predicted[k] for k in ("zsl", "ft", "icl")}
        rate = metrics.rec2ftp(gold=self.gold, **settings)
        found |= {"rec2ftp": rate, "rec2ftp_hits": rate.hits, "rec2ftp_count": rate.count}
        for name, curve in self.curves().items():
            known = [value for value in curve if not math.isnan(value)]
            found[name] = sum(known) / len(known) if known else math.nan
        found |= {
            "unmoved": self.unmoved,
            "finetuning_lr": self.lr,
            "shots": sum(self.shots) / len(self.shots),
            "queries": len(self.gold),
        }
        return found


def analyse(
    model: Decoder, episodes: Sequence[Episode], *, lr: float, reading: Reading | None = None
) -> Findings:
    """Everything of one network at one learning rate. The model's weights are as before afterwards."""
    reading = reading or Reading()
    found = Findings(lr)
    draw = torch.Generator().manual_seed(reading.seed)
    for number, episode in enumerate(episodes):
        other = episodes[(number + 1) % len(episodes)] if len(episodes) > 1 else None
        with only(model) as trainable:
            before = trainable.copy()
            _, read_queries = finetune(model, episode, lr=lr, loss_on=reading.loss_on)
            after = trainable.copy()
            trainable.load(before)
            found.gold += [query.gold for query in episode.queries]
            found.shots.append(len(episode.demonstrations))
            found.predicted["zsl"] += predict(model, episode.start, episode.queries, reading)
            found.predicted["icl"] += predict(model, episode.context, episode.queries, reading)
            trainable.load(after)
            found.predicted["ft"] += predict(model, episode.start, episode.queries, reading)
            ranked = 0
            for queries in _batches(episode, other, reading):
                trainable.load(before)
                zsl = _read(model, episode.start, queries, reading)
                icl = _read(model, episode.context, queries, reading)
                others = _read(model, other.context, queries, reading) if other else None
                trainable.load(after)
                ft = _read(model, episode.start, queries, reading)
                _compare(found, zsl, icl, ft, others, draw)
                left = max(0, reading.ranked_queries - ranked)
                _rank(found, episode, icl, ft, read_queries, left, draw)
                ranked += len(queries)
    return found


def choose_rate(
    model: Decoder,
    episodes: Sequence[Episode],
    rates: Sequence[float],
    *,
    reading: Reading | None = None,
) -> tuple[float, dict[float, float]]:
    """The learning rate of the best accuracy after fine-tuning, the smallest of equals; and all."""
    reading = reading or Reading()
    found: dict[float, float] = {}
    for lr in sorted(rates):
        gold, predicted = [], []
        for episode in episodes:
            with only(model):
                finetune(model, episode, lr=lr, loss_on=reading.loss_on)
                predicted += predict(model, episode.start, episode.queries, reading)
            gold += [query.gold for query in episode.queries]
        found[lr] = metrics.accuracy(gold=gold, predicted=predicted)
    return max(found, key=lambda lr: (found[lr], -lr)), found


def predict(
    model: Decoder, context: Ids, queries: Sequence[Encoded], reading: Reading
) -> list[int]:
    """The answer of largest mean log-probability, for each query."""
    scores = answer_scores(
        model,
        [query.question for query in queries],
        [query.answers for query in queries],
        prefix=context,
        tokens_per_batch=reading.tokens_per_batch,
    )
    return [int(score.argmax()) for score in scores]


@dataclass(frozen=True)
class _Read:
    """Of a batch of queries: outputs (N, L, C), queries (N, L, C), all scores (N, L, H, T), and the
    scores of the query's own keys, left-padded with zeros."""

    outputs: Tensor
    queries: Tensor
    scores: Tensor
    own: Tensor


def _read(model: Decoder, context: Ids, queries: Sequence[Encoded], reading: Reading) -> _Read:
    own = [_asked(query, reading) for query in queries]
    tokens_BT, last_B = padded([[*context, *ids] for ids in own], _device(model))
    with torch.no_grad(), recording(model, last_B) as records:
        model.hidden(tokens_BT)
    scores = records.scores_BLHT.cpu()
    width = max(map(len, own))
    kept = scores.new_zeros(*scores.shape[:3], width)
    for b, ids in enumerate(own):
        kept[b, ..., width - len(ids) :] = scores[b, ..., len(context) : len(context) + len(ids)]
    return _Read(records.outputs_BLC.cpu(), records.queries_BLC.cpu(), scores, kept)


def _asked(query: Encoded, reading: Reading) -> Ids:
    return [*query.question, *(query.answers[0] if reading.at == "label0" else [])]


def _compare(
    found: Findings, zsl: _Read, icl: _Read, ft: _Read, other: _Read | None, draw: torch.Generator
) -> None:
    layers = found.layers
    contexts = {"": icl.outputs} if other is None else {"": icl.outputs, "other": other.outputs}
    for name, context in contexts.items():
        for raw in ("", "raw"):
            cosines = metrics.aou_cosines(
                zsl=zsl.outputs, icl=context, ft=ft.outputs, normalised=not raw
            )
            layers.add(_named("sim_aou", raw, name), cosines)
    for name, law in (("", "normal"), ("uniform", "uniform")):
        noise = metrics.random_aou_cosines(
            zsl=zsl.outputs, icl=icl.outputs, generator=draw, law=law
        )
        layers.add(_named("sim_aou", "random", name), noise)
    layers.add("sim_am@before", metrics.am_cosines(icl=icl.own, ft=zsl.own))
    layers.add("sim_am", metrics.am_cosines(icl=icl.own, ft=ft.own))
    layers.add("sim_am@delta", metrics.am_cosines(icl=icl.own - zsl.own, ft=ft.own - zsl.own))
    found.unmoved += int(metrics.unmoved(zsl=zsl.outputs, other=ft.outputs).sum())


def _named(quantity: str, *conditions: str) -> str:
    """sim_aou, sim_aou@raw, sim_aou@raw_other."""
    return "@".join(part for part in (quantity, "_".join(filter(None, conditions))) if part)


def _rank(
    found: Findings,
    episode: Episode,
    icl: _Read,
    ft: _Read,
    read_queries: Tensor,
    limit: int,
    draw: torch.Generator,
) -> None:
    """Kendall: attention to the demonstrations' tokens, against query-query products with them."""
    if not limit:
        return
    attended = icl.scores[:limit, ..., episode.demonstration_places()].sum(2)
    trained_on = torch.einsum("nlc,tlc->nlt", ft.queries[:limit], read_queries)
    noise = torch.rand(attended.shape, generator=draw)
    found.layers.add("kendall", metrics.kendall_by_query(icl=attended, ft=trained_on))
    found.layers.add("kendall@random", metrics.kendall_by_query(icl=attended, ft=noise))


def _batches(episode: Episode, other: Episode | None, reading: Reading) -> list[list[Encoded]]:
    longest = max(len(_asked(query, reading)) for query in episode.queries)
    row = max(len(e.context) for e in (episode, other) if e) + longest
    size = max(1, reading.tokens_per_batch // row)
    return [episode.queries[i : i + size] for i in range(0, len(episode.queries), size)]


def _device(model: Decoder) -> torch.device:
    return next(model.parameters()).device
