"""The fork server: `python -c "... zygote.main(...)"` with one end of a socket as its standard input.

    request   the number n of payloads, then n payloads
    answer    n messages, b"+" and a result or b"-" and the reason why there is none

One child runs the payloads of a request in turn. Where one ends the child (by a crash, a limit, a
forgery), the rest go to a new child. A child writes, for each payload, a secret of sixteen bytes that
was drawn for it, a length and the result: bytes that a payload writes to the pipe itself are told
apart, though a payload that searches its interpreter's memory can find the secret. A result is written
before the next payload is looked at, and is out of the reach of that one.

What a child costs is mostly the pages that it and the zygote write to after the fork, each a fault and
a copy. So the zygote imports little, has everything done once that happens once (`rehearse` of the
job's module runs the job on payloads of its own), and touches little from one fork to the next.
"""

import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from tasks.code_execution.sandbox import system
from tasks.code_execution.sandbox.frames import Channel, Closed
from tasks.code_execution.sandbox.layers import RESULTS, Layers, Limits, take_descriptors

Job = Callable[[bytes], bytes]
_SECRET, _LENGTH = 16, 4
_HEAD = _SECRET + _LENGTH  # bytes before a result
_PATIENCE = 20  # milliseconds between two looks at a child's clocks
_NAP = 0.001  # seconds in which results of a batch gather, each of which would wake us up


def main(job: str, path: list[str], without: list[str], limits: str) -> None:
    """Serves requests until the caller goes away; limits: JSON of the fields of Limits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent = system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    system.run(die_with_parent)
    channel = Channel(take_descriptors())
    module, _, function = job.partition(":")
    sys.path[:0] = path
    work = importlib.import_module(module)
    del sys.path[: len(path)]
    os.environ.clear()
    os.chdir("/")
    layers = Layers(Limits(**json.loads(limits)), without)
    layers.enter_namespaces()
    if "namespaces" not in layers.missing:
        _become_first_process()
    getattr(work, "rehearse", lambda: None)()
    gc.collect()
    gc.freeze()
    layers.settle()
    system.run(die_with_parent)  # again: a fork and a change of identity unset it
    zygote = Zygote(channel, getattr(work, function), layers)
    layers.missing |= zygote.try_out()
    report = {"active": layers.active, "missing": layers.missing, "python": sys.version.split()[0]}
    try:
        channel.send(json.dumps(report).encode())
        os.dup2(0, 2)
        while True:
            number = int.from_bytes(channel.receive(), "little")
            zygote.serve([channel.receive() for _ in range(number)])
    except Closed:
        os._exit(0)


def _become_first_process() -> None:
    """A process namespace takes effect in children, and ends with the first of them."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        os._exit(0 if status == 0 else 1)


class Zygote:
    """Forks, watches and reaps children, one at a time."""

    def __init__(self, channel: Channel, job: Job, layers: Layers):
        self.channel = channel
        self.job = job
        self.layers = layers

    def try_out(self) -> dict[str, str]:
        """What does not hold here, found by a child that enters all layers."""
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                self.layers.isolate(write)
                os.write(RESULTS, json.dumps(self.layers.try_out()).encode())
            finally:
                os._exit(0)
        os.close(write)
        text = b""
        while data := os.read(read, 1 << 16):
            text += data
        os.close(read)
        os.waitpid(pid, 0)
        if not text:
            return dict.fromkeys(
                self.layers.active, "a child that tried the layers did not come back"
            )
        return json.loads(text)

    def serve(self, payloads: list[bytes]) -> None:
        """Answers every payload."""
        while payloads:
            answered, reason = self.run(payloads)
            payloads = payloads[answered:]
            if payloads:
                self.channel.send(b"-" + reason.encode())
                del payloads[0]

    def run(self, payloads: list[bytes]) -> tuple[int, str]:
        """One child: how many payloads it answered, and why not the next."""
        secrets = os.urandom(_SECRET * len(payloads))
        calls = self.layers.of_child(len(payloads))
        pipe, write = os.pipe()
        pid = os.fork()
        if not pid:
            _run(self, write, calls, payloads, secrets)
        os.close(write)
        results = Results(secrets, self.layers.limits.result)
        try:
            reason = self.watch(pid, pipe, results)
        finally:
            # one that ends by itself has its status already; one that only closed the pipe goes on
            os.kill(pid, signal.SIGKILL)
            os.close(pipe)
            _, status = os.waitpid(pid, 0)
        return results.number, reason or _end(status)

    def watch(self, pid: int, pipe: int, results: "Results") -> str | None:
        """Passes results on until the child ends, or has to be ended for the reason given."""
        limits = self.layers.limits
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        start, spent = time.monotonic(), 0.0
        while True:
            if poll.poll(_PATIENCE):
                data = os.read(pipe, 1 << 16)
                if not data:
                    return None
                messages = results.take(data)
                if messages:
                    self.channel.send(*messages)
                if results.reason or results.all:
                    return results.reason
                if messages:
                    start, spent = time.monotonic(), _cpu_time(pid)
                    time.sleep(_NAP)
                    continue
            if _cpu_time(pid) - spent > limits.cpu:
                return "it takes too much time"
            if time.monotonic() - start > limits.wall:
                return "it waits too long"


