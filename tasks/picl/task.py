"""Pre-training on documents and groups of paragraphs side by side.

    L = alpha L_groups + (1 - alpha) L_documents                       (Gu et al. 2023, Eq. 5)

each a mean over its own predicted tokens. Of a batch's B rows, round(alpha B) hold a group each in place
of a window of documents, so every alpha trains on the same number of rows and of tokens, padding
included. alpha 0 is ExtraLM: documents alone. Which group a row holds is a function of the seed and
of the row's number over the whole run, like the order of the documents.

Test: that of `tasks.lm`, and `test/fewshot_accuracy@k`, accuracy with k demonstrations; see `evaluation`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.order import order
from tasks.data.packing import IGNORED
from tasks.errors import UserError
from tasks.lm import LanguageModeling
from tasks.picl.evaluation import FewShotCurve, Outcome, summary
from tasks.picl.groups import Groups
from tasks.picl.plots import plot_fewshot
from tasks.run_folder import write_json


class PICL(LanguageModeling):
    """A sampler of token sequences beside the documents of `data`, and few-shot tests.

    alpha: weight and share of rows of the groups, in [0, 1]. groups: what they are; None needs
    alpha 0. few_shot: what is tested in context; None: nothing.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        groups: Groups | None = None,
        few_shot: FewShotCurve | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: must be in [0, 1], got {alpha}")
        if alpha and groups is None:
            raise ValueError(f"groups: are needed with alpha={alpha}; give some, or alpha 0")
        self.alpha = alpha
        self.groups = groups if alpha else None
        self.few_shot = few_shot
        self.outcomes: list[Outcome] = []
        self._report_groups: dict[str, Any] = {}

    def setup(self, stage: str) -> None:
        """Builds what is missing before the first step, so that what is wrong shows at once."""
        if stage != "fit":
            return
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.rows = rows_of(self.alpha, data.batch_size)
        if self.few_shot is not None:
            self.few_shot.prepare()
        if self.groups is not None:
            length = self.model.context_length
            self.groups.prepare(data, context_length=length, seed=self.seed)  # type: ignore[arg-type]
            self._report_groups = self.groups.report()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        if self.groups is None:
            return super().training_step(batch, batch_idx)
        micro = self.trainer.fit_loop.total_batch_idx
        first = (micro * self.trainer.world_size + self.global_rank) * self.rows
        batch, weights_BT = self.mixed(batch, first + np.arange(self.rows))
        loss, _ = self.model.loss(  # type: ignore[operator]
            batch["tokens_BT"],
            batch["targets_BT"],
            documents_BT=batch.get("documents_BT"),
            weights_BT=weights_BT,
        )
        return loss

    def mixed(self, batch: dict[str, Any], index: np.ndarray) -> tuple[dict[str, Any], Tensor]:
        """The batch with groups in its first rows, and weights that make the mean Eq. 5.

        index: places of the groups in the order of the run, one a row.
        """
        device = batch["tokens_BT"].device
        tokens_NT, targets_NT = self.group_rows(index)
        batch = dict(batch)
        rows = len(index)
        rest = slice(rows, None)
        for name, new in (("tokens_BT", tokens_NT), ("targets_BT", targets_NT)):
            batch[name] = torch.cat((new.to(device), batch[name][rest]))
        if batch.get("documents_BT") is not None:
            batch["documents_BT"] = batch["documents_BT"].clone()
            batch["documents_BT"][:rows] = 0
        counted_BT = batch["targets_BT"] != IGNORED
        weights_BT = torch.zeros(counted_BT.shape, device=device)
        for part, share in ((slice(None, rows), self.alpha), (rest, 1 - self.alpha)):
            weights_BT[part] = share / counted_BT[part].sum().clamp(min=1)
        return batch, weights_BT

    def group_rows(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Tokens and targets (n, T) of the groups at these places of the run; padded at their ends."""
        assert self.groups is not None
        T = self.model.context_length
        tokens = np.zeros((len(index), T), dtype=np.int64)  # type: ignore[arg-type,type-var]
        targets = np.full_like(tokens, IGNORED)
        for row, number in enumerate(order(self.seed, index, len(self.groups)).tolist()):
            found = self.groups.sequence(number)
            ids, counted = found.tokens[: T + 1], found.counted[: T + 1]  # type: ignore[operator]
            n = len(ids) - 1
            tokens[row, :n] = ids[:-1]
            targets[row, :n] = np.where(counted[1:], ids[1:], IGNORED)
        return torch.from_numpy(tokens), torch.from_numpy(targets)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The few-shot test within the first step, where precision and device are set up."""
        super().test_step(batch, batch_idx)
        if batch_idx == 0 and self.few_shot is not None:
            tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
            length = self.model.context_length
            self.outcomes = self.few_shot.evaluate(self.model, tokenizer, context_length=length)  # type: ignore[arg-type]

    def results(self) -> dict[str, Any]:
        """Few-shot accuracies and what the groups are like; draws the curve into the run's folder."""
        found = summary(self.outcomes)
        if found and self.trainer.is_global_zero:
            folder = self.trainer.default_root_dir
            write_series(folder, found)
        return {**super().results(), **self._report_groups, **found}


def rows_of(alpha: float, batch_size: int) -> int:
    """Rows of a batch that hold groups. Raises UserError where alpha leaves one side without any."""
    rows = round(alpha * batch_size)
    if (alpha > 0 and rows == 0) or (alpha < 1 and rows == batch_size):
        raise UserError(
            f"task.alpha: {alpha} of data.batch_size={batch_size} rows leaves "
            f"{'groups' if rows == 0 else 'documents'} without a row; raise data.batch_size"
        )
    return rows


def write_series(folder: str, found: dict[str, Any]) -> None:
    """series.json and plots/fewshot.png of a run."""
    curves: dict[str, dict[int, float]] = {}
    for name, value in found.items():
        label, _, shots = name.removeprefix("test/fewshot_accuracy").partition("@")
        curves.setdefault(label.lstrip("_") or "mean", {})[int(shots)] = value
    series = {
        f"few-shot accuracy, {label}": {
            "x": sorted(curve),
            "y": [curve[k] for k in sorted(curve)],
            "xlabel": "demonstrations",
            "ylabel": "accuracy",
        }
        for label, curve in curves.items()
    }
    write_json(Path(folder) / "series.json", series)
    plot_fewshot(curves, Path(folder) / "plots" / "fewshot.png")
