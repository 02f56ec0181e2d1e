"""The task-semantics encoder: paragraphs of the same task get vectors that lie together.

A batch is B queries, each with a positive (another row of its task), easy negatives (rows of other
tasks) and hard negatives (its own wording around another task's content, see `labelled`). All of them
are candidates of all queries; `contrastive_loss` is what is minimised.

Published (Gu et al. 2023 §3.1, App. B): RoBERTa-base, 256 tokens, AdamW at 5e-5, weight decay 0.01,
batch 64, one easy and four hard negatives, clip 1, warm-up 1%, one epoch of 4,212 steps on a schedule
ten times as long; raw dot products without a temperature.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
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


class Examples(ABC):
    """What a retriever learns from."""

    @property
    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What the batches depend on besides their settings."""

    @abstractmethod
    def batch(
        self,
        index: int,
        *,
        seed: int,
        batch_size: int,
        easy_negatives: int,
        hard_negatives: int,
        hard_scope: str,
        positives: str,
    ) -> Batch:
        """Batch number `index`: a function of the arguments alone."""


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
        examples: Examples,
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
                batch = self.examples.batch(step, **self.sampling)
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
