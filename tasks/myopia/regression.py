"""A decoder that reads numbers and predicts numbers, and its task: the synthetic experiment (§3).

test/loss                       Huber (delta 1), mean over positions
test/normalised_loss            loss / p: what z = 1 costs, for z = 0 is copied
baseline/normalised_loss        of predicting 0 wherever z = 1
test/r2_window_sum@layerL       held-out R^2 of linear probes (probes.py) on the trained model's
test/r2_own_sine@layerL         hidden states, layer 0 the embedding: of the window sum, of sin(b x_n)
control/r2_window_sum@layerL …  the same of an untrained network of this shape
plots/probes.png                R^2 by layer and lag, trained and untrained
plots/neurons.png               correlation of every neuron with x_{n-i} and sin(b x_{n-i})
"""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from tasks.errors import UserError
from tasks.myopia.plots import plot_neurons, plot_probes
from tasks.myopia.precaching import PreCachingData, lagged
from tasks.myopia.probes import correlations, hidden_states, probe_r2
from tasks.myopia.task import ArmTask
from tasks.run_folder import write_json
from zoo.decoder import Decoder
from zoo.init import initialise


class Regressor(Decoder):
    """A Decoder whose embedding is a linear map of `inputs` numbers and whose head gives one."""

    def __init__(self, *, inputs: int = 2, vocab_size: int = 1, **decoder: Any):
        super().__init__(vocab_size=vocab_size, **{**decoder, "tie_embeddings": False})
        if inputs < 1:
            raise ValueError(f"inputs: must be at least 1, got {inputs}")
        self.embedding = nn.Linear(inputs, self.width)  # type: ignore[assignment]
        self.head = nn.Linear(self.width, 1)
        initialise(self, width=self.width, num_layers=len(self.blocks))

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, **options: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Huber loss with delta 1: its mean, and that of each position, detached. tokens (B, T, I)."""
        predicted_BT = self.head(self.hidden(tokens_BT, **options)).squeeze(-1)
        losses_BT = huber_loss(predicted_BT.float(), targets_BT, reduction="none")
        return losses_BT.mean(), losses_BT.detach()


class PreCaching(ArmTask):
    """The synthetic task in one arm. probe_lags: how far back the probes look; None: twice the window.

    probe_sequences: of the test, half of them to fit the probes and half to judge.
    """

    model: Regressor

    def __init__(
        self, *, probe_lags: int | None = None, probe_sequences: int = 2048, **shared: Any
    ):
        super().__init__(**shared)
        if not isinstance(self.model, Regressor):
            raise ValueError("model: task=myopia_precaching predicts numbers; use model=regressor")
        if probe_sequences < 2:
            raise ValueError(f"probe_sequences: must be at least 2, got {probe_sequences}")
        self.probe_lags = probe_lags
        self.probe_sequences = probe_sequences
        self._sums: dict[str, list[Tensor]] = {"val": [], "test": []}
        self._inputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    @property
    def data(self) -> PreCachingData:
        """The run's data."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PreCachingData):
            raise UserError("data: task=myopia_precaching needs data=precaching")
        return data

    def on_fit_start(self) -> None:
        super().on_fit_start()
        assert self.data

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.loss(batch)[0]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._sums["val"].append(self.gathered(self.loss(batch)[1]).double().mean(-1))

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        losses_BT = self.loss(batch)[1]
        self._sums["test"].append(self.gathered(losses_BT).double().mean(-1))
        self._inputs.append(self.gathered(batch["tokens_BT"]))
        self._targets.append(self.gathered(batch["targets_BT"]))
        self.collect(losses_BT, batch)

    def on_validation_epoch_end(self) -> None:
        self.report({"val/loss": float(torch.cat(self._sums["val"]).mean())})
        self._sums["val"].clear()

    def on_test_epoch_end(self) -> None:
        loss = float(torch.cat(self._sums["test"]).mean())
        self.report({"test/loss": loss, "test/normalised_loss": loss / self.data.p})

    def results(self) -> dict[str, Any]:
        results = super().results()
        inputs, targets = torch.cat(self._inputs), torch.cat(self._targets)
        asked = inputs[..., 1] == 1
        zero = huber_loss(targets[asked], torch.zeros_like(targets[asked]))
        results["baseline/normalised_loss"] = float(zero)
        self._probe(inputs[: self.probe_sequences], results)
        return results

    @torch.no_grad()
    def _probe(self, inputs: Tensor, results: dict[str, Any]) -> None:
        data = self.data
        lags = range(0, (self.probe_lags or 2 * data.window) + 1)
        x = inputs[..., 0].double()
        waves = [lagged((data.frequency * x).sin(), i) for i in lags]
        wanted = torch.stack([*waves, data.sums(x)], -1)
        table: dict[str, list[list[float]]] = {}
        names = ["trained", "untrained"]
        for name, model in zip(names, (self.model, _untrained(self.model))):
            past = {"past": self._past_of(inputs)} if self.local else {}
            states = hidden_states(model, inputs, **past)
            table[name] = [probe_r2(state, wanted) for state in states]
            split = "test" if name == "trained" else "control"
            for layer, r2 in enumerate(table[name]):
                results[f"{split}/r2_own_sine@layer{layer}"] = r2[0]
                results[f"{split}/r2_window_sum@layer{layer}"] = r2[-1]
            if name == "trained":
                maps = {
                    "x": [
                        correlations(s, torch.stack([lagged(x, i) for i in lags], -1))
                        for s in states
                    ],
                    "sine": [correlations(s, wanted[..., :-1]) for s in states],
                }
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        write_json(folder / "probes.json", {"lags": [*lags], "window_sum": "last", **table})
        plot_probes(folder, [*lags], table)
        plot_neurons(folder, maps)

    def _past_of(self, inputs: Tensor) -> Any:
        from zoo.mixers.myopic_past import past_states

        return past_states(self._past[0], inputs)


def _untrained(model: Regressor) -> Regressor:
    """A fresh start of the same shape, the same every time."""
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in fresh.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
        initialise(fresh, width=fresh.width, num_layers=len(fresh.blocks))
    return fresh
