"""What is trained on, in which order: tokens, layout, curriculum, batches."""

import numpy as np
import pytest
import torch

from tasks.code_execution.batches import Plan, cut
from tasks.code_execution.curriculum import Curriculum
from tasks.code_execution.data import TraceData
from tasks.code_execution.encoded import Layout, source_of, trace_of
from tasks.code_execution.formats import SETS, SPECIAL_TOKENS
from tasks.code_execution.records import Folder
from tasks.code_execution.tokens import CONTROL, UniXcoder, Words
from tasks.data.bpe import BPE
from tasks.data.tokenizers import load_tokenizer
from tasks.errors import UserError
from tests.tasks.code_execution.made_programs import made, write

STAGES = [
    {"name": "single", "share": 2, "mixture": {"singleline": 1.0}},
    {"name": "all", "share": 1, "hard": True, "mixture": {"codenet": 0.75, "singleline": 0.25}},
]
TEXTS = [
    "<line> <3> <state> s : ab <dictsep> q : 0012345 </state>",
    "<tutorial> <0> total = 1234 - -5 <1> <indent> 'a b' é ٣ 🙂 x  y ",
    " a",
    " ",
    "",
    "\n\t'",
]


@pytest.fixture(scope="module")
def words():
    return Words().train([source_of(made(name, i, "x")) for name in SETS for i in range(30)])


def test_words_give_back_the_text_that_they_were_given(words, tmp_path):
    words.save(tmp_path)
    again = load_tokenizer(tmp_path)
    for text in TEXTS:
        assert words.decode(words.encode(text)) == text
        assert again.encode(text).tolist() == words.encode(text).tolist()
    for name in SETS:
        trace = trace_of(made(name, 7, "x"))
        assert words.decode(words.encode(trace)) == trace


def test_special_tokens_and_numbers_below_a_hundred_are_one_id(words):
    for token in (*SPECIAL_TOKENS, "7", "42", "for", "range", "+=", ":"):
        assert len(words.encode(token)) == 1, token
    assert len(words.encode("1234")) == 2 and len(words.encode("'ab'")) == 4
    assert words.decode([words.id(c) for c in CONTROL]) == ""


def test_a_value_is_spelled_alike_wherever_it_stands(words):
    """Copying a number from the program into the trace is copying its ids."""
    code, trace = words.encode("x = 5317"), words.encode("x : 5317")
    assert code[-2:].tolist() == trace[-2:].tolist()


@pytest.fixture(scope="module")
def roberta_tokenizer(tmp_path_factory):
    """A byte-level BPE in the form that UniXcoder's is saved in."""
    from transformers import RobertaTokenizer

    trained = BPE(vocab_size=300).train(["total = 1 : print ( total )"] * 9)
    folder = tmp_path_factory.mktemp("tokenizer")
    trained.save(folder / "bpe")
    import json

    model = json.loads((folder / "bpe" / "tokenizer.json").read_text())["model"]
    plain = [t for t in model["vocab"] if t != "<|endoftext|>"]
    own = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *CONTROL[3:]]
    vocab = {t: i for i, t in enumerate([*own, *plain])}
    merges = [tuple(m) for m in model["merges"]]
    RobertaTokenizer(vocab=vocab, merges=merges).save_pretrained(folder)
    return UniXcoder(name=str(folder)), len(vocab)


def test_unixcoders_tokens_and_211_more(roberta_tokenizer, tmp_path):
    tokenizer, before = roberta_tokenizer
    assert tokenizer.vocab_size == before + 211
    assert [tokenizer.id(t) for t in SPECIAL_TOKENS] == [*range(before, before + 211)]
    text = "<line> <3> <state> total : 12 <dictsep> q : </state>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids[0] == tokenizer.id("<line>") and (ids >= before).sum() == 5
    # The loss weighs the colon that is really produced, which has a space before it.
    assert set(ids.tolist()) & set(tokenizer.forms(":"))
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).encode(text).tolist() == ids.tolist()


def test_a_sample_is_laid_out_as_published(words, tmp_path):
    data = data_of(words, tmp_path)
    record = next(data.records.read("tutorial", "train"))
    batch = data.encoded("tutorial", "train").batch([0], Layout.of(words))
    prefix = int(batch["prefix_B"])
    names = {words.id(t): t for t in CONTROL}
    read = [names.get(i) or words.decode([i]) for i in batch["tokens_BT"][0].tolist()]
    assert read[:4] == ["<s>", "<encoder-decoder>", "</s>", "<tutorial>"]
    assert read[prefix - 2 : prefix + 1] == ["<mask0>", "</s>", "<mask0>"]
    assert words.decode(batch["tokens_BT"][0, 3 : prefix - 2]) == source_of(record)
    targets = batch["targets_BT"][0]
    assert (targets[: prefix - 1] == -100).all()
    asked = targets[prefix - 1 :].tolist()
    assert names[asked[0]] == "<mask0>" and names[asked[-1]] == "</s>"
    assert words.decode(asked) == trace_of(record)


def data_of(words, folder, **options):
    sizes = {"train": 40, "val": 6, "test": 6}
    if not (folder / "records").exists():
        write(folder / "records", **sizes)
    settings = {
        "records": Folder(path=folder / "records"),
        "tokenizer": words,
        "curriculum": Curriculum(stages=STAGES),
        "context_length": 320,
        "batch_size": 2,
        "cache_dir": folder / "cache",
    }
    return TraceData(**{**settings, **options})


