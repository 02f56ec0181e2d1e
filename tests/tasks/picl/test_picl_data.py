"""From paragraphs to groups: packing, retrieval, assembly, and builds that were killed."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from tasks.data.corpora import Corpus, Document
from tasks.data.datamodule import TextData
from tasks.data.tokenizers import Bytes
from tasks.picl.corpora import Merged, WorldCorpus
from tasks.picl.encoders import zoo_encoder
from tasks.picl.groups import MetaICL, Retrieved
from tasks.picl.index import Index, Vectors, exact_search, factory, overlap
from tasks.picl.labelled import LabelledTask, Sampler, WorldTasks
from tasks.picl.neighbours import BM25, Dense, Oracle, Random, clean
from tasks.picl.paragraphs import glue_lines, prepare_paragraphs
from tasks.picl.recall import measure
from tasks.picl.retriever import Contrastive
from tasks.picl.selfsup import SelfSupervised
from tasks.picl.world import SYNONYMS, WORDS, World, spell
from zoo.encoder import Encoder
from zoo.mixers.softmax import SoftmaxAttention
from zoo.mlp import GELU
from zoo.norms import LayerNorm
from zoo.positions.none import NoPosition

WORLD = World(seed=0, corpus_tasks=20, labelled_tasks=10, test_tasks=4)


class Lines(Corpus):
    """Documents given outright."""

    def __init__(self, texts: list[str]):
        self.texts = texts

    def documents(self):
        for i, text in enumerate(self.texts):
            yield Document(text, str(i))

    def fingerprint(self, cache_dir: Path) -> dict:
        return {"lines": self.texts}


def data_of(corpus: Corpus, cache: Path, context_length: int = 256) -> TextData:
    return TextData(
        corpus=corpus,
        tokenizer=Bytes(),
        context_length=context_length,
        batch_size=1,
        cache_dir=cache,
        val_fraction=0.0,
        test_fraction=0.0,
    )


def world_data(cache: Path, paragraphs: int = 300, context_length: int = 256) -> TextData:
    return data_of(WorldCorpus(world=WORLD, paragraphs=paragraphs), cache, context_length)


def contrastive(steps: int = 0, **settings) -> Contrastive:
    net = functools.partial(
        Encoder,
        context_length=64,
        num_layers=0,
        width=16,
        num_heads=2,
        position=NoPosition,
        mixer=SoftmaxAttention,
        mlp=GELU,
        norm=LayerNorm,
        pooling="weighted",
    )
    examples = WorldTasks(world=WORLD, rows_per_task=20)
    given = {"examples": examples, "encoder": zoo_encoder(net=net), "cosine": True, "lr": 1e-3}
    return Contrastive(steps=steps, **{**given, **settings})


# ---- the world


def test_a_paragraph_of_the_same_task_gives_the_answer_away() -> None:
    """Else there would be nothing to learn in context."""
    draw = WORLD.draws(99)
    found = WORLD.contents(draw, np.full(500, 3))
    by_class = {}
    for row in found:
        by_class.setdefault(row[3] // SYNONYMS, set()).add(row[4])
        assert set(row[[0, 2]]) <= set(WORLD.tasks[3].marks) and row[0] != row[2]
    assert all(len(answers) == 1 for answers in by_class.values()) and len(by_class) == 4
    assert len({next(iter(a)) for a in by_class.values()}) == 4


def test_tasks_of_tests_are_shown_nowhere() -> None:
    shown = {*WORLD.corpus_tasks, *WORLD.labelled_tasks}
    assert not shown & set(WORLD.test_tasks)
    assert WORLD.seen == set(range(5)) and len(WORLD.labelled_tasks) == 10
    other = World(seed=1, corpus_tasks=20, labelled_tasks=10, test_tasks=4)
    assert any((a.marks != b.marks).any() for a, b in zip(WORLD.tasks, other.tasks))


def test_words_of_the_world_are_distinct() -> None:
    words = [word for kind in WORDS.values() for word in kind.tolist()]
    assert len(words) == len(set(words)) == 24 + 96 + 24 + 16 + 16


# ---- paragraphs


@pytest.mark.parametrize(
    ("lines", "lengths", "groups"),
    [
        (["a", "b", "c"], [3, 3, 1], [[0], [1, 2]]),  # 5 + 5 is not below 10, 5 + 3 is
        (["a", "b"], [2, 3], [[0, 1]]),  # 4 + 5 < 10
        (["a:", "b", "c"], [7, 7, 7], [[0, 1], [2]]),  # goes on after a colon, however long
        (["a?", "b？", "c", "d"], [7, 7, 7, 1], [[0, 1, 2], [3]]),
        (["a", "b"], [50, 1], [[0], [1]]),  # a long line stays whole
        ([], [], []),
    ],
)
def test_gluing_by_the_released_rule(lines, lengths, groups) -> None:
    assert glue_lines(lines, lengths, 10) == groups


def test_paragraphs_of_documents(tmp_path: Path) -> None:
    """Blank lines and tiny documents go, repeats are kept once, line ends become spaces for the
    language model alone."""
    texts = ["too short", "one line here:\n\n  and its second\n" + "x" * 30, "y" * 40, "z" * 40]
    data = data_of(Lines([*texts, "y" * 40 + "\nnew " * 10]), tmp_path, 16)
    found = prepare_paragraphs(data, glue=30, longest=60)
    shown = [found.text(i) for i in range(len(found))]
    assert shown[0] == "one line here:\nand its second"
    assert data.tokenizer.decode(found.tokens(0)) == "one line here: and its second"
    assert shown.count("y" * 40) == 1 and "x" * 30 in shown
    assert not any("short" in text for text in shown)


def test_known_tasks_reach_the_paragraphs(tmp_path: Path) -> None:
    found = prepare_paragraphs(world_data(tmp_path))
    assert set(found.tasks.tolist()) <= set(WORLD.corpus_tasks)
    words = found.text(5).split()
    marks = WORDS["mark"][WORLD.tasks[found.tasks[5]].marks]
    assert len(words) == 6 and {words[1], words[3]} <= set(marks)


def test_a_corpus_that_grows_keeps_its_shards(tmp_path: Path) -> None:
    """Adding text must not cost what was built before: shards, vectors, indexes, searches."""
    first = [f"document {i} " + "abc " * 30 for i in range(6)]
    finder = Dense(retriever=contrastive(), index=Index())

    def stages(texts: list[str]) -> set[str]:
        data = data_of(Lines(texts), tmp_path, 16)
        paragraphs = prepare_paragraphs(data, shard_bytes=400)
        finder.prepare(paragraphs, 3, data.tokenizer, tmp_path)
        return {str(p) for p in tmp_path.glob("picl-*/*") if p.is_dir()}

    before = stages(first)
    stamps = {name: os.stat(name).st_mtime_ns for name in before}
    after = stages([*first, *(f"document {i} " + "xyz " * 30 for i in range(6, 9))])
    assert stamps == {name: os.stat(name).st_mtime_ns for name in before}
    shards = len({n for n in before if "picl-paragraphs" in n})
    new = [Path(name).parent.name for name in after - before]
    assert shards >= 2 and new.count("picl-paragraphs") == new.count("picl-vectors") == 1
    assert new.count("picl-search") == 2 * shards + 1  # the pairs of the new shard, and no other


# ---- the retriever


def test_hard_negatives_are_the_querys_words_around_another_tasks_row() -> None:
    tasks = [
        LabelledTask(
            "a", ("A {text} = {label}",), [{"text": f"a{i}", "label": "x"} for i in (1, 2)]
        ),
        LabelledTask(
            "b", ("B {text} = {label}",), [{"text": f"b{i}", "label": "y"} for i in (1, 2)]
        ),
        LabelledTask(
            "c", ("C {other} {label}",), [{"other": f"c{i}", "label": "z"} for i in (1, 2)]
        ),
    ]
    options = dict(easy_negatives=1, hard_negatives=2, seed=0, positives="task")
    batch = Sampler(tasks, batch_size=8, hard_scope="own", **options).batch(0)
    per, hard_ones = 4, 0  # a positive, up to two hard ones, easy ones for the rest
    assert len(batch.candidates) == 8 * per
    for i, query in enumerate(batch.queries):
        places = range(i * per, (i + 1) * per)
        own = batch.candidates[places[0]]
        assert own[0] == query[0] and own != query and batch.positive[i, places[0]]
        hard = [j for j in places if not batch.visible[(i + 1) % 8, j]]
        for j in hard:
            text = batch.candidates[j]
            assert text[0] == query[0] and text[2] != query[2] and text[-1] == query[-1]
            assert batch.visible[i, j] and not batch.positive[:, j].any()
        hard_ones += len(hard)
        assert query[0] != "C" or not hard  # no other task has its field: easy ones instead
        mates = [c[0] == query[0] for c in batch.candidates]
        assert not (batch.positive[i].numpy() & ~np.array(mates)).any()
    assert hard_ones
    shared = Sampler(tasks, batch_size=8, hard_scope="batch", **options).batch(0)
    assert bool(shared.visible.all()) and shared.candidates == batch.candidates


def test_training_beats_untrained_and_bm25_on_tasks_never_seen(tmp_path: Path) -> None:
    """What the retriever is for, small; the README has the full size with intervals."""
    world = World(seed=0, corpus_tasks=40, labelled_tasks=60, test_tasks=4)
    data = data_of(WorldCorpus(world=world, paragraphs=1600), tmp_path, 64)
    data.tokenizer = _bpe(data, tmp_path)
    paragraphs = prepare_paragraphs(data)
    examples = WorldTasks(world=world, rows_per_task=50)
    net = contrastive().encoder.args[0].keywords | {"width": 64}
    encoder = zoo_encoder(net=functools.partial(Encoder, **net))
    recalls = {}
    for name, finder in {
        "trained": Dense(
            retriever=contrastive(
                120, examples=examples, encoder=encoder, hard_scope="own",
                temperature=0.1, lr=3e-3, batch_size=32,
            ),
            index=Index(),
        ),
        "untrained": Dense(retriever=contrastive(encoder=encoder), index=Index()),
        "bm25": BM25(),
        "random": Random(),
        "oracle": Oracle(),
    }.items():  # fmt: skip
        found = finder.prepare(paragraphs, 9, data.tokenizer, tmp_path)
        recalls[name] = measure(paragraphs, found, world.seen)["retrieval/recall_held_out@9"]
    assert recalls["oracle"] == 1.0 and recalls["random"] < 0.15
    assert recalls["trained"] > recalls["bm25"] + 0.05 > recalls["untrained"] + 0.05, recalls


def _bpe(data: TextData, cache: Path):
    from tasks.data.bpe import BPE
    from tasks.data.documents import prepare_documents

    documents = prepare_documents(data.corpus, cache)
    return BPE(vocab_size=700).train(documents.texts(np.arange(len(documents))))


# ---- search


def vectors_of(folder: Path, rows: np.ndarray) -> Vectors:
    folder.mkdir()
    np.save(folder / "vectors.npy", rows.astype(np.float16))
    return Vectors(folder)


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_flat_search_is_brute_force(tmp_path: Path, metric: str) -> None:
    rows = np.random.default_rng(0).normal(size=(500, 16)).astype(np.float16)
    vectors = vectors_of(tmp_path / "v", rows)
    built = Index(kind="flat", metric=metric).prepare(vectors, tmp_path)
    queries = rows[:40].astype(np.float32)
    ids, scores = built.search(queries, 7)
    exact = rows.astype(np.float64)
    for q, found, score in zip(queries.astype(np.float64), ids, scores):
        wanted = exact @ q if metric == "dot" else -((exact - q) ** 2).sum(1)
        np.testing.assert_array_equal(found, np.argsort(-wanted, kind="stable")[:7])
        np.testing.assert_allclose(score, wanted[found], atol=1e-4)


@pytest.mark.parametrize("kind", ["hnsw", "ivf", "pq"])
def test_other_indexes_say_how_much_of_exact_search_they_find(tmp_path: Path, kind: str) -> None:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(20, 16))
    rows = centres[draw.integers(20, size=3000)] + 0.3 * draw.normal(size=(3000, 16))
    vectors = vectors_of(tmp_path / "v", rows)
    built = Index(kind=kind, probes=8).prepare(vectors, tmp_path)
    queries = vectors.rows(slice(100, 160))
    found, exact = built.search(queries, 10)[0], exact_search(vectors, queries, 10, "dot")[0]
    assert built.about["recall"] > 0.8 and overlap(found, exact) > 0.8
    assert built.about["factory"] == factory(kind, 3000, 16)


def test_the_kind_of_an_index_follows_the_size_of_its_shard() -> None:
    kinds = [Index().kind_for(n) for n in (100, 100_000, 1_000_000, 10_000_000)]
    assert kinds == ["flat", "hnsw", "ivf", "pq"]
    assert factory("ivf", 1_000_000, 128) == "IVF4096,SQfp16"
    assert factory("pq", 10_000_000, 128) == "IVF16384,PQ32np"


def test_neighbours_are_neither_themselves_nor_a_text_twice() -> None:
    hashes = np.array([5, 6, 5, 7, 8, 7], dtype=np.uint64)  # 2 repeats 0, 5 repeats 3
    ids = np.array([[0, 2, 3, 5, 4, -1]])
    scores = np.array([[9.0, 8.0, 6.0, 7.0, 1.0, 99.0]])
    found, kept = clean(np.array([0]), ids, scores, hashes, 4)
    assert found.tolist() == [[5, 4, -1, -1]] and kept[0, :2].tolist() == [7.0, 1.0]


def test_bm25_is_the_formula(tmp_path: Path) -> None:
    texts = [
        "red apple red pear and more",
        "green apple and one blue pear",
        "red blue blue blue red no",
    ]
    data = data_of(Lines([*texts, "nothing in common with any"]), tmp_path, 16)
    paragraphs = prepare_paragraphs(data)
    finder = BM25()
    found = finder.prepare(paragraphs, 3, data.tokenizer, tmp_path)
    words = [paragraphs.text(i).split() for i in range(4)]
    mean = np.mean([len(w) for w in words])
    query = next(i for i in range(4) if paragraphs.text(i) == texts[0])
    for i, score in zip(found.of(query), found.scores(query)):
        wanted = 0.0
        for term in set(words[query]):
            n = sum(term in w for w in words)
            tf = words[i].count(term)
            idf = np.log(1 + (4 - n + 0.5) / (n + 0.5))
            wanted += idf * tf / (tf + 1.5 * (0.25 + 0.75 * len(words[i]) / mean))
        assert score == pytest.approx(wanted, rel=1e-5)


# ---- groups


def groups_of(tmp_path: Path, context_length: int = 256, **settings) -> Retrieved:
    groups = Retrieved(finder=settings.pop("finder", Oracle()), **settings)
    data = world_data(tmp_path, context_length=context_length)
    groups.prepare(data, context_length=context_length, seed=0)
    return groups


def test_a_group_is_cut_shortened_capped_and_shuffled(tmp_path: Path) -> None:
    """The order of the released steps: the farthest go first, the query stands last."""
    groups = groups_of(tmp_path, neighbours=12, shots=16)
    for number in range(0, len(groups), 37):
        query = int(groups.queries[number])
        members = groups.members(query)
        near = groups.found.of(query).tolist()
        assert members[-1] == query and query not in members[:-1]
        assert set(members[:-1]) == set(near[: len(members) - 1])
        sequence = groups.sequence(number)
        assert len(sequence.tokens) < 256 and sequence.counted.all()
        more = len(groups.part(near[len(members) - 1])) if len(members) <= len(near) else 999
        assert len(sequence.tokens) + more >= 256
        text = groups.tokenizer.decode(sequence.tokens)
        assert text == "".join(groups.paragraphs.text(i) + "\n" for i in members)
    capped = groups_of(tmp_path, neighbours=12, shots=2, cut=10, order="nearest_last", loss="last")
    query = int(capped.queries[0])
    near = capped.found.of(query).tolist()
    assert capped.members(query) == [near[1], near[0], query]
    sequence = capped.sequence(0)
    assert len(sequence.tokens) == 33 and sequence.counted.tolist() == [False] * 22 + [True] * 11


def test_groups_are_the_same_in_every_process_and_differ_by_seed(tmp_path: Path) -> None:
    """Both passes of the filter, and training, must read one order."""
    first, again = (groups_of(tmp_path, neighbours=6) for _ in range(2))
    assert all(first.members(int(q)) == again.members(int(q)) for q in first.queries[:50])
    other = Retrieved(finder=Oracle(), neighbours=6)
    other.prepare(world_data(tmp_path), context_length=256, seed=1)
    assert any(first.members(int(q)) != other.members(int(q)) for q in first.queries[:50])


def test_metaicl_counts_the_last_answer_alone(tmp_path: Path) -> None:
    examples = WorldTasks(world=WORLD, rows_per_task=20)
    groups = MetaICL(examples=examples, rows=4)
    groups.prepare(world_data(tmp_path), context_length=256, seed=0)
    sequence = groups.sequence(3)
    text = groups.tokenizer.decode(sequence.tokens)
    lines = text.splitlines()
    counted = groups.tokenizer.decode(sequence.tokens[sequence.counted])
    assert len(lines) == 4 and counted == " " + lines[-1].split()[-1] + "\n"
    marks = [set(WORDS["mark"][WORLD.tasks[t].marks]) for t in WORLD.labelled_tasks]
    assert any(all({line.split()[1], line.split()[3]} <= own for line in lines) for own in marks)


@pytest.mark.parametrize("objective", ["next", "masked", "last", "classify"])
def test_self_supervised_examples_count_outputs_alone(tmp_path: Path, objective: str) -> None:
    groups = SelfSupervised(objectives=[objective], sentences=3)
    groups.prepare(world_data(tmp_path), context_length=256, seed=0)
    for number in range(5):
        sequence = groups.sequence(number)
        text = groups.tokenizer.decode(sequence.tokens)
        outputs = [line.split(" Output: ")[1] for line in text.splitlines()]
        counted = groups.tokenizer.decode(sequence.tokens[sequence.counted])
        assert [part.strip() for part in counted.splitlines()] == outputs
        assert len(sequence.tokens) < 256 and all("Input: " in x for x in text.splitlines())
        if objective == "classify":
            assert set(outputs) <= {"original", "shuffled", "mixed"}


# ---- restarts

KILLED = """
import sys, functools, os, signal
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from tests.tasks.picl import test_picl_data as t
import tasks.data.stage as stages
from pathlib import Path
plain, left = stages._build, [{builds}]
def build(folder, key, work):
    left[0] -= 1
    def cut(to):
        work(to)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    plain(folder, key, cut)
