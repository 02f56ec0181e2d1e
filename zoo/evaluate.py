"""lm-eval on a trained run: `python -m zoo.evaluate RUN --tasks hellaswag,arc_easy`.

The EleutherAI harness (Gao et al. 2021, package lm-eval) reads the run's own decoder and tokenizer, and
what it measures goes to RUN/lm_eval.json. An exported run gives the same numbers:

    lm_eval --model hf --model_args pretrained=FOLDER,trust_remote_code=True --tasks hellaswag
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from zoo.hf.wrap import wrap
from zoo.load import ConfigError, load_run

_FEWSHOT_SEED = 1234  # the harness's own


def harness_model(
    run_folder: str | Path,
    *,
    checkpoint: str = "best",
    device: str = "cpu",
    batch_size: int = 8,
) -> Any:
    """A run's folder as a language model of lm-eval, for `lm_eval.simple_evaluate(model=…)`.

    Texts longer than the trained length (or the model's table of positions) are read in windows of it.
    Raises ConfigError where lm-eval is not installed or the run has no tokenizer of transformers.
    """
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ConfigError(f"lm-eval: {error}; pip install -e '.[eval]'") from error
    model, tokenizer = wrap(load_run(run_folder, checkpoint=checkpoint, device=device))
    if tokenizer is None:
        raise ConfigError(f"{run_folder}: its tokenizer has no form that lm-eval could read")
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


def evaluate(
    run_folder: str | Path,
    tasks: list[str],
    *,
    include_path: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
    **model: Any,
) -> dict[str, dict[str, Any]]:
    """What lm-eval measures of a run, {task: {metric: value}}, also written to RUN/lm_eval.json.

    include_path: a folder of task files (YAML). num_fewshot: worked examples before each question, where
    a task does not forbid them; None: the task's own. limit: documents a task, or their share below 1.
    `model` as in `harness_model`. Raises ConfigError, naming the task, for one that is not known.
    """
    judged = harness_model(run_folder, **model)
    results = measure(
        judged, tasks, include_path=include_path, num_fewshot=num_fewshot, limit=limit
    )
    path = Path(run_folder) / "lm_eval.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    return results


def measure(
    model: Any,
    tasks: list[str],
    *,
    include_path: str | Path | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
) -> dict[str, dict[str, Any]]:
    """What lm-eval measures of any of its models, {task: {metric: value}}; see `evaluate`."""
    import lm_eval

    loaded = _tasks(tasks, include_path).load(tasks)
    for task in loaded["tasks"].values():
        shots = task.get_config("num_fewshot")
        if shots is None or (num_fewshot is not None and shots != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    # Not simple_evaluate: it also inspects the machine, which takes longer than a small task.
    outcome = lm_eval.evaluate(lm=model, task_dict=loaded, limit=limit, bootstrap_iters=0)
    return {task: _numbers(measured) for task, measured in outcome["results"].items()}


def _tasks(tasks: list[str], include_path: str | Path | None) -> Any:
    """The harness's index of these tasks. Its own thousands are read only where they are asked for."""
    from lm_eval.tasks import TaskManager

    own = None if include_path is None else str(include_path)
    for include_defaults in (False, True) if own else (True,):
        manager = TaskManager(include_path=own, include_defaults=include_defaults)
        unknown = [task for task in tasks if not manager.match_tasks([task])]
        if not unknown:
            return manager
    raise ConfigError(
        f"--tasks: lm-eval knows no {', '.join(unknown)}; `lm_eval ls tasks` lists what it knows"
    )


def _numbers(measured: dict[str, Any]) -> dict[str, Any]:
    """The metrics of a task; lm-eval writes `name,filter` for them."""
    return {
        key.removesuffix(",none"): value
        for key, value in measured.items()
        if isinstance(value, int | float) and "stderr" not in key
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m zoo.evaluate", description=__doc__)
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("--tasks", required=True, help="names, with commas between")
    parser.add_argument("--include-path", default=None, help="a folder with task files of your own")
    parser.add_argument("--num-fewshot", type=int, default=None)
    parser.add_argument("--limit", type=float, default=None, help="documents a task")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--checkpoint", default="best", help="best, last, or a path")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    try:
        results = evaluate(
            options.run,
            options.tasks.split(","),
            include_path=options.include_path,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            checkpoint=options.checkpoint,
            device=options.device,
            batch_size=options.batch_size,
        )
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for task, measured in results.items():
        for name, value in measured.items():
            print(f"{task:24} {name:24} {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
