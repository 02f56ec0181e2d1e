"""Corpora of PICL: that of a `World`, real text beside it, and several corpora as one."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.corpora import Corpus, Document
from tasks.picl.world import FORMS, TOPICS, WORDS, World, spell

_LINES = {"paragraphs": "lines"}  # what `tasks.picl.paragraphs` must not glue


class WorldCorpus(Corpus):
    """Paragraphs of the world's corpus tasks, a line each, and paragraphs of a real corpus.

    Every document of the world carries its paragraphs' tasks in `meta["tasks"]`, in order.

    Args:
        paragraphs: of the world. per_document: how many share a document, and with it a topic.
        real: a corpus whose blocks between blank lines become lines of their own, white space made
            single spaces; blocks outside of `real_characters` are left out.
        real_paragraphs: how many of them, in documents of `per_document`.
    """

    def __init__(
        self,
        *,
        world: World,
        paragraphs: int = 12_000,
        per_document: int = 10,
        real: Corpus | None = None,
        real_paragraphs: int = 0,
        real_characters: tuple[int, int] | list[int] = (60, 240),
    ):
        for name, value, least in (
            ("paragraphs", paragraphs, 1),
            ("per_document", per_document, 1),
            ("real_paragraphs", real_paragraphs, 0),
        ):
            if value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if len(real_characters) != 2 or real_characters[0] > real_characters[1]:
            raise ValueError(f"real_characters: must be [least, most], got {[*real_characters]}")
        self.world = world
        self.paragraphs, self.per_document = paragraphs, per_document
        self.real, self.real_paragraphs = real, real_paragraphs
        self.real_characters = (real_characters[0], real_characters[1])

    @property
    def seen_tasks(self) -> set[int]:
        """Tasks of the corpus whose labelled rows a retriever may have learned from."""
        return self.world.seen

    def documents(self) -> Iterator[Document]:
        for number, start in enumerate(range(0, self.paragraphs, self.per_document)):
            count = min(self.per_document, self.paragraphs - start)
            draw = self.world.draws(2, number)
            tasks = draw.choice(np.array(self.world.corpus_tasks), count)
            topics = np.full(count, draw.integers(TOPICS))
            forms = WORDS["form"][draw.integers(FORMS, size=count)].tolist()
            rows = spell(self.world.contents(draw, tasks, topics=topics))
            lines = [f"{form} {text} {answer}" for form, (text, answer) in zip(forms, rows)]
            yield Document(
                "\n".join(lines) + "\n", f"world {number}", {**_LINES, "tasks": tasks.tolist()}
            )
        blocks = islice(self._blocks(), self.real_paragraphs)
        number = 0
        while block := list(islice(blocks, self.per_document)):
            yield Document("\n".join(block) + "\n", f"real {number}", _LINES)
            number += 1

    def _blocks(self) -> Iterator[str]:
        least, most = self.real_characters
        for document in self.real.documents() if self.real is not None else ():
            for block in document.text.split("\n\n"):
                line = " ".join(block.split())
                if least <= len(line) <= most:
                    yield line

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        real = self.real is not None and self.real_paragraphs > 0
        return {
            "corpus": "world",
            **self.world.fingerprint,
            "paragraphs": [self.paragraphs, self.per_document],
            "real": self.real.fingerprint(cache_dir) if real and self.real else None,
            "real_paragraphs": [self.real_paragraphs, *self.real_characters] if real else None,
        }


class Merged(Corpus):
    """Several corpora, one after the other: PICL's OpenWebText, WikiCorpus and BookCorpus."""

    def __init__(self, *, corpora: list[Corpus]):
        if not corpora:
            raise ValueError("corpora: is empty; give at least one corpus")
        self.corpora = list(corpora)

    def documents(self) -> Iterator[Document]:
        for number, corpus in enumerate(self.corpora):
            for document in corpus.documents():
                yield Document(document.text, f"{number}/{document.id}", document.meta)

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        return {"corpus": "merged", "of": [c.fingerprint(cache_dir) for c in self.corpora]}

    def size(self) -> int | None:
        sizes = [corpus.size() for corpus in self.corpora]
        return None if None in sizes else sum(s for s in sizes if s is not None)
