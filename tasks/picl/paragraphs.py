"""Documents to paragraphs, in shards: full ones do not change when the corpus grows at its end.

A line is a paragraph, short ones glued together by the released rule (Gu et al. 2023, `[pack]`): with
a line's length its tokens plus 2,

    append the line to the group while  group + line < glue;
    else, if the group is empty or its last line ends in ":" or "?", append it all the same;
    else the group is a paragraph, and the line begins the next.

Documents of fewer than 20 characters and blank lines are dropped, long lines stay whole. A document
whose meta says {"paragraphs": "lines"} is not glued at all: every line is a paragraph. Of equal
paragraphs of a shard the first is kept; equal ones of different shards meet in `neighbours`.

A shard is one Arrow record batch with a row a paragraph: `text` (the lines as they were, for the
retriever), `tokens` (the lines joined by spaces, for the language model; the line end that stands
after a paragraph is not among them), `hash` of the text, `task` where the corpus knows it (else -1).
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.arrow import Column, Mapped, read_batch, write_batch
from tasks.data.corpora import Document
from tasks.data.datamodule import TextData
from tasks.data.documents import Documents, SeenHashes, content_hash, prepare_documents
from tasks.data.progress import progress
from tasks.data.stage import digest, stage
from tasks.data.tokenizers import Tokenizer
from tasks.errors import UserError

_FORMAT = 1
_SPECIAL = 2  # that the released rule counts with every line
_SHORTEST_DOCUMENT = 20  # characters
_CONTINUED = (":", "?", "：", "？")
_DOCUMENTS_AT_ONCE = 512


def glue_lines(lines: Sequence[str], lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Numbers of the lines of each paragraph; lengths in tokens, without the two that are added."""
    groups: list[list[int]] = []
    group: list[int] = []
    size = 0
    for i, length in enumerate(lengths):
        cost = length + _SPECIAL
        fits = size + cost < limit
        if group and not fits and not lines[group[-1]].endswith(_CONTINUED):
            groups.append(group)
            group, size = [], 0
        group.append(i)
        size += cost
    return [*groups, group] if group else groups


