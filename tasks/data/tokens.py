"""The second stage: documents to integers, one Arrow file a split; before it, the tokenizer.

Each file is one record batch with a row a document:

    tokens     list<uint8|16|32>   eos, then the ids of the document
    document   int64               its row in the documents stage
    spans      list<uint32>        bytes of text under each token; only for tokenizers without a
                                   `token_bytes` table (which is kept as token_bytes.npy instead)

Being one batch, the values of `tokens` are one contiguous array: what the windows are cut from.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tasks.data.arrow import Column, write_batch
from tasks.data.documents import Documents
from tasks.data.progress import progress
from tasks.data.stage import stage
from tasks.data.tokenizers import Tokenizer, load_tokenizer

_FORMAT = 1
_TRAINING_BYTES = 1 << 26  # of text that a tokenizer learns from at most, a random sample
_BATCH_CHARACTERS = 1 << 20
_BATCH_TEXTS = 4096


def prepare_tokenizer(
    tokenizer: Tokenizer, documents: Documents, rows: np.ndarray, *, key: dict, cache: Path
) -> Tokenizer:
    """The tokenizer, trained on these rows now unless that is done or cached.

    key: what `rows` depends on besides the documents.
    """
    if tokenizer.trained:
        return tokenizer

    def build(folder: Path) -> None:
        sample = documents.sample(rows, _TRAINING_BYTES)
        total = int(documents.sizes[sample].sum())
        with progress("learning a vocabulary", total, unit="B") as advance:
            tokenizer.train(_watched(documents.texts(sample), advance)).save(folder)

    key = {"documents": documents.folder.name, **key, **tokenizer.fingerprint}
    return load_tokenizer(stage(cache, "tokenizer", key, build))


def prepare_tokens(
    tokenizer: Tokenizer,
    documents: Documents,
    rows: dict[str, np.ndarray],
    *,
    key: dict,
    cache: Path,
) -> Path:
    """Folder with `{split}.arrow` for each split of `rows`, built now unless it is cached.

    key: what `rows` depends on besides the documents. The tokenizer must be trained.
    """

    def build(folder: Path) -> None:
        table = tokenizer.token_bytes()
        if table is not None:
            np.save(folder / "token_bytes.npy", table)
        about = {"vocab_size": tokenizer.vocab_size, "eos": tokenizer.eos}
        (folder / "tokenizer.json").write_text(json.dumps(about))
        total = int(sum(documents.sizes[r].sum() for r in rows.values()))
        with progress("tokenizing", total, unit="B") as advance:
            for split, chosen in rows.items():
                _write(folder, split, documents, chosen, tokenizer, advance)

    key = {"format": _FORMAT, "documents": documents.folder.name, **key, **tokenizer.fingerprint}
    return stage(cache, "tokens", key, build)


def _write(folder, split, documents: Documents, rows: np.ndarray, tokenizer: Tokenizer, advance):
    with ExitStack() as files:

        def column(name: str, dtype: np.dtype | type) -> Column:
            return files.enter_context(Column(folder / f"{split}.{name}.raw", dtype))

        tokens, offsets = column("tokens", tokenizer.dtype), column("offsets", np.int64)
        document, spans = column("document", np.int64), column("spans", np.uint32)
        offsets.append([0])
        document.append(rows)
        eos = np.array([] if tokenizer.eos is None else [tokenizer.eos], dtype=tokenizer.dtype)
        spanned = tokenizer.token_bytes() is None
        for texts in _batches(documents.texts(rows)):
            if spanned:
                encoded, covered = zip(*tokenizer.encode_spans(texts))
                none = np.zeros(len(eos), dtype=np.uint32)
                spans.append(np.concatenate([part for s in covered for part in (none, s)]))
            else:
                encoded = tokenizer.encode_batch(texts)
            lengths = np.fromiter((len(ids) + len(eos) for ids in encoded), np.int64)
            offsets.append(tokens.length + np.cumsum(lengths))
            tokens.append(np.concatenate([part for ids in encoded for part in (eos, ids)]))
            advance(sum(len(text) for text in texts))
    batch: dict[str, Column | tuple[Column, Column]] = {
        "tokens": (offsets, tokens),
        "document": document,
    }
    if spanned:
        batch["spans"] = (offsets, spans)
    else:
        spans.discard()
    write_batch(folder / f"{split}.arrow", batch)


def _watched(texts: Iterator[str], advance: Callable[[int], None]) -> Iterator[str]:
    for text in texts:
        yield text
        advance(len(text))


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_TEXTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
