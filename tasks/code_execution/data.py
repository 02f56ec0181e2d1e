"""Programs and traces for Lightning: records and a tokenizer in, batches of prompts and targets out.

records -> tokenizer (learnt from the training programs) -> ids on disk -> batches by curriculum
"""

import json
from pathlib import Path
from typing import Any

import lightning
import numpy as np

from tasks.code_execution.batches import EvaluationBatches, TraceStream, cut
from tasks.code_execution.curriculum import Curriculum
from tasks.code_execution.encoded import Encoded, Layout, source_of, write
from tasks.code_execution.formats import SETS
from tasks.code_execution.records import SPLITS, Records
from tasks.code_execution.tokens import TraceTokens
from tasks.data.order import order
from tasks.data.stage import stage
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import UserError

_FORMAT = 1


class TraceData(lightning.LightningDataModule):
    """Data sets of programs and their traces, drawn as the curriculum says.

    A training batch fills `batch_size` times `context_length` tokens, however long its samples are.
    Training and validation leave out samples of more than `context_length` tokens; the test keeps all.

    Args:
        records: where the programs come from.
        sets: those that are read; test metrics are named after them.
        max_val_items, max_test_items: of each set; None is all.
        eval_batch_size: as batch_size, in evaluation; None is the same.
    """

    def __init__(
        self,
        *,
        records: Records,
        tokenizer: TraceTokens,
        curriculum: Curriculum,
        context_length: int,
        batch_size: int,
        sets: list[str] | None = None,
        seed: int = 0,
        cache_dir: str | Path,
        max_val_items: int | None = None,
        max_test_items: int | None = None,
        eval_batch_size: int | None = None,
    ):
        super().__init__()
        for name, value in {
            "context_length": context_length,
            "batch_size": batch_size,
            "max_val_items": max_val_items,
            "max_test_items": max_test_items,
            "eval_batch_size": eval_batch_size,
        }.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.sets = list(SETS) if sets is None else sets
        for name in self.sets:
            if name not in SETS:
                raise ValueError(f"sets: {name} is none of {', '.join(SETS)}")
        for name in curriculum.sets:
            if name not in self.sets:
                raise ValueError(f"sets: lacks {name}, which the curriculum trains on; add it")
        if not isinstance(tokenizer, TraceTokens):
            raise ValueError(
                "tokenizer: knows no special tokens; use tokenizer=traces or tokenizer=unixcoder"
            )
        self.records = records
        self.tokenizer = tokenizer
        self.curriculum = curriculum
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser()
        self.limits = {"val": max_val_items, "test": max_test_items}
        self.eval_tokens = (eval_batch_size or batch_size) * context_length
        self._encoded: dict[tuple[str, str], Encoded] = {}
        self.counts: dict[str, dict[str, int]] = {}

    # ---- from records to ids

    def prepare_data(self) -> None:
        """Lightning's hook, on one process a machine."""
        self.prepare()

    def setup(self, stage: str | None = None) -> None:
        """Lightning's hook, on every process."""
        self.prepare()

    def prepare(self) -> None:
        """Makes what the cache lacks: records, the tokenizer, ids. UserError where a set is empty."""
        if self._encoded:
            return
        records = self.records.fingerprint()
        if not self.tokenizer.trained:
            self.tokenizer = self._trained(records)
        for name in self.sets:
            for split in SPLITS:
                self._encoded[name, split] = self._encode(records, name, split)
        for name in self.curriculum.sets:
            if not len(self.encoded(name, "train")):
                raise UserError(
                    f"data: {name} has no training sample of at most {self.context_length} tokens; "
                    "raise model.context_length"
                )
        for name, hard in self.curriculum.streams():
            if hard and not self.encoded(name, "train").hard.any():
                raise UserError(f"data: {name} has no hard subset; set hard: false in its stages")

    def _trained(self, records: dict[str, Any]) -> TraceTokens:
        key = {"records": records, "tokenizer": self.tokenizer.fingerprint, "sets": self.sets}

        def build(folder: Path) -> None:
            texts = (source_of(r) for name in self.sets for r in self.records.read(name, "train"))
            self.tokenizer.train(texts).save(folder)

        folder = stage(self.cache_dir, "trace_tokenizer", key, build)
        tokenizer = load_tokenizer(folder)
        assert isinstance(tokenizer, TraceTokens)
        return tokenizer

    def _encode(self, records: dict[str, Any], name: str, split: str) -> Encoded:
        longest = None if split == "test" else self.context_length
        key = {
            "records": records,
            "tokenizer": self.tokenizer.fingerprint,
            "set": name,
            "split": split,
            "longest": longest,
            "format": _FORMAT,
        }

        def build(folder: Path) -> None:
            counts = write(
                iter(self.records.read(name, split)),
                self.tokenizer,
                folder / "ids",
                longest=longest,
                what=f"encoding {name}, {split}",
            )
            (folder / "counts.json").write_text(json.dumps(counts))

        folder = stage(self.cache_dir, "trace_tokens", key, build)
        self.counts[f"{name}/{split}"] = json.loads((folder / "counts.json").read_text())
        return Encoded(folder / "ids")

    # ---- what others read

    def encoded(self, name: str, split: str) -> Encoded:
        """The samples of a set's split."""
        self.prepare()
        return self._encoded[name, split]

    def layout(self) -> Layout:
        """How prompts and targets are laid out in the tokenizer's ids."""
        return Layout.of(self.tokenizer)

    def test_records(self, name: str) -> list[dict[str, Any]]:
        """The records of a set's test split, at most max_test_items of them."""
        every = (record for record in self.records.read(name, "test") if record["code_tokens"])
        wanted = set(self.some_rows(name, "test").tolist())
        return [record for i, record in enumerate(every) if i in wanted]

    def some_rows(self, name: str, split: str) -> np.ndarray:
        """Numbers of the samples that an evaluation of a split reads, a random sample in order.

        Neighbours are mutants of one program, so the first ones would be few programs.
        """
        size, limit = len(self.encoded(name, split)), self.limits[split]
        number = size if limit is None else min(size, limit)
        return np.sort(order(0, np.arange(number), size)) if number else np.arange(0)

    # ---- loaders

    def train_dataloader(self) -> TraceStream:
        """Endless, from the trainer's step on. ValueError where the run has no number of steps."""
        trainer = self.trainer
        assert trainer is not None
        task: Any = trainer.lightning_module
        steps = task.budget.steps
        if steps is None:
            raise UserError(
                "max_minutes: a curriculum must know how many steps it has; give max_steps or max_tokens"
            )
        return TraceStream(
            {name: self.encoded(name, "train") for name in self.curriculum.sets},
            self.layout(),
            self.curriculum,
            seed=self.seed,
            tokens=self.batch_size * self.context_length,
            steps=steps,
            accumulate=trainer.accumulate_grad_batches,
            first=trainer.global_step * trainer.accumulate_grad_batches,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def val_dataloader(self) -> EvaluationBatches | list:
        """Every validation sample once."""
        return self._evaluation("val")

    def test_dataloader(self) -> EvaluationBatches | list:
        """Every test sample that fits into the context once."""
        return self._evaluation("test")

    def _evaluation(self, split: str) -> EvaluationBatches | list:
        batches = []
        for name in self.sets:
            lengths, rows = self.encoded(name, split).lengths, self.some_rows(name, split)
            rows = rows[lengths[rows] <= self.context_length]
            batches += [(name, rows[part]) for part in cut(lengths[rows], self.eval_tokens)]
        if not batches:
            return []
        return EvaluationBatches(
            {name: self.encoded(name, split) for name in self.sets},
            self.layout(),
            batches,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world_size=1 if self.trainer is None else self.trainer.world_size,
        )
