"""The fork server: `python -c "... zygote.main(...)"` with one end of a socket as its standard input.

    request   header {"n", "cpu", "wall", "memory", "limit"}, then n payloads
    answer    n messages, b"+" and a result or b"-" and the reason why there is none

One child runs the payloads of a request in turn. Where one ends the child (by a crash, a limit, a
forgery), the rest go to a new child. A child writes, for each payload, a secret of sixteen bytes that
was drawn for it, a length and the result: bytes that a payload writes to the pipe itself are told
apart, though a payload that searches its interpreter's memory can find the secret.
"""

import ctypes  # noqa: F401 - so that it is there for the layers
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable

from tasks.code_execution.sandbox import system
from tasks.code_execution.sandbox.frames import Channel, Closed
from tasks.code_execution.sandbox.layers import RESULTS, Layers, virtual_memory

Job = Callable[[bytes], bytes]
_HEAD = struct.Struct("<16sI")
_PATIENCE = 0.02  # seconds between two looks at a child's clocks


def main(job: str, path: list[str], without: list[str]) -> None:
    """Serves requests until the caller goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = Channel(socket.socket(fileno=os.dup(0)))
    module, _, function = job.partition(":")
    sys.path[:0] = path
    run: Job = getattr(importlib.import_module(module), function)
    del sys.path[: len(path)]
    os.environ.clear()
    os.chdir("/")
    layers = Layers(without)
    layers.enter_namespaces()
    if "namespaces" not in layers.missing:
        _become_first_process()
    zygote = Zygote(run, layers)
    gc.collect()
    gc.freeze()
    layers.missing |= zygote.try_out()
    report = {"active": layers.active, "missing": layers.missing, "python": sys.version.split()[0]}
    try:
        channel.send(json.dumps(report).encode())
        os.dup2(zygote.null, 2)
        while True:
            header = json.loads(channel.receive())
            payloads = [channel.receive() for _ in range(header["n"])]
            zygote.serve(channel, payloads, header)
    except Closed:
        os._exit(0)


def _become_first_process() -> None:
    """A process namespace takes effect in children, and ends with the first of them."""
    pid = os.fork()
    if pid:
        os.close(0)
        _, status = os.waitpid(pid, 0)
        os._exit(0 if status == 0 else 1)
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)


class Zygote:
    """Forks, watches and reaps children, one at a time."""

    def __init__(self, job: Job, layers: Layers):
        self.job = job
        self.layers = layers
        self.null = os.open("/dev/null", os.O_RDWR)
        virtual_memory()

    def try_out(self) -> dict[str, str]:
        """What does not hold here, found by a child that enters all layers."""
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                self.layers.isolate(write, self.null)
                failed = self.layers.try_out(memory=1 << 28)
                os.write(RESULTS, json.dumps(failed).encode())
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

    def serve(self, channel: Channel, payloads: list[bytes], header: dict[str, float]) -> None:
        """Answers every payload."""
        done = 0
        while done < len(payloads):
            child = Child(self, payloads[done:], header)
            reason = child.watch(channel)
            done += child.answered
            if reason is not None and done < len(payloads):
                channel.send(b"-" + reason.encode())
                done += 1


class Child:
    """One fork, from its start to its end."""

    def __init__(self, zygote: Zygote, payloads: list[bytes], header: dict[str, float]):
        self.header = header
        self.expected = len(payloads)
        self.answered = 0
        self.secrets = [os.urandom(16) for _ in payloads]
        self.pipe, write = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _run(zygote, write, payloads, self.secrets, header)
        os.close(write)
        self.clock = (
            ~self.pid << 3
        ) | 2  # CPU time of another process, as clock_getcpuclockid makes it
        self.received = bytearray()

    def watch(self, channel: Channel) -> str | None:
        """Passes results on until the child ends; the reason where it ended before the last."""
        poll = select.poll()
        poll.register(self.pipe, select.POLLIN)
        wall = time.monotonic() + self.header["wall"]
        cpu = self.header["cpu"]
        look = time.monotonic() + _PATIENCE
        reason = None
        try:
            while reason is None:
                ready = poll.poll(_PATIENCE * 1000)
                if ready:
                    data = os.read(self.pipe, 1 << 20)
                    if not data:
                        break
                    self.received += data
                    before = self.answered
                    reason = self.pass_on(channel)
                    if self.answered > before:
                        wall = time.monotonic() + self.header["wall"]
                        cpu = self.cpu_time() + self.header["cpu"]
                now = time.monotonic()
                if now > look and reason is None:
                    look = now + _PATIENCE
                    if self.cpu_time() > cpu:
                        reason = "it takes too much time"
                    elif now > wall:
                        reason = "it waits too long"
        finally:
            os.close(self.pipe)
            reason = self.end(reason)
        return None if self.answered == self.expected else reason

    def pass_on(self, channel: Channel) -> str | None:
        """Sends whole results to the caller; a reason to end the child where they are none."""
        while self.answered < self.expected:
            if len(self.received) < _HEAD.size:
                return None
            secret, length = _HEAD.unpack_from(self.received)
            if secret != self.secrets[self.answered]:
                return "it forges its result"
            if length > self.header["limit"]:
                return "its result is too long"
            if len(self.received) < _HEAD.size + length:
                return None
            result = bytes(self.received[_HEAD.size : _HEAD.size + length])
            del self.received[: _HEAD.size + length]
            self.answered += 1
            channel.send(b"+" + result)
        return None

    def cpu_time(self) -> float:
        try:
            return time.clock_gettime(self.clock)
        except OSError:  # it has just ended, or this kernel has no such clock: RLIMIT_CPU is there
            return 0.0

    def end(self, reason: str | None) -> str:
        """Kills the child where it still runs; what to say of it."""
        finished = self.answered == self.expected
        if reason is not None or finished:
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if reason is not None:
            return reason
        if os.WIFSIGNALED(status):
            return _SIGNALS.get(os.WTERMSIG(status), "it is killed by a signal")
        if os.WEXITSTATUS(status) == _NOT_CLOSED:
            return "the sandbox could not be closed"
        return "it ends the process"


_NOT_CLOSED = 86
_SIGNALS: dict[int, str] = {
    signal.SIGXCPU: "it takes too much time",
    signal.SIGKILL: "it is killed",
    signal.SIGSYS: "it makes a forbidden system call",
    signal.SIGSEGV: "it crashes the interpreter",
    signal.SIGABRT: "it crashes the interpreter",
    signal.SIGBUS: "it crashes the interpreter",
}


def _run(
    zygote: Zygote,
    results: int,
    payloads: list[bytes],
    secrets: list[bytes],
    header: dict[str, float],
) -> None:
    """The child: gives everything up, runs its payloads, ends without cleaning up."""
    try:
        zygote.layers.isolate(results, zygote.null)
        seconds = int(header["cpu"] * len(payloads)) + 2
        zygote.layers.close(memory=int(header["memory"]), cpu_seconds=seconds)
    except BaseException:
        os._exit(_NOT_CLOSED)
    try:
        for payload, secret in zip(payloads, secrets):
            result = zygote.job(payload)
            message = _HEAD.pack(secret, len(result)) + result
            while message:
                message = message[os.write(RESULTS, message) :]
    finally:
        os._exit(0)
