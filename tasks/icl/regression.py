"""In-context linear regression: which algorithm does the network run on its demonstrations?

    x_1 y_1 x_2 y_2 ... x_q        y = w . x,   w ~ N(0, I / d) anew in each sequence,  x ~ N(0, I)

(Garg et al. 2022; von Oswald et al. 2022; Akyürek et al. 2022.) Tokens are vectors of d + 1 numbers, an x
as (x, 0) and a y as (0, y). Trained on the squared error at every x. The test predicts y behind k pairs and
compares with what is fitted to the same pairs,

    gd1, gd4   one or four steps of gradient descent from w = 0 on the mean squared error, each with the
               step size that predicts best on validation sequences
    ols        least squares of smallest norm

as test/mse@k, test/mse_gd1@k, ...; and as distance, the mean squared difference from the network's own
prediction: test/distance_gd1@k, ... An error of 1 is that of predicting 0. The control is the untrained
network. There are no prompts here to fine-tune on as a language model; that is task=icl's comparison.
"""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tasks.base import Task
from tasks.icl.plots import plot_regression
from tasks.icl.stream import Batch, MadeUp
from tasks.icl.symbols import Symbols
from tasks.icl.untrained import untrained
from tasks.run_folder import write_json
from zoo.decoder import Decoder

STEPS = np.geomspace(0.05, 2.0, 30)  # step sizes to choose from


class NumberDecoder(Decoder):
    """A decoder whose tokens are `vocab_size` numbers each, and whose output is one number."""

    def __init__(self, **parts: Any):
        super().__init__(**{**parts, "tie_embeddings": False})
        self.embedding = nn.Linear(self.vocab_size, self.width)  # type: ignore[assignment]
        self.head = nn.Linear(self.width, 1)


