"""Files of every kind give the text that is in them, and say what is wrong with them in one line."""

import bz2
import gzip
import json
import lzma
import os
import sys
import tracemalloc
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import content
from tasks.data.corpora import Stdlib
from tasks.data.cut import cut
from tasks.data.files import Text
from tasks.errors import UserError
from tests.tasks.data.made_up import texts

PACK = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


def read(path, **settings) -> list[str]:
    return [document.text for document in Text(path=str(path), **settings).documents()]


def one_line(path, **settings) -> str:
    with pytest.raises(UserError) as caught:
        corpus = Text(path=str(path), **settings)
        corpus.fingerprint(Path("/nowhere"))
        list(corpus.documents())
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".py", ".jsonl", ".log"])
def test_formats_and_packings(tmp_path, suffix, pack):
    rows = texts(20)
    data = (
        "\n\n".join(rows)
        if suffix != ".jsonl"
        else "\n".join(json.dumps({"text": t}) for t in rows)
    )
    path = tmp_path / f"some.data{suffix}{pack}"
    path.write_bytes(PACK[pack](data.encode()))
    found = read(path)
    assert found == rows if suffix == ".jsonl" else "".join(found) == data


def test_parquet(tmp_path):
    rows = texts(1000)
    path = tmp_path / "some.parquet"
    pq.write_table(
        pa.table({"n": range(1000), "body": rows, "day": [date(2020, 1, 2)] * 1000}), path
    )
    corpus = Text(path=str(path), text_column="body", meta_columns=["n", "day"])
    found = list(corpus.documents())
    assert [d.text for d in found] == rows
    assert (
        found[700].meta == {"n": 700, "day": "2020-01-02"} and found[700].id == "some.parquet:700"
    )


def test_json_lines_keep_what_is_asked_for(tmp_path):
    path = tmp_path / "some.jsonl"
    rows = [{"text": "a", "label": 1, "x": 0}, {"text": None, "label": 2}, {"text": "", "label": 3}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = list(Text(path=str(path), meta_columns=["label"]).documents())
    assert [(d.text, d.meta, d.id) for d in found] == [
        ("a", {"label": 1}, "some.jsonl:1"),
        ("", {"label": 3}, "some.jsonl:3"),
    ]


def test_folders_globs_and_lists(tmp_path):
    for name in ("a.txt", "sub/b.md", "sub/deep/c.py", "d.csv", ".hidden/e.txt", "sub/.f.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "empty.txt").touch()
    inside = ["a.txt", "sub/b.md", "sub/deep/c.py"]
    assert [t for t in read(tmp_path) if t] == inside
    assert read(tmp_path / "**" / "*.md") == ["sub/b.md"]
    assert read(tmp_path / "sub") == inside[1:]
    both = Text(path=[str(tmp_path / "d.csv"), str(tmp_path / "a.txt"), str(tmp_path / "*.txt")])
    assert [d.text for d in both.documents() if d.text] == ["d.csv", "a.txt"], "each file once"


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home")
    assert read("~/a.txt") == ["at home"]


def test_line_ends_and_marks_of_other_systems(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree")
    assert read(tmp_path / "a.txt") == ["one\ntwo\nthree"]


def test_another_encoding(tmp_path):
    (tmp_path / "a.txt").write_bytes("Fluß".encode("latin-1"))
    assert "data.encoding" in one_line(tmp_path / "a.txt")
    assert read(tmp_path / "a.txt", encoding="latin-1") == ["Fluß"]
    with pytest.raises(ValueError, match="encoding"):
        Text(path="x", encoding="klingon")


def test_large_file_becomes_many_documents(tmp_path):
    """As one document it would fall whole into one split."""
    paragraphs = texts(2000)
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs))
    found = read(tmp_path / "a.txt")
    assert 100 < len(found) < 300
    assert "".join(found) == "\n\n".join(paragraphs), "nothing is lost"
    assert all(piece.endswith("\n\n") for piece in found[:-1]), "cut between paragraphs"
    assert len(read(tmp_path / "a.txt", document_size=10**7)) == 1


def test_many_files_stay_whole(tmp_path):
    for i, text in enumerate(texts(120)):
        (tmp_path / f"{i:03}.txt").write_text(text * 100)
    assert len(read(tmp_path)) == 120


def test_separator(tmp_path):
    rows = texts(30)
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(rows))
    assert read(tmp_path / "a.txt", separator="<|endoftext|>") == rows
    assert read(tmp_path / "a.txt", separator="<|endoftext|>", max_documents=3) == rows[:3]


