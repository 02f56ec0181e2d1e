"""The caller's side: starts the zygote, sends payloads, gets results."""

import json
import os
import queue
import socket
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tasks.code_execution.sandbox.frames import Channel, Closed
from tasks.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
_PYTHON = (sys.executable, "-P", "-s", "-S", "-B", "-c")  # nothing of site-packages or the folder
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tasks.code_execution.sandbox import zygote; sys.path.pop(0); "
    "zygote.main(sys.argv[2], sys.argv[3].split(':') if sys.argv[3] else [], sys.argv[4].split(), "
    "sys.argv[5])"
)


class SandboxError(UserError):
    """Code cannot be run safely on this machine, or the fork server is gone."""


class Result(NamedTuple):
    """What a payload gave; exactly one of the two is None."""

    value: bytes | None
    reason: str | None


class Sandbox:
    """A fork server and its limits; not for several threads at once (Pool is).

    Args:
        job: `module:function`, imported by the zygote: payload -> result, both bytes.
        cpu_seconds, wall_seconds: of one payload. What waits is stopped by the second, which must be
            many times the first: on a busy machine a second of work takes minutes.
        memory_mb: of address space beyond the interpreter's own.
        result_bytes: longest result that is taken.
        hash_seed: of the interpreter, which decides the order of sets of strings.
        path: folders where the job's module may also lie.
        without: layers to leave out, to see what the others do (sandbox.layers.NAMES).
    Raises:
        SandboxError: the layers that can be had here are not enough.
    """

    def __init__(
        self,
        *,
        job: str,
        cpu_seconds: float = 1.0,
        wall_seconds: float = 120.0,
        memory_mb: int = 256,
        result_bytes: int = 1 << 20,
        hash_seed: int = 0,
        path: Sequence[str] = (),
        without: Collection[str] = (),
    ):
        for name, value in (
            ("cpu_seconds", cpu_seconds),
            ("wall_seconds", wall_seconds),
            ("memory_mb", memory_mb),
        ):
            if value <= 0:
                raise ValueError(f"{name}: must be above 0, got {value}")
        limits = {
            "cpu": cpu_seconds,
            "wall": wall_seconds,
            "memory": memory_mb << 20,
            "result": result_bytes,
        }
        settings = (job, ":".join(path), " ".join(without), json.dumps(limits))
        if not sys.platform.startswith("linux"):
            raise SandboxError(
                f"programs of unknown origin are run on Linux alone: {sys.platform} has no seccomp "
                "and no Landlock; build the data on a Linux machine and copy the folder"
            )
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*_PYTHON, _START, str(ROOT), *settings],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(hash_seed),
                start_new_session=True,
            )
        self.channel = Channel(ours.detach())
        try:
            self.report = json.loads(self.channel.receive())
        except Closed:
            self.close()
            said = self.process.stderr.read().decode(errors="replace").strip()  # type: ignore[union-attr]
            last = said.splitlines()[-1] if said else "it says nothing"
            raise SandboxError(f"the fork server does not start: {last}") from None
        missing = self._missing()
        if missing:
            self.close()
            raise SandboxError(
                f"programs cannot be run safely here, for want of {'; '.join(missing)}. Use Linux "
                "5.13 or later, in a container whose profile allows seccomp filters or Landlock"
            )

    def _missing(self) -> list[str]:
        why: dict[str, str] = self.report["missing"]
        required: list[str] = [n for n in ("privileges", "rlimits", "identity") if n in why]
        if "landlock" in why and "seccomp" in why:
            required += ["landlock", "seccomp"]
        return [f"{name} ({why[name]})" for name in required]

    @property
    def layers(self) -> list[str]:
        """Names of the layers that hold, in the order of sandbox.layers.NAMES."""
        return self.report["active"]

    @property
    def python(self) -> str:
        """Version of the interpreter inside."""
        return self.report["python"]

    def run(self, payloads: Sequence[bytes]) -> list[Result]:
        """One process for all, in order; a payload that ends it costs the rest nothing.

        Raises SandboxError where the fork server is gone.
        """
        try:
            self.channel.send(len(payloads).to_bytes(4, "little"), *payloads)
            answers = [self.channel.receive() for _ in payloads]
        except Closed:
            raise SandboxError("the fork server has ended; start again") from None
        return [
            Result(a[1:], None) if a[:1] == b"+" else Result(None, a[1:].decode()) for a in answers
        ]

    def close(self) -> None:
        """Ends the fork server and whatever it runs."""
        self.channel.close()
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        if self.process.stderr is not None:
            self.process.stderr.close()


class Pool:
    """Several fork servers, for batches in any number; arguments are those of Sandbox."""

    def __init__(self, workers: int, **settings: object):
        if workers < 1:
            raise ValueError(f"workers: must be at least 1, got {workers}")
        self._free: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        self._all: list[Sandbox] = []
        try:
            for _ in range(workers):
                self._all.append(Sandbox(**settings))  # type: ignore[arg-type]
                self._free.put(self._all[-1])
        except BaseException:
            self.close()
            raise
        self._threads = ThreadPoolExecutor(workers)

    @property
    def report(self) -> dict[str, object]:
        return self._all[0].report

    def map(self, batches: Iterable[Sequence[bytes]]) -> Iterator[list[Result]]:
        """Results in the order of the batches."""
        return self._threads.map(self._run, batches)

    def _run(self, batch: Sequence[bytes]) -> list[Result]:
        box = self._free.get()
        try:
            return box.run(batch)
        finally:
            self._free.put(box)

    def close(self) -> None:
        for box in self._all:
            box.__exit__()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        self.close()


def _environment(hash_seed: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    now = {"LD_BIND_NOW": "1"}  # or every child looks up the functions of the C library anew
    return {**kept, **now, "PYTHONHASHSEED": str(hash_seed), "LC_ALL": "C.UTF-8"}