class Results:
    """What a child writes.

    number: results that were whole and had their secret.
    all: there is nothing more to come.
    reason: why the next is none.
    """

    def __init__(self, secrets: bytes, limit: int):
        self.secrets = secrets
        self.limit = limit
        self.number = 0
        self.reason: str | None = None
        self._waiting = b""

    @property
    def all(self) -> bool:
        return self.number * _SECRET == len(self.secrets)

    def take(self, data: bytes) -> list[bytes]:
        """The results that are whole now, each marked as one."""
        waiting = self._waiting + data if self._waiting else data
        found = []
        at = 0
        while len(waiting) - at >= _HEAD and not self.all:
            secret = self.number * _SECRET
            start = at + _HEAD
            length = int.from_bytes(waiting[start - _LENGTH : start], "little")
            if waiting[at : at + _SECRET] != self.secrets[secret : secret + _SECRET]:
                self.reason = "it forges its result"
                break
            if length > self.limit:
                self.reason = "its result is too long"
                break
            if len(waiting) - start < length:
                break
            at = start + length
            found.append(b"+" + waiting[start:at])
            self.number += 1
        self._waiting = waiting[at:]
        return found


def _cpu_time(pid: int) -> float:
    """CPU time of another process, by its clock as clock_getcpuclockid makes it."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:  # it has just ended, or this kernel has no such clock: RLIMIT_CPU is there
        return 0.0


_NOT_CLOSED = 86
_SIGNALS: dict[int, str] = {
    signal.SIGXCPU: "it takes too much time",
    signal.SIGKILL: "it is killed",
    signal.SIGSYS: "it makes a forbidden system call",
    signal.SIGSEGV: "it crashes the interpreter",
    signal.SIGABRT: "it crashes the interpreter",
    signal.SIGBUS: "it crashes the interpreter",
}


def _end(status: int) -> str:
    """What to say of a child that ended by itself."""
    if os.WIFSIGNALED(status):
        return _SIGNALS.get(os.WTERMSIG(status), "it is killed by a signal")
    if os.WEXITSTATUS(status) == _NOT_CLOSED:
        return "the sandbox could not be closed"
    return "it ends the process"


def _run(
    zygote: Zygote, results: int, calls: list[system.Call], payloads: list[bytes], secrets: bytes
) -> None:
    """The child: gives everything up, runs its payloads, ends without cleaning up."""
    try:
        zygote.layers.isolate(results)
        system.run(*calls)
    except BaseException:
        os._exit(_NOT_CLOSED)
    try:
        for number, payload in enumerate(payloads):
            result = zygote.job(payload)
            secret = secrets[_SECRET * number : _SECRET * (number + 1)]
            message = secret + len(result).to_bytes(_LENGTH, "little") + result
            while message:
                message = message[os.write(RESULTS, message) :]
    finally:
        os._exit(0)
