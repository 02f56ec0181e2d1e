"""Leaves a process about twenty system calls, by a filter that the kernel runs before each (seccomp-BPF).

What is not listed fails with EPERM; what only an attack would call ends the process. The filter is
classic BPF, written here: an array of (code, jump if true, jump if false, constant). Memory may not be
made executable.
"""

import ctypes
import struct

from tasks.code_execution.sandbox.system import MACHINE, Call, syscall

ALLOWED = {
    "x86_64": {
        **{"read": 0, "write": 1, "close": 3, "lseek": 8, "munmap": 11, "brk": 12, "futex": 202},
        **{"mremap": 25, "madvise": 28, "clock_gettime": 228, "gettimeofday": 96, "getrandom": 318},
        **{"rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131, "sched_yield": 24},
        **{"getpid": 39, "gettid": 186, "rseq": 334, "exit": 60, "exit_group": 231},
    },
    "aarch64": {
        **{"read": 63, "write": 64, "close": 57, "lseek": 62, "munmap": 215, "brk": 214, "futex": 98},
        **{"mremap": 216, "madvise": 233, "clock_gettime": 113, "gettimeofday": 169},
        **{"getrandom": 278, "rt_sigprocmask": 135, "rt_sigreturn": 139, "sigaltstack": 132},
        **{"sched_yield": 124, "getpid": 172, "gettid": 178, "rseq": 293, "exit": 93},
        **{"exit_group": 94},
    },
}  # fmt: skip
NOT_EXECUTABLE = {"x86_64": {"mmap": 9, "mprotect": 10}, "aarch64": {"mmap": 222, "mprotect": 226}}
DEADLY = {
    "x86_64": {
        **{"ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321},
        **{"io_uring_setup": 425, "userfaultfd": 323, "mount": 165, "keyctl": 250, "add_key": 248},
        **{"request_key": 249, "kexec_load": 246, "perf_event_open": 298, "init_module": 175},
    },
    "aarch64": {
        **{"ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280},
        **{"io_uring_setup": 425, "userfaultfd": 282, "mount": 40, "keyctl": 219, "add_key": 217},
        **{"request_key": 218, "kexec_load": 104, "perf_event_open": 241, "init_module": 105},
    },
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _EPERM, _KILL = 0x7FFF0000, 0x00050001, 0x80000000
_NUMBER, _ARCHITECTURE, _THIRD_ARGUMENT = 0, 4, 32  # offsets in struct seccomp_data
_X32 = 0x40000000
_PROT_EXEC = 4
Code = list[tuple[int, int, int, int]]
_NOT_EXECUTABLE = [
    (_LOAD, 0, 0, _THIRD_ARGUMENT),
    (_ANY_BIT, 0, 1, _PROT_EXEC),
    (_RETURN, 0, 0, _EPERM),
    (_RETURN, 0, 0, _ALLOW),
]


class Filter:
    """A compiled filter. Raises OSError where this machine's system calls are not known."""

    def __init__(self) -> None:
        if MACHINE not in ALLOWED:
            raise OSError(f"no table of system calls for {MACHINE}")
        code = program(MACHINE)
        self._code = ctypes.create_string_buffer(code)
        pointer = ctypes.addressof(self._code)
        self._header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, pointer))

    def install(self) -> Call:
        """For this process and for good; needs no_new_privs."""
        return syscall(_SECCOMP[MACHINE], _SET_MODE_FILTER, 0, self._header)


def program(machine: str) -> bytes:
    """The filter's instructions, eight bytes each."""
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _AUDIT_ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_search(_ranges(machine)),
    ]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


def _ranges(machine: str) -> list[tuple[int, Code]]:
    """First number of each range of system calls, rising, and what is done with them."""
    refuse: Code = [(_RETURN, 0, 0, _EPERM)]
    verdicts: dict[int, Code] = {}
    for table, verdict in (
        (ALLOWED, [(_RETURN, 0, 0, _ALLOW)]),
        (DEADLY, [(_RETURN, 0, 0, _KILL)]),
        (NOT_EXECUTABLE, _NOT_EXECUTABLE),
    ):
        verdicts |= {number: verdict for number in table[machine].values()}
    found: list[tuple[int, Code]] = []
    for number in sorted({0, *verdicts, *(n + 1 for n in verdicts)}):
        verdict = verdicts.get(number, refuse)
        if not found or found[-1][1] != verdict:
            found.append((number, verdict))
    if machine == "x86_64":  # the same kernel answers to numbers of another interface
        found.append((_X32, [(_RETURN, 0, 0, _KILL)]))
    return found


def _search(ranges: list[tuple[int, Code]]) -> Code:
    """Finds the range of the loaded number by halving.

    The kernel runs a new filter once for every system call that it has, to know those that it always
    allows: a list that is searched from its beginning costs each child a tenth of a millisecond.
    """
    if len(ranges) == 1:
        return ranges[0][1]
    half = len(ranges) // 2
    below, above = _search(ranges[:half]), _search(ranges[half:])
    return [(_AT_LEAST, len(below), 0, ranges[half][0]), *below, *above]