@settings(max_examples=200, deadline=None)
@given(st.text("ab \n", max_size=300), st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_cutting_loses_nothing(text, whole, piece, step):
    parts = [text[i : i + step] for i in range(0, len(text), step)]
    found = list(cut(parts, whole=whole, piece=piece))
    assert "".join(found) == text
    if len(text) > whole:
        assert all(len(p) <= piece for p in found)
    else:
        assert found == [text]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab\n", max_size=12), min_size=1, max_size=12), st.integers(1, 9))
def test_separators_are_found_wherever_the_parts_end(pieces, step):
    text = "<sep>".join(pieces)
    parts = [text[i : i + step] for i in range(0, len(text), step)]
    assert list(cut(parts, separator="<sep>", whole=100, piece=10)) == pieces
    short = list(cut(parts, separator="<sep>", whole=4, piece=4))
    assert "".join(short) == "".join(pieces)


def test_a_packed_file_is_never_held_whole(tmp_path):
    """64 MB that pack into 64 kB; a reader that unpacks it all would need as much memory."""
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"some words in a line\n\n" * ((1 << 20) // 22))
    tracemalloc.start()
    size = sum(len(text) for text in read_lazily(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 60_000_000 and peak < 8_000_000


def read_lazily(path):
    return (document.text for document in Text(path=str(path)).documents())


# ---- what a person may get wrong


def test_missing(tmp_path):
    assert "nowhere.txt" in one_line(tmp_path / "nowhere.txt")
    assert "no file matches" in one_line(tmp_path / "*.txt")
    assert "no .txt" in one_line(tmp_path)


def test_empty(tmp_path):
    (tmp_path / "a.txt").touch()
    assert "a.txt: is empty" in one_line(tmp_path / "a.txt")
    assert "every file in this folder is empty" in one_line(tmp_path)


@pytest.mark.parametrize("data", [bytes(range(256)), b"text\0text" * 9, b"\x89PNG\r\n\x1a\n\0"])
def test_binary(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    assert "a.txt: is a binary file" in one_line(tmp_path / "a.txt")


def test_binary_file_in_a_folder_is_left_out(tmp_path, caplog):
    """One stray file must not stop a corpus of thousands; but it is not passed over in silence."""
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"\0\1\2\3")
    assert read(tmp_path) == ["good"]
    assert "b.txt" in caplog.text and "left out" in caplog.text
    with pytest.raises(UserError, match=r"b\.txt"):
        list(Text(path=[str(tmp_path), str(tmp_path / "b.txt")]).documents())


@pytest.mark.parametrize("line", ["{broken", "[1]", '"text"', "\xff"])
def test_unreadable_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n\n' + line.encode("latin-1") + b"\n")
    assert f"{path}:3" in one_line(path)


def test_missing_column_names_those_that_exist(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"body": "x", "title": "y"}\n')
    line = one_line(path)
    assert "'text'" in line and "body, title" in line and "data.text_column" in line
    assert "data.meta_columns" in one_line(path, text_column="body", meta_columns=["day"])
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["x"], "title": ["y"]}), table)
    assert "body, title" in one_line(table)


def test_column_that_is_not_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": 7}\n')
    assert "a.jsonl:1" in one_line(tmp_path / "a.jsonl")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    assert "int, not text" in one_line(tmp_path / "a.parquet")


@pytest.mark.parametrize("pack", [".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("how", ["cut short", "not packed"])
def test_damaged_packing(tmp_path, pack, how):
    path = tmp_path / f"a.txt{pack}"
    data = os.urandom(50_000).hex().encode()
    path.write_bytes(PACK[pack](data)[:20_000] if how == "cut short" else b"just text, not packed")
    assert str(path) in one_line(path)


def test_damaged_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and so on")
    assert "a.parquet" in one_line(tmp_path / "a.parquet")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(b"x"))
    assert "unpack it first" in one_line(tmp_path / "b.parquet.gz")


@pytest.mark.parametrize(
    "settings",
    [{"path": []}, {"separator": ""}, {"document_size": 0}, {"max_documents": 0}],
    ids=lambda s: next(iter(s)),
)
def test_settings_out_of_range_name_the_key(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Text(**({"path": "x"} | settings))


# ---- fingerprints


def test_fingerprint_is_of_the_content(tmp_path):
    """A changed file must not meet an old cache; a copied one must."""
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second):
        folder.mkdir()
        (folder / "a.txt").write_text("same")
    assert _mark(first) == _mark(second)
    (second / "a.txt").write_text("diff")
    assert _mark(first) != _mark(second)
    assert _mark(first) != _mark(first, separator="x")


def _mark(path, **settings):
    return Text(path=str(path), **settings).fingerprint(path.parent / "cache")


def test_content_is_read_again_only_when_it_may_have_changed(tmp_path, monkeypatch):
    """Hashing gigabytes at every start would take longer than the start."""
    path = tmp_path / "a.txt"
    path.write_text("one")
    os.utime(path, (1_000_000, 1_000_000))
    first = _mark(path)
    opened = []
    monkeypatch.setattr(content, "reading", lambda p: opened.append(p) or pytest.fail("read again"))
    assert _mark(path) == first and not opened
    monkeypatch.undo()
    path.write_text("two")
    os.utime(path, (1_000_000, 1_000_001))
    assert _mark(path) != first


def test_file_just_written_is_not_remembered(tmp_path):
    """It could change again within the same tick of the file system's clock."""
    path = tmp_path / "a.txt"
    path.write_text("one")
    first = _mark(path)
    stamp = path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=(stamp, stamp))
    assert _mark(path) != first


# ---- the standard library


def test_standard_library_is_there():
    """The default corpus: nothing is downloaded, and tests and installed packages are left out."""
    documents = list(Stdlib().documents())
    names = {d.id for d in documents}
    assert {"argparse.py", "json/decoder.py", "asyncio/tasks.py"} <= names
    assert not any("site-packages" in n or n.startswith("test/") for n in names)
    assert 8e6 < sum(len(d.text.encode()) for d in documents) < 20e6
    assert max(len(d.text) for d in documents) <= 1 << 16
    mark = Stdlib().fingerprint(Path("/nowhere"))
    assert mark["python"] == ".".join(map(str, sys.version_info[:3]))


def test_standard_library_without_source(tmp_path):
    with pytest.raises(UserError, match="data=text"):
        list(Stdlib(root=tmp_path).documents())
