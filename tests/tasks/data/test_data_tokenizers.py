"""Text must survive the round trip, and every byte of it must be counted exactly once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tasks.data.bpe import BPE, byte_of_character
from tasks.data.huggingface import HuggingFace
from tasks.data.tokenizers import Bytes, load_tokenizer
from tasks.errors import UserError
from tests.tasks.data.made_up import text_data, texts

ROOT = Path(__file__).parents[3]
TRICKY = [
    "",
    " ",
    "\n\n\t  x  ",
    "Fluß 水 🎉 é e\u0301 \u200b",
    "<|endoftext|> [SEP] </s>",
    "def f(x):\n    return x ** 2\r\n",
    "0123456789" * 20,
    "\x00\x01\x7f\u0080\uffff\U0010ffff",
]


@pytest.fixture(scope="module")
def bpe() -> BPE:
    return BPE(vocab_size=350).train(texts(80))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Hugging Face tokenizers of three families, trained here and saved as transformers saves them."""
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("tokenizers")
    byte_level = Backend(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.train_from_iterator(
        texts(40),
        trainers.BpeTrainer(
            vocab_size=350,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    unigram = Backend(models.Unigram())
    unigram.normalizer = normalizers.NFKC()
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Metaspace()
    unigram.train_from_iterator(
        texts(40),
        trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["</s>", "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    pieces = Backend(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    pieces.train_from_iterator(
        texts(40),
        trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False
        ),
    )
    for name, backend, special in (
        ("gpt", byte_level, {"eos_token": "<|endoftext|>"}),
        ("t5", unigram, {"eos_token": "</s>", "unk_token": "<unk>"}),
        ("bert", pieces, {"sep_token": "[SEP]", "unk_token": "[UNK]"}),
        ("none", byte_level, {}),
    ):
        PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(root / name)
    return {path.name: path for path in root.iterdir()}


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_bytes_round_trip(text):
    tokenizer = Bytes()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.tolist() == list(text.encode()) and ids.dtype == np.uint8
    assert tokenizer.eos not in ids, "0xFF never occurs in UTF-8: it can mark the end of a document"


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_bpe_round_trip(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert bpe.eos not in ids
    assert bpe.token_bytes()[ids].sum() == len(text.encode())


@pytest.mark.parametrize("text", TRICKY)
def test_tricky_texts(bpe, text):
    for tokenizer in (Bytes(), bpe):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos not in ids, "a document that spells the special token has not ended"
        assert tokenizer.token_bytes()[ids].sum() == len(text.encode())


def test_broken_utf8_is_replaced_while_generating(bpe):
    """A sampled token may end inside a character."""
    euro = "€".encode()
    assert Bytes().decode(list(euro[:2])) == "\ufffd"
    assert Bytes().decode([*b"a", 0xFF, *b"b"]) == "ab"
    byte_ids = bpe.encode("\U0010fffe")  # not in the training text: four single bytes
    assert bpe.decode(byte_ids[:3]).startswith("\ufffd")
    assert bpe.decode([bpe.eos, *bpe.encode("x")]) == "x"


def test_bpe_learns_words(bpe):
    """Otherwise it would be bytes under another name."""
    assert bpe.vocab_size == 350
    assert len(bpe.encode("slowly under old bridges")) < 8
    assert bpe.token_bytes().max() > 4 and bpe.token_bytes()[bpe.eos] == 0
    assert sorted(byte_of_character().values()) == list(range(256))


def test_bpe_is_learnt_from_training_text_alone(tmp_path):
    """Otherwise merges would know the test text."""
    given = texts(60) + [f"{i} zzzzzzzz qqqqqqqq" * 30 for i in range(60)]
    data = text_data(tmp_path, given, tokenizer=BPE(vocab_size=320))
    alone = BPE(vocab_size=320).train(d.text for d in data.documents("train"))
    assert data.tokenizer.fingerprint == alone.fingerprint


def test_bpe_is_the_same_in_every_process(tmp_path):
    """Otherwise a cache rebuilt elsewhere would not fit the model that was trained on it."""
    path = tmp_path / "texts.json"
    path.write_text(json.dumps(texts(60)))
    code = (
        "import json, sys; from tasks.data.bpe import BPE\n"
        "given = json.load(open(sys.argv[1]))\n"
        "print(BPE(vocab_size=350).train(given).fingerprint['content'])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
        )
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 32, runs[0].stderr


def test_a_run_folder_carries_its_tokenizer(tmp_path, bpe, folders):
    """`python -m zoo.generate RUN` must work when the cache is gone and there is no network."""
    for name, tokenizer in {
        "bytes": Bytes(),
        "bpe": bpe,
        "gpt": HuggingFace(name=str(folders["gpt"])),
        "t5": HuggingFace(name=str(folders["t5"])),
    }.items():
        tokenizer.save(tmp_path / name)
        loaded = load_tokenizer(tmp_path / name)
        assert type(loaded) is type(tokenizer)
        assert (loaded.vocab_size, loaded.eos) == (tokenizer.vocab_size, tokenizer.eos)
        assert loaded.fingerprint == tokenizer.fingerprint
        for text in texts(3):
            assert np.array_equal(loaded.encode(text), tokenizer.encode(text))


@pytest.mark.parametrize("name", ["gpt", "t5", "bert", "none"])
def test_hugging_face_spans_add_up(folders, name):
    """Bits per byte compare between tokenizers only if every byte is counted once."""
    tokenizer = HuggingFace(name=str(folders[name]))
    table = tokenizer.token_bytes()
    assert (table is None) == (name in ("t5", "bert"))
    for text in [*texts(20), *TRICKY]:
        if table is not None:
            spans = table[tokenizer.encode(text)]
        else:
            ids, spans = tokenizer.encode_spans([text])[0]
            assert np.array_equal(ids, tokenizer.encode(text)) and len(spans) == len(ids)
        if len(spans):
            assert spans.sum() == len(text.encode())
        if name != "t5":  # a unigram vocabulary spells "</s>" as a piece like any other
            assert tokenizer.eos not in tokenizer.encode(text)


def test_spans_begin_where_tokens_do(folders):
    tokenizer = HuggingFace(name=str(folders["bert"]))
    text = "  Fluß  under"
    _, spans = tokenizer.encode_spans([text])[0]
    words = [text.encode()[e - s : e].decode() for s, e in zip(spans, np.cumsum(spans))]
    assert words[-1] == "under" and "".join(words) == text


@pytest.mark.parametrize("name", ["gpt", "none"])
def test_hugging_face_byte_level_round_trip(folders, name):
    tokenizer = HuggingFace(name=str(folders[name]))
    assert tokenizer.eos == (0 if name == "gpt" else None)
    for text in texts(10):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_end_of_document_ids(folders):
    ids = {name: HuggingFace(name=str(path)).eos for name, path in folders.items()}
    spec = json.loads((folders["t5"] / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in spec["added_tokens"]}
    assert ids["t5"] == special["</s>"] and ids["bert"] == 1 and ids["none"] is None


def test_hugging_face_file_alone(folders):
    tokenizer = HuggingFace(name=str(folders["gpt"] / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode("slowly under")) == "slowly under"


def test_tokenizer_without_a_fast_form(tmp_path):
    """Some are Python alone (here ByT5's, bytes + 3) and do not say where their tokens begin."""
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer = HuggingFace(name=str(tmp_path))
    text = "Fluß </s> x"
    ids, spans = tokenizer.encode_spans([text])[0]
    assert ids.tolist() == [byte + 3 for byte in text.encode()] and tokenizer.eos == 1
    assert spans.tolist() == [1] * len(ids) and tokenizer.decode(ids) == text
    tokenizer.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("name", ["./nowhere/at/all", "someone/no-such-tokenizer-at-all"])
def test_unknown_tokenizer_is_one_line(name):
    with pytest.raises(UserError, match=r"tokenizer\.name=") as caught:
        HuggingFace(name=name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_folder_without_a_tokenizer_is_one_line(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.name"):
        HuggingFace(name=str(tmp_path))


@pytest.mark.parametrize("size", [0, 256, 1 << 25])
def test_vocabulary_out_of_range(size):
    with pytest.raises(ValueError, match="vocab_size: must be in"):
        BPE(vocab_size=size)


def test_untrained_bpe_says_so():
    with pytest.raises(RuntimeError, match="not trained"):
        BPE().encode("x")
