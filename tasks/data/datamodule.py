"""Text for Lightning: a corpus and a tokenizer in, batches of windows out.

    corpus -> documents (read, deduplicated, hashed) -> split -> tokens -> windows -> batches

Everything before the windows is kept in `cache_dir`, keyed by content (see `stage`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from torch.utils.data import DataLoader

from tasks.data.baselines import baselines
from tasks.data.corpora import Corpus, Document
from tasks.data.documents import Documents, prepare_documents
from tasks.data.loaders import EvaluationBatches, TrainingStream, training_loader
from tasks.data.order import windows_per_epoch
from tasks.data.packing import PackedDataset
from tasks.data.tokenizers import Tokenizer
from tasks.data.tokens import prepare_tokenizer, prepare_tokens
from tasks.errors import UserError
from tasks.processes import data_share


class TextData(lightning.LightningDataModule):
    """A corpus, packed.

    Batches are dicts of `tokens_BT`, `targets_BT` (-100 is ignored), `documents_BT` where a
    boundary between documents falls into the batch, and in evaluation `bytes` (of text under the
    targets). The training loader has no end and begins at `samples_seen`, which a checkpoint
    restores.

    Args:
        batch_size: windows of one step on one device.
        seed: of the order of the training windows.
        num_workers: processes that read training batches ahead; rarely worth it, since reading is
            a memory map and takes microseconds.
        val_fraction, test_fraction: of the documents, each in [0, 1), below 1 together.
        cross_documents: let attention see across the boundary between documents.
        cache_dir: where the packed corpus is kept.
        eval_batch_size: None is batch_size.
        max_eval_tokens: of validation and of test, a random sample of documents; None is all.
        max_val_tokens: the same of validation alone, which is read many times a run.
    """

    def __init__(
        self,
        *,
        corpus: Corpus,
        tokenizer: Tokenizer,
        context_length: int,
        batch_size: int,
        seed: int = 0,
        cache_dir: str | Path,
        num_workers: int = 0,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        cross_documents: bool = False,
        eval_batch_size: int | None = None,
        max_eval_tokens: int | None = None,
        max_val_tokens: int | None = None,
    ):
        super().__init__()
        limits: tuple[tuple[str, int | None, int], ...] = (
            ("context_length", context_length, 1),
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("eval_batch_size", eval_batch_size, 1),
            ("max_eval_tokens", max_eval_tokens, 1),
            ("max_val_tokens", max_val_tokens, 1),
        )
        for name, value, least in limits:
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        for name, share in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
            if not 0 <= share < 1:
                raise ValueError(f"{name}: must be in [0, 1), got {share}")
        if val_fraction + test_fraction >= 1:
            raise ValueError(
                f"val_fraction: {val_fraction} and test_fraction {test_fraction} must leave "
                "something to train on; their sum must be below 1"
            )
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser()
        self.num_workers = num_workers
        self.fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
        self.cross_documents = cross_documents
        self.eval_batch_size = eval_batch_size or batch_size
        self.max_eval_tokens = max_eval_tokens
        val_limits = [n for n in (max_eval_tokens, max_val_tokens) if n is not None]
        self.limits = {"val": min(val_limits, default=None), "test": max_eval_tokens}
        self._documents: Documents | None = None
        self._datasets: dict[str, PackedDataset] = {}
        self._resumed = {"samples_seen": 0, "global_step": 0}

    # ---- from the corpus to the cache

    def prepare(self) -> None:
        """Builds whatever the cache lacks. Every rank may call it: one builds, the others wait.

        Afterwards `tokenizer` is trained and `documents`, `tokens`, `dataset` and the loaders work.
        Raises UserError for a corpus that cannot be read or is too small.
        """
        if self._datasets:
            return
        documents = prepare_documents(self.corpus, self.cache_dir)
        rows = {k: r for k, r in documents.split(**self.fractions).items() if len(r)}
        key, cache = self.fractions, self.cache_dir
        self.tokenizer = prepare_tokenizer(
            self.tokenizer, documents, rows["train"], key=key, cache=cache
        )
        folder = prepare_tokens(self.tokenizer, documents, rows, key=key, cache=cache)
        datasets = {
            split: PackedDataset(
                path=folder / f"{split}.arrow",
                context_length=self.context_length,
                cross_documents=self.cross_documents,
                max_tokens=self.limits.get(split),
            )
            for split in rows
        }
        self._check_size(datasets)
        self._documents, self._datasets = documents, datasets

    def _check_size(self, datasets: dict[str, PackedDataset]) -> None:
        tokens = len(datasets["train"].tokens)
        windows = windows_per_epoch(tokens, self.context_length)
        if tokens <= self.context_length or windows < self.batch_size:
            needed = (self.batch_size + 1) * self.context_length
            raise UserError(
                f"data: the training split has {tokens:,} tokens, one batch needs {needed:,} "
                f"({self.batch_size} windows of {self.context_length}); lower data.batch_size or "
                "model.context_length, or give more text"
            )
        for split, dataset in datasets.items():
            if not len(dataset):
                raise UserError(
                    f"data: the {split} split has nothing to predict; "
                    f"raise data.{split}_fraction or give more text"
                )

    def prepare_data(self) -> None:
        """Lightning's hook, on one process a machine."""
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Lightning's hook, on every process."""
        self.prepare()

    # ---- what other tasks read

    def documents(self, split: str) -> Iterator[Document]:
        """The documents of "train", "val" or "test", as the corpus gave them."""
        dataset = self.dataset(split)
        assert self._documents is not None
        return self._documents.read(dataset.rows)

    def tokens(self, split: str) -> np.ndarray:
        """All tokens of a split (N,), memory-mapped, of an unsigned type."""
        return self.dataset(split).tokens

    def dataset(self, split: str) -> PackedDataset:
        """The windows of a split. Raises KeyError for a split that its fraction leaves empty."""
        self.prepare()
        if split not in self._datasets:
            raise KeyError(f"{split!r}: not a split of this data; it has {[*self._datasets]}")
        return self._datasets[split]

    def baselines(self) -> dict[str, float]:
        """`baseline/{uniform,unigram,bigram,xz}_bits_per_byte` of the test split; see `baselines`.

        Nothing where the test split is empty.
        """
        self.prepare()
        if "test" not in self._datasets:
            return {}
        test = self._datasets["test"]
        started = int(np.searchsorted(test.offsets, len(test.tokens)))
        assert self._documents is not None
        texts = self._documents.texts(test.rows[:started])
        return baselines(
            self._datasets["train"], self._datasets.get("val"), test, texts, self.cache_dir
        )

    # ---- loaders

    @property
    def samples_seen(self) -> int:
        """Windows that all ranks together have trained on: a function of the optimiser steps."""
        if self.trainer is None:
            return self._resumed["samples_seen"]
        steps = self.trainer.global_step - self._resumed["global_step"]
        return self._resumed["samples_seen"] + steps * self._samples_per_step()

    def _samples_per_step(self) -> int:
        accumulate = self.trainer.accumulate_grad_batches if self.trainer else 1
        return self.batch_size * accumulate * self._ranks()[1]

    def _ranks(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return data_share(self.trainer)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: nothing but where in the order training is."""
        step = 0 if self.trainer is None else self.trainer.global_step
        return {"samples_seen": self.samples_seen, "global_step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint; batch size and number of ranks may differ from those that wrote it."""
        self._resumed = {k: int(state_dict[k]) for k in self._resumed}

    def train_dataloader(self) -> TrainingStream | DataLoader:
        """Endless, from `samples_seen` on."""
        rank, world_size = self._ranks()
        stream = TrainingStream(
            self.dataset("train"),
            seed=self.seed,
            batch_size=self.batch_size,
            first=self.samples_seen,
            rank=rank,
            world_size=world_size,
        )
        return training_loader(stream, self.num_workers)

    def val_dataloader(self) -> EvaluationBatches | list:
        """Every token of the validation split once; nothing where it is empty."""
        return self._evaluation("val")

    def test_dataloader(self) -> EvaluationBatches | list:
        """Every token of the test split once; nothing where it is empty."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> EvaluationBatches | list:
        self.prepare()
        if split not in self._datasets:
            return []
        rank, world_size = self._ranks()
        return EvaluationBatches(
            self._datasets[split],
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
        )
