"""Takes the file system, TCP and signals to others away from a process (Landlock, Linux 5.13 and later).

Every right that the running kernel knows is handled and none is granted. It needs no privilege and
does not depend on seccomp: each alone keeps a program from every file.
"""

import ctypes
import os
import struct
from functools import partial

from tasks.code_execution.sandbox.system import Call, error, syscall

_CREATE, _RESTRICT = 444, 446  # the same on every architecture
_VERSION = 1
RULES = 4  # where a child holds the rule set until it has taken it on
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # number of rights by version of the interface
_NEWEST_FILE_RIGHTS = 16
_TCP = 0b11  # bind, connect; from version 4
_SCOPES = 0b11  # abstract sockets, signals; from version 6


class Ruleset:
    """A rule set without rules, made once and taken on by many. Raises OSError without Landlock."""

    def __init__(self) -> None:
        self.version = _descriptor(syscall(_CREATE, None, 0, _VERSION))
        rights = (1 << _FILE_RIGHTS.get(self.version, _NEWEST_FILE_RIGHTS)) - 1
        fields = [rights]
        fields += [_TCP] if self.version >= 4 else []
        fields += [_SCOPES] if self.version >= 6 else []
        packed = ctypes.create_string_buffer(struct.pack(f"{len(fields)}Q", *fields))
        self._descriptor = _descriptor(syscall(_CREATE, packed, 8 * len(fields), 0))

    def move(self) -> None:
        """To the descriptor RULES, where children find it."""
        os.dup2(self._descriptor, RULES)
        os.close(self._descriptor)

    def restrict(self) -> list[Call]:
        """This process and for good; needs no_new_privs, and the set at the descriptor RULES."""
        return [syscall(_RESTRICT, RULES, 0), partial(os.close, RULES)]


def _descriptor(call: Call) -> int:
    found = call()
    if found is None or found < 0:
        raise error()
    return found
