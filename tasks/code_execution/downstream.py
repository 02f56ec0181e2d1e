"""What predicted execution is good for: `python -m tasks.code_execution.downstream RUN`.

search   code-to-code search over programs that were held out, by problem (search.py): mean average
         precision of the code alone, with predicted outputs, and the controls, true and shuffled outputs
rerank   choosing a right program among mutants of a solution (rerank.py): pass@1 by predicted outputs,
         in random order, and by the true tracer

Writes downstream.json into the run's folder, with how many programs and problems it rests on.
Candidates run in the sandbox. Items of the search are the solutions of the problems in the validation
and test splits and at most `--variants` mutants of each; those of one problem are what is to be found.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.nn.functional import normalize

from kernels.attention.masks import full
from tasks.code_execution.encoded import Layout, source_of
from tasks.code_execution.formats import encode_trace
from tasks.code_execution.inference import Decoding, generate
from tasks.code_execution.lexer import tokenize
from tasks.code_execution.metrics import outputs
from tasks.code_execution.rerank import Choice, candidates, judge
from tasks.code_execution.search import mean_average_precision
from tasks.code_execution.tokens import TraceTokens
from tasks.code_execution.trace import Refusal, Tracer
from tasks.data.progress import progress
from tasks.errors import UserError
from tasks.run_folder import write_json
from zoo.load import Run, build, load_run

SET = "codenet"


class Predictor:
    """A trained run, asked what programs print and where they lie in its space."""

    def __init__(self, run: Run):
        self.model: Any = run.model
        self.tokenizer = run.tokenizer
        assert isinstance(self.tokenizer, TraceTokens)
        self.layout = Layout.of(self.tokenizer)
        task = run.config["task"]
        self.bidirectional = task.get("bidirectional", True)
        self.context_length: int = run.config["model"]["context_length"]
        self.prompt_length: int = task.get("prompt_length") or self.context_length // 2

    def outputs(self, codes: Sequence[str]) -> list[list[str]]:
        """The printed texts of the trace that the model writes, of each program."""
        records = [{"source_set": SET, "code_tokens": tokenize(code)} for code in codes]
        sources = self.tokenizer.encode_batch([source_of(r) for r in records])
        prompts = [self.layout.prompt(s.tolist(), longest=self.prompt_length) for s in sources]
        with progress("writing traces", len(prompts)) as advance:
            written = generate(
                self.model,
                prompts,
                begin=self.layout.target,
                end=self.layout.end,
                decoding=Decoding(bidirectional=self.bidirectional),
                pad=self.layout.pad,
                advance=advance,
            )
        return [outputs(self.tokenizer.decode(ids), strict=False) for ids in written]

    @torch.no_grad()
    def embeddings(self, codes: Sequence[str], *, batch_size: int = 32) -> torch.Tensor:
        """Unit vectors (items, width): the mean hidden state of `<s> <encoder-only> </s> code </s>`,
        seen in both directions, zero-shot."""
        i = self.tokenizer.id
        room = self.context_length - 4
        ids = [
            [i("<s>"), i("<encoder-only>"), i("</s>"), *e.tolist()[:room], i("</s>")]
            for e in self.tokenizer.encode_batch([self.tokenizer.code(code) for code in codes])
        ]
        found = []
        for first in range(0, len(ids), batch_size):
            rows = ids[first : first + batch_size]
            width = max(map(len, rows))
            padding = torch.tensor([width - len(row) for row in rows])
            tokens = torch.tensor([[self.layout.pad] * (width - len(r)) + r for r in rows])
            hidden = self.model.hidden(tokens, mask=full(), padding_B=padding)
            seen = torch.arange(width) >= padding[:, None]
            found.append((hidden * seen[..., None]).sum(1) / seen.sum(1, keepdim=True))
        return normalize(torch.cat(found).float(), dim=-1)


def search(
    predictor: Predictor,
    items: Sequence[dict[str, Any]],
    truth: Sequence[list[str]],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Mean average precision in percent: code alone, predicted outputs, and the controls."""
    problems = [item["problem_id"] for item in items]
    vectors = predictor.embeddings([item["original_code"] for item in items])
    said = predictor.outputs([item["code"] for item in items])
    shuffled = list(said)
    random.Random(seed).shuffle(shuffled)
    conditions = {
        "code alone": (said, 0.0),
        "predicted outputs": (said, 0.2),
        "shuffled outputs": (shuffled, 0.2),
        "true outputs": (list(truth), 0.2),
    }
    return {
        name: round(
            100 * mean_average_precision(vectors, printed, problems, trace_weight=weight), 2
        )
        for name, (printed, weight) in conditions.items()
    }