class Shard:
    """The paragraphs of one shard, memory-mapped."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._map = Mapped(folder / "paragraphs.arrow")
        batch = read_batch(self._map)
        self.hashes: np.ndarray = batch["hash"].to_numpy()
        self.tasks: np.ndarray = batch["task"].to_numpy()
        self._text = batch["text"].values.to_numpy(zero_copy_only=True)
        self._text_ends = batch["text"].offsets.to_numpy(zero_copy_only=True)
        self._tokens = batch["tokens"].values.to_numpy(zero_copy_only=True)
        self._token_ends = batch["tokens"].offsets.to_numpy(zero_copy_only=True)

    def __len__(self) -> int:
        return len(self.hashes)

    def text(self, i: int) -> str:
        """What the retriever reads, line ends included."""
        return self._text[self._text_ends[i] : self._text_ends[i + 1]].tobytes().decode()

    def tokens(self, i: int) -> np.ndarray:
        """What the language model reads, without a line end."""
        return self._tokens[self._token_ends[i] : self._token_ends[i + 1]]

    @property
    def num_tokens(self) -> int:
        """Of the language model, in all paragraphs."""
        return len(self._tokens)

    def forget(self) -> None:
        """After a pass: hands the pages back."""
        self._map.forget()


class Paragraphs:
    """All shards, their paragraphs numbered through."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = list(shards)
        self.starts = np.concatenate(([0], np.cumsum([len(s) for s in shards], dtype=np.int64)))
        self.hashes = np.concatenate([s.hashes for s in shards])
        self.tasks = np.concatenate([s.tasks for s in shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def names(self) -> list[str]:
        """What the shards are, for the key of a stage."""
        return [shard.folder.name for shard in self.shards]

    def _at(self, i: int) -> tuple[Shard, int]:
        place = int(np.searchsorted(self.starts, i, side="right")) - 1
        return self.shards[place], int(i - self.starts[place])

    def text(self, i: int) -> str:
        """See `Shard.text`."""
        shard, row = self._at(i)
        return shard.text(row)

    def tokens(self, i: int) -> np.ndarray:
        """See `Shard.tokens`."""
        shard, row = self._at(i)
        return shard.tokens(row)


def prepare_paragraphs(
    data: TextData,
    *,
    glue: int = 128,
    longest: int | None = 500,
    shard_bytes: int = 1 << 26,
) -> Paragraphs:
    """The paragraphs of the training split, built now as far as their stages are missing.

    glue, longest: tokens; paragraphs above `longest` are dropped (None: none, they are cut later).
    shard_bytes: of text in a shard; documents stay whole.
    """
    rows = data.dataset("train").rows
    documents = prepare_documents(data.corpus, data.cache_dir)
    shards = []
    for part in _parts(documents.sizes[rows], shard_bytes):
        chosen = rows[part]
        key = {
            "format": _FORMAT,
            "documents": digest(documents.hashes[chosen].tolist()),
            "glue": glue,
            "longest": longest,
            **data.tokenizer.fingerprint,
        }
        folder = stage(
            data.cache_dir,
            "picl-paragraphs",
            key,
            lambda to, chosen=chosen: _build(to, documents, chosen, data.tokenizer, glue, longest),  # type: ignore[misc]
        )
        if (folder / "paragraphs.arrow").exists():
            shards.append(Shard(folder))
    if sum(map(len, shards)) < 2:
        raise UserError(
            "data: the training split has fewer than two paragraphs; give more text, "
            "or lower task.groups.paragraphs.glue"
        )
    return Paragraphs(shards)


def _parts(sizes: np.ndarray, most: int) -> Iterator[slice]:
    """Neighbouring documents of up to `most` bytes; what comes later moves no earlier boundary."""
    start = size = 0
    for i, own in enumerate(sizes.tolist()):
        if i > start and size + own > most:
            yield slice(start, i)
            start, size = i, 0
        size += own
    if start < len(sizes):
        yield slice(start, len(sizes))


def _build(
    folder: Path,
    documents: Documents,
    rows: np.ndarray,
    tokenizer: Tokenizer,
    glue: int,
    longest: int | None,
) -> None:
    seen = SeenHashes()
    with ExitStack() as files, progress("cutting paragraphs", len(rows)) as advance:

        def column(name: str, dtype: Any) -> Column:
            return files.enter_context(Column(folder / f"{name}.raw", dtype))

        text_ends, text = column("text_ends", np.int64), column("text", np.uint8)
        token_ends, tokens = column("token_ends", np.int64), column("tokens", tokenizer.dtype)
        hashes, tasks = column("hash", np.uint64), column("task", np.int32)
        text_ends.append([0])
        token_ends.append([0])
        read = documents.read(rows)
        while some := list(itertools.islice(read, _DOCUMENTS_AT_ONCE)):
            found = _paragraphs(some, tokenizer, glue)
            ids = tokenizer.encode_batch([t.replace("\n", " ") for t, _ in found])
            marks = np.array([content_hash(t.encode()) for t, _ in found], dtype=np.uint64)
            new = seen.add(marks)
            for keep, mark, (whole, task), row in zip(new, marks, found, ids):
                if not keep or not len(row) or (longest is not None and len(row) > longest):
                    continue
                encoded = np.frombuffer(whole.encode(), dtype=np.uint8)
                text.append(encoded)
                text_ends.append([text.length])
                tokens.append(row)
                token_ends.append([tokens.length])
                hashes.append([mark])
                tasks.append([task])
            advance(len(some))
    if hashes.length:
        write_batch(
            folder / "paragraphs.arrow",
            {
                "text": (text_ends, text),
                "tokens": (token_ends, tokens),
                "hash": hashes,
                "task": tasks,
            },
        )


def _paragraphs(
    documents: Sequence[Document], tokenizer: Tokenizer, glue: int
) -> list[tuple[str, int]]:
    """Text and known task of each paragraph; a task counts where all lines of a paragraph share it."""
    found = []
    for document in documents:
        if len(document.text) < _SHORTEST_DOCUMENT:
            continue
        known = document.meta.get("tasks")
        lines, tasks = [], []
        for number, line in enumerate(document.text.splitlines()):
            if line := line.strip():
                lines.append(line)
                tasks.append(known[number] if known and number < len(known) else -1)
        lengths = [len(ids) for ids in tokenizer.encode_batch(lines)] if lines else []
        apart = document.meta.get("paragraphs") == "lines"
        alone = [[i] for i in range(len(lines))]
        for group in alone if apart else glue_lines(lines, lengths, glue):
            own = {tasks[i] for i in group}
            task = own.pop() if len(own) == 1 else -1
            found.append(("\n".join(lines[i] for i in group), task))
    return found
