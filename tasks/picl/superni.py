"""Instruction tasks in the Super-NaturalInstructions format (Wang et al. 2022), judged by ROUGE-L.

A task is a JSON file with Definition, Positive Examples and Instances. The prompt is the definition, the
first positive examples and an instance, in the wording of Tk-Instruct; what the model writes up to a line
end is compared with each reference, and the best F1 counts:

    P = LCS / |prediction|,   R = LCS / |reference|,   F1 = 2 P R / (P + R),  0 where either is empty

over Porter-stemmed words (rouge-score), times 100, averaged over the instances of a task and then over
tasks. Where all references of a task are among at most `ranked` different answers (yes or no), the
answers are ranked by NLL instead, as PICL does (Gu et al. 2023 §4.1).

    python -m tasks.picl.superni RUN_FOLDER tasks/*.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks import rouge
from tasks.data.tokenizers import Tokenizer
from tasks.errors import UserError
from tasks.icl.fewshot import answer_scores
from zoo.decoder import Decoder
from zoo.generate import generate


@dataclass(frozen=True)
class Instruction:
    """One task: examples are (input, output), instances (input, references)."""

    name: str
    definition: str
    examples: list[tuple[str, str]]
    instances: list[tuple[str, list[str]]]


def read_task(path: Path, *, examples: int = 2, instances: int | None = 100) -> Instruction:
    """A task file; the first examples and instances. Raises UserError in one line."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        definition = content["Definition"]
        shown = [(e["input"], e["output"]) for e in content.get("Positive Examples", [])]
        asked = [
            (i["input"], i["output"] if isinstance(i["output"], list) else [i["output"]])
            for i in content["Instances"]
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is no task of natural-instructions (Definition, Positive Examples and "
            f"Instances are needed; {type(error).__name__}: {error})"
        ) from error
    text = definition[0] if isinstance(definition, list) else definition
    return Instruction(path.stem, text, shown[:examples], asked[:instances])


def prompt_parts(task: Instruction) -> tuple[str, str, str]:
    """What stands before an instance's input, what follows it, and the definition with examples in
    front: (head, before, after)."""
    head = f"Definition: {one_line(task.definition)}\n"
    for number, (given, wanted) in enumerate(task.examples, 1):
        head += f"Positive Example {number}- Input: {one_line(given)} Output: {one_line(wanted)}\n"
    return head, "Now complete the following example- Input: ", " Output:"


def one_line(text: str) -> str:
    """White space made single spaces."""
    return " ".join(text.split())


def encode_prompt(
    tokenizer: Tokenizer, task: Instruction, given: str, *, room: int, longest: int = 256
) -> list[int]:
    """Ids of a prompt of at most `room` tokens: an input keeps its last `longest` tokens, and what is
    still too long loses the beginning of its definition."""
    head, before, after = prompt_parts(task)
    ids = tokenizer.encode(one_line(given))[-longest:]
    tail = np.concatenate((tokenizer.encode(before), ids, tokenizer.encode(after)))[-room:]
    start = tokenizer.encode(head)
    kept = start[max(0, len(start) - (room - len(tail))) :]
    return [*kept.tolist(), *tail.tolist()]


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """The best F1 over the references, in [0, 100], Porter-stemmed."""
    return 100 * max(rouge.rouge_l(r, prediction) for r in references)


@torch.inference_mode()
def judge(
    model: Decoder,
    tokenizer: Tokenizer,
    task: Instruction,
    *,
    context_length: int,
    max_new_tokens: int = 64,
    ranked: int = 3,
    top_p: float | None = None,
    seed: int = 0,
) -> float:
    """Mean ROUGE-L of a task's instances. top_p: sample (published: 0.9); None: the likeliest token.

    Ranked answers are scored by their summed NLL.
    """
    room = context_length - max_new_tokens
    if room < 8:
        raise UserError(
            f"a context of {context_length} tokens leaves no room for a prompt; lower --tokens"
        )
    answers = sorted({r for _, references in task.instances for r in references})
    questions = [encode_prompt(tokenizer, task, given, room=room) for given, _ in task.instances]
    if 2 <= len(answers) <= ranked:
        options = [[tokenizer.encode(f" {one_line(a)}").tolist() for a in answers]] * len(questions)
        scores = answer_scores(model, questions, options)
        lengths = torch.tensor([len(option) for option in options[0]])
        written = [answers[int((score * lengths).argmax())] for score in scores]
    else:
        written = [
            _write(model, tokenizer, ids, max_new_tokens, top_p, seed + i)
            for i, ids in enumerate(questions)
        ]
    found = [rouge_l(text, r) for text, (_, r) in zip(written, task.instances)]
    return float(np.mean(found))


def _write(
    model: Decoder,
    tokenizer: Tokenizer,
    ids: list[int],
    most: int,
    top_p: float | None,
    seed: int,
) -> str:
    """What follows a prompt, up to a line end or the document's."""
    device = next(model.parameters()).device
    sampling: dict[str, Any] = {"temperature": 0.0}
    if top_p is not None:
        generator = torch.Generator(device).manual_seed(seed)
        sampling = {"temperature": 1.0, "top_p": top_p, "generator": generator}
    tokens: list[int] = []
    for token in generate(
        model, torch.tensor([ids], device=device), max_new_tokens=most, **sampling
    ):
        if int(token) == tokenizer.eos:
            break
        tokens.append(int(token))
        if "\n" in tokenizer.decode(tokens[-1:]):
            break
    return tokenizer.decode(tokens).strip()


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    from zoo.load import load_run

    parser = argparse.ArgumentParser(prog="python -m tasks.picl.superni", description=__doc__)
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("tasks", nargs="+", type=Path, help="JSON files of natural-instructions")
    parser.add_argument("--examples", type=int, default=2, help="positive examples in the prompt")
    parser.add_argument("--instances", type=int, default=100, help="of each task")
    parser.add_argument("--tokens", type=int, default=64, help="how many may be written")
    parser.add_argument("--top-p", type=float, default=None, help="sample (published: 0.9)")
    parser.add_argument("--checkpoint", default="best")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        run = load_run(options.run, checkpoint=options.checkpoint, device=options.device)
        scores = []
        for path in options.tasks:
            task = read_task(path, examples=options.examples, instances=options.instances)
            length = run.config["model"]["context_length"]
            scores.append(
                judge(
                    run.model,  # type: ignore[arg-type]
                    run.tokenizer,
                    task,
                    context_length=length,
                    max_new_tokens=options.tokens,
                    top_p=options.top_p,
                )
            )
            print(f"{scores[-1]:6.2f}  {task.name}")
        print(f"{np.mean(scores):6.2f}  mean ROUGE-L of {len(scores)} task(s)")
    except (UserError, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
