"""System calls that Python has no function for, by number, through ctypes."""

import ctypes
import os
import platform

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
MACHINE = platform.machine()


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    _check(_libc.prctl(ctypes.c_int(option), *arguments))


def syscall(number: int, *arguments: "int | ctypes._Pointer | ctypes.Array | None") -> int:
    """Integers are passed as C longs. Raises OSError."""
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *given))


def unshare(flags: int) -> None:
    """Raises OSError."""
    _check(_libc.unshare(flags))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
