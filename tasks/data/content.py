"""What is in a set of files, as one hash that is computed again only when a file has changed."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tasks.data.open import reading
from tasks.data.progress import progress
from tasks.data.stage import digest

_SETTLED = 2.0  # seconds: a file changed more recently could change again within one clock tick


def content_of(files: Mapping[Path, str], cache_dir: Path) -> str:
    """Hash of the names and contents of files, in order.

    The answer is remembered under `cache_dir` for these paths, sizes and times of change, so that
    gigabytes are not read at every start.
    """
    stats = [(path, path.stat()) for path in files]
    listing = [
        (str(path), name, s.st_size, s.st_mtime_ns)
        for (path, s), name in zip(stats, files.values())
    ]
    memo = Path(cache_dir) / "contents" / digest(listing)
    if memo.exists() and (known := memo.read_text()):
        return known
    content = hashlib.blake2b(digest_size=16)
    with progress("looking for changes", sum(s.st_size for _, s in stats), unit="B") as advance:
        for path, name in files.items():
            with reading(path), path.open("rb") as file:
                each = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
            content.update(json.dumps([name, each.hexdigest()]).encode())
            advance(path.stat().st_size)
    if all(time.time() - s.st_mtime > _SETTLED for _, s in stats):
        remember(memo, content.hexdigest())
    return content.hexdigest()


def remember(memo: Path, value: str) -> None:
    """Writes a small file whole, or not at all."""
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        partial = memo.with_name(f"{memo.name}.{os.getpid()}")
        partial.write_text(value)
        os.replace(partial, memo)
    except OSError:
        return  # a saving of time alone; a cache that cannot be written is reported by its stage
