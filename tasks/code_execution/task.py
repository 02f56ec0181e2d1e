"""The code-execution task: a prefix language model that reads a program and writes its trace.

    L = 1/|T| sum_t w(y_t) (-log p(y_t | program, y_<t))          (Liu et al. 2023, section 3)

over the tokens T of the trace, `<mask0>` and `</s>` included; w is `weight`, and `light_weight` for
`light_tokens`, the format's own. `train/loss` is L; `val/loss` and `test/loss` are nats per token, of
the sets that the last stage trains on, and @SET of each.

    val/trace_accuracy@SET                   greedy, a few programs: the learning curve
    test/METRIC@SET                          the eight percentages of metrics.py (lenient)
    test/METRIC@SET+after-stage-K            of the model as it was when stage K ended
    test/trace_accuracy@SET+loops  ...       of the programs that have loops (constructs.py)
    test/beyond_context@SET                  percent of test programs whose trace cannot be written whole

What was predicted is kept in predictions/SET.jsonl: `python -m tasks.code_execution.show RUN`.
"""

import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kernels.attention.masks import prefix
from tasks.base import Task, TokenMeans
from tasks.checkpoints import read_checkpoint
from tasks.code_execution.data import TraceData
from tasks.code_execution.encoded import OVERHEAD, source_of, trace_of
from tasks.code_execution.grammar import Grammar
from tasks.code_execution.inference import Decoding, generate
from tasks.code_execution.scores import (
    SINGLE_LINE,
    Prediction,
    percent_table,
    score,
    score_constructs,
    write_predictions,
)
from tasks.data.progress import progress
from zoo.decoder import Decoder
from zoo.unixcoder import load_weights

LIGHT = ("<state>", "</state>", "<dictsep>", ":")
_TOGETHER = "last_stage"


