"""What every task shares with every other: optimisation, the budget, and token-weighted means.

A task is a LightningModule that holds one model of the zoo. It says what a batch costs
(`training_step`) and what is measured (`validation_step`, `test_step`); all that is left of a
training loop is Lightning's.
"""

from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from tasks.optim import AdamW, Budget, schedule_lambda
from tasks.processes import FullySharded, clip_gradients, data_share


class Task(lightning.LightningModule):
    """A model, how it is optimised, and for how long."""

    def __init__(self, *, model: nn.Module, optim: AdamW, budget: Budget, seed: int = 0):
        super().__init__()
        self.model = model
        self.optim = optim
        self.budget = budget
        self.seed = seed
        self.train_seconds = 0.0  # time spent training, validation left out; see callbacks.Meter
        self.grad_norm = torch.tensor(float("nan"))  # of the latest step, before clipping

    def configure_model(self) -> None:
        """Shards the model where the strategy does so."""
        if isinstance(self.trainer.strategy, FullySharded):
            self.trainer.strategy.shard(self.model)

    @property
    def trained(self) -> nn.Module:
        """Whose parameters are optimised."""
        return self.model

    def configure_optimizers(self) -> Any:
        # Loss scaling (fp16) must see the gradients before they are clipped; fused AdamW unscales them.
        # Nor does it know parameters on several meshes of processes.
        cut = getattr(self.trainer.strategy, "tensor_parallel", 1) > 1
        fused = self.trainer.precision != "16-mixed" and not cut
        optimizer = self.optim.optimizer(self.trained, fused=fused)
        factor = schedule_lambda(self.optim.schedule, self.budget, lambda: self.train_seconds)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the norm of all gradients together, and remembers what it was."""
        limit = float("inf") if gradient_clip_val is None else gradient_clip_val
        self.grad_norm = clip_gradients(self.parameters(), limit)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draws dropout from (seed, batch, rank) alone, so that a resumed run draws the same."""
        if self._draws:
            micro = self.trainer.fit_loop.total_batch_idx
            torch.manual_seed(hash((self.seed, micro, data_share(self.trainer)[0])) & (2**63 - 1))

    @property
    def _draws(self) -> bool:
        return getattr(self.model, "dropout", 0.0) > 0

    def clock(self) -> dict[str, float]:
        """How far training is: tokens seen and seconds spent, for the rows of metrics.csv."""
        tokens = self.trainer.global_step * self.budget.tokens_per_step
        return {"tokens": tokens, "seconds": round(self.train_seconds, 3)}

    def report(self, metrics: dict[str, float]) -> None:
        """Logs an evaluation's metrics at the number of steps that were trained."""
        self.log_dict(metrics, logger=False)  # for callbacks: best checkpoint, early stopping
        for logger in self.loggers:
            logger.log_metrics({**self.clock(), **metrics}, step=self.trainer.global_step)

    def results(self) -> dict[str, Any]:
        """What the task adds to results.json beside the logged metrics."""
        return {}


class TokenMeans(nn.Module):
    """Loss sums of an evaluation, so that means are weighted by tokens and bits by bytes.

    Sums run in float64 over all batches and ranks: how the tokens were batched does not matter.
    """

    def __init__(self) -> None:
        super().__init__()
        self.nats, self.tokens, self.bytes = (
            SumMetric().set_dtype(torch.float64) for _ in range(3)
        )

    def update(self, nats: Tensor, tokens: Tensor | int, num_bytes: Tensor | int) -> None:
        """Adds a batch's summed loss, its predicted tokens, and the bytes that they spell."""
        self.nats.update(nats)
        self.tokens.update(tokens)
        self.bytes.update(num_bytes)

    def compute(self) -> dict[str, Tensor]:
        """loss in nats per token, perplexity, bits per byte."""
        loss = self.nats.compute() / self.tokens.compute()
        bits = self.nats.compute() / (self.bytes.compute() * torch.log(torch.tensor(2.0).double()))
        return {"loss": loss, "ppl": loss.exp(), "bits_per_byte": bits}

    def reset(self) -> None:
        """Starts a new evaluation."""
        for metric in (self.nats, self.tokens, self.bytes):
            metric.reset()
