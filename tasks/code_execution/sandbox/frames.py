"""Messages between the caller and the zygote: four bytes of length, then the message."""

import os

_LENGTH = 4  # bytes
_PIECE = 1 << 16


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a stream socket, by its descriptor."""

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self._waiting = bytearray()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def send(self, *messages: bytes) -> None:
        """Raises Closed."""
        data = b"".join(
            [part for m in messages for part in (len(m).to_bytes(_LENGTH, "little"), m)]
        )
        try:
            sent = os.write(self.descriptor, data)
            while sent < len(data):
                sent += os.write(self.descriptor, memoryview(data)[sent:])
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self) -> bytes:
        """Raises Closed."""
        self._fill(_LENGTH)
        end = _LENGTH + int.from_bytes(self._waiting[:_LENGTH], "little")
        self._fill(end)
        message = bytes(self._waiting[_LENGTH:end])
        del self._waiting[:end]
        return message

    def _fill(self, size: int) -> None:
        while len(self._waiting) < size:
            try:
                data = os.read(self.descriptor, _PIECE)
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("end of stream")
            self._waiting += data