stages._build = build
t.everything(Path({cache!r}))
"""


def everything(cache: Path) -> list[list[int]]:
    """All stages, and the groups that they end in."""
    groups = Retrieved(finder=Dense(retriever=contrastive(3, batch_size=4), index=Index()))
    data = world_data(cache)
    groups.prepare(data, context_length=256, seed=0)
    return [groups.sequence(i).tokens.tolist() for i in range(0, len(groups), 20)]


def test_a_build_that_was_killed_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Killed at the end of two of its stages, before each was whole, then run to its end."""
    for builds in (4, 3):
        code = KILLED.format(root=str(ROOT), cache=str(tmp_path / "killed"), builds=builds)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert list((tmp_path / "killed").glob("*/*.partial"))
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")
    names = [
        {str(p.relative_to(tmp_path / of)) for p in (tmp_path / of).glob("picl-*/*") if p.is_dir()}
        for of in ("killed", "whole")
    ]
    assert names[0] == names[1] and len(names[0]) >= 6


def test_several_corpora_are_read_as_one(tmp_path: Path) -> None:
    merged = Merged(corpora=[Lines(["a", "b"]), Lines(["a"])])
    assert [(d.text, d.id) for d in merged.documents()] == [
        ("a", "0/0"),
        ("b", "0/1"),
        ("a", "1/0"),
    ]
    one = merged.fingerprint(tmp_path)
    assert one != Merged(corpora=[Lines(["a"]), Lines(["a", "b"])]).fingerprint(tmp_path)


def test_spelling_keeps_rows_apart() -> None:
    rows = WORLD.contents(WORLD.draws(5), np.array([1, 2]))
    (text, answer), _ = spell(rows)
    assert text.split()[0] == WORDS["mark"][rows[0, 0]] and answer == WORDS["answer"][rows[0, 4]]