class LinearRegression(MadeUp):
    """Batches of {x_BKd, y_BK}, K pairs a sequence. dimensions: d. noise: standard deviation of y."""

    def __init__(
        self,
        *,
        context_length: int,
        batch_size: int,
        seed: int = 0,
        dimensions: int = 4,
        pairs: int = 12,
        noise: float = 0.0,
        eval_samples: int = 2048,
    ):
        super().__init__(batch_size=batch_size, seed=seed, eval_samples=eval_samples)
        for name, value in (("dimensions", dimensions), ("pairs", pairs)):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        if noise < 0:
            raise ValueError(f"noise: must be at least 0, got {noise}")
        if context_length < 2 * pairs:
            raise ValueError(
                f"context_length: {pairs} pairs need {2 * pairs} tokens; "
                f"give model.context_length={2 * pairs}"
            )
        self.context_length = context_length
        self.dimensions, self.pairs, self.noise = dimensions, pairs, noise
        self.tokenizer = Symbols(names=[*(f"x{i}" for i in range(dimensions)), "y"])

    def sample(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """x (K, d) and y (K,)."""
        w = draw.standard_normal(self.dimensions) / self.dimensions**0.5
        x = draw.standard_normal((self.pairs, self.dimensions))
        return x, x @ w + self.noise * draw.standard_normal(self.pairs)

    def collate(self, samples: list[Any]) -> Batch:
        x, y = (torch.from_numpy(np.stack(part)).float() for part in zip(*samples))
        return {"x_BKd": x, "y_BK": y}


def interleaved(x_BKd: Tensor, y_BK: Tensor) -> Tensor:
    """(B, 2K, d + 1): the tokens."""
    B, K, d = x_BKd.shape
    tokens = x_BKd.new_zeros(B, K, 2, d + 1)
    tokens[:, :, 0, :d] = x_BKd
    tokens[:, :, 1, d] = y_BK
    return tokens.flatten(1, 2)


class InContextRegression(Task):
    """Trains on the squared error; its test compares predictions with gradient descent's."""

    model: Decoder

    def __init__(self, **shared: Any):
        super().__init__(**shared)
        self._parts: dict[str, list[Batch]] = {"val": [], "test": []}
        self._results: dict[str, float] = {}

    def predictions(self, batch: Batch, model: Decoder | None = None) -> Tensor:
        """(B, K): y behind the k pairs before it, k = 0 .. K - 1."""
        tokens = interleaved(batch["x_BKd"], batch["y_BK"])
        return (self.model if model is None else model)(tokens)[:, ::2, 0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return (self.predictions(batch) - batch["y_BK"]).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._parts["val"].append({**batch, "found": self.predictions(batch)})

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._parts["test"].append({**batch, "found": self.predictions(batch)})

    def on_validation_epoch_end(self) -> None:
        whole = _joined(self._parts["val"])
        self.report({"val/loss": _error(whole["found"], whole["y_BK"]).mean().item()})
        self._parts["val"] = []

    def on_test_epoch_end(self) -> None:
        test = _joined(self._parts["test"])
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        val = _joined(list(data.val_dataloader()))
        fitted = predictors(test["x_BKd"].double().cpu(), test["y_BK"].double().cpu(), tuned_on=val)
        own = {"": test["found"].double().cpu()}
        control = untrained(self.model, seed=self.seed)
        own["@untrained"] = self.predictions(test, control).double().cpu()
        y_BK = test["y_BK"].double().cpu()
        curves = {"mse": _error(own[""], y_BK), "mse@untrained": _error(own["@untrained"], y_BK)}
        for name, found_BK in fitted.items():
            curves[f"mse_{name}"] = _error(found_BK, y_BK)
            for net, mine_BK in own.items():
                curves[f"distance_{name}{net}"] = _error(mine_BK, found_BK)
        for name, curve_K in curves.items():
            quantity, _, net = name.partition("@")
            for k, value in enumerate(curve_K.tolist()):
                self._results[f"test/{quantity}@{k}{'+' * bool(net)}{net}"] = value
        self._curves = {name: curve.tolist() for name, curve in curves.items()}
        self.report({"test/loss": curves["mse"].mean().item()})

    def results(self) -> dict[str, Any]:
        """Writes the curves and their picture; every number by k."""
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            axes = {
                "xlabel": "demonstrations",
                "ylabel": "mean squared difference",
                "yscale": "log",
            }
            series = {
                f"{name} by demonstrations": {"x": list(range(len(y))), "y": y, **axes}
                for name, y in self._curves.items()
            }
            write_json(folder / "series.json", series)
            plot_regression(folder, self._curves)
        return copy.copy(self._results)


def predictors(x_BKd: Tensor, y_BK: Tensor, *, tuned_on: Batch) -> dict[str, Tensor]:
    """Name -> predictions (B, K), each from the pairs before it alone."""
    found = {}
    held_out = tuned_on["x_BKd"].double().cpu(), tuned_on["y_BK"].double().cpu()
    for name, steps in (("gd1", 1), ("gd4", 4)):
        columns = []
        for k in range(x_BKd.shape[1]):
            errors = [
                _error(descent(*held_out, k, steps=steps, size=s), held_out[1][:, k]).item()
                for s in STEPS
            ]
            best = float(STEPS[int(np.argmin(errors))])
            columns.append(descent(x_BKd, y_BK, k, steps=steps, size=best))
        found[name] = torch.stack(columns, 1)
    least = [least_squares(x_BKd, y_BK, k) for k in range(x_BKd.shape[1])]
    return found | {"ols": torch.stack(least, 1)}


def descent(x_BKd: Tensor, y_BK: Tensor, k: int, *, steps: int, size: float) -> Tensor:
    """(B,): y_k by `steps` of gradient descent from 0 on half the mean squared error of k pairs."""
    x, y = x_BKd[:, :k], y_BK[:, :k]
    w = x_BKd.new_zeros(len(x), x.shape[2])
    for _ in range(steps if k else 0):
        error = torch.einsum("bkd,bd->bk", x, w) - y
        w = w - size / k * torch.einsum("bk,bkd->bd", error, x)
    return torch.einsum("bd,bd->b", x_BKd[:, k], w)


def least_squares(x_BKd: Tensor, y_BK: Tensor, k: int) -> Tensor:
    """(B,): y_k by the least-squares fit of smallest norm to k pairs."""
    if not k:
        return y_BK.new_zeros(len(y_BK))
    w_Bd = (torch.linalg.pinv(x_BKd[:, :k]) @ y_BK[:, :k, None])[..., 0]
    return torch.einsum("bd,bd->b", x_BKd[:, k], w_Bd)


def _error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over the batch."""
    return (a - b).square().mean(0)


def _joined(parts: list[Batch]) -> Batch:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
