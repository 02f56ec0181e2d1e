"""System calls that Python has no function for, through ctypes.

A `Call` has its arguments already, as C values: a child that makes one runs no Python of its own for
it and writes to few of the pages that it shares with the zygote.
"""

import ctypes
import os
import struct
from collections.abc import Callable
from functools import partial

Call = Callable[[], int | None]  # None or 0, and anything else is a failure
MACHINE = os.uname().machine
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
_PR_GET_NO_NEW_PRIVS = 39
_CAPABILITY_HEADER = struct.pack("Ii", 0x20080522, 0)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def prctl(option: int, value: int) -> Call:
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    return partial(_libc.prctl, ctypes.c_int(option), *arguments)


def no_capabilities() -> Call:
    header = ctypes.create_string_buffer(_CAPABILITY_HEADER)
    return partial(_libc.capset, header, ctypes.create_string_buffer(24))


def capabilities() -> bool:
    """Whether this process has any, or could take one up."""
    found = ctypes.create_string_buffer(24)
    run(partial(_libc.capget, ctypes.create_string_buffer(_CAPABILITY_HEADER), found))
    return any(found.raw)


def gains_nothing() -> bool:
    """Whether no_new_privs is set."""
    return prctl(_PR_GET_NO_NEW_PRIVS, 0)() == 1


def unshare(flags: int) -> Call:
    return partial(_libc.unshare, ctypes.c_int(flags))


def syscall(number: int, *arguments: "int | ctypes.Array[ctypes.c_char] | None") -> Call:
    """Integers are passed as C longs."""
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return partial(_libc.syscall, ctypes.c_long(number), *given)


def error() -> OSError:
    """Of the last call that failed."""
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


def run(*calls: Call) -> None:
    """Makes them in turn. Raises OSError at the first that fails."""
    for call in calls:
        if call():
            raise error()
