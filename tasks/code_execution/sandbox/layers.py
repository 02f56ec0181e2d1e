"""What stands between a program and everything else, and who puts it there.

    once, by the zygote, inherited by every child and not to be undone by it
        namespaces    no network, no shared memory, no process but the zygote's own children
        rlimits       no file may be written or dumped, no memory locked, no message queue
        identity      no supplementary group, and as root the group nobody
        privileges    no_new_privs: nothing is gained by exec; descriptors 0, 1, 2 are /dev/null
    by every child, before it looks at a payload, since the zygote could not work under it
        rlimits       address space, CPU time, no descriptor, no process more
        identity      as root the user nobody; no capability; nobody may look into its memory
        landlock      a domain of its own, so that it can signal neither the zygote nor a sibling
        seccomp       the twenty calls that are left; the zygote has to fork, wait and kill

What is inherited is no weaker for it: the kernel copies hard limits, groups, namespaces and
no_new_privs to a child in fork itself, so there is no moment without them, and a child without
capabilities can raise or leave none of them. A child runs no program of anybody until the last of
its own layers holds. A layer that worked when the zygote tried it must work in every child: where
one fails there, the child ends without having run anything.

The calls of a child are made ready in the zygote (`system.Call`). A fork is cheap, but every page of
the interpreter that a child writes to, if only to count a reference, costs it a page fault and a
copy: a child that does little of its own is a fast one.
"""

import errno
import os
import resource
import signal
from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from tasks.code_execution.sandbox import system
from tasks.code_execution.sandbox.landlock import RULES, Ruleset
from tasks.code_execution.sandbox.seccomp import Filter
from tasks.code_execution.sandbox.system import Call

NAMES = ("namespaces", "rlimits", "identity", "landlock", "seccomp")
REQUIRED = ("rlimits", "identity")  # and one of landlock, seccomp
NOBODY = 65534
RESULTS = 3  # the child's one open descriptor, beside /dev/null on 0, 1 and 2
_NEW = {"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000}  # fmt: skip
_NONE = (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE)  # fmt: skip
_OWN_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC)  # fmt: skip


class Limits(NamedTuple):
    """Of one payload: seconds of CPU time and by the clock, bytes of memory and of the result.

    memory: of address space, beyond what the zygote has.
    """

    cpu: float
    wall: float
    memory: int
    result: int


class Layers:
    """The layers of this machine, for the zygote and its children.

    limits: of a payload.
    without: names to leave out, to see what the others do.
    missing: name -> why, of those that are not there.
    """

    def __init__(self, limits: Limits, without: Collection[str] = ()):
        self.limits = limits
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
        self._ready: list[Call] = []
        self._most = {kind: resource.getrlimit(kind)[1] for kind in _OWN_LIMITS}
        self._space = 0

    @property
    def active(self) -> list[str]:
        return [name for name in NAMES if name not in self.missing]

    def enter_namespaces(self) -> None:
        """Of the zygote: no network, no shared memory, and no process but its own children."""
        if "namespaces" in self.missing:
            return
        flags = _NEW["pid"] | _NEW["net"] | _NEW["ipc"] | _NEW["uts"]
        try:
            system.run(system.unshare(flags if os.getuid() == 0 else flags | _NEW["user"]))
        except OSError as error:
            self.missing["namespaces"] = f"the kernel refuses them ({error})"

    def settle(self) -> None:
        """Of the zygote, when it is as large as it will be: takes on what its children inherit."""
        for name, enter in (
            ("rlimits", _limit_for_good),
            ("identity", _leave_groups),
            ("privileges", system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)),
        ):
            try:
                if name not in self.missing:
                    system.run(enter)
            except OSError as error:
                self.missing[name] = f"it does not hold here ({error})"
        if self._rules is not None:
            self._rules.move()
        with open("/proc/self/statm") as file:
            self._space = int(file.read().split()[0]) * resource.getpagesize()
        self._ready = [call for calls in self._calls(descriptors=0).values() for call in calls]

    def isolate(self, results: int) -> None:
        """Of a child: its own process group, no descriptor but the pipe for its results (RESULTS)."""
        os.setpgid(0, 0)
        os.dup2(results, RESULTS)
        os.closerange(RULES + (self._rules is not None), 4096)

    def of_child(self, payloads: int) -> list[Call]:
        """What a child that has been isolated has to call, in order (system.run)."""
        seconds = int(self.limits.cpu * payloads) + 2
        return [self._limit(resource.RLIMIT_CPU, seconds, seconds + 1), *self._ready]

    def try_out(self) -> dict[str, str]:
        """Of a child that has only been isolated: what does not hold here, and why."""
        failed = {}
        for name, calls in self._calls(descriptors=8).items():  # _verify opens a folder
            try:
                system.run(*calls)
                _verify(name)
            except OSError as error:
                failed[name] = f"it does not hold here ({error})"
        return failed

    def _limit(self, kind: int, soft: int, hard: int) -> Call:
        """What the caller was started with may be less."""
        most = self._most[kind]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        return partial(resource.setrlimit, kind, (soft, hard))

    def _calls(self, descriptors: int) -> dict[str, list[Call]]:
        """Of a child, beside its CPU time; by layer, in order, without what is missing."""
        space = self._space + self.limits.memory
        identity = [system.no_capabilities(), system.prctl(system.PR_SET_DUMPABLE, 0)]
        if os.getuid() == 0:
            identity.insert(0, partial(os.setresuid, NOBODY, NOBODY, NOBODY))
        calls: dict[str, list[Call]] = {
            "rlimits": [
                self._limit(resource.RLIMIT_AS, space, space),
                # none can be opened: not a file, not a socket
                self._limit(resource.RLIMIT_NOFILE, descriptors, descriptors),
                self._limit(resource.RLIMIT_NPROC, 0, 0),
            ],
            "identity": identity,
            # a change of identity unsets it, and so does a fork
            "privileges": [system.prctl(system.PR_SET_PDEATHSIG, signal.SIGKILL)],
            "landlock": [] if self._rules is None else self._rules.restrict(),
            "seccomp": [] if self._filter is None else [self._filter.install()],
        }
        return {name: own for name, own in calls.items() if name not in self.missing}


def take_descriptors() -> int:
    """The zygote's socket, moved away from 0; /dev/null in all places that a child wants."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, RESULTS)
    os.dup2(null, RULES)
    connection = os.dup(0)
    os.dup2(null, 0)
    os.dup2(null, 1)
    if null > RULES:
        os.close(null)
    return connection


def _limit_for_good() -> None:
    for kind in _NONE:
        resource.setrlimit(kind, (0, 0))


def _leave_groups() -> None:
    """The user comes last: only root may choose another, and a child's end is root's to bring about."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)


def _verify(name: str) -> None:
    """Raises OSError where a layer that has been entered does not keep what it promises."""
    if name == "rlimits" and any(resource.getrlimit(kind) != (0, 0) for kind in _NONE):
        raise OSError("limits are not kept")
    if name == "identity" and 0 in os.getresuid():
        raise OSError("still root")
    if name == "identity" and system.capabilities():
        raise OSError("capabilities are left")
    if name == "privileges" and not system.gains_nothing():
        raise OSError("privileges can be gained")
    refusal = {"landlock": errno.EACCES, "seccomp": errno.EPERM}.get(name)
    if refusal is not None:
        try:
            os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        except OSError as error:
            if error.errno == refusal:
                return
        raise OSError("the root folder can still be opened")
