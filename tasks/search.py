"""Searches for good settings with Optuna; every trial is an ordinary run of train.py.

    python -m tasks.search --trials 20 model=rope,xpos 'optim.lr=tag(log,interval(3e-4,1e-2))' max_steps=500

The space is written in Hydra's own grammar: `a,b` or `choice(a,b)`, `range(1,4)`, `interval(0,0.2)`,
`tag(log,interval(1e-4,1e-2))`; any other override holds for all trials. What is minimised is a number
of results.json, by default `val/loss`: never a test metric, unless you ask for one.

The study is a file in the search's folder, beside the runs. The same command goes on after a stop,
and several processes or machines that share the folder search together. Every combination of a few
choices is what `python train.py -m` does.
"""

import argparse
import hashlib
import os
import shlex
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from tasks.errors import UserError
from tasks.run_folder import read_json, say

PROGRAM = Path(__file__).resolve().parent.parent / "train.py"
STUDY = "study.log"


def space(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Splits overrides into what Optuna chooses, by key, and what holds for all trials.

    Raises UserError for one that is not Hydra's grammar, or of which Optuna cannot choose.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    chosen: dict[str, Any] = {}
    fixed = []
    for text in overrides:
        try:
            override: Override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UserError(f"{text}: not an override ({str(error).splitlines()[0]})") from error
        if not override.is_sweep_override():
            fixed.append(text)
            continue
        value, key = override.value(), override.get_key_element()
        if isinstance(value, IntervalSweep):
            assert value.start is not None and value.end is not None
            log = "log" in value.tags
            if "int" in value.tags:
                chosen[key] = IntDistribution(int(value.start), int(value.end), log=log)
            else:
                chosen[key] = FloatDistribution(float(value.start), float(value.end), log=log)
        elif isinstance(value, ChoiceSweep | RangeSweep):
            chosen[key] = CategoricalDistribution(
                [str(x) for x in override.sweep_string_iterator()]
            )
        else:
            raise UserError(f"{text}: write a choice, a range or an interval")
    if not chosen:
        raise UserError("nothing to search; give one override a choice (a,b) or an interval(a,b)")
    return chosen, fixed


class Search:
    """One study in one folder."""

    def __init__(
        self, folder: Path, overrides: list[str], *, metric: str, sampler: str, seed: int = 0
    ):
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self.folder, self.metric = folder, metric
        self.space, self.fixed = space(overrides)
        tpe = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY))),
            study_name="search",
            sampler=tpe if sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed),
            load_if_exists=True,
        )
        self.states = optuna.trial.TrialState
        self._requeue()

    def _requeue(self) -> None:
        """Trials whose process on this machine has died are tried again, going on from their run."""
        for trial in self.study.get_trials(states=(self.states.RUNNING,)):
            if trial.user_attrs.get("host") == socket.gethostname() and not _alive(
                trial.user_attrs["process"]
            ):
                self.study.tell(trial.number, state=self.states.FAIL)
                self.study.enqueue_trial(trial.params, user_attrs={"run": trial.user_attrs["run"]})

    def finished(self) -> int:
        """Runs that ended, with a result or with an error of their own."""
        trials = self.study.get_trials()
        latest = {t.user_attrs["run"]: t.state for t in trials if "run" in t.user_attrs}
        return sum(state.is_finished() for state in latest.values())

    def trial(self) -> None:
        """Asks for settings, runs them, tells the result."""
        trial = self.study.ask(self.space)
        run = trial.user_attrs.get("run", str(trial.number))
        for name, value in {
            "run": run,
            "host": socket.gethostname(),
            "process": os.getpid(),
        }.items():
            trial.set_user_attr(name, value)
        folder = self.folder / run
        settings = [f"{key}={value}" for key, value in trial.params.items()]
        place = (
            f"ckpt={folder}" if (folder / "config.yaml").is_file() else f"hydra.run.dir={folder}"
        )
        command = [sys.executable, str(PROGRAM), *self.fixed, *settings, place]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.txt").open("a") as output:
            code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
        value = read_json(folder / "results.json").get(self.metric)
        if code or value is None:
            why = (
                read_json(folder / "status.json").get("error")
                or f"no {self.metric} in results.json"
            )
            say(
                f"trial {trial.number} failed: {' '.join(settings)}: {why} (see {folder}/output.txt)"
            )
            self.study.tell(trial, state=self.states.FAIL)
        else:
            say(f"trial {trial.number}: {self.metric} {value:.4f}  {' '.join(settings)}")
            self.study.tell(trial, float(value))

    def run(self, trials: int, jobs: int) -> None:
        """Runs until the study has so many finished trials, `jobs` at a time."""
        with ThreadPoolExecutor(jobs) as pool:
            left = max(0, trials - self.finished())
            for result in [pool.submit(self.trial) for _ in range(left)]:
                result.result()

    def show(self) -> None:
        """Prints the best trials, and the command that repeats the first."""
        from zoo.report import compare

        done = [t for t in self.study.get_trials(states=(self.states.COMPLETE,))]
        if not done:
            raise UserError(f"{self.folder}: no trial has finished; see their output.txt")
        for path in compare([self.folder]).values():
            say(f"comparison: {path}")
        done.sort(key=lambda t: t.value if t.value is not None else float("inf"))
        for trial in done[:5]:
            settings = " ".join(f"{key}={value}" for key, value in trial.params.items())
            print(
                f"{self.metric} {trial.value:.4f}  {settings}  ({self.folder / trial.user_attrs['run']})"
            )
        best = [f"{key}={value}" for key, value in done[0].params.items()]
        print("best: " + shlex.join(["python", "train.py", *self.fixed, *best]))


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--trials", type=int, default=20, help="in all, earlier ones included")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--metric", default="val/loss", help="of results.json; lower is better")
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe")
    parser.add_argument("--folder", type=Path, help="of the study; default: runs/searches/<space>")
    parser.add_argument("overrides", nargs="+", help="as for train.py")
    options = parser.parse_args()
    if min(options.trials, options.jobs) < 1:
        sys.exit("error: --trials and --jobs: must be at least 1")
    name = hashlib.sha256("\n".join(sorted(options.overrides)).encode()).hexdigest()[:8]
    root = Path(os.environ.get("ZOO_RUNS", "runs"))
    folder = (options.folder or root / "searches" / name).absolute()
    try:
        search = Search(folder, options.overrides, metric=options.metric, sampler=options.sampler)
        say(f"search folder: {folder}")
        search.run(options.trials, options.jobs)
        search.show()
    except ImportError as error:
        sys.exit(f"error: {error.name} is missing; pip install -e '.[search]'")
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
