"""Language modelling: predict each next token of real text.

Logs `train/loss`, `val/*` and `test/*` with loss in nats per token, perplexity, and bits per byte.
"""

from typing import Any

from torch import Tensor, nn

from tasks.base import Task, TokenMeans


class LanguageModeling(Task):
    """Mean next-token loss over the predicted tokens of a batch.

    A batch is {tokens_BT, targets_BT, bytes, documents_BT or None}; targets of -100 do not count.
    """

    def __init__(self, **shared: Any):
        super().__init__(**shared)
        # What a subclass measures besides may want whole layers, or read data by its rank.
        self.tensor_parallel = type(self) is LanguageModeling
        self.means = nn.ModuleDict({"val_means": TokenMeans(), "test_means": TokenMeans()})

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The batch's mean loss and the loss of each position, (B, T), in nats."""
        return self.model.loss(  # type: ignore[operator]
            batch["tokens_BT"], batch["targets_BT"], documents_BT=batch.get("documents_BT")
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.loss(batch)[0]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def _evaluate(self, split: str, batch: dict[str, Any]) -> None:
        _, losses_BT = self.loss(batch)
        count = (batch["targets_BT"] != -100).sum()
        self.means[f"{split}_means"].update(losses_BT.double().sum(), count, batch["bytes"])  # type: ignore[operator]

    def _report(self, split: str) -> None:
        means = self.means[f"{split}_means"]
        self.report({f"{split}/{k}": float(v) for k, v in means.compute().items()})  # type: ignore[operator]
        means.reset()  # type: ignore[operator]
