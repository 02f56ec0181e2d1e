"""task=icl: is what a network learns in context what fine-tuning on the same examples would teach it?

Trains as language modelling on the data's own sequences (`max_steps=0` takes the model as it comes). The
test chooses fine-tuning's learning rate on the data's "dev" episodes, measures on its "test" episodes,
and measures two controls the same way: `untrained`, the same architecture as it starts, with a learning
rate of its own, and `untrained_same_lr`, with that of the trained network. Names, each also with
@untrained or +untrained behind it:

    test/acc@zsl  @icl  @ft  @icl_of_zsl_wrong      percent
    test/rec2ftp  icl/rec2ftp_hits  icl/rec2ftp_count        percent, and what it is of
    test/sim_aou  @raw  @random  @random_uniform  @other  @raw_other
    test/sim_am  @before  @delta    test/kendall  @random
    icl/finetuning_lr  icl/shots  icl/queries  icl/unmoved

`@other`: ICL behind the demonstrations of another episode. Curves by layer: series.json and plots/.
"""

from pathlib import Path
from typing import Any

import torch

from tasks.errors import UserError
from tasks.icl.analysis import Findings, Position, Reading, analyse, choose_rate
from tasks.icl.finetune import LossOn
from tasks.icl.plots import plot_findings
from tasks.icl.record import check_readable
from tasks.icl.show import numbers_of, series_of, show
from tasks.icl.untrained import untrained
from tasks.lm import LanguageModeling
from tasks.run_folder import write_json
from zoo.decoder import Decoder

RATES = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]


class InContextLearning(LanguageModeling):
    """Trains as LanguageModeling; its test compares in-context learning with fine-tuning.

    finetuning_lrs: to choose from by accuracy on the dev episodes, for each network.
    loss_on: fine-tune on "all" tokens (the paper) or on the "answer" alone.
    at: the token that is compared: the prompt's last, or "label0", the first candidate answer
        behind it, as released.
    ranked_queries: of each episode, for Kendall's tau. tokens_per_batch: of a forward pass.
    untrained: measure the untrained network too.
    """

    model: Decoder

    def __init__(
        self,
        *,
        finetuning_lrs: list[float] | None = None,
        loss_on: LossOn = "all",
        at: Position = "prompt_last",
        ranked_queries: int = 100,
        tokens_per_batch: int = 16384,
        untrained: bool = True,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.rates = RATES if finetuning_lrs is None else finetuning_lrs
        if not self.rates or min(self.rates) <= 0:
            raise ValueError(f"finetuning_lrs: must be numbers above 0, got {self.rates}")
        for name, value in (
            ("ranked_queries", ranked_queries),
            ("tokens_per_batch", tokens_per_batch),
        ):
            if value < 1:
                raise ValueError(f"{name}: must be at least 1, got {value}")
        self.reading = Reading(
            at=at,
            loss_on=loss_on,
            tokens_per_batch=tokens_per_batch,
            ranked_queries=ranked_queries,
            seed=self.seed,
        )
        self.untrained = untrained
        check_readable(self.model)
        self.findings: dict[str, Findings] = {}

    def on_fit_start(self) -> None:
        """Looks at the episodes now: what is wrong with them must not cost a training run."""
        self._episodes("dev")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """All within the first test step, in float32 and with gradients where they are needed."""
        super().test_step(batch, batch_idx)
        if batch_idx == 0:
            off = torch.autocast(self.device.type, enabled=False)
            with torch.inference_mode(False), torch.no_grad(), off:
                self._analyse()

    def _analyse(self) -> None:
        dev, test = self._episodes("dev"), self._episodes("test")
        lr, _ = choose_rate(self.model, dev, self.rates, reading=self.reading)
        self.findings[""] = analyse(self.model, test, lr=lr, reading=self.reading)
        if self.untrained:
            other = untrained(self.model, seed=self.seed)
            own, _ = choose_rate(other, dev, self.rates, reading=self.reading)
            self.findings["untrained"] = analyse(other, test, lr=own, reading=self.reading)
            self.findings["untrained_same_lr"] = (
                self.findings["untrained"]
                if own == lr
                else analyse(other, test, lr=lr, reading=self.reading)
            )

    def _episodes(self, split: str) -> list:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "episodes"):
            raise UserError(
                "data: task=icl needs tasks to learn in context; give data=label_mapping, or "
                "data=classification with a set"
            )
        found = data.episodes(split)
        longest = max(len(e.context) + max(query.longest for query in e.queries) for e in found)
        limit = self.model.max_length
        if limit is not None and longest > limit:
            raise UserError(
                f"model: has positions for {limit} tokens, the longest prompt has {longest}; "
                "give a larger model.context_length, or fewer demonstrations"
            )
        return found

    def results(self) -> dict[str, Any]:
        """Writes series and plots into the run's folder, prints the table, returns the numbers."""
        numbers = numbers_of(self.findings)
        if self.trainer.is_global_zero and self.findings:
            folder = self.trainer.default_root_dir
            write_json(Path(folder) / "series.json", series_of(self.findings))
            plot_findings(folder, self.findings)
            show(self.findings)
        return numbers
