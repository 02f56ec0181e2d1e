"""Files that may be packed, and one clear line for whatever is wrong with them."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import pyarrow as pa

from tasks.errors import UserError

_READ = 1 << 16
_BINARY = "{path}: is a binary file; give text, .jsonl or .parquet"


def open_binary(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked where its name ends in .gz, .bz2, .xz or .zst."""
    match path.suffix.lower():
        case ".gz":
            return cast(BinaryIO, gzip.open(path))
        case ".bz2":
            return cast(BinaryIO, bz2.open(path))
        case ".xz":
            return cast(BinaryIO, lzma.open(path))
        case ".zst":
            stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
            return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, stream), _READ))
    return path.open("rb")


class NotText(UserError):
    """A file that should be text and is something else."""


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[Iterator[str]]:
    """Yields the text of a file in parts of up to 65,536 characters, line ends made "\\n".

    Raises NotText for a binary file and for one of another encoding.
    """
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"  # without the mark that some editors put first
    with open_binary(path) as file, io.TextIOWrapper(file, encoding=encoding) as text:
        yield _parts(path, text, encoding)


def _parts(path: Path, text: TextIO, encoding: str) -> Iterator[str]:
    try:
        while part := text.read(_READ):
            if "\0" in part:
                raise NotText(_BINARY.format(path=path))
            yield part
    except UnicodeDecodeError as error:
        if b"\0" in error.object:
            raise NotText(_BINARY.format(path=path)) from error
        byte = error.object[error.start]
        raise NotText(
            f"{path}: is not {encoding.removesuffix('-sig')} text (byte 0x{byte:02x}); "
            "leave the file out, or name its encoding with data.encoding, e.g. latin-1"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what goes wrong while `path` is read into a UserError that names it."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is damaged, it cannot be unpacked ({error})") from error
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: is not a readable {path.suffix[1:]} file ({error})") from error
    except OSError as error:
        if error.errno is None:  # what bz2 and zstd say about their format
            raise UserError(f"{path}: is damaged, it cannot be unpacked ({error})") from error
        if str(error.filename) == str(path):
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        raise
