"""Sentence classification as episodes: what `task=icl` measures on a network that can already read.

    python train.py task=icl data=classification data.name=sst2 pretrained=gpt2 max_steps=0 model.context_length=1024

A draw of demonstrations is an episode. Its queries are the set's test examples; the learning rate of
fine-tuning is chosen on training examples that are no demonstrations. There is nothing to train on.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

from tasks.data.tokenizers import Tokenizer
from tasks.icl.episodes import Episode
from tasks.icl.fewshot import FewShot, beginning, draw, separator
from tasks.icl.record import padded
from tasks.icl.sets import load_set
from tasks.icl.stream import Batch


class Classification(lightning.LightningDataModule):
    """A set of tasks/icl/sets.py, or one's own JSON lines.

    Args:
        name: of the set. folder: holds name/{train,test}.jsonl; None is the Hub.
        prompt, answers, separator: in place of the set's own; separator None is the end-of-document
            token (the paper's newline, which its tokenizer turns into that).
        shots: demonstrations to draw; fewer are used where they do not fit the context.
        draws: episodes. max_queries: test examples of each. dev_queries: to choose a rate on.
    """

    def __init__(
        self,
        *,
        name: str,
        tokenizer: Tokenizer,
        context_length: int,
        batch_size: int = 8,
        seed: int = 0,
        folder: str | Path | None = None,
        prompt: str | None = None,
        answers: Mapping[str, str] | None = None,
        separator: str | None = "\n",
        shots: int = 32,
        draws: int = 1,
        max_queries: int | None = 2000,
        dev_queries: int = 200,
    ):
        super().__init__()
        for key, value in (
            ("batch_size", batch_size),
            ("shots", shots),
            ("draws", draws),
            ("max_queries", max_queries),
            ("dev_queries", dev_queries),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{key}: must be at least 1, got {value}")
        self.tokenizer, self.context_length = tokenizer, context_length
        self.batch_size, self.seed = batch_size, seed
        self.shots, self.draws = shots, draws
        self.limits = {"test": max_queries, "dev": dev_queries}
        self.labelled = load_set(
            name, folder=folder, prompt=prompt, answers=answers, separator=separator
        )

    def episodes(self, split: str) -> list[Episode]:
        """One a draw: the same demonstrations in "dev" and "test", other queries."""
        return [self._episode(split, self.seed + number) for number in range(self.draws)]

    def _episode(self, split: str, seed: int) -> Episode:
        labelled = self.labelled
        if split == "dev":
            train = labelled.train
            shown = set(draw(len(train), self.shots, seed))
            rest = [example for i, example in enumerate(train) if i not in shown]
            labelled = replace(labelled, test=rest)
        shot = FewShot(
            labelled,
            self.tokenizer,
            context_length=self.context_length,
            shots=self.shots,
            seed=seed,
            max_queries=self.limits[split],
        )
        return Episode(
            beginning(self.tokenizer),
            separator(self.tokenizer, labelled.template),
            shot.demonstrations,
            shot.queries,
        )

    def train_dataloader(self) -> list[Batch]:
        """Nothing: give max_steps=0."""
        return []

    def val_dataloader(self) -> list[Batch]:
        """Nothing."""
        return []

    def test_dataloader(self) -> DataLoader:
        """A few queries with their answers, for the loss of language modelling on such text."""
        episode = self.episodes("test")[0]
        texts = [[*episode.start, *q.question, *q.answer] for q in episode.queries]
        texts = [text[: self.context_length] for text in texts[: self.batch_size]]
        tokens_BT, last_B = padded(texts, torch.device("cpu"))
        targets_BT = tokens_BT.roll(-1, 1)
        behind = torch.arange(tokens_BT.shape[1]) >= last_B[:, None]
        targets_BT[behind] = -100
        size = sum(len(self.tokenizer.decode(text).encode()) for text in texts)
        batch: Batch = {"tokens_BT": tokens_BT, "targets_BT": targets_BT, "bytes": size}
        return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
