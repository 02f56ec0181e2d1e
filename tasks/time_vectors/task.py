"""Language modelling on one period, from a base model: `task=time_vectors data.period=…`.

What it adds to `tasks.lm` is where the weights come from, and LoRA: factors beside frozen matrices
instead of new matrices. A run's checkpoints hold the weights with the factors added, so it loads as
any other; `adapter/` in its folder holds the factors alone.

data.period=o1, o2, … tunes online: o2 goes on from the sweep's o1, o3 from its o2, only o1 from the base.
"""

import inspect
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tasks.errors import UserError
from tasks.lm import LanguageModeling
from tasks.time_vectors.base import find_base, previous
from tasks.time_vectors.cut import BASE
from tasks.time_vectors.lora import LoRA
from zoo.load import load_run


class PeriodTuning(LanguageModeling):
    """Tunes the model of `base` on the run's data.

    base: a run's folder, or a sweep's, which has the run with data.period=base and this seed; that
    run is waited for while it is going. None, and data.period=base: from scratch.
    """

    def __init__(
        self,
        *,
        period: str | int = BASE,
        base: str | None = None,
        lora: LoRA | None = None,
        **shared: Any,
    ):
        super().__init__(**shared)
        self.period, self.base, self.lora = str(period), base, None
        self._tokenizer: Any = None
        if self.period == BASE or base is None:
            return
        folder = find_base(Path(base), self.seed, previous(self.period))
        run = load_run(folder, checkpoint="last")
        self._tokenizer = run.tokenizer
        try:
            self.model.load_state_dict(run.model.state_dict())
        except RuntimeError as error:
            raise UserError(
                f"task.base: {run.folder} holds another model than this run's"
            ) from error
        if lora is not None:
            self.lora = lora.attach(self.model)

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return batch_loss(self.model, batch)

    @property
    def trained(self) -> nn.Module:
        return self.model if self.lora is None else self.lora

    def on_fit_start(self) -> None:
        """A base that read another vocabulary is no base, and a model reads what its kind does."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        own, sources = data.tokenizer, data.next_block or data.examples
        if sources != ("sources_BT" in inspect.signature(self.model.loss).parameters):  # type: ignore[arg-type]
            raise UserError(
                "data: T5 needs data.next_block=true or data.examples=true, and only T5 reads them; "
                f"they are {data.next_block} and {data.examples}, the model is "
                f"{type(self.model).__name__}"
            )
        if self._tokenizer is not None and self._tokenizer.fingerprint != own.fingerprint:
            raise UserError(
                f"task.base: {self.base} was trained with another tokenizer; "
                "use the corpus and the tokenizer that it was trained with"
            )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's weights with LoRA's factors added, and the factors."""
        state = super().state_dict(*args, **kwargs)
        if self.lora is not None:
            for name, delta in self.lora.deltas().items():
                state[f"model.{name}"] = state[f"model.{name}"] + delta
        return state

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """With LoRA the factors alone: the matrices beside them are the base's."""
        if self.lora is not None:
            own = super().state_dict()
            state_dict = {n: v if n.startswith("lora.") else own[n] for n, v in state_dict.items()}
        return super().load_state_dict(state_dict, *args, **kwargs)

    def results(self) -> dict[str, Any]:
        """The period's name; with LoRA, writes the adapter."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.lora is not None and self.trainer.is_global_zero:
            self.lora.save(Path(self.trainer.default_root_dir) / "adapter")
        return {"period": data.label, "periods": data.periods}


def batch_loss(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """A batch's mean loss and that of each target, by a decoder or by a model of the next block."""
    options = {"documents_BT": batch.get("documents_BT")}
    if "sources_BT" in batch:
        options["sources_BT"] = batch["sources_BT"]
    return model.loss(batch["tokens_BT"], batch["targets_BT"], **options)  # type: ignore[operator]
