"""Several workers at once; their results in the order of the tasks."""

import json
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.code_execution.sandbox.host import ROOT
from tasks.errors import UserError


class Workers:
    """Processes of `tasks.code_execution.datasets.worker`, started when they are needed."""

    def __init__(self, number: int):
        self.number = number
        self._free: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[str]] = []
        self._threads = ThreadPoolExecutor(number)

    def map(self, tasks: Iterable[dict[str, Any]]) -> Iterator[Path]:
        """Folders of the tasks' shards, in order; a few tasks beyond the one asked for are begun.

        Raises UserError for what a worker could not do.
        """
        if not self._all:
            self._all = [_start() for _ in range(self.number)]
            for process in self._all:
                self._free.put(process)
        waiting = iter(tasks)
        begun: deque[Future[Path]] = deque()
        while True:
            for task in islice(waiting, self.number + 1 - len(begun)):
                begun.append(self._threads.submit(self._ask, task))
            if not begun:
                return
            yield begun.popleft().result()

    def _ask(self, task: dict[str, Any]) -> Path:
        process = self._free.get()
        try:
            assert process.stdin is not None and process.stdout is not None
            try:
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
        finally:
            self._free.put(process)
        if not line:
            raise UserError(
                f"data: a process that makes programs has ended (status {process.poll()}); "
                "start again: what is done is kept"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise UserError(answer["error"])
        return Path(answer["folder"])

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._all:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.communicate()


def _start() -> "subprocess.Popen[str]":
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.code_execution.datasets.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
