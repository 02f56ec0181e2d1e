"""What a sweep ends with beside its comparison: a page that says what held, by a callback and a command."""

import argparse
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tasks.run_folder import say


class AfterSweep(Callback, ABC):
    """Hydra callback: judges a sweep when its last job has ended; `main` judges one again.

    A subclass gives `judge`, the `name` that a line of its begins with, and a `description` of its command.
    """

    name = ""
    description = ""

    @abstractmethod
    def judge(self, folder: Path) -> None:
        """Writes the page of a sweep's folder. Raises ValueError where its runs do not allow it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            self.judge(Path(config.hydra.sweep.dir))
        except ValueError as error:
            say(f"{self.name}: {error}")

    @classmethod
    def main(cls, arguments: list[str] | None = None) -> int:
        """Returns the exit status: 0, or 2 with one line on stderr."""
        spec = sys.modules[cls.__module__].__spec__
        prog = None if spec is None else f"python -m {spec.name}"
        parser = argparse.ArgumentParser(prog=prog, description=cls.description)
        parser.add_argument("folder", type=Path, help="sweep folder")
        folder = parser.parse_args(arguments).folder
        try:
            cls().judge(folder)
        except (ValueError, OSError) as error:
            print(f"{cls.name}: {error}", file=sys.stderr)
            return 2
        return 0
