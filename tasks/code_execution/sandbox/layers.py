"""What a child gives up before it looks at a payload, in order; and what the zygote found to work.

A layer that worked when the zygote tried it must work in every child: where it fails there, the child
ends without having run anything.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
from collections.abc import Callable, Collection, Iterator

from tasks.code_execution.sandbox import system
from tasks.code_execution.sandbox.landlock import RULES, Ruleset
from tasks.code_execution.sandbox.seccomp import Filter

NAMES = ("namespaces", "rlimits", "identity", "landlock", "seccomp")
REQUIRED = ("rlimits", "identity")  # and one of landlock, seccomp
NOBODY = 65534
RESULTS = 3  # the child's one open descriptor, beside /dev/null on 0, 1 and 2
_CAPSET = {"x86_64": 126, "aarch64": 91}
_NEW = {"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}  # fmt: skip


class Layers:
    """The layers of this machine.

    without: names to leave out, to see what the others do.
    missing: name -> why, of those that are not there.
    """

    def __init__(self, without: Collection[str] = ()):
        self.missing = {name: "left out" for name in without}
        self._rules: Ruleset | None = None
        self._filter: Filter | None = None
        try:
            self._rules = None if "landlock" in without else Ruleset()
        except OSError as error:
            self.missing["landlock"] = f"the kernel has no Landlock ({error})"
        try:
            self._filter = None if "seccomp" in without else Filter()
        except OSError as error:
            self.missing["seccomp"] = str(error)

    @property
    def active(self) -> list[str]:
        return [name for name in NAMES if name not in self.missing]

    def enter_namespaces(self) -> None:
        """Of the zygote: no network, no shared memory, and no process but its own children."""
        if "namespaces" in self.missing:
            return
        flags = _NEW["pid"] | _NEW["net"] | _NEW["ipc"] | _NEW["uts"]
        try:
            system.unshare(flags if os.getuid() == 0 else flags | _NEW["user"])
        except OSError as error:
            self.missing["namespaces"] = f"the kernel refuses them ({error})"

    def isolate(self, results: int, null: int) -> None:
        """Of a child: its own session, no descriptor but the pipe for its results (RESULTS)."""
        os.setsid()
        os.dup2(results, 20)
        if self._rules is not None:
            os.dup2(self._rules.descriptor, 21)
        for target in range(3):
            os.dup2(null, target)
        os.dup2(20, RESULTS)
        if self._rules is not None:
            os.dup2(21, RULES)
        os.closerange(RULES + (self._rules is not None), 4096)

    def close(self, *, memory: int, cpu_seconds: int) -> None:
        """Of a child: rlimits, identity, Landlock, seccomp. Raises OSError if one does not hold.

        memory: bytes of address space beyond what the zygote has.
        """
        for _, enter in self._steps(memory, cpu_seconds, descriptors=0):
            enter()

    def try_out(self, *, memory: int) -> dict[str, str]:
        """Of a child that has only been isolated: what does not hold here, and why."""
        failed = {}
        for name, enter in self._steps(memory, 5, descriptors=8):
            try:
                enter()
                _verify(name)
            except OSError as error:
                failed[name] = f"it does not hold here ({error})"
        return failed

    def _steps(
        self, memory: int, cpu_seconds: int, descriptors: int
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """Name and entrance of every layer of a child that is not missing, in order."""
        if "rlimits" not in self.missing:
            yield "rlimits", lambda: _limit(memory, cpu_seconds, descriptors)
        if "identity" not in self.missing:
            yield "identity", _become_nobody
        yield "privileges", _gain_nothing
        if self._rules is not None and "landlock" not in self.missing:
            yield "landlock", self._rules.restrict
        if self._filter is not None and "seccomp" not in self.missing:
            yield "seccomp", self._filter.install


def _limit(memory: int, cpu_seconds: int, descriptors: int) -> None:
    """With no descriptors allowed no new one can be opened: not a file, not a socket."""
    space = virtual_memory() + memory
    for kind, soft, hard in (
        (resource.RLIMIT_AS, space, space),
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, descriptors, descriptors),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]  # what the caller was started with may be less
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def _become_nobody() -> None:
    """No user that owns anything, where we may choose; no capability in any case."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    nothing = ctypes.create_string_buffer(24)
    system.syscall(_CAPSET[system.MACHINE], header, nothing)
    system.prctl(system.PR_SET_DUMPABLE, 0)


def _gain_nothing() -> None:
    system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of identity unsets it
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)


def _verify(name: str) -> None:
    """Raises OSError where a layer that has been entered does not keep what it promises."""
    if name == "rlimits" and resource.getrlimit(resource.RLIMIT_FSIZE) != (0, 0):
        raise OSError("limits are not kept")
    if name == "identity" and 0 in os.getresuid():
        raise OSError("still root")
    refusal = {"landlock": errno.EACCES, "seccomp": errno.EPERM}.get(name)
    if refusal is not None:
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            if error.errno == refusal:
                return
        raise OSError("the root folder can still be opened")


_statm = None


def virtual_memory() -> int:
    """Bytes of address space of this process; read once, in the zygote."""
    global _statm
    if _statm is None:
        with open("/proc/self/statm") as file:
            _statm = int(file.read().split()[0]) * resource.getpagesize()
    return _statm
