"""Where text comes from: each corpus yields its documents one at a time, in a fixed order."""

import hashlib
import json
import sys
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.data.cut import cut
from tasks.errors import UserError


@dataclass(frozen=True, slots=True)
class Document:
    """One text that is never split between training, validation and test.

    id: says where it came from (file, line or row). meta: JSON-like, e.g. a date or a label.
    """

    text: str
    id: str
    meta: dict[str, Any] = field(default_factory=dict)


class Corpus(ABC):
    """A source of documents.

    A new one is a class with these two methods and a file in conf/data/.
    """

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, lazily: only a bounded part of the corpus is in memory at a time.

        Raises UserError, naming the file and the remedy, for what cannot be read.
        """

    @abstractmethod
    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        """What the documents depend on, JSON-like: equal fingerprints mean equal documents.

        cache_dir: a place to remember what was costly to find out.
        """

    def size(self) -> int | None:
        """Bytes to read, for the progress bar; None where unknown."""
        return None


class Stdlib(Corpus):
    """The source and docstrings of the standard library of the Python that is running.

    About 12 MB and 730 files, one document a file, the few above 65,536 characters cut at blank
    lines (one of them alone would be 6% of the text, and of one split). Nothing is downloaded.
    Tests, installed packages and the build settings of this machine are left out. The text differs
    between Python versions, so figures compare only within one; the fingerprint records it.
    """

    _LONGEST = 1 << 16

    _LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

    def __init__(self, *, root: str | Path | None = None):
        """root: the library's folder; None is that of the Python that is running."""
        self.root = Path(root or sysconfig.get_path("stdlib"))

    def _files(self) -> list[Path]:
        files = [
            path
            for path in self.root.rglob("*.py")
            if not self._LEFT_OUT & set(path.relative_to(self.root).parts)
            and not path.name.startswith("_sysconfigdata")
        ]
        if not files:
            raise UserError(
                f"{self.root}: this Python has no standard library source; "
                "train on files of your own with data=text data.path=FOLDER"
            )
        return sorted(files, key=lambda path: path.relative_to(self.root).as_posix())

    def documents(self) -> Iterator[Document]:
        for path in self._files():
            text = path.read_bytes().decode("utf-8", errors="ignore")
            name = path.relative_to(self.root).as_posix()
            pieces = cut([text.replace("\r\n", "\n")], whole=self._LONGEST, piece=self._LONGEST)
            for number, piece in enumerate(pieces):
                yield Document(piece, f"{name}#{number}" if number else name)

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        content = hashlib.blake2b(digest_size=16)
        for path in self._files():
            data = path.read_bytes()
            content.update(json.dumps([str(path.relative_to(self.root)), len(data)]).encode())
            content.update(data)
        version = ".".join(map(str, sys.version_info[:3]))
        return {
            "corpus": "stdlib",
            "longest": self._LONGEST,
            "python": version,
            "content": content.hexdigest(),
        }

    def size(self) -> int:
        return sum(path.stat().st_size for path in self._files())
