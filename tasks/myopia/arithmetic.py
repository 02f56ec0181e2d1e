"""Multiplication in one arm: language modelling whose loss is on the answer, and exact match.

test/exact_match            share of the test's products that greedy decoding gets right
test/exact_match@AxB        of those with A and B digits, for the largest A x B
exact_match.json            every A x B: share and count
plots/exact_match.png       the same as a table
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.data.packing import IGNORED
from tasks.myopia.plots import plot_exact_match
from tasks.myopia.task import Myopia
from tasks.run_folder import write_json
from zoo.mixers.myopic_past import past_states


class Multiplication(Myopia):
    """Language modelling of `x*y=z`; the test also decodes every answer."""

    def on_test_start(self) -> None:
        self._right: list[Tensor] = []
        self._digits: list[Tensor] = []

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        self._right.append(self.gathered(self.exact(batch)).cpu())
        self._digits.append(self.gathered(batch["digits_B2"]).cpu())

    @torch.no_grad()
    def exact(self, batch: dict[str, Any]) -> Tensor:
        """(B,) whether greedy decoding from `x*y=` gives the whole answer.

        It does exactly where, fed the true answer, every digit is the most likely one: up to the first
        wrong digit the two read the same.
        """
        options: dict[str, Any] = {}
        if self.local:
            options["past"] = past_states(self._past[0], batch["tokens_BT"])
        hidden_BTC = self.model.hidden(batch["tokens_BT"], **options)
        likeliest = self.model.head(hidden_BTC).argmax(-1)
        targets = batch["targets_BT"]
        return ((likeliest == targets) | (targets == IGNORED)).all(-1)

    def results(self) -> dict[str, Any]:
        results = super().results()
        right, digits = torch.cat(self._right), torch.cat(self._digits)
        table: dict[str, dict[str, float]] = {}
        for a, b in sorted({(int(a), int(b)) for a, b in digits}):
            chosen = (digits == torch.tensor([a, b])).all(-1)
            table[f"{a}x{b}"] = {
                "share": float(right[chosen].double().mean()),
                "count": int(chosen.sum()),
            }
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir)
            write_json(folder / "exact_match.json", table)
            plot_exact_match(folder, table)
        largest = "x".join([str(int(digits.max()))] * 2)
        results["test/exact_match"] = float(right.double().mean())
        if largest in table:
            results[f"test/exact_match@{largest}"] = table[largest]["share"]
        return results
