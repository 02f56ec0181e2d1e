"""Messages between the caller and the zygote: four bytes of length, then the message."""

import socket
import struct

_LENGTH = struct.Struct("<I")


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a stream socket."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self._waiting = bytearray()

    def send(self, *messages: bytes) -> None:
        """Raises Closed."""
        try:
            self.connection.sendall(b"".join(_LENGTH.pack(len(m)) + m for m in messages))
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self) -> bytes:
        """Raises Closed."""
        length = _LENGTH.unpack(self._take(_LENGTH.size))[0]
        return self._take(length)

    def _take(self, size: int) -> bytes:
        while len(self._waiting) < size:
            try:
                data = self.connection.recv(1 << 16)
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("end of stream")
            self._waiting += data
        taken = bytes(self._waiting[:size])
        del self._waiting[:size]
        return taken
