"""The trace of programs, run in the sandbox: `python -m tasks.code_execution.trace FILE`.

Prints a JSON line for each line that is executed: its number from 0, the visible names and the text
of their values after it, and what it printed. Exits with 1 and the reason where the program is
refused, fails or has to be stopped, and with 2 where it cannot be run safely at all.
"""

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tasks.code_execution.formats import Step
from tasks.code_execution.sandbox import Result, Sandbox
from tasks.code_execution.tracer_changes import steps
from tasks.code_execution.tracer_gate import MAX_SOURCE
from tasks.errors import UserError

JOB = "tasks.code_execution.tracer:job"


class Refusal(NamedTuple):
    """Why a program has no trace: one of a few reasons, to be counted."""

    reason: str


class Tracer:
    """Traces programs in a sandbox of its own; `settings` are those of Sandbox."""

    def __init__(self, **settings: object):
        self.sandbox = Sandbox(job=JOB, **settings)  # type: ignore[arg-type]

    def trace(self, code: str) -> list[Step] | Refusal:
        """The steps of one program, in a process of its own."""
        return self.trace_all([code])[0]

    def trace_all(self, codes: Sequence[str]) -> list[list[Step] | Refusal]:
        """The steps of several programs, in one process unless one of them ends it.

        Programs that are run together could change what the next one finds, such as an attribute
        of a module: meant for programs that `tasks.code_execution.tracer_gate` lets through.
        """
        results = self.sandbox.run([request(c) for c in codes])
        collects = gc.isenabled()
        gc.disable()  # thousands of new objects, all of them kept: nothing to look for
        try:
            return [answer(result) for result in results]
        finally:
            if collects:
                gc.enable()

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *error: object) -> None:
        self.sandbox.__exit__()


def request(code: str) -> bytes:
    """The sandbox's payload for a program."""
    return code.encode("utf-8", "surrogatepass")


def answer(result: Result) -> list[Step] | Refusal:
    """What the sandbox's result says."""
    if result.value is None:
        return Refusal(result.reason or "it has no result")
    try:
        found = json.loads(result.value)
        return Refusal(found) if isinstance(found, str) else list(map(Step._make, steps(found)))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return Refusal("it forges its result")


def read_program(path: Path) -> str | Refusal:
    """The text of a file, which may be anything."""
    try:
        if path.stat().st_size > 4 * MAX_SOURCE:
            return Refusal("the program is too long")
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return Refusal("it is no text")


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.code_execution.trace", description=__doc__
    )
    parser.add_argument("file", type=Path, help="a Python program")
    parser.add_argument("--cpu-seconds", type=float, default=1.0, help="after which it is stopped")
    options = parser.parse_args()
    try:
        code = read_program(options.file)
        if isinstance(code, Refusal):
            found: list[Step] | Refusal = code
        else:
            with Tracer(cpu_seconds=options.cpu_seconds) as tracer:
                found = tracer.trace(code)
    except (UserError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if isinstance(found, Refusal):
        print(f"error: {options.file}: no trace: {found.reason}", file=sys.stderr)
        return 1
    for step in found:
        print(json.dumps(step._asdict(), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
