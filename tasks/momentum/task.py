"""The published comparison (arXiv 2212.10559, Tables 6 and 7), for one network.

Trains as language modelling at length N; the test adds test/ppl@L at N/4, N/2 and N over the same held-out
tokens (tasks/extrapolation), and test/acc@SET, few-shot accuracy on sets of tasks/icl/sets.py, with as
many of `shots` demonstrations as fit N, averaged over draws.
"""

from collections.abc import Mapping
from typing import Any

from tasks.data.tokenizers import Tokenizer
from tasks.extrapolation.task import Extrapolation
from tasks.icl.fewshot import FewShot
from tasks.icl.sets import LabelledSet, load_set


class Comparison(Extrapolation):
    """sets: name -> options of `load_set` (a folder, a prompt, ...), or nothing for the Hub's copy.

    shots: demonstrations to draw; draws: how often; max_queries: test examples of each set.
    """

    def __init__(
        self,
        *,
        sets: Mapping[str, Any] | None = None,
        shots: int = 32,
        draws: int = 3,
        max_queries: int | None = 1000,
        lengths: list[int] | None = None,
        **extrapolation: Any,
    ):
        N = extrapolation["model"].context_length
        super().__init__(lengths=lengths or [max(1, N // 4), max(1, N // 2), N], **extrapolation)
        for name, value in (("shots", shots), ("draws", draws), ("max_queries", max_queries)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.shots, self.draws, self.max_queries = shots, draws, max_queries
        self.sets: list[LabelledSet] = [
            load_set(name, **(options or {})) for name, options in (sets or {}).items()
        ]

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        if batch_idx == 0:
            for labelled in self.sets:
                self._few_shot(labelled)

    def _few_shot(self, labelled: LabelledSet) -> None:
        tokenizer: Tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        draws = [
            FewShot(
                labelled,
                tokenizer,
                context_length=self.model.context_length,
                shots=self.shots,
                seed=seed,
                max_queries=self.max_queries,
            )
            for seed in range(self.draws)
        ]
        reports = [
            shot.evaluate(self.model, tokens_per_batch=self.tokens_per_batch) for shot in draws
        ]
        count = len(reports)
        self.findings.results |= {
            f"test/acc@{labelled.name}": sum(r.accuracy for r in reports) / count,
            f"fewshot/shots@{labelled.name}": sum(r.shots for r in reports) / count,
        }
