"""Runs code that nobody has read, where it can neither stay nor reach anything.

    with Sandbox(job="package.module:function") as box:      function(payload: bytes) -> bytes
        results = box.run([payload, ...])                     one process for all, or the reason why not

    this process ── socket ── zygote ── fork ── child: job(payload), job(payload), ...

The zygote is a small interpreter that imports the standard library alone and lives in namespaces of
its own; it forks one child for each call of `run`, watches its clock and memory, and reads its results
from a pipe. Before a child looks at a payload it has given up, for good (see `layers`):

    rlimits       address space, CPU time, files, processes, locked memory
    identity      root becomes nobody, capabilities are gone, nothing can be gained by exec
    landlock      no file can be opened, no TCP, no signal to a process outside
    seccomp       about twenty system calls are left: memory, the open pipe, clocks, exit

and what it runs is stopped by CPU time and wall time. Each layer is tried out when the zygote starts.
Where neither seccomp nor Landlock holds, `Sandbox` refuses to start and says what is missing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.code_execution.sandbox.host import Pool as Pool
    from tasks.code_execution.sandbox.host import Result as Result
    from tasks.code_execution.sandbox.host import Sandbox as Sandbox
    from tasks.code_execution.sandbox.host import SandboxError as SandboxError

_OF_THE_CALLER = ("Pool", "Result", "Sandbox", "SandboxError")


def __getattr__(name: str) -> object:
    """The caller's side, when it is asked for: the zygote is of this package and must stay small."""
    if name not in _OF_THE_CALLER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tasks.code_execution.sandbox import host

    return getattr(host, name)