def test_each_stage_draws_from_its_own_sets():
    curriculum = Curriculum(stages=STAGES)
    assert curriculum.starts(300) == [0, 200] and curriculum.at(199, 300) == 0
    assert curriculum.streams() == [("singleline", False), ("codenet", False), ("singleline", True)]
    drawn = curriculum.draws(np.arange(60_000), seed=3, accumulate=2, steps=30_000)
    assert (drawn[:40_000] == 0).all()
    shares = np.bincount(drawn[40_000:], minlength=3) / 20_000
    # Four standard deviations of a share of 0.25 in 20,000 draws.
    assert shares[0] == 0 and abs(shares[1] - 0.75) < 4 * (0.75 * 0.25 / 20_000) ** 0.5


def test_a_resumed_run_sees_the_same_batches(words, tmp_path):
    from tasks.code_execution.batches import TraceStream

    data = data_of(words, tmp_path)
    encoded = {name: data.encoded(name, "train") for name in data.curriculum.sets}
    settings = {"seed": 1, "tokens": 640, "steps": 30}
    whole = TraceStream(encoded, data.layout(), data.curriculum, **settings)
    later = TraceStream(encoded, data.layout(), data.curriculum, first=17, **settings)
    seen = [batch["tokens_BT"] for batch, _ in zip(whole, range(40))]
    assert all(torch.equal(a["tokens_BT"], b) for a, b in zip(later, seen[17:]))
    assert all(batch.numel() <= 640 for batch in seen)
    ranks = [
        iter(TraceStream(encoded, data.layout(), data.curriculum, rank=r, world_size=2, **settings))
        for r in range(2)
    ]
    both = [next(rank)["tokens_BT"] for _ in range(3) for rank in ranks]
    alone = [batch for batch in seen[:6]]
    assert all(torch.equal(a, b) for a, b in zip(both, alone))


def test_an_epoch_is_every_sample_once():
    lengths = np.random.default_rng(0).integers(5, 60, 5000)
    plan = Plan(lengths, np.arange(0, 5000, 2), seed=0, tokens=256)
    seen: list[int] = []
    k = 0
    while len(seen) < 2500:
        rows = plan.batch(k)
        assert len(rows) * lengths[rows].max() <= 256
        seen += rows.tolist()
        k += 1
    assert sorted(seen) == list(range(0, 5000, 2))
    first = plan.batch(0).tolist()
    assert plan.batch(k).tolist() != first and plan.batch(0).tolist() == first


def test_little_is_wasted_on_filling_up():
    lengths = np.random.default_rng(0).integers(20, 200, 2048)
    batches = cut(lengths, 4096)
    filled = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert lengths.sum() / filled > 0.95


def test_samples_that_are_too_long_are_left_out_of_training_and_kept_in_the_test(words, tmp_path):
    data = data_of(words, tmp_path, context_length=70, curriculum=Curriculum(stages=STAGES[:1]))
    assert data.encoded("singleline", "train").lengths.max() <= 70
    counts = data.counts
    assert counts["codenet/train"]["too_long"] > 0
    assert counts["codenet/train"]["too_long"] + counts["codenet/train"]["kept"] == 40
    assert len(data.test_records("codenet")) == 6


def test_an_evaluation_reads_a_sample_not_the_first_ones(words, tmp_path):
    """Neighbours are mutants of one program: the first few would be one program."""
    data = data_of(words, tmp_path, max_test_items=3)
    ids = [record["id"] for record in data.test_records("tutorial")]
    every = [record["id"] for record in data_of(words, tmp_path).test_records("tutorial")]
    assert len(every) == 6 and set(ids) < set(every) and ids != every[:3]
    assert ids == [record["id"] for record in data.test_records("tutorial")]
    assert data.some_rows("tutorial", "test").tolist() == [every.index(i) for i in ids]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sets": ["tutorial"]}, "sets: lacks singleline"),
        ({"sets": ["lessons"]}, "sets: lessons is none of"),
        ({"tokenizer": BPE(vocab_size=300)}, "use tokenizer=traces"),
        ({"batch_size": 0}, "batch_size: must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(words, tmp_path, options, line):
    with pytest.raises(ValueError, match=line):
        data_of(words, tmp_path, **options)


def test_a_context_that_no_sample_fits_is_refused(words, tmp_path):
    with pytest.raises(UserError, match=r"raise model\.context_length"):
        data_of(words, tmp_path, context_length=12).prepare()


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        ([], "stages: give at least one"),
        ([{"mixture": {"lessons": 1}}], r"stages\[0\].mixture: lessons is none of"),
        ([{"mixture": {"tutorial": 0}}], r"stages\[0\].mixture.tutorial: must be above 0"),
        ([{"mixture": {"tutorial": 1}, "sahre": 2}], r"stages\[0\]: takes name"),
        ([{"mixture": {"tutorial": 1}, "share": 0}], r"stages\[0\].share: must be above 0"),
    ],
)
def test_stages_that_cannot_be_are_refused_by_name(stages, line):
    with pytest.raises(ValueError, match=line):
        Curriculum(stages=stages)
