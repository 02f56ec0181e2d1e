"""Training of one arm, and what is measured alike in all of them.

    test/loss …                as the task's own
    losses.npz                 the test's losses by sequence and position (losses.py): arms pair by them
    train/gradient_cosine      of the myopic and the future part of the gradient, every `angle_every`
    train/gradient_norm@total, @myopic, @future      steps, on the first sequences of a training batch

The arm is the model's mixer: `mixer=softmax` vanilla, `mixer=myopic` hidden, `mixer=myopic_kv`,
`mixer=myopic_zero`, and `mixer=myopic_frozen task.frozen=RUN_FOLDER` local.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.base import Task
from tasks.lm import LanguageModeling
from tasks.myopia.angle import gradient_parts
from tasks.myopia.losses import Collector, contexts
from tasks.myopia.past import frozen_model, mixers, needs_past
from tasks.run_folder import write_json
from zoo.decoder import Decoder
from zoo.mixers.myopic_past import past_states


class ArmTask(Task):
    """An arm of a comparison; mixed into a task that has `loss`.

    frozen: with variant=frozen the run of the vanilla model, or "vanilla" for the one in this sweep.
    angle_every: steps between looks at the gradient's parts; None: never. angle_sequences: of the
    batch, that they are measured on.
    """

    model: Decoder

    def __init__(
        self,
        *,
        frozen: str | None = None,
        angle_every: int | None = None,
        angle_sequences: int = 16,
        **shared: Any,
    ):
        super().__init__(**shared)
        if angle_every is not None and angle_every < 1:
            raise ValueError(f"angle_every: must be at least 1 or null, got {angle_every}")
        if angle_sequences < 1:
            raise ValueError(f"angle_sequences: must be at least 1, got {angle_sequences}")
        self.local = needs_past(self.model)
        self.frozen = frozen
        # The parts are those of the vanilla forward: they mean nothing where the past is another.
        other_past = any(
            getattr(m, "variant", "") in ("frozen", "zero") for m in mixers(self.model)
        )
        self.angle_every = None if other_past else angle_every
        self.angle_sequences = angle_sequences
        self._past: list[Decoder] = []  # not a submodule: neither trained nor saved with the arm
        self._collector = Collector()
        self._measured = -1

    def on_fit_start(self) -> None:
        """Finds the frozen model before anything is trained."""
        if self.local:
            folder = Path(self.trainer.default_root_dir)
            self._past = [frozen_model(self.model, self.frozen, folder).to(self.device)]

    def loss(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The batch's mean loss and that of each position, (B, T); past states where they are needed."""
        options: dict[str, Any] = {}
        documents = batch.get("documents_BT")
        if self.local:
            options["past"] = past_states(self._past[0], batch["tokens_BT"], documents_BT=documents)
        return self.model.loss(
            batch["tokens_BT"], batch["targets_BT"], documents_BT=documents, **options
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        step = self.trainer.global_step
        if self.angle_every and step % self.angle_every == 0 and step != self._measured:
            self._measured = step
            few = {
                name: x[: self.angle_sequences] if name.endswith("_BT") else x
                for name, x in batch.items()
                if x is not None
            }
            parts = gradient_parts(self.model, lambda: self.loss(few)[0])
            self.report({f"train/gradient_{name}": value for name, value in parts.items()})

    def gathered(self, x: Tensor) -> Tensor:
        """x of all devices, in the order of the samples."""
        return x if self.trainer.world_size == 1 else self.all_gather(x).flatten(0, 1)  # type: ignore[union-attr]

    def collect(self, losses_BT: Tensor, batch: dict[str, Any]) -> None:
        """Keeps a test batch's losses."""
        targets = batch["targets_BT"]
        context = contexts(targets.shape, batch.get("documents_BT")).to(targets.device)
        self._collector.add(*(self.gathered(x) for x in (losses_BT, targets, context)))

    def results(self) -> dict[str, Any]:
        """Writes losses.npz and the curve by position."""
        if not self.trainer.is_global_zero:
            return {}
        folder = Path(self.trainer.default_root_dir)
        losses = self._collector.collect()
        losses.save(folder)
        curve = torch.from_numpy(losses.losses).nanmean(0).tolist()
        write_json(
            folder / "series.json",
            {
                "loss by position": {
                    "x": list(range(len(curve))),
                    "y": curve,
                    "xlabel": "position in the window",
                    "ylabel": "loss",
                }
            },
        )
        return {}


class Myopia(ArmTask, LanguageModeling):
    """Language modelling in one arm."""

    def _evaluate(self, split: str, batch: dict[str, Any]) -> None:
        super()._evaluate(split, batch)
        if split == "test":
            self.collect(self.loss(batch)[1], batch)
