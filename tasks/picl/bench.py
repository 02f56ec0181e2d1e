"""How fast paragraphs are embedded, indexed and searched, and in how much memory.

    python -m tasks.picl.bench                                 200,000 paragraphs of the world
    python -m tasks.picl.bench --paragraphs 50000 --kind ivf --width 256

A corpus of the world of `tasks.picl.world` goes through the stages of task=picl: paragraphs, vectors,
index, neighbours. Prints paragraphs a second of each, what the process held at most (MB of resident
memory), and the index's recall against exact search.
"""

import argparse
import functools
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from tasks.data.bpe import BPE
from tasks.data.datamodule import TextData
from tasks.environment import hardware, versions
from tasks.picl.corpora import WorldCorpus
from tasks.picl.encoders import zoo_encoder
from tasks.picl.index import Index, prepare_vectors
from tasks.picl.labelled import WorldTasks
from tasks.picl.neighbours import Dense
from tasks.picl.paragraphs import prepare_paragraphs
from tasks.picl.retriever import Contrastive
from tasks.picl.world import World
from zoo.encoder import Encoder
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import GELU
from zoo.norms import LayerNorm
from zoo.positions.learned import Learned


def peak_memory() -> float:
    """MB that this process has held at most."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(
    *,
    paragraphs: int,
    kind: str,
    width: int,
    layers: int,
    neighbours: int,
    shard_bytes: int,
    cache: Path,
) -> list[tuple[str, int, float, float, float]]:
    """(stage, paragraphs, seconds, CPU seconds, MB held at most so far) of each stage, in order."""
    world = World(corpus_tasks=max(200, paragraphs // 60))
    corpus = WorldCorpus(world=world, paragraphs=paragraphs)
    data = TextData(
        corpus=corpus,
        tokenizer=BPE(vocab_size=1024),
        context_length=72,
        batch_size=1,
        cache_dir=cache,
        val_fraction=0.0,
        test_fraction=0.0,
    )
    rows: list[tuple[str, int, float, float, float]] = []

    def timed(stage: str, work: Callable[[], Any], count: Callable[[Any], int]) -> Any:
        began, before = time.perf_counter(), time.process_time()
        result = work()
        seconds, used = time.perf_counter() - began, time.process_time() - before
        rows.append((stage, count(result), seconds, used, peak_memory()))
        return result

    timed("read, tokenize", data.prepare, lambda _: paragraphs)
    found = timed("paragraphs", lambda: prepare_paragraphs(data, shard_bytes=shard_bytes), len)
    net = functools.partial(
        Encoder,
        context_length=64,
        num_layers=layers,
        width=width,
        num_heads=4,
        position=functools.partial(Learned),
        mixer=functools.partial(SoftmaxAttention),
        mlp=functools.partial(GELU),
        norm=functools.partial(LayerNorm),
        pooling="weighted",
    )
    retriever = Contrastive(
        examples=WorldTasks(world=world),
        encoder=zoo_encoder(net=net),
        steps=0,
        cosine=True,
    )
    encoder, named = retriever.prepare(data.tokenizer, cache)
    vectors = timed(
        "vectors",
        lambda: [
            prepare_vectors(shard, encoder, named, normalised=True, cache_dir=cache)
            for shard in found.shards
        ],
        lambda made: sum(map(len, made)),
    )
    index = Index(kind=kind)  # type: ignore[arg-type]
    timed(
        "index",
        lambda: [index.prepare(part, cache) for part in vectors],
        lambda made: len(found),
    )
    finder = Dense(retriever=retriever, index=index)
    timed(
        "neighbours",
        lambda: finder.prepare(found, neighbours, data.tokenizer, cache),
        lambda made: len(found),
    )
    recalls = [built.about["recall"] for built in finder.built]
    kinds = sorted({built.about.get("factory", "flat") for built in finder.built})
    print(f"index: {', '.join(kinds)}; recall@10 against exact search {np.mean(recalls):.4f}")
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.picl.bench", description=__doc__)
    parser.add_argument("--paragraphs", type=int, default=200_000)
    parser.add_argument("--kind", default="auto", help="auto, flat, hnsw, ivf, pq")
    parser.add_argument("--width", type=int, default=128, help="of the vectors")
    parser.add_argument("--layers", type=int, default=1, help="of the encoder")
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--shard-bytes", type=int, default=1 << 26, help="text in a shard")
    parser.add_argument(
        "--cache", type=Path, default=None, help="folder to keep; else a temporary one"
    )
    options = parser.parse_args(arguments)
    cache = options.cache or Path(tempfile.mkdtemp(prefix="picl-bench-"))
    try:
        rows = measure(
            paragraphs=options.paragraphs,
            kind=options.kind,
            width=options.width,
            layers=options.layers,
            neighbours=options.neighbours,
            shard_bytes=options.shard_bytes,
            cache=cache,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        if options.cache is None:
            shutil.rmtree(cache, ignore_errors=True)
    table = Table(title="PICL's stages", title_justify="left")
    for column in ("stage", "paragraphs", "seconds", "paragraphs/s", "CPU s", "MB held"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, count, seconds, used, held in rows:
        speed = f"{count / seconds:,.0f}"
        table.add_row(stage, f"{count:,}", f"{seconds:.1f}", speed, f"{used:.1f}", f"{held:,.0f}")
    console = Console()
    console.print(table)
    machine, library = hardware(), versions()
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {torch.get_num_threads()} thread(s), "
        f"torch {library['torch']}",
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
