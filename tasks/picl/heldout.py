"""Does a retriever know tasks that it never saw? On real labelled sets, against three controls.

    python -m tasks.picl.heldout --folder my/sets --names sst2 mr cr mpqa subj --held-out trec agnews

Rows of all sets, in templates that all sets share, make one pool; a query's relevant paragraphs are the
other rows of its set. The encoder is trained on the training rows of `--names` alone; the pool holds
other rows (of each set's test split). Prints recall@k on sets seen and held out for the trained encoder,
the same encoder untrained, BM25 and random, mean and 95% interval over seeds. Sets that share sentences
(sst2, sst5, mr, subj) should be held out together or not at all.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tasks.data.bpe import BPE
from tasks.data.corpora import Corpus, Document
from tasks.data.datamodule import TextData
from tasks.data.stage import digest
from tasks.errors import UserError
from tasks.icl.sets import load_set
from tasks.picl.encoders import hub_encoder, zoo_encoder
from tasks.picl.index import Index
from tasks.picl.labelled import SetTasks, rows_of_set
from tasks.picl.neighbours import BM25, Dense, Finder, Random
from tasks.picl.paragraphs import prepare_paragraphs
from tasks.picl.recall import measure
from tasks.picl.retriever import Contrastive
from zoo.encoder import Encoder
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import GELU
from zoo.norms import LayerNorm
from zoo.positions.learned import Learned
from zoo.positions.none import NoPosition
from zoo.report.stats import mean_interval


class Pool(Corpus):
    """Test rows of sets, each rendered in one of the shared templates; the sets are the known tasks."""

    def __init__(self, examples: SetTasks, *, rows: int, seed: int):
        self.names = [*examples.names, *examples.others]
        self.seen_tasks = set(range(len(examples.names)))
        draw = np.random.default_rng((seed, 8))
        self.texts: list[tuple[int, str]] = []
        for number, name in enumerate(self.names):
            found = load_set(name, folder=examples.folder)
            for row in rows_of_set(found, found.test, rows, seed):
                template = examples.templates[int(draw.integers(len(examples.templates)))]
                self.texts.append((number, template.format(**row)))

    def documents(self) -> Iterator[Document]:
        for i, (task, text) in enumerate(self.texts):
            yield Document(text, str(i), {"tasks": [task], "paragraphs": "lines"})

    def fingerprint(self, cache_dir: Path) -> dict[str, Any]:
        return {"corpus": "pool", "content": digest(self.texts)}


def measure_seed(
    examples: SetTasks, *, seed: int, rows: int, steps: int, layers: int, encoder: str | None,
    k: int, cache: Path,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Recalls of every way for one seed."""
    pool = Pool(examples, rows=rows, seed=seed)
    data = TextData(
        corpus=pool,
        tokenizer=BPE(vocab_size=8192),
        context_length=16,
        batch_size=1,
        cache_dir=cache,
        val_fraction=0.0,
        test_fraction=0.0,
    )
    paragraphs = prepare_paragraphs(data, longest=None)
    net = functools.partial(
        Encoder,
        context_length=256,
        num_layers=layers,
        width=128,
        num_heads=4,
        position=functools.partial(Learned if layers else NoPosition),
        mixer=functools.partial(SoftmaxAttention),
        mlp=functools.partial(GELU),
        norm=functools.partial(LayerNorm),
        pooling="weighted",
    )
    make = zoo_encoder(net=net) if encoder is None else hub_encoder(name=encoder, pooling="mean")
    shared: dict[str, Any] = dict(examples=examples, encoder=make, cosine=True, temperature=0.1)
    shared |= dict(hard_scope="own", lr=1e-3 if encoder is None else 5e-5, seed=seed)
    ways: dict[str, Finder] = {
        "trained": Dense(retriever=Contrastive(steps=steps, **shared), index=Index()),
        "untrained": Dense(retriever=Contrastive(steps=0, **shared), index=Index()),
        "bm25": BM25(),
        "random": Random(seed=seed),
    }
    found = {}
    for name, way in ways.items():
        neighbours = way.prepare(paragraphs, k, data.tokenizer, cache)
        found[name] = measure(paragraphs, neighbours, pool.seen_tasks, k=k)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.picl.heldout", description=__doc__)
    parser.add_argument("--folder", help="sets as SET/{train,test}.jsonl; else from the Hub")
    parser.add_argument("--names", nargs="+", required=True, help="sets to train on")
    parser.add_argument("--held-out", nargs="+", required=True, help="sets to judge by")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--layers", type=int, default=0, help="of the encoder from scratch")
    parser.add_argument("--encoder", help="of transformers, a name or folder, in its place")
    parser.add_argument("--rows", type=int, default=400, help="of each set in the pool")
    parser.add_argument("-k", type=int, default=9)
    parser.add_argument(
        "--cache", type=Path, default=None, help="folder to keep; else a temporary one"
    )
    options = parser.parse_args(arguments)
    kept = options.cache is not None
    with tempfile.TemporaryDirectory(prefix="picl-heldout-") as temporary:
        cache = options.cache if kept else Path(temporary)
        try:
            examples = SetTasks(
                names=options.names, held_out=options.held_out, folder=options.folder
            )
            by_seed = [
                measure_seed(
                    examples, seed=seed, rows=options.rows, steps=options.steps,
                    layers=options.layers, encoder=options.encoder, k=options.k, cache=cache,
                )
                for seed in options.seeds
            ]  # fmt: skip
        except (UserError, ValueError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
    table = Table(title=f"recall@{options.k}, seeds {options.seeds}", title_justify="left")
    for column in ("neighbours", "held out", "seen"):
        table.add_column(column, justify="left" if column == "neighbours" else "right")
    for way in by_seed[0]:
        cells = []
        for part in ("held_out", "seen"):
            one = mean_interval(
                [found[way][f"retrieval/recall_{part}@{options.k}"] for found in by_seed]
            )
            cells.append(f"{one.mean:.3f}" + (f" ± {one.half:.3f}" if one.half is not None else ""))
        table.add_row(way, *cells)
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
