"""The task-semantics encoder: paragraphs of the same task get vectors that lie together.

A batch is B queries, each with a positive (another row of its task), easy negatives (rows of other
tasks) and hard negatives (its own wording around another task's content, see `labelled`). All of them
are candidates of all queries; `contrastive_loss` is what is minimised.

Published (Gu et al. 2023 §3.1, App. B): RoBERTa-base, 256 tokens, AdamW at 5e-5, weight decay 0.01,
batch 64, one easy and four hard negatives, clip 1, warm-up 1%, one epoch of 4,212 steps on a schedule
ten times as long; raw dot products without a temperature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tasks.data.progress import progress
from tasks.data.stage import stage
from tasks.data.tokenizers import Tokenizer
from tasks.optim import decay_groups
from tasks.picl.contrastive import contrastive_loss, ranks, similarity
from tasks.picl.describe import describe
from tasks.picl.encoders import TextEncoder, load, save
from tasks.picl.labelled import Labelled, LabelledTask

_FORMAT = 1


@dataclass(frozen=True)
class Batch:
    """texts: B queries, then the M candidates; own: the candidate that is each query's positive.

    positive, visible: (B, M), see `contrastive_loss`.
    """

    queries: list[str]
    candidates: list[str]
    own: Tensor
    positive: Tensor
    visible: Tensor


class Sampler:
    """Batches of a set of tasks; `batch(i)` depends on the seed and i alone."""

    def __init__(
        self,
        tasks: Sequence[LabelledTask],
        *,
        batch_size: int,
        easy_negatives: int,
        hard_negatives: int,
        hard_scope: Literal["batch", "own"],
        positives: Literal["template", "task"],
        seed: int,
    ):
        self.tasks = list(tasks)
        self.batch_size = batch_size
        self.easy, self.hard = easy_negatives, hard_negatives
        self.hard_scope, self.positives = hard_scope, positives
        self.seed = seed

    def batch(self, index: int) -> Batch:
        """Batch number `index`."""
        draw = np.random.default_rng((self.seed, index))
        queries: list[str] = []
        candidates: list[str] = []
        labels: list[tuple[int, int]] = []  # of the queries: task and template
        marks: list[
            tuple[int, int]
        ] = []  # of the candidates, (-1, -1) for what is no row of a task
        owners: list[int] = []  # the query that a hard negative belongs to, else -1
        own: list[int] = []
        for i in range(self.batch_size):
            number = int(draw.integers(len(self.tasks)))
            task = self.tasks[number]
            template = int(draw.integers(len(task.templates)))
            row, other = draw.choice(len(task.rows), 2, replace=False)
            queries.append(task.render(template, task.rows[row]))
            labels.append((number, template))
            again = template if self.positives == "template" else draw.integers(len(task.templates))
            own.append(len(candidates))
            candidates.append(task.render(int(again), task.rows[other]))
            marks.append((number, int(again)))
            owners.append(-1)
            hard = self._hard(draw, number, template)
            for text in hard:
                candidates.append(text)
                marks.append((-1, -1))
                owners.append(i)
            for _ in range(self.easy + self.hard - len(hard)):
                text, mark = self._easy(draw, number)
                candidates.append(text)
                marks.append(mark)
                owners.append(-1)
        label_B2, mark_M2 = torch.tensor(labels), torch.tensor(marks)
        same_BM2 = label_B2[:, None] == mark_M2
        positive = same_BM2[..., 0] if self.positives == "task" else same_BM2.all(-1)
        owner_M = torch.tensor(owners)
        visible = torch.ones_like(positive)
        if self.hard_scope == "own":
            visible = (owner_M < 0) | (owner_M == torch.arange(self.batch_size)[:, None])
        return Batch(queries, candidates, torch.tensor(own), positive, visible)

    def _other(self, draw: np.random.Generator, number: int) -> int:
        return int((number + 1 + draw.integers(len(self.tasks) - 1)) % len(self.tasks))

    def _easy(self, draw: np.random.Generator, number: int) -> tuple[str, tuple[int, int]]:
        other = self._other(draw, number)
        task = self.tasks[other]
        template = int(draw.integers(len(task.templates)))
        row = task.rows[int(draw.integers(len(task.rows)))]
        return task.render(template, row), (other, template)

    def _hard(self, draw: np.random.Generator, number: int, template: int) -> list[str]:
        """At most `hard` of them, given up after twice as many tries."""
        task, found = self.tasks[number], []
        for _ in range(2 * self.hard):
            if len(found) == self.hard:
                break
            source = self.tasks[self._other(draw, number)]
            row = source.rows[int(draw.integers(len(source.rows)))]
            if task.fits(template, row):
                label = task.labels[int(draw.integers(len(task.labels)))]
                found.append(task.render(template, row, label=label))
        return found


class Contrastive:
    """How a retriever's encoder is trained; `prepare` trains it, or finds it trained.

    encoder: `tasks.picl.encoders.zoo_encoder` or `hub_encoder`. examples: the labelled tasks.
    steps: 0 leaves the encoder as it starts. decay_steps: the length of the linear decay; None:
        `steps`. warmup: as a share of it.
    hard_scope: whether a hard negative competes for every query of the batch (as released) or for its
        own alone. positives: rows of the query's task in any template, or (as released) in its own.
    cosine, temperature: as in the loss; with `cosine` the vectors that are searched are normalised.
    """

    def __init__(
        self,
        *,
        examples: Labelled,
        encoder: Callable[[Tokenizer], TextEncoder],
        steps: int = 4212,
        decay_steps: int | None = None,
        batch_size: int = 64,
        lr: float = 5e-5,
        weight_decay: float = 0.01,
        warmup: float = 0.01,
        clip: float = 1.0,
        easy_negatives: int = 1,
        hard_negatives: int = 4,
        hard_scope: Literal["batch", "own"] = "batch",
        positives: Literal["template", "task"] = "task",
        temperature: float = 1.0,
        cosine: bool = False,
        seed: int = 0,
    ):
        for name, value, least in (
            ("steps", steps, 0),
            ("decay_steps", decay_steps, 1),
            ("batch_size", batch_size, 1),
            ("easy_negatives", easy_negatives, 0),
            ("hard_negatives", hard_negatives, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        for name, number in (("lr", lr), ("clip", clip), ("temperature", temperature)):
            if not number > 0:
                raise ValueError(f"{name}: must be above 0, got {number}")
        self.examples, self.encoder = examples, encoder
        self.steps, self.cosine, self.temperature = steps, cosine, temperature
        self.decay_steps = decay_steps or max(steps, 1)
        self.lr, self.weight_decay, self.warmup, self.clip = lr, weight_decay, warmup, clip
        self.sampling: dict[str, Any] = dict(
            batch_size=batch_size,
            easy_negatives=easy_negatives,
            hard_negatives=hard_negatives,
            hard_scope=hard_scope,
            positives=positives,
            seed=seed,
        )
        self.seed = seed

    def key(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """What the trained weights depend on."""
        trained = {
            "steps": self.steps,
            "decay": self.decay_steps,
            "optim": [self.lr, self.weight_decay, self.warmup, self.clip],
            "loss": [self.temperature, self.cosine],
            "examples": self.examples.fingerprint,
            **self.sampling,
        }
        return {
            "format": _FORMAT,
            "encoder": describe(self.encoder),
            "tokenizer": tokenizer.fingerprint,
            **(trained if self.steps else {"untrained": self.seed}),
        }

    def prepare(self, tokenizer: Tokenizer, cache_dir: Path) -> tuple[TextEncoder, str]:
        """The encoder, trained now unless its stage exists, and what names it."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            encoder = self.encoder(tokenizer)
            folder = stage(
                cache_dir, "picl-retriever", self.key(tokenizer), lambda f: self._build(encoder, f)
            )
        load(encoder, folder)
        return encoder.eval(), folder.name

    def _build(self, encoder: TextEncoder, folder: Path) -> None:
        curve = self.train(encoder) if self.steps else []
        np.save(folder / "curve.npy", np.array(curve, dtype=np.float32))
        save(encoder, folder)

    def train(self, encoder: TextEncoder) -> list[tuple[float, float]]:
        """Trains in place; loss and mean reciprocal rank of the own positive, by step."""
        sampler = Sampler(self.examples.train, **self.sampling)
        optimizer = torch.optim.AdamW(
            decay_groups(encoder, self.weight_decay), lr=self.lr, eps=1e-8, fused=True
        )
        warm = max(1, round(self.warmup * self.decay_steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / warm, max(0.0, 1 - s / self.decay_steps))
        )
        encoder.train()
        curve = []
        with progress("training the retriever", self.steps) as advance:
            for step in range(self.steps):
                batch = sampler.batch(step)
                vectors = encoder([*batch.queries, *batch.candidates])
                query, candidate = vectors.tensor_split([len(batch.queries)])
                positive, visible = (x.to(vectors.device) for x in (batch.positive, batch.visible))
                loss = contrastive_loss(
                    query,
                    candidate,
                    positive,
                    temperature=self.temperature,
                    cosine=self.cosine,
                    visible_NM=visible,
                )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(encoder.parameters(), self.clip)
                optimizer.step()
                schedule.step()
                scores = similarity(query.detach(), candidate.detach(), cosine=self.cosine)
                rank = ranks(scores, batch.own.to(scores.device))
                curve.append((float(loss.detach()), float((1 / rank).mean())))
                advance(1)
        return curve