def rerank(predictor: Predictor, choices: Sequence[Choice]) -> dict[str, float]:
    """pass@1 in percent, over the problems."""
    said = iter(predictor.outputs([code for c in choices for code in c.programs]))
    judged = [judge(c, [next(said) for _ in c.programs]) for c in choices]
    return {name: round(100 * float(np.mean([j[name] for j in judged])), 2) for name in judged[0]}


def printed(steps: list[Any] | Refusal) -> list[str] | None:
    """What a traced program prints; None where it was refused or stopped."""
    return None if isinstance(steps, Refusal) else outputs(encode_trace(steps), strict=False)


def make_choices(
    solutions: Sequence[str], tracer: Tracer, *, number: int, seed: int = 0
) -> list[Choice]:
    """The candidates of each solution, run. Left out are those that print nothing and those whose
    candidates are all right."""
    found = []
    for place, solution in enumerate(solutions):
        programs = candidates(solution, random.Random(f"{seed}/{place}"), number=number)
        truth = [printed(steps) for steps in tracer.trace_all(programs)]
        expected = truth[programs.index(solution)]
        if expected:
            choice = Choice(programs, truth, expected)
            if not all(choice.right):
                found.append(choice)
    return found


def measure(folder: Path, *, variants: int = 3, number: int = 10) -> dict[str, Any]:
    """Both uses, of one run. Raises UserError where its test has no programs to use."""
    run = load_run(folder)
    records = build(run.config["data"]["records"], key="data.records")
    held_out = [r for split in ("val", "test") for r in records.read(SET, split)]
    every = [r for r in held_out if r["code_tokens"]]
    solutions = {r["code"]: r for r in every if not r["operator"]}
    if not solutions:
        raise UserError(f"{folder}: its data hold out no solutions of {SET} problems")
    items: list[dict[str, Any]] = []
    taken: dict[str, int] = {}
    for record in sorted(every, key=lambda r: bool(r["operator"])):
        taken[record["source_id"]] = taken.get(record["source_id"], 0) + 1
        if taken[record["source_id"]] <= 1 + variants:
            items.append(record)
    truth = [outputs(" ".join(r["trace_tokens"]), strict=False) for r in items]
    predictor = Predictor(run)
    with Tracer() as tracer:
        choices = make_choices(list(solutions), tracer, number=number)
    if not choices:
        raise UserError(f"{folder}: no held-out solution has mutants that print something else")
    found = {
        "search": search(predictor, items, truth),
        "search_items": len(items),
        "search_problems": len({r["problem_id"] for r in items}),
        "rerank": rerank(predictor, choices),
        "rerank_problems": len(choices),
        "rerank_candidates": sum(len(c.programs) for c in choices),
    }
    write_json(folder / "downstream.json", found)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.code_execution.downstream", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("run", help="folder of a finished run of task=code_execution")
    parser.add_argument(
        "--variants", type=int, default=3, help="mutants of a solution in the search"
    )
    parser.add_argument("--candidates", type=int, default=10, help="programs to choose among")
    options = parser.parse_args(arguments)
    try:
        found = measure(Path(options.run), variants=options.variants, number=options.candidates)
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for use, unit in (("search", "mean average precision"), ("rerank", "pass@1")):
        table = Table(title=f"{use}, {unit}, percent", title_justify="left", show_header=False)
        for name, value in found[use].items():
            table.add_row(name, f"{value:.1f}")
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
