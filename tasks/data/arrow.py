"""Arrow files whose columns may be larger than memory, on the way in and on the way out.

`Column` appends to a plain file on disk. `write_batch` then maps such files and writes them as the
columns of one record batch, so that the kernel's page cache is all the memory it takes; read back
through a memory map, each column is one contiguous numpy array without a copy.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa


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

    def array(self) -> pa.Array:
        """The closed column, memory-mapped. `discard` it when it has been written."""
        return pa.Array.from_buffers(
            pa.from_numpy_dtype(self.dtype), self.length, [None, self.buffer()]
        )

    def buffer(self) -> pa.Buffer:
        if not self.length:
            return pa.py_buffer(b"")
        return pa.memory_map(str(self.path)).read_buffer()

    def discard(self) -> None:
        os.unlink(self.path)


def ragged(offsets: Column, values: Column) -> pa.Array:
    """Lists [values[offsets[i] : offsets[i + 1]] for i]; `offsets` is int64 and one longer."""
    return pa.Array.from_buffers(
        pa.large_list(pa.from_numpy_dtype(values.dtype)),
        offsets.length - 1,
        [None, offsets.buffer()],
        children=[values.array()],
    )


def write_batch(path: Path, columns: dict[str, pa.Array]) -> None:
    """One record batch, in the streaming format (which `datasets` reads as well)."""
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_batch(path: Path) -> pa.RecordBatch:
    """The batch of `write_batch`, memory-mapped: reading a value touches its page alone."""
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_next_batch()