class CodeExecution(Task):
    """Trains through the stages of the data's curriculum; its test writes traces and scores them.

    pretrained: weights to start from, of UniXcoder's shape: a folder, or a name on the Hub.
    bidirectional: the program is seen in both directions; else under the model's own mask.
    beams: of the test; 1 is greedy. constrained: the test writes only what is a trace.
    prompt_length: tokens of a program that the test reads at most; None: half of the context.
    trace_length: tokens that the test writes at most; None: what the context leaves.
    val_items: programs of each set that a validation writes traces for.
    stages: the test also judges the model as it was at the end of each earlier stage.
    """

    model: Decoder
    weights_V: Tensor

    def __init__(
        self,
        *,
        weight: float = 10.0,
        light_weight: float = 1.0,
        light_tokens: list[str] | None = None,
        bidirectional: bool = True,
        pretrained: str | None = None,
        beams: int = 1,
        constrained: bool = False,
        prompt_length: int | None = None,
        trace_length: int | None = None,
        generation_batch_size: int = 64,
        val_items: int = 64,
        stages: bool = True,
        **shared: Any,
    ):
        super().__init__(**shared)
        for name, value, least in (
            ("weight", weight, 0),
            ("light_weight", light_weight, 0),
            ("val_items", val_items, 0),
            ("prompt_length", prompt_length, OVERHEAD),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        self.weight, self.light_weight = weight, light_weight
        self.light_tokens = list(LIGHT) if light_tokens is None else light_tokens
        self.pretrained = pretrained
        self.constrained = constrained
        self.prompt_length = prompt_length or max(OVERHEAD, self.model.context_length // 2)
        self.decoding = Decoding(
            beams=beams,
            max_length=trace_length,
            batch_size=generation_batch_size,
            bidirectional=bidirectional,
        )
        self.val_items = val_items
        self.stages = stages
        self.means = nn.ModuleDict()  # of each set, and of those of the last stage together
        self.found: dict[str, Any] = {}
        self._tables: list[Table] = []

    @property
    def data(self) -> TraceData:
        """The run's data."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # ---- training, stage by stage

    def setup(self, stage: str) -> None:
        """What needs the tokenizer: weights by token, sums by set."""
        if not isinstance(self.data, TraceData):
            raise ValueError("data: task=code_execution reads programs; use data=traces")
        tokenizer = self.data.tokenizer
        weights_V = torch.full((tokenizer.vocab_size,), self.weight)
        for token in self.light_tokens:
            weights_V[tokenizer.forms(token)] = self.light_weight
        self.register_buffer("weights_V", weights_V, persistent=False)
        for name in (*self.data.sets, _TOGETHER):
            if name not in self.means:
                self.means[name] = TokenMeans()
        if stage == "fit":
            self.starts = self.data.curriculum.starts(self._steps())

    def on_fit_start(self) -> None:
        """Weights from elsewhere, where the run is new."""
        if self.pretrained is not None and self.trainer.global_step == 0:
            load_weights(self.model, self.pretrained)

    def _steps(self) -> int:
        steps = self.budget.steps
        if steps is None:
            raise ValueError("max_minutes: a curriculum needs max_steps or max_tokens")
        return steps

    def configure_optimizers(self) -> Any:
        """The schedule runs anew in each stage."""
        found = super().configure_optimizers()
        optimizer = found["optimizer"]
        ends = [*self.starts[1:], self._steps()]

        def factor(step: int) -> float:
            stage = self.data.curriculum.at(min(step, ends[-1] - 1), ends[-1])
            passed, length = step - self.starts[stage], ends[stage] - self.starts[stage]
            return self.optim.schedule.factor(passed, passed / length)

        found["lr_scheduler"]["scheduler"] = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return found

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before the first micro-batch of a later stage: keeps the weights, forgets the optimiser."""
        super().on_train_batch_start(batch, batch_idx)
        step = self.trainer.global_step
        micro = self.trainer.fit_loop.total_batch_idx
        if step in self.starts[1:] and micro % self.trainer.accumulate_grad_batches == 0:
            path = self._after(self.starts.index(step))
            self.trainer.save_checkpoint(path, weights_only=True)
            self.trainer.optimizers[0].state.clear()

    def _after(self, stage: int) -> Path:
        """The weights as they were when the stage of this number, from 1, ended."""
        return Path(self.trainer.default_root_dir) / "checkpoints" / f"after-stage-{stage}.ckpt"

    def loss(self, batch: dict[str, Any], *, weighted: bool) -> tuple[Tensor, Tensor]:
        """The batch's loss, to differentiate, and that of each position, (B, T), in nats."""
        targets_BT = batch["targets_BT"]
        mask = prefix(batch["prefix_B"]) if self.decoding.bidirectional else None
        weights_BT = self.weights_V[targets_BT.clamp(min=0)] if weighted else None
        mean, losses_BT = self.model.loss(
            batch["tokens_BT"], targets_BT, weights_BT=weights_BT, mask=mask
        )
        if weights_BT is not None:
            counted = targets_BT != -100
            mean = mean * (weights_BT * counted).sum() / counted.sum()
        return mean, losses_BT

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return self.loss(batch, weighted=True)[0]

    # ---- validation

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._add(batch)

    def on_validation_epoch_end(self) -> None:
        found = self._losses("val")
        for name in self.data.sets if self.val_items else ():
            encoded = self.data.encoded(name, "val")
            rows = self.data.some_rows(name, "val")
            rows = rows[:: max(1, len(rows) // self.val_items)][: self.val_items]
            if len(rows):
                sources = [encoded.source(i) for i in rows]
                traces = [self.data.tokenizer.decode(encoded.trace(i)) for i in rows]
                written = self._write(name, sources, greedy=True)
                predictions = [
                    Prediction("", name, "", reference, text)
                    for reference, text in zip(traces, written)
                ]
                found[f"val/trace_accuracy@{name}"] = score(predictions)["trace_accuracy"]
        self.report(found)

    # ---- the test

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """All within the first test step, where precision, device and sharded weights are set up."""
        self._add(batch)
        if batch_idx == 0:
            self._test()

    def on_test_epoch_end(self) -> None:
        self.report(self._losses("test"))

    def results(self) -> dict[str, Any]:
        """The percentages, shown as tables too."""
        if self.trainer.is_global_zero:
            for table in self._tables:
                Console().print(table)
        return self.found

    def _test(self) -> None:
        records = {name: self.data.test_records(name) for name in self.data.sets}
        records = {name: some for name, some in records.items() if some}
        rows: dict[str, dict[str, float]] = {}
        for name, some in records.items():
            predictions = self._predict(name, some)
            rows[name] = self._score(name, predictions)
            if self.trainer.is_global_zero:
                folder = Path(self.trainer.default_root_dir) / "predictions"
                write_predictions(folder / f"{name}.jsonl", predictions)
        if self.stages:
            rows |= self._earlier(records)
        self._tables.append(percent_table(rows))

    def _score(self, name: str, predictions: list[Prediction]) -> dict[str, float]:
        found = score(predictions)
        self.found |= {f"test/{metric}@{name}": value for metric, value in found.items()}
        for construct, (_, percent) in score_constructs(predictions).items():
            at = f"test/trace_accuracy@{name}+{construct}"
            self.found[at] = percent["trace_accuracy"]
        return found

    def _earlier(self, records: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
        """The percentages at the end of each stage before the last."""
        rows = {}
        last = {name: value.clone() for name, value in self.state_dict().items()}
        for stage in range(1, len(self.data.curriculum.stages)):
            if not self._after(stage).is_file():
                continue
            self.load_state_dict(read_checkpoint(self._after(stage))["state_dict"])
            for name, some in records.items():
                found = score(self._predict(name, some))
                at = f"{name}+after-stage-{stage}"
                self.found |= {f"test/{metric}@{at}": value for metric, value in found.items()}
                rows[at] = found
        self.load_state_dict(last)
        return rows

    def _predict(self, name: str, records: list[dict[str, Any]]) -> list[Prediction]:
        tokenizer = self.data.tokenizer
        sources = [ids.tolist() for ids in tokenizer.encode_batch([source_of(r) for r in records])]
        traces = tokenizer.encode_batch([trace_of(r) for r in records])
        room = self.model.context_length - OVERHEAD + 1
        beyond = [len(s) + len(t) > room for s, t in zip(sources, traces)]
        self.found[f"test/beyond_context@{name}"] = round(100 * sum(beyond) / len(beyond), 2)
        written = self._write(name, sources, greedy=False)
        return [
            Prediction(
                id=record["id"],
                source_set=name,
                code=record["code"],
                reference=tokenizer.decode(trace),
                prediction=text,
                source_id=record.get("source_id") or "",
                problem_id=record.get("problem_id") or "",
            )
            for record, trace, text in zip(records, traces, written)
        ]

    def _write(self, name: str, sources: list[list[int]], *, greedy: bool) -> list[str]:
        """The traces that the model writes for programs of a set."""
        layout, decoding = self.data.layout(), self.decoding
        if greedy:
            decoding = Decoding(
                max_length=decoding.max_length,
                batch_size=decoding.batch_size,
                bidirectional=decoding.bidirectional,
            )
        grammar = None
        if self.constrained and not greedy:
            grammar = Grammar(self.data.tokenizer, single_line=name == SINGLE_LINE)
        with progress(f"writing traces, {name}", len(sources)) as advance:
            written = generate(
                self.model,
                [layout.prompt(source, longest=self.prompt_length) for source in sources],
                begin=layout.target,
                end=layout.end,
                decoding=decoding,
                grammar=grammar,
                pad=layout.pad,
                advance=advance,
            )
        return [self.data.tokenizer.decode(ids) for ids in written]

    # ---- losses by set

    def _add(self, batch: dict[str, Any]) -> None:
        _, losses_BT = self.loss(batch, weighted=False)
        nats, tokens = losses_BT.double().sum(), (batch["targets_BT"] != -100).sum()
        for name in (batch["set"], _TOGETHER):
            if name != _TOGETHER or batch["set"] in self.data.curriculum.stages[-1].mixture:
                self.means[name].update(nats, tokens, 0)  # type: ignore[operator]

    def _losses(self, split: str) -> dict[str, float]:
        """`loss` over the last stage's sets, and of each set."""
        found: dict[str, float] = {}
        for name, means in self.means.items():
            loss = float(means.compute()["loss"])  # type: ignore[operator]
            means.reset()  # type: ignore[operator]
            if not math.isnan(loss):
                found[f"{split}/loss" + ("" if name == _TOGETHER else f"@{name}")] = loss
        return found
