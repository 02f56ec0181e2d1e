"""Arrow files whose columns may be larger than memory, on the way in and on the way out.

`Column` appends to a plain file on disk. `write_batch` maps such files and writes them as the
columns of one record batch; read back through a memory map, each column is one contiguous numpy
array without a copy. Pages that were passed over are handed back to the kernel on the way (they
stay in its cache), so that a process does not seem to hold what it has merely read.
"""

import io
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

_SLICE = 1 << 24


class Mapped:
    """A file, memory-mapped for reading."""

    def __init__(self, path: Path):
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.buffer = pa.py_buffer(self._map)

    def forget(self) -> None:
        """Hands the pages back; what is read again comes from the kernel's cache."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


class Column:
    """A column on disk that grows at its end; a context manager."""

    def __init__(self, path: Path, dtype: np.dtype | type):
        self.path = path
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._file = path.open("wb", buffering=1 << 20)

    def append(self, values: np.ndarray | Sequence[int]) -> None:
        array = np.ascontiguousarray(values, dtype=self.dtype)
        self._file.write(array.data)
        self.length += len(array)

    def __enter__(self) -> "Column":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def map(self) -> Mapped | None:
        """The closed column; None where it is empty, which cannot be mapped."""
        return Mapped(self.path) if self.length else None

    def discard(self) -> None:
        os.unlink(self.path)


def write_batch(path: Path, columns: dict[str, Column | tuple[Column, Column]]) -> None:
    """Writes closed columns as one record batch in the streaming format, and removes them.

    A pair (offsets, values) becomes a column of lists, values[offsets[i] : offsets[i + 1]] in row i;
    offsets are int64 and one more than rows.
    """
    parts = {part for column in columns.values() for part in _parts(column)}
    maps = {part: part.map() for part in parts}

    def forget() -> None:
        for mapped in maps.values():
            if mapped is not None:
                mapped.forget()

    def flat(column: Column) -> pa.Array:
        mapped = maps[column]
        data = pa.py_buffer(b"") if mapped is None else mapped.buffer
        kind = pa.from_numpy_dtype(column.dtype)
        return pa.Array.from_buffers(kind, column.length, [None, data])

    def array(column: Column | tuple[Column, Column]) -> pa.Array:
        if isinstance(column, Column):
            return flat(column)
        offsets, values = column
        kind = pa.large_list(pa.from_numpy_dtype(values.dtype))
        buffers = [None, flat(offsets).buffers()[1]]
        return pa.Array.from_buffers(kind, offsets.length - 1, buffers, children=[flat(values)])

    batch = pa.RecordBatch.from_arrays([array(c) for c in columns.values()], names=list(columns))
    with (
        path.open("wb") as file,
        pa.PythonFile(_Slices(file, forget), mode="w") as sink,
        pa.ipc.new_stream(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)
    for part in parts:
        part.discard()


def _parts(column: Column | tuple[Column, Column]) -> tuple[Column, ...]:
    return (column,) if isinstance(column, Column) else column


class _Slices(io.RawIOBase):
    """Writes a large buffer slice by slice, and lets go of each."""

    def __init__(self, file: io.BufferedWriter, forget: Callable[[], None]):
        self._file = file
        self._forget = forget

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:  # pyarrow's buffer, not a copy of it
        view = memoryview(data).cast("B")
        for start in range(0, len(view), _SLICE):
            self._file.write(view[start : start + _SLICE])
            if len(view) > _SLICE:
                self._forget()
        return len(view)

    def flush(self) -> None:
        self._file.flush()


def read_batch(mapped: Mapped) -> pa.RecordBatch:
    """The batch of `write_batch`: reading a value touches its page alone."""
    return pa.ipc.open_stream(pa.BufferReader(mapped.buffer)).read_next_batch()
